# SPDX-License-Identifier: Apache-2.0
"""The precision that losses are taken in: at least single, whatever autocast left of the network's output."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """The values in float32; float64 stays, so that gradients can be checked against finite differences."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
