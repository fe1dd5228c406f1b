# SPDX-License-Identifier: Apache-2.0
"""The Slicer module's parts; torch is in none of them, it lives in the worker's process."""
