# SPDX-License-Identifier: Apache-2.0
# Slicer packs these files with the extension, and refuses where they are missing.
foreach(name LICENSE README)
  if(NOT EXISTS "${EXTENSION_${name}_FILE}")
    message(FATAL_ERROR "EXTENSION_${name}_FILE names no file: ${EXTENSION_${name}_FILE}")
  endif()
endforeach()
foreach(name CATEGORY CONTRIBUTORS DESCRIPTION DEPENDS HOMEPAGE ICONURL SCREENSHOTURLS)
  message(STATUS "EXTENSION_${name}: ${EXTENSION_${name}}")
endforeach()
