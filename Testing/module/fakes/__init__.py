# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for what slicer-core lacks of Slicer: Qt, CTK, and the parts of `slicer` that rest on them.

They behave as PythonQt does where the module relies on it: properties are attributes, an attribute that
a class does not have cannot be made, and a signal that a class does not have cannot be connected.
"""
