# SPDX-License-Identifier: Apache-2.0
"""DIANet and ACWI: segmentation of medical images with uncertainty, a library without user interface."""

__version__ = "0.1.0"
