# SPDX-License-Identifier: Apache-2.0
"""Losses are taken in single precision at least."""

from __future__ import annotations

import pytest
import torch

from DIANetLib.losses.precision import at_least_float32


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_half_precision_is_raised_and_double_kept(given: torch.dtype, taken: torch.dtype) -> None:
    values = torch.tensor([0.5, -2.0], dtype=given)
    assert at_least_float32(values).dtype == taken
    assert at_least_float32(values).tolist() == [0.5, -2.0]
