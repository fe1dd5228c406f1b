# SPDX-License-Identifier: Apache-2.0
"""Adaptive Clinical Workflow Integration (paper section 3.4): how sure, how good, why, and where to look.

Nothing is imported here on purpose: `DIANetLib.acwi.review` runs inside Slicer's own process, where torch
must not be loaded, while `DIANetLib.acwi.uncertainty` and `DIANetLib.acwi.explain` need it.
"""
