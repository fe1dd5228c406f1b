# SPDX-License-Identifier: Apache-2.0
"""Calibration: making a probability of 0.8 mean right in 80 of 100 voxels, and measuring how far off it is.

Temperature scaling and the expected calibration error are those of Guo et al., "On Calibration of Modern
Neural Networks", ICML 2017. The temperature is fitted on cases that neither training nor the final figures
use.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from DIANetLib.errors import InputError

FloatArray = npt.NDArray[np.float64]
_Flag = TypeVar("_Flag", bound=np.generic)


@dataclass(frozen=True, eq=False)
class Reliability:
    """A reliability diagram: bins of confidence and how often the voxels in each were right.

    Attributes:
        edges: (bins + 1,) borders of the bins, 0 to 1; a bin holds its upper border.
        count: (bins,) voxels.
        confidence: (bins,) mean confidence of these voxels, NaN where there are none.
        accuracy: (bins,) fraction of these voxels that were right, NaN where there are none.
    """

    edges: FloatArray
    count: npt.NDArray[np.int64]
    confidence: FloatArray
    accuracy: FloatArray

    @property
    def expected_calibration_error(self) -> float:
        """Mean of |accuracy - confidence| weighted by the bins' voxels, 0 to 1; NaN without any voxel."""
        if not self.count.any():
            return math.nan
        used = self.count > 0
        gap = np.abs(self.accuracy[used] - self.confidence[used])
        return float(np.average(gap, weights=self.count[used]))


def reliability(
    confidence: npt.ArrayLike, correct: npt.ArrayLike, bins: int = 15, mask: npt.ArrayLike | None = None
) -> Reliability:
    """Sort voxels into bins of equal width by confidence.

    Args:
        confidence: any shape, 0 to 1: the probability that the model gives to what it answered.
        correct: same shape, bool: whether the answer was right.
        bins: number of bins.
        mask: same shape, bool: the voxels that count; None for all.

    Raises:
        InputError: shapes differ, a confidence is outside [0, 1], or there are no bins.
    """
    values, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=bool)
    if values.shape != right.shape:
        raise InputError(f"Confidence has shape {values.shape}, expected that of correct, {right.shape}.")
    if bins < 1:
        raise InputError(f"The number of bins is {bins}, expected at least 1.")
    values, right = inside_mask(values, right, mask)
    # Sums of probabilities in single precision may exceed one by a few 1e-7.
    if values.size and not (values.min() >= 0.0 and values.max() <= 1.0 + 1e-5):
        raise InputError(f"Confidence goes from {values.min():g} to {values.max():g}, expected 0 to 1.")
    edges = np.linspace(0.0, 1.0, bins + 1, dtype=np.float64)
    index = np.searchsorted(edges[1:-1], values, side="left")
    count = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean_confidence = np.bincount(index, weights=values, minlength=bins) / count
        accuracy = np.bincount(index, weights=right, minlength=bins) / count
    return Reliability(edges, count, mean_confidence, accuracy)


def expected_calibration_error(
    confidence: npt.ArrayLike, correct: npt.ArrayLike, bins: int = 15, mask: npt.ArrayLike | None = None
) -> float:
    """Expected calibration error, 0 (calibrated) to 1: see `reliability` for arguments and errors.

    Returns:
        The error; NaN where no voxel counts.
    """
    return reliability(confidence, correct, bins, mask).expected_calibration_error


