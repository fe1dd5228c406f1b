# SPDX-License-Identifier: Apache-2.0
"""Training objectives of DIANet, a concept a file; they know neither networks nor files."""
