# SPDX-License-Identifier: Apache-2.0
"""Prior on a planar border between two parts of one structure (SPEC O3), and how far a border is off.

Annotators part some structures by one cut across an axis: the hippocampus' head from its body and tail by a
coronal plane (in 77 % of the decathlon's masks exactly, in all others but for one or two slices). Such a
border hardly shows in the image, and a whole slice hangs on it. Voxels judge one by one; here slices do, by
the share that each of the two classes has of what the slice holds of both.

Rotated training patches tilt the cut, and some masks depart from one plane. So where labels are known, a
prediction pays only for what it departs from the prior *more than its labels do*.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from DIANetLib.errors import InputError
from DIANetLib.losses.precision import at_least_float32

# Voxels added to either class of a slice: bounds the logarithm where one class has nothing.
_TRACE = 1e-3
# A prior narrower than this would pull with a force that the number of cases does not support.
_LEAST_DEVIATION = 0.005


@dataclass(frozen=True)
class CutPrior:
    """Which classes meet at the cut, and where it uses to lie.

    Attributes:
        lower: class number of the part towards the first index of the axis.
        upper: class number of the part towards the last index.
        axis: of the array's spatial axes (k, j, i), the one that the cut is perpendicular to.
        mean: mean share of the structure's slices along the axis that lie below the cut, 0 to 1.
        deviation: its standard deviation between cases.
    """

    lower: int
    upper: int
    axis: int
    mean: float
    deviation: float


@dataclass(frozen=True)
class CutWeights:
    """Weights of the terms of `cut_loss`."""

    shares: float = 0.05
    single: float = 0.02
    position: float = 0.01


@dataclass(frozen=True)
class CutTerms:
    """The value to minimise, and its parts without graph and weights, each a mean over the rows that have it.

    Attributes:
        total: weighted sum, a scalar.
        shares: divergence of the slices' shares from the labels', nats per row, summed over slices.
        single: slices in which both classes are mixed, plus steps back along the axis; in slices.
        position: negative log-density of the cut's relative position, up to a constant, nats.
    """

    total: Tensor
    shares: Tensor
    single: Tensor
    position: Tensor


def learn_cut_prior(labels: Iterable[npt.NDArray[Any]], structures: tuple[int, int], axis: int) -> CutPrior:
    """Learn from masks where the border of two structures lies relative to their common extent.

    Args:
        labels: class numbers (*S) of each case, all oriented alike; cases that lack either structure are
            skipped.
        structures: the two class numbers, in either order.
        axis: the axis of S that the cut is perpendicular to.

    Raises:
        InputError: if fewer than two cases hold both structures.
    """
    first, second = structures
    below, ahead = [], []
    for mask in labels:
        a, b = _counts(mask, first, axis), _counts(mask, second, axis)
        if not a.any() or not b.any():
            continue
        places = np.arange(a.size)
        ahead.append((places @ b) / b.sum() > (places @ a) / a.sum())
        there = a + b > 0
        below.append(float((a[there] / (a + b)[there]).mean()))
    if len(below) < 2:
        raise InputError(
            f"expected at least 2 cases that hold both structures {first} and {second}, got {len(below)}.",
            remedy="Check the numbers of the structures, or leave the cut prior out.",
        )
    shares = np.array(below)
    lower, upper = (first, second) if np.mean(ahead) > 0.5 else (second, first)
    mean = shares.mean() if lower == first else 1.0 - shares.mean()
    return CutPrior(lower, upper, axis, float(mean), max(float(shares.std(ddof=1)), _LEAST_DEVIATION))


def cut_loss(
    probabilities: Tensor,
    prior: CutPrior,
    labels: Tensor | None = None,
    labelled: Tensor | None = None,
    *,
    weights: CutWeights | None = None,
) -> CutTerms:
    """What the border between two classes departs from one cut at its usual place, slice by slice.

    Rows take part in a term only where both structures are there: in the labels, or where those are not
    known, in the prediction. The cut's position counts only where the structures end within the patch.

    Args:
        probabilities: (B, K, *S).
        prior: classes, axis and usual place of the cut.
        labels: class numbers (B, *S), or None where no row has any.
        labelled: rows that have labels, (B,) bool, or None for all.
        weights: of the terms.
    """
    weights = weights or CutWeights()
    predicted = at_least_float32(probabilities)
    hard = predicted.detach().argmax(1)
    known = torch.zeros(hard.shape[0], dtype=torch.bool, device=hard.device)
    if labels is not None:
        known = torch.ones_like(known) if labelled is None else labelled.to(known.device)
        hard = torch.where(known.reshape(-1, *[1] * (hard.ndim - 1)), labels, hard)
    below, above = (_profile(predicted[:, c], prior.axis) + _TRACE for c in (prior.lower, prior.upper))
    share = above / (below + above)
    given_lower, given_upper = (
        _profile((hard == c).to(predicted.dtype), prior.axis) for c in (prior.lower, prior.upper)
    )
    there = given_lower + given_upper > 0
    given = torch.where(there, given_upper / (given_lower + given_upper).clamp_min(1.0), 0.0)
    both = given_lower.any(1) & given_upper.any(1)
    whole = both & ~there[:, 0] & ~there[:, -1]

    divergence = _divergence(given, below, above, there)
    # a prediction without labels is compared with a perfect cut at the usual place
    mixed = _mixture(share, there) - torch.where(known, _mixture(given, there), 0.0)
    odd = _oddness(share, there, prior) - torch.where(known, _oddness(given, there, prior), 0.0)
    shares = _mean_over(divergence, both & known)
    single = _mean_over(mixed.clamp_min(0.0), both)
    position = _mean_over(odd.clamp_min(0.0), whole)
    total = weights.shares * shares + weights.single * single + weights.position * position
    return CutTerms(total, shares.detach(), single.detach(), position.detach())


def cut_position_mm(
    labels: npt.NDArray[Any], spacing_mm: float, *, lower: int, upper: int, axis: int
) -> float:
    """Where the cut between two classes lies, in mm from the outer edge of the array's first slice.

    The cut that misplaces fewest voxels, moved by the shares of slices in which both classes occur: a slice
    that belongs to the lower class by a quarter counts as a quarter of a slice below the cut. Slices that
    hold neither class lie below or above as the cut says, so a few stray voxels do not move it.

    Args:
        labels: class numbers (*S).
        spacing_mm: distance of slices along the axis.
        lower: class towards the first index.
        upper: class towards the last index.
        axis: the axis of S that the cut is perpendicular to.

    Returns:
        mm; NaN where either class is missing.
    """
    low, high = _counts(labels, lower, axis), _counts(labels, upper, axis)
    if not low.any() or not high.any():
        return float("nan")
    # misplaced[c]: voxels of the upper class below slice c, and of the lower class from it on
    misplaced = np.concatenate([[0], np.cumsum(high)]) + low.sum() - np.concatenate([[0], np.cumsum(low)])
    best = float(np.flatnonzero(misplaced == misplaced.min()).mean())
    below = np.clip(best - np.arange(low.size), 0.0, 1.0)
    there = low + high > 0
    below[there] = low[there] / (low + high)[there]
    return float(below.sum() * spacing_mm)


def cut_error_mm(
    predicted: npt.NDArray[Any],
    reference: npt.NDArray[Any],
    spacing_mm: float,
    *,
    lower: int,
    upper: int,
    axis: int,
) -> float:
    """How far the predicted cut lies from the reference's, in mm; NaN where either mask lacks a class.

    Raises:
        ValueError: if the masks differ in shape.
    """
    if predicted.shape != reference.shape:
        raise ValueError(f"expected masks of one shape, got {predicted.shape} and {reference.shape}")
    places = (
        cut_position_mm(mask, spacing_mm, lower=lower, upper=upper, axis=axis)
        for mask in (predicted, reference)
    )
    return abs(next(places) - next(places))


def _counts(mask: npt.NDArray[Any], structure: int, axis: int) -> npt.NDArray[np.float64]:
    """Voxels of a structure per slice."""
    others = tuple(other for other in range(mask.ndim) if other != axis)
    return np.asarray((mask == structure).sum(axis=others), np.float64)


def _profile(values: Tensor, axis: int) -> Tensor:
    """Sum of (B, *S) over each slice: (B, n)."""
    return values.movedim(1 + axis, 1).flatten(2).sum(2)


def _divergence(given: Tensor, below: Tensor, above: Tensor, there: Tensor) -> Tensor:
    """KL of the predicted shares from those given, summed over the slices that are there: (B,) nats."""
    entropy = torch.special.entr(given) + torch.special.entr(1.0 - given)
    cross = (below + above).log() - given * above.log() - (1.0 - given) * below.log()
    return torch.where(there, cross - entropy, 0.0).sum(1)


def _mixture(share: Tensor, there: Tensor) -> Tensor:
    """Slices of both classes (an evenly mixed one counts 1) plus steps back along the axis: (B,)."""
    mixed = torch.where(there, 4.0 * share * (1.0 - share), 0.0).sum(1)
    pairs = there[:, 1:] & there[:, :-1]
    back = torch.where(pairs, (share[:, :-1] - share[:, 1:]).clamp_min(0.0), 0.0).sum(1)
    return mixed + back


def _oddness(share: Tensor, there: Tensor, prior: CutPrior) -> Tensor:
    """Negative log-density of the share of slices below the cut, up to a constant: (B,) nats."""
    below = torch.where(there, 1.0 - share, 0.0).sum(1) / there.sum(1).clamp_min(1)
    return 0.5 * ((below - prior.mean) / prior.deviation).square()


def _mean_over(values: Tensor, rows: Tensor) -> Tensor:
    return torch.where(rows, values, 0.0).sum() / rows.sum().clamp_min(1)
