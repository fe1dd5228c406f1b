# SPDX-License-Identifier: Apache-2.0
"""Fitting, evaluating and exporting DIANet models: `python -m training fit|evaluate|export CONFIG`."""
