# SPDX-License-Identifier: Apache-2.0
"""What moves the weights: AdamW, or Muon for the kernels between the layers and AdamW for the rest.

Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon) makes the momentum of a weight matrix
orthogonal, so that a step goes equally far along all of its directions, not along the few that dominate the
gradient. A convolution's kernel counts as the matrix of outputs by everything that one output reads. On small
sets of volumes a fit needs about a third of AdamW's patches to come as far (docs/experiments.md).
`torch.optim.Muon` takes matrices alone and no kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from training.config import OptimiserConfig

#: Quintic of one Newton-Schulz iteration, five of which bring all singular values near 1 (Jordan et al.).
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
#: RMS of an AdamW step over its rate, which Muon's is scaled to (Liu et al., arXiv:2502.16982).
_STEP_RMS = 0.2
#: Kernels with fewer outputs or inputs are no matrices worth the name: first layers, logits.
_SMALLEST = 16


class Muon(torch.optim.AdamW):
    """AdamW but for groups whose "orthogonal" is True, which take Muon's step with Nesterov momentum.

    Args:
        groups: as for AdamW, each with "orthogonal".
        lr: of both kinds of steps: those of Muon are scaled to the size of those of AdamW.
        momentum: of Muon.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, momentum: float = 0.95) -> None:
        self.momentum = momentum
        super().__init__(groups, lr=lr)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step from the gradients at hand."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["orthogonal"]]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group["orthogonal"]:
                for parameter in group["params"]:
                    self._orthogonal_step(parameter, group["lr"], group["weight_decay"])
        return loss

    def _orthogonal_step(self, parameter: nn.Parameter, rate: float, decay: float) -> None:
        if parameter.grad is None:
            return
        state = self.state[parameter]
        if not state:  # named as AdamW's, which looks for them when it is restored
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter)
        state["step"] += 1
        mean = state["exp_avg"].lerp_(parameter.grad, 1.0 - self.momentum)
        matrix = parameter.grad.lerp(mean, self.momentum).flatten(1)
        move = orthogonalised(matrix).reshape(parameter.shape)
        parameter.mul_(1.0 - rate * decay)
        parameter.add_(move, alpha=-rate * _STEP_RMS * math.sqrt(max(matrix.shape)))


def orthogonalised(matrix: Tensor) -> Tensor:
    """A matrix (n, m) with the singular vectors of another and singular values of about 1 (0.7 to 1.2).

    Newton-Schulz, X <- (a I + b XX' + c (XX')^2) X. All its steps multiply from the side of the shorter
    edge, so that they are gathered in a small square matrix and X itself is multiplied once.
    """
    a, b, c = _QUINTIC
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide.float()
    wide = wide / wide.norm().clamp_min(1e-12)
    square = wide @ wide.T
    unit = torch.eye(len(square), device=square.device)
    gathered = unit
    for _ in range(_ITERATIONS):
        factor = a * unit + b * square + c * (square @ square)
        gathered = factor @ gathered
        square = factor @ square @ factor
    found = (gathered @ wide).to(matrix.dtype)
    return found.T if matrix.shape[0] > matrix.shape[1] else found


def build_optimiser(model: nn.Module, settings: OptimiserConfig) -> torch.optim.Optimizer:
    """The optimiser that a fit is configured for."""
    groups = parameter_groups(model, settings)
    if settings.method == "adamw":
        return torch.optim.AdamW(groups, lr=settings.learning_rate)
    parted = []
    for group in groups:
        for orthogonal in (True, False):
            chosen = [p for p in group["params"] if _is_matrix(p) == orthogonal]
            if chosen:
                parted.append({**group, "params": chosen, "orthogonal": orthogonal})
    return Muon(parted, settings.learning_rate)


def parameter_groups(model: nn.Module, settings: OptimiserConfig) -> list[dict[str, Any]]:
    """The rest of the weights, and the gains of the blocks that start at zero; "scale" multiplies the rate.

    A gain has one number to move where a convolution has thousands. At the same rate a block stays all but
    closed in a short fit (Bachlechner et al., "ReZero is all you need", UAI 2021, take a rate of their own).
    """
    gains = {name for name, _ in model.named_parameters() if name.endswith("gain")}
    rest = [parameter for name, parameter in model.named_parameters() if name not in gains]
    own = [parameter for name, parameter in model.named_parameters() if name in gains]
    groups: list[dict[str, Any]] = [{"params": rest, "weight_decay": settings.weight_decay, "scale": 1.0}]
    if own:
        groups.append({"params": own, "weight_decay": 0.0, "scale": settings.gain_rate})
    return groups


def _is_matrix(parameter: Tensor) -> bool:
    if parameter.ndim < 2 or parameter.shape[1] == 1:
        return False
    return min(parameter.shape[0], parameter[0].numel()) >= _SMALLEST
