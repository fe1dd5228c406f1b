# SPDX-License-Identifier: Apache-2.0
"""How good a segmentation is, and how well its uncertainty tells right voxels from wrong ones.

Dice, HD95 and NSD are MONAI's implementations; NSD is that of Nikolov et al. 2021 (JMIR 23:e26151), with
surface elements between voxels weighted by their area. Masks that are empty follow the convention of the
BraTS challenge: two empty masks agree (Dice 1, NSD 1, HD95 0 mm); one empty mask is a complete miss (Dice 0,
NSD 0, HD95 the diagonal of the grid, the largest distance that it allows), so that every figure stays finite.

AURC is that of Geifman et al., ICLR 2019, normalised as by Cattelan and Silva, UAI 2024: 0 is the best
ordering that the errors allow, 1 is what a random ordering gives.

Arrays are numpy; *S are 2 or 3 spatial axes, (k, j, i) for a `Volume`. Spacings are in the order of
`Geometry.spacing`, (i, j, k): the reverse of the arrays' axes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice
from scipy import ndimage
from scipy.stats import rankdata

from DIANetLib.acwi.calibration import expected_calibration_error, inside_mask
from DIANetLib.errors import InputError

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]


def dice(prediction: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Dice coefficient of two masks, 0 to 1; 1 if both are empty, 0 if one is.

    Args:
        prediction: (*S) bool.
        reference: (*S) bool.

    Raises:
        InputError: shapes differ, or are neither 2-D nor 3-D.
    """
    predicted, true = _masks(prediction, reference)
    if not predicted.any() or not true.any():
        return float(not predicted.any() and not true.any())
    return float(compute_dice(_tensor(predicted), _tensor(true), include_background=True))


def hd95(prediction: npt.ArrayLike, reference: npt.ArrayLike, spacing_mm: Sequence[float]) -> float:
    """95th percentile of the surface distances in mm: the greater one of both directions.

    Args:
        prediction: (*S) bool.
        reference: (*S) bool.
        spacing_mm: millimetres between voxel centres along i, j, k (i, j for 2-D arrays).

    Returns:
        Millimetres; 0 if both masks are empty, the grid's diagonal if one is.

    Raises:
        InputError: shapes differ, or the spacing does not fit them.
    """
    predicted, true = _masks(prediction, reference)
    spacing = _array_spacing(spacing_mm, predicted.ndim)
    if not predicted.any() or not true.any():
        alike = not predicted.any() and not true.any()
        return 0.0 if alike else math.hypot(*(n * s for n, s in zip(predicted.shape, spacing, strict=True)))
    predicted, true = _cropped(predicted, true)
    with _without_monais_own_deprecation():
        distance = compute_hausdorff_distance(
            _tensor(predicted), _tensor(true), include_background=True, percentile=95, spacing=spacing
        )
    return float(distance)


def nsd(
    prediction: npt.ArrayLike,
    reference: npt.ArrayLike,
    spacing_mm: Sequence[float],
    tolerance_mm: float = 1.0,
) -> float:
    """Normalised surface Dice: the fraction of both surfaces that lies within a tolerance of the other one.

    Args:
        prediction: (*S) bool.
        reference: (*S) bool.
        spacing_mm: millimetres between voxel centres along i, j, k (i, j for 2-D arrays).
        tolerance_mm: distance in mm that still counts as agreement.

    Returns:
        0 to 1; 1 if both masks are empty, 0 if one is.

    Raises:
        InputError: shapes differ, the spacing does not fit them, or the tolerance is negative.
    """
    predicted, true = _masks(prediction, reference)
    spacing = _array_spacing(spacing_mm, predicted.ndim)
    if not tolerance_mm >= 0:
        raise InputError(f"The tolerance is {tolerance_mm} mm, expected 0 or more.")
    if not predicted.any() or not true.any():
        return float(not predicted.any() and not true.any())
    predicted, true = _cropped(predicted, true)
    with _without_monais_own_deprecation():
        share = compute_surface_dice(
            _tensor(predicted),
            _tensor(true),
            class_thresholds=[tolerance_mm],
            include_background=True,
            spacing=spacing,
            use_subvoxels=True,
        )
    return float(share)


def dilated_mask(labels: npt.ArrayLike, voxels: float = 3) -> BoolArray:
    """Where uncertainty is judged: every labelled voxel and what is within `voxels` of one.

    A whole image is mostly background that any model gets right, which makes every figure look good.

    Args:
        labels: (*S) labelmap or mask; other than zero is foreground.
        voxels: Euclidean distance in voxels, whatever their spacing.

    Returns:
        (*S) bool; all False where nothing is labelled.
    """
    foreground = np.asarray(labels) != 0
    result = np.zeros(foreground.shape, dtype=bool)
    if not foreground.any():
        return result
    box = _bounding_box(foreground, math.ceil(voxels))
    result[box] = ndimage.distance_transform_edt(~foreground[box]) <= voxels
    return result


def ece(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, mask: npt.ArrayLike | None = None, bins: int = 15
) -> float:
    """Expected calibration error of the winning class, 0 to 1 (`calibration.expected_calibration_error`).

    Args:
        probabilities: (K, *S), summing to one over K.
        labels: (*S) true classes, 0 to K - 1.
        mask: (*S) bool, the voxels that count; None for all.
        bins: bins of equal width.

    Returns:
        The error; NaN where no voxel counts.

    Raises:
        InputError: shapes differ or a probability is outside [0, 1].
    """
    p = np.asarray(probabilities)
    return expected_calibration_error(p.max(axis=0), p.argmax(axis=0) == np.asarray(labels), bins, mask)


