# SPDX-License-Identifier: Apache-2.0
"""How far stochastic samples agree about a structure: the Dice between their segmentations, pair by pair.

Samples that disagree tell of a hard case without any reference (Roy et al., "Bayesian QuickNAT", NeuroImage
195, 2019). Of a sample only its labels are kept while its window is read, a byte a voxel; what stays are
counts: how many voxels two samples both give a class. Counts of windows add up.

Axes: T samples, N samples of one update, K classes (background included), *S spatial axes of any number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from DIANetLib.labelling import labels_of

__all__ = ["RunningOverlaps", "pairwise_dice"]

# As in `DIANetLib.acwi.uncertainty`: rows that stay in the cache, yet are shared among threads.
_VALUES_PER_THREAD = 65536
_COMPARED = 32  # samples: 496 pairs, from where on more of them change nothing but memory
_EXACT = 2**24  # whole numbers up to this are exact in float32


class RunningOverlaps:
    """Counts of the voxels that two samples give the same class, from samples that arrive a few at a time.

    Args:
        shape: (K, *S) of one sample's probabilities.
        counted: The part of S that counts, so that a voxel of two windows counts once; None for all.
    """

    def __init__(self, shape: Sequence[int], counted: tuple[slice, ...] | None = None) -> None:
        self.classes = int(shape[0])
        self.counted = (slice(None),) * (len(shape) - 1) if counted is None else counted
        self._labels: list[Tensor] = []

    @torch.no_grad()
    def update(self, probabilities: Tensor) -> None:
        """Add N samples (N, K, *S); those after the first 32 are not compared."""
        for sample in probabilities[: _COMPARED - len(self._labels)]:
            part = sample[(slice(None), *self.counted)]
            self._labels.append(_called(part.reshape(self.classes, -1)))

    @torch.no_grad()
    def finish(self) -> Tensor:
        """Voxels that samples t and u both give class k, (K, T, T) int64 on the CPU; T is 32 at most.

        Those of t and t are the voxels that sample t gives the class.

        Raises:
            RuntimeError: No sample was added.
        """
        if not self._labels:
            raise RuntimeError("finish() needs at least one sample")
        first, count = self._labels[0], len(self._labels)
        disputed = torch.zeros_like(first, dtype=torch.bool)
        for labels in self._labels[1:]:
            disputed |= labels != first
        # What all agree about is the same for every pair; the rest is a few per cent of the voxels.
        agreed = torch.bincount(first[~disputed].long(), minlength=self.classes)
        overlaps = agreed.cpu()[:, None, None].repeat(1, count, count)
        rest = torch.stack([labels[disputed] for labels in self._labels])
        for part in rest.split(_EXACT, dim=1):
            for k in range(self.classes):
                member = (part == k).float()
                overlaps[k] += (member @ member.T).cpu().long()
        return overlaps


def pairwise_dice(overlaps: Tensor) -> npt.NDArray[np.float64]:
    """Mean Dice between two different samples, per class.

    Args:
        overlaps: (K, T, T) of `RunningOverlaps.finish`, or a sum of them over windows.

    Returns:
        (K,) float64, 0 to 1; two samples that both lack a class agree about it and count 1. NaN for fewer
        than two samples.
    """
    shared = overlaps.numpy().astype(np.float64)
    size = np.diagonal(shared, axis1=1, axis2=2)
    both = size[:, :, None] + size[:, None, :]
    dice = np.divide(2.0 * shared, both, out=np.ones_like(shared), where=both > 0)
    pairs = np.triu_indices(shared.shape[1], 1)
    if not pairs[0].size:
        return np.full(shared.shape[0], math.nan)
    return np.asarray(dice[:, pairs[0], pairs[1]].mean(axis=1))


def _called(sample: Tensor) -> Tensor:
    """What each voxel of probabilities (K, V) is called, by `DIANetLib.labelling`; (V,) uint8."""
    if sample.device.type != "cpu":
        # A GPU prefers few large operations.
        return labels_of(sample).to(torch.uint8)
    # Measured: six times faster on CPUs than torch.argmax along the first axis.
    labels = torch.zeros(sample.shape[1], dtype=torch.uint8)
    step = _VALUES_PER_THREAD * torch.get_num_threads()
    for start in range(0, sample.shape[1], step):
        rows, target = sample[:, start : start + step], labels[start : start + step]
        best = torch.zeros_like(rows[0])
        for k, row in enumerate(rows[1:], start=1):
            target.masked_fill_(row > best, k)
            torch.maximum(best, row, out=best)
        target.masked_fill_(rows[0] >= 0.5, 0)
    return labels
