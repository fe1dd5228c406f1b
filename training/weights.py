# SPDX-License-Identifier: Apache-2.0
"""Sets of weights: their moving average over a fit, and their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of a model's parameters, with a short memory at the start."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone().float() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after `step` steps."""
        decay = min(self.decay, (1.0 + step) / (10.0 + step))
        current = [value.float() for value in model.state_dict().values()]
        torch._foreach_lerp_(list(self.values.values()), current, 1.0 - decay)


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Hash of a state dictionary; independent of its order and of how it is stored."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().float().cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)}\n".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()