def fit_temperature(
    logits: Iterable[npt.ArrayLike],
    labels: Iterable[npt.ArrayLike],
    masks: Iterable[npt.ArrayLike] | None = None,
    *,
    bounds: tuple[float, float] = (0.05, 20.0),
    voxels_per_case: int = 50_000,
    seed: int = 0,
) -> float:
    """Temperature that minimises the negative log-likelihood of softmax(logits / temperature).

    It is convex in 1 / temperature, so the minimum is the root of its derivative, and there is one. The
    logarithms of probabilities serve as logits too, which calibrates a mean over samples.

    Args:
        logits: per case an array (K, *S).
        labels: per case an array (*S) of whole numbers 0 to K - 1.
        masks: per case an array (*S) of bool, the voxels that count; None for all.
        bounds: least and greatest temperature returned, for cases that are always right or never.
        voxels_per_case: cases with more voxels than this give a random selection of this many.
        seed: seed of that selection.

    Returns:
        The temperature; 1 where it makes no difference (all logits alike).

    Raises:
        InputError: no voxel at all, shapes differ, logits are not finite or a label is out of range.
    """
    generator = np.random.default_rng(seed)
    cases: list[tuple[FloatArray, FloatArray]] = []
    label_list, logit_list = list(labels), list(logits)
    mask_list = [None] * len(label_list) if masks is None else list(masks)
    if not len(label_list) == len(logit_list) == len(mask_list):
        raise InputError(
            f"Got logits of {len(logit_list)} cases, labels of {len(label_list)} and masks of"
            f" {len(mask_list)}, expected the same number of each."
        )
    for case_logits, case_labels, case_mask in zip(logit_list, label_list, mask_list, strict=True):
        case = _select(case_logits, case_labels, case_mask, voxels_per_case, generator)
        if case[1].size:
            cases.append(case)
    if not cases:
        raise InputError("There is no voxel to fit a temperature on.", remedy="Give masks that hold voxels.")
    voxels = sum(target.size for _, target in cases)

    def derivative(log_inverse: float) -> float:
        """Derivative of the mean negative log-likelihood by 1 / temperature at exp(log_inverse)."""
        total = 0.0
        for values, target in cases:
            weights = np.exp(values * math.exp(log_inverse))
            expectation = (weights * values).sum(axis=1) / weights.sum(axis=1)
            total += float((expectation - target).sum())
        return total / voxels

    low, high = -math.log(bounds[1]), -math.log(bounds[0])
    if abs(derivative(low)) < 1e-12 and abs(derivative(high)) < 1e-12:
        return 1.0
    if derivative(low) >= 0:
        return float(bounds[1])
    if derivative(high) <= 0:
        return float(bounds[0])
    return math.exp(-float(brentq(derivative, low, high, xtol=1e-6)))


def _select(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    mask: npt.ArrayLike | None,
    most: int,
    generator: np.random.Generator,
) -> tuple[FloatArray, FloatArray]:
    """Logits (V, K), less their maximum, of the voxels that count, and the logit (V,) of each one's label."""
    values, target = np.asarray(logits), np.asarray(labels)
    inside = np.ones(target.shape, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    if values.shape[1:] != target.shape or inside.shape != target.shape:
        raise InputError(
            f"Logits have shape {values.shape}, labels {target.shape} and the mask {inside.shape},"
            " expected (K, *S), (*S) and (*S)."
        )
    where = np.flatnonzero(inside)
    if where.size > most:
        where = np.sort(generator.choice(where, most, replace=False))
    rows = values.reshape(values.shape[0], -1)[:, where].T.astype(np.float64)
    classes = target.ravel()[where].astype(np.int64)
    if not np.isfinite(rows).all():
        raise InputError("Logits hold values that are not finite numbers.")
    if classes.size and not (classes.min() >= 0 and classes.max() < values.shape[0]):
        raise InputError(
            f"Labels go from {classes.min()} to {classes.max()}, expected 0 to {values.shape[0] - 1}."
        )
    rows -= rows.max(axis=1, keepdims=True)
    return rows, rows[np.arange(classes.size), classes]


def inside_mask(
    values: npt.NDArray[Any], flags: npt.NDArray[_Flag], mask: npt.ArrayLike | None
) -> tuple[npt.NDArray[Any], npt.NDArray[_Flag]]:
    """Both arrays, flattened, where `mask` is true; everywhere without a mask.

    Raises:
        InputError: The mask has another shape.
    """
    if mask is None:
        return values.ravel(), flags.ravel()
    inside = np.asarray(mask, dtype=bool)
    if inside.shape != values.shape:
        raise InputError(f"The mask has shape {inside.shape}, expected {values.shape}.")
    return values[inside], flags[inside]