def error_auroc(uncertainty: npt.ArrayLike, error: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> float:
    """Probability that a wrong voxel is more uncertain than a right one; ties count half.

    The area under the ROC curve by rank statistics (Mann and Whitney).

    Args:
        uncertainty: (*S), higher for less sure.
        error: (*S) bool, where the segmentation is wrong.
        mask: (*S) bool, the voxels that count; None for all.

    Returns:
        0 to 1, 0.5 for chance; NaN where no voxel is wrong or none is right: there is no pair to compare.

    Raises:
        InputError: shapes differ or an uncertainty is NaN.
    """
    values, wrong = scored_voxels(uncertainty, error, mask)
    positives, negatives = int(wrong.sum()), int((~wrong).sum())
    if not positives or not negatives:
        return math.nan
    ranks = float(rankdata(values)[wrong].sum())
    return (ranks - positives * (positives + 1) / 2) / (positives * negatives)


def aurc(uncertainty: npt.ArrayLike, error: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> float:
    """Area under the risk-coverage curve: mean error rate of the n surest voxels over all n.

    Voxels of equal uncertainty count as in the mean over all their orders, so that the figure does not
    depend on how the array is sorted.

    Args:
        uncertainty: (*S), higher for less sure.
        error: (*S) bool, where the segmentation is wrong.
        mask: (*S) bool, the voxels that count; None for all.

    Returns:
        0 to 1, lower is better; NaN where no voxel counts.

    Raises:
        InputError: shapes differ or an uncertainty is NaN.
    """
    values, wrong = scored_voxels(uncertainty, error, mask)
    if not values.size:
        return math.nan
    _, group, size = np.unique(values, return_inverse=True, return_counts=True)
    errors_in_group = np.bincount(group, weights=wrong, minlength=size.size)
    return _mean_risk(np.repeat(errors_in_group / size, size))


def normalised_aurc(
    uncertainty: npt.ArrayLike, error: npt.ArrayLike, mask: npt.ArrayLike | None = None
) -> float:
    """AURC scaled so that 0 is the best ordering of these errors and 1 is a random one; above 1 is worse.

    Unlike AURC it does not reward a model merely for being wrong less often.

    Args:
        uncertainty: (*S), higher for less sure.
        error: (*S) bool, where the segmentation is wrong.
        mask: (*S) bool, the voxels that count; None for all.

    Returns:
        The figure; NaN where no voxel is wrong or none is right, since every ordering is then alike.

    Raises:
        InputError: shapes differ or an uncertainty is NaN.
    """
    _, wrong = scored_voxels(uncertainty, error, mask)
    if not wrong.any() or wrong.all():
        return math.nan
    best = _mean_risk(np.sort(wrong).astype(np.float64))
    return (aurc(uncertainty, error, mask) - best) / (float(wrong.mean()) - best)


@contextmanager
def _without_monais_own_deprecation() -> Iterator[None]:
    """MONAI 1.5 and 1.6 warn of an argument that their surface metrics themselves pass on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)
        yield


def _mean_risk(errors: FloatArray) -> float:
    return float((np.cumsum(errors) / np.arange(1, errors.size + 1)).mean())


def _masks(prediction: npt.ArrayLike, reference: npt.ArrayLike) -> tuple[BoolArray, BoolArray]:
    predicted, true = np.asarray(prediction, dtype=bool), np.asarray(reference, dtype=bool)
    if predicted.shape != true.shape:
        raise InputError(
            f"The prediction has shape {predicted.shape}, expected the reference's {true.shape}."
        )
    if predicted.ndim not in (2, 3):
        raise InputError(f"The masks have {predicted.ndim} axes, expected 2 or 3.")
    return predicted, true


def _array_spacing(spacing_mm: Sequence[float], axes: int) -> list[float]:
    """Spacing in the order of the array's axes."""
    spacing = [float(s) for s in reversed(tuple(spacing_mm))]
    if len(spacing) != axes or not all(math.isfinite(s) and s > 0 for s in spacing):
        raise InputError(f"The spacing is {tuple(spacing_mm)} mm, expected {axes} positive numbers.")
    return spacing


def _cropped(predicted: BoolArray, true: BoolArray) -> tuple[BoolArray, BoolArray]:
    """Cut both masks to where either is: MONAI does so too, but after copies of the whole grid."""
    box = _bounding_box(predicted | true, 1)
    return predicted[box], true[box]


def _bounding_box(mask: BoolArray, margin: int) -> tuple[slice, ...]:
    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    return tuple(
        slice(max(s.start - margin, 0), min(s.stop + margin, n)) for s, n in zip(box, mask.shape, strict=True)
    )


def _tensor(mask: BoolArray) -> torch.Tensor:
    return torch.from_numpy(mask.astype(np.float32))[None, None]


def scored_voxels(
    uncertainty: npt.ArrayLike, error: npt.ArrayLike, mask: npt.ArrayLike | None
) -> tuple[npt.NDArray[np.floating], BoolArray]:
    """The voxels that count, flattened: their uncertainty, and whether each is wrong.

    Raises:
        InputError: Shapes differ or an uncertainty is NaN.
    """
    values, wrong = np.asarray(uncertainty), np.asarray(error, dtype=bool)
    if values.shape != wrong.shape:
        raise InputError(
            f"The uncertainty has shape {values.shape}, expected that of the errors, {wrong.shape}."
        )
    values, wrong = inside_mask(values, wrong, mask)
    if np.isnan(values).any():
        raise InputError("The uncertainty holds values that are not numbers (NaN).")
    return values, wrong
