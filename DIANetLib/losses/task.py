# SPDX-License-Identifier: Apache-2.0
"""Segmentation task loss, equations (1, 2): Dice and cross-entropy, heteroscedastic and deeply supervised."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.losses import DiceLoss
from torch import Tensor


def expected_probabilities(mean: Tensor, log_variance: Tensor | None, draws: int) -> Tensor:
    """Softmax averaged over draws of the Gaussian logit (Kendall and Gal, NeurIPS 2017, equation 12).

    Args:
        mean: logit mean, (B, K, *S).
        log_variance: log of the logit variance, same shape, or None.
        draws: number of draws; they come in antithetic pairs, so an even number is used.

    Returns:
        Probabilities (B, K, *S) float32.
    """
    mean = mean.float()
    if log_variance is None:
        return torch.softmax(mean, dim=1)
    deviation = torch.exp(0.5 * log_variance.float())
    pairs = max(1, draws // 2)
    total = torch.zeros_like(mean)
    for _ in range(pairs):
        noise = deviation * torch.randn_like(deviation)
        total = total + torch.softmax(mean + noise, dim=1) + torch.softmax(mean - noise, dim=1)
    return total / (2 * pairs)


class DiceCrossEntropy(torch.nn.Module):
    """Dice over the structures (background left out) plus voxel-wise cross-entropy, on probabilities.

    Args:
        batch_dice: sum numerator and denominator over the batch before dividing, as nnU-Net does for small
            patches in which a structure can be missing.
        class_weights: (K,) weights of the classes in the cross-entropy, or None for equal ones.
    """

    class_weights: Tensor | None

    def __init__(self, *, batch_dice: bool = True, class_weights: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("class_weights", class_weights)
        self.dice = DiceLoss(include_background=False, batch=batch_dice, smooth_nr=1e-5, smooth_dr=1e-5)

    def forward(self, probabilities: Tensor, labels: Tensor, labelled: Tensor | None = None) -> Tensor:
        """Loss of (B, K, *S) probabilities against integer labels (B, *S).

        Args:
            probabilities: (B, K, *S).
            labels: class numbers 0..K-1; rows that are not labelled may hold anything.
            labelled: rows that count, (B,) bool, or None for all. Without any the loss is 0, still on the
                graph, so that tasks can be mixed within a batch and over processes.
        """
        if labelled is not None and not bool(labelled.all()):
            if not bool(labelled.any()):
                return probabilities.sum() * 0.0
            probabilities, labels = probabilities[labelled], labels[labelled]
        one_hot = F.one_hot(labels, probabilities.shape[1]).movedim(-1, 1).to(probabilities.dtype)
        log_likelihood = torch.log(probabilities.clamp_min(1e-7))
        cross_entropy = F.nll_loss(log_likelihood, labels, weight=self.class_weights)
        return self.dice(probabilities, one_hot) + cross_entropy


def rarity_weights(counts: Sequence[float], power: float) -> Tensor:
    """Weights (K,) that grow as classes get rarer: frequency to the power of -`power`, mean over voxels one.

    A structure of a hundred voxels in a head adds so little to an unweighted cross-entropy that a short fit
    may end before it is found at all.

    Args:
        counts: voxels per class, (K,); a class without any counts as one voxel.
        power: 0 for equal weights, 1 for equal shares of every class.
    """
    frequency = torch.tensor(list(counts), dtype=torch.float64).clamp_min(1.0)
    frequency = frequency / frequency.sum()
    weights = frequency.pow(-power)
    return (weights / (weights * frequency).sum()).float()


def deep_supervision_weights(scales: int) -> list[float]:
    """Weights of the main output and of each coarser one: halved per scale, summing to one (nnU-Net)."""
    raw = [0.5**scale for scale in range(scales)]
    return [weight / sum(raw) for weight in raw]


def downsample_labels(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Nearest-neighbour labels (B, *S) on a coarser grid (B, *size)."""
    return F.interpolate(labels.unsqueeze(1).float(), size=tuple(size), mode="nearest").squeeze(1).long()
