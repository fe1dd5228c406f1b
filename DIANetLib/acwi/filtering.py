# SPDX-License-Identifier: Apache-2.0
"""Two more measures of how well uncertainty finds errors: precision and recall, and filtering.

The area under the precision-recall curve does not look better for the many voxels that are easy. The score of
QU-BraTS (Mehta et al., "QU-BraTS: MICCAI BraTS 2020 Challenge on Quantifying Uncertainty in Brain Tumor
Segmentation", MELBA 2022) takes away all voxels above a threshold of uncertainty: Dice of those that are left
should rise, and few that were right should be gone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from DIANetLib.acwi.calibration import inside_mask
from DIANetLib.acwi.metrics import scored_voxels
from DIANetLib.errors import InputError

FloatArray = npt.NDArray[np.float64]

#: Thresholds lie at 0, 1/STEPS, ..., 1, as in the challenge's 0 to 100.
STEPS = 100


@dataclass(frozen=True)
class Filtering:
    """Areas under three curves over the threshold, each 0 to 1; of one structure or the mean of several.

    Attributes:
        dice: of the voxels that are left; higher is better.
        filtered_true_positives: share of the true positives that are taken away; lower is better.
        filtered_true_negatives: share of the true negatives that are taken away; lower is better.
    """

    dice: float
    filtered_true_positives: float
    filtered_true_negatives: float

    @property
    def score(self) -> float:
        """The score of QU-BraTS, 0 to 1, higher is better."""
        return (self.dice + 2 - self.filtered_true_positives - self.filtered_true_negatives) / 3


def error_auprc(uncertainty: npt.ArrayLike, error: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> float:
    """Average precision of uncertainty as a detector of errors: its mean precision over all errors found.

    The sum over the distinct uncertainties, from the greatest down, of precision times gain in recall; voxels
    of equal uncertainty are found together. Chance gives the share of wrong voxels, so the figures of two
    segmentations compare only where these are alike.

    Args:
        uncertainty: (*S), higher for less sure.
        error: (*S) bool, where the segmentation is wrong.
        mask: (*S) bool, the voxels that count; None for all.

    Returns:
        0 to 1, higher is better; NaN where no voxel is wrong.

    Raises:
        InputError: shapes differ or an uncertainty is NaN.
    """
    values, wrong = scored_voxels(uncertainty, error, mask)
    if not wrong.any():
        return math.nan
    _, group = np.unique(-values, return_inverse=True)
    size, hits = np.bincount(group), np.bincount(group, weights=wrong)
    precision = np.cumsum(hits) / np.cumsum(size)
    return float(precision @ hits / hits.sum())


def filtering(
    uncertainty: npt.ArrayLike,
    labels: npt.ArrayLike,
    reference: npt.ArrayLike,
    structure: int,
    mask: npt.ArrayLike | None = None,
    steps: int = STEPS,
) -> Filtering:
    """Take away the voxels of a structure above each threshold, as QU-BraTS does for a tumour region.

    Args:
        uncertainty: (*S), 0 to 1, higher for less sure; voxels above a threshold are taken away.
        labels: (*S) labelmap that is judged.
        reference: (*S) true labelmap.
        structure: value of the structure in both.
        mask: (*S) bool, the voxels that count; None for all.
        steps: thresholds are 0, 1/steps, ..., 1.

    Raises:
        InputError: shapes differ, or an uncertainty is not between 0 and 1.
    """
    values = np.asarray(uncertainty, np.float64)
    ours, true = np.asarray(labels) == structure, np.asarray(reference) == structure
    if not values.shape == ours.shape == true.shape:
        raise InputError(
            f"Uncertainty, labels and reference have the shapes {values.shape}, {ours.shape} and"
            f" {true.shape}, expected one shape."
        )
    kinds = ours + 2 * true  # 0 true negative, 1 false positive, 2 false negative, 3 true positive
    values, kinds = inside_mask(values, kinds, mask)
    if values.size and not (values.min() >= 0.0 and values.max() <= 1.0 + 1e-5):
        raise InputError(f"Uncertainty goes from {values.min():g} to {values.max():g}, expected 0 to 1.")
    # The first threshold that a voxel is not above; a little less, since 0.07 * 100 exceeds 7.
    first = np.ceil(np.minimum(values, 1.0) * steps - 1e-9).astype(np.int64)
    kept = np.zeros((4, steps + 1))
    for kind in range(4):
        kept[kind] = np.bincount(first[kinds == kind], minlength=steps + 1).cumsum()
    true_negatives, false_positives, false_negatives, true_positives = kept
    total = 2 * true_positives + false_positives + false_negatives
    dice = np.where(total > 0, 2 * true_positives / np.maximum(total, 1), 1.0)
    return Filtering(_area(dice), _area(_taken_away(true_positives)), _area(_taken_away(true_negatives)))


def mean_filtering(parts: list[Filtering]) -> Filtering:
    """The mean over structures."""
    return Filtering(
        *(
            float(np.mean([getattr(part, name) for part in parts]))
            for name in ("dice", "filtered_true_positives", "filtered_true_negatives")
        )
    )


def _taken_away(kept: npt.NDArray[Any]) -> FloatArray:
    return np.asarray((kept[-1] - kept) / max(float(kept[-1]), 1.0))


def _area(curve: FloatArray) -> float:
    """Under the curve over thresholds from 0 to 1, by trapezoids."""
    return float((curve[:-1] + curve[1:]).mean() / 2)
