# SPDX-License-Identifier: Apache-2.0
"""Training objectives of DIANet, a concept a file; torch and MONAI only."""
