# SPDX-License-Identifier: Apache-2.0
"""P(h) of (11, 14) held against the labels themselves: how much of each class lies in each cell of its grid.

The atlas says where structures usually are, only the labels where they are in this case. Without this term
a latent that carries the atlas' mean would satisfy every prior, and nothing would make it carry the case.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from DIANetLib.losses.precision import at_least_float32


def class_shares(labels: Tensor, classes: int, grid: torch.Size | tuple[int, ...]) -> Tensor:
    """Share of each class among the voxels of each cell: labels (B, *S) -> (B, K, *G) float32.

    Args:
        labels: class numbers; those below 0 count as background.
        classes: K.
        grid: (*G), which divides S evenly.
    """
    one_hot = F.one_hot(labels.clamp_min(0), classes).movedim(-1, 1).float()
    pool: Callable[..., Tensor] = F.adaptive_avg_pool2d if labels.ndim == 3 else F.adaptive_avg_pool3d
    return pool(one_hot, tuple(grid))


def distribution_divergence(logits: Tensor, labels: Tensor, labelled: Tensor | None = None) -> Tensor:
    """KL(shares of the labels || softmax(logits)), averaged over cells and labelled rows; a scalar, nats.

    Args:
        logits: of P(h), (B, K, *G).
        labels: (B, *S), S a multiple of G.
        labelled: rows that have labels, (B,) bool, or None for all.

    Returns:
        At least 0, which is reached where P(h) is the shares; 0 on the graph where no row is labelled.
    """
    log_p = torch.log_softmax(at_least_float32(logits), 1)
    shares = class_shares(labels, logits.shape[1], logits.shape[2:])
    divergence = (torch.xlogy(shares, shares) - shares * log_p).sum(1).flatten(1).mean(1)
    if labelled is None:
        return divergence.mean()
    kept = torch.where(labelled.to(divergence.device), divergence, 0.0)
    return kept.sum() / labelled.sum().clamp_min(1)
