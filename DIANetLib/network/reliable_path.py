# SPDX-License-Identifier: Apache-2.0
"""Fusion of several prediction paths by how sure each is of a voxel; paper, section 3.3, Preliminaries.

The text has "the most reliable prediction path" without an equation. Path p has logits l_p and, of their
softmax, the entropy H_p. Per voxel

    w_p = softmax_p(b_p - s H_p),    l = l_1 + gain * (sum_p w_p l_p - l_1)

with learned offsets b, sharpness s > 0 and gain. At gain one this is a logarithmic opinion pool (Genest and
Zidek, Statistical Science 1986) whose weights fall with each expert's entropy. The gain starts at zero: at
step 0 the network equals the one with the full path alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from DIANetLib.network.config import ReliablePathConfig

_LINEAR = {2: "bilinear", 3: "trilinear"}


class ReliablePath(nn.Module):
    """Fuse the logits of P paths.

    Args:
        names: of the paths, the full one first.
        config: sharpness at step 0.

    Attributes:
        names: as given.
        weights: identity through which the weights (N, P, *S) pass, so that they can be hooked.
    """

    def __init__(self, names: Sequence[str], config: ReliablePathConfig) -> None:
        super().__init__()
        self.names = tuple(names)
        self.offset = nn.Parameter(torch.zeros(len(self.names)))
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(config.sharpness)))
        self.gain = nn.Parameter(torch.zeros(1))
        self.weights = nn.Identity()

    def forward(self, logits: Sequence[Tensor]) -> Tensor:
        """Map P logit maps (N, K, *S_p), the first one on the finest grid, to fused logits (N, K, *S)."""
        full = logits[0]
        mode = _LINEAR[full.ndim - 2]
        paths = torch.stack(
            [full]
            + [
                F.interpolate(coarse, full.shape[2:], mode=mode, align_corners=False) for coarse in logits[1:]
            ],
            1,
        )  # (N, P, K, *S)
        weights = self.weights(self.weigh(paths)).unsqueeze(2).to(paths.dtype)
        return full + self.gain.to(full.dtype) * ((weights * paths).sum(1) - full)

    def weigh(self, paths: Tensor) -> Tensor:
        """Weights (N, P, *S) float32 of logits (N, P, K, *S); they sum to one over P."""
        log_probability = torch.log_softmax(paths.float(), 2)
        entropy = -(log_probability.exp() * log_probability).sum(2)
        offset = self.offset.view(1, -1, *([1] * (entropy.ndim - 2)))
        return torch.softmax(offset - self.log_sharpness.exp() * entropy, 1)
