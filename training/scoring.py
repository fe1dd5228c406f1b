# SPDX-License-Identifier: Apache-2.0
"""What is measured on one held-out case, on its source grid, as `DIANetLib.acwi.metrics` defines it.

Overlap and surface figures per structure and per region, a union of structures such as the whole tumour;
calibration and error detection over the voxels within three of the reference or of the prediction, as
`dianet evaluate` judges them. The peer of the uncertainty maps is the
entropy of the softmax of one plain pass. It is judged twice: on the errors of the plain pass's own
segmentation, and on the errors of the very segmentation that the uncertainty maps are judged on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from DIANetLib.acwi import metrics
from DIANetLib.acwi.calibration import expected_calibration_error
from DIANetLib.acwi.filtering import error_auprc, filtering, mean_filtering
from DIANetLib.inference.prediction import Prediction
from DIANetLib.structures import Structure
from DIANetLib.volume import Geometry, Volume
from training.config import RegionConfig

MARGIN_VOXELS = 3
TOLERANCE_MM = 1.0

#: What orders the voxels by how likely they are wrong, and what counts as wrong for it.
RANKINGS: Mapping[str, tuple[str, str]] = {
    "total": ("total", "wrong"),
    "epistemic": ("epistemic", "wrong"),
    "error_probability": ("error_probability", "wrong"),
    "plain": ("plain_entropy", "plain_wrong"),
    "plain_same_errors": ("plain_entropy", "wrong"),
}


@dataclass(frozen=True)
class StructureScore:
    """How well one structure of one case was found; empty masks as in `DIANetLib.acwi.metrics`."""

    structure: str
    dice: float
    hd95_mm: float
    nsd_1mm: float
    volume_ml: float
    reference_ml: float


@dataclass(frozen=True, eq=False)
class CaseScore:
    """The figures of one case.

    Attributes:
        case: its name.
        structures: per structure.
        figures: the case's own: means over the structures, calibration, error detection. NaN where a case has
            no errors to detect. With regions also "dice_regions", the mean over them.
        voxels: per judged voxel what the pooled figures need: float32 "total", "epistemic",
            "error_probability", "error_probability_before" and "plain_entropy", bool "wrong", "wrong_before"
            and "plain_wrong".
        regions: per region.
    """

    case: str
    structures: tuple[StructureScore, ...]
    figures: Mapping[str, float]
    voxels: Mapping[str, npt.NDArray[Any]]
    regions: tuple[StructureScore, ...] = ()


def score_case(
    name: str,
    reference: Volume,
    *,
    calibrated: Prediction,
    uncalibrated: Prediction,
    plain: Prediction,
    regions: Sequence[RegionConfig] = (),
) -> CaseScore:
    """Compare predictions with the reference, all on the source grid.

    Args:
        name: of the case.
        reference: true classes 0, 1, ... in the order of the predictions' structures.
        calibrated: T samples at the fitted temperature: what the product shows.
        uncalibrated: the same at temperature 1.
        plain: one mean pass at temperature 1.
        regions: unions of structures that are scored too.
    """
    true = reference.array
    ours, before, peer = (prediction.labels.array for prediction in (calibrated, uncalibrated, plain))
    structures = score_structures(ours, reference, calibrated.structures)
    unions = score_regions(ours, reference, calibrated.structures, regions)
    mask = metrics.dilated_mask((true > 0) | (ours > 0), MARGIN_VOXELS)
    voxels = {
        "total": calibrated.uncertainty["total"].array[mask],
        "epistemic": calibrated.uncertainty["epistemic"].array[mask],
        "error_probability": calibrated.error_probability.array[mask],
        "error_probability_before": uncalibrated.error_probability.array[mask],
        "plain_entropy": plain.uncertainty["total"].array[mask],
        "wrong": (ours != true)[mask],
        "wrong_before": (before != true)[mask],
        "plain_wrong": (peer != true)[mask],
    }
    plain_dice = [metrics.dice(peer == part.value, true == part.value) for part in calibrated.structures]
    figures = {
        "dice": _mean([score.dice for score in structures]),
        "hd95_mm": _mean([score.hd95_mm for score in structures]),
        "nsd_1mm": _mean([score.nsd_1mm for score in structures]),
        "dice_plain": _mean(plain_dice),
        **({"dice_regions": _mean([score.dice for score in unions])} if unions else {}),
        **error_figures(voxels),
        "qubrats_total": _qubrats(calibrated, true, mask),
    }
    return CaseScore(name, structures, figures, voxels, unions)


def score_structures(
    found: npt.NDArray[np.integer], reference: Volume, structures: Sequence[Structure]
) -> tuple[StructureScore, ...]:
    """Compare a labelmap (k, j, i) with the reference, structure by structure."""
    return tuple(
        _structure(part.key, found == part.value, reference.array == part.value, reference.geometry)
        for part in structures
    )


def score_regions(
    found: npt.NDArray[np.integer],
    reference: Volume,
    structures: Sequence[Structure],
    regions: Sequence[RegionConfig],
) -> tuple[StructureScore, ...]:
    """The same for unions of structures."""
    values = {part.key: part.value for part in structures}
    scores = []
    for region in regions:
        members = [values[key] for key in region.structures]
        ours, true = np.isin(found, members), np.isin(reference.array, members)
        scores.append(_structure(region.key, ours, true, reference.geometry))
    return tuple(scores)


def error_figures(voxels: Mapping[str, npt.NDArray[Any]]) -> dict[str, float]:
    """ECE, error AUROC and AUPRC and normalised AURC over judged voxels, of one case or pooled."""
    figures = {
        "ece_before": _ece(voxels["error_probability_before"], voxels["wrong_before"]),
        "ece": _ece(voxels["error_probability"], voxels["wrong"]),
        "error_rate": float(voxels["wrong"].mean()) if voxels["wrong"].size else float("nan"),
    }
    for name, (values, errors) in RANKINGS.items():
        figures[f"error_auroc_{name}"] = metrics.error_auroc(voxels[values], voxels[errors])
    for name, (values, errors) in RANKINGS.items():
        figures[f"error_auprc_{name}"] = error_auprc(voxels[values], voxels[errors])
    for name, (values, errors) in RANKINGS.items():
        figures[f"normalised_aurc_{name}"] = metrics.normalised_aurc(voxels[values], voxels[errors])
    return figures


def _structure(
    key: str, found: npt.NDArray[np.bool_], wanted: npt.NDArray[np.bool_], geometry: Geometry
) -> StructureScore:
    return StructureScore(
        structure=key,
        dice=metrics.dice(found, wanted),
        hd95_mm=metrics.hd95(found, wanted, geometry.spacing),
        nsd_1mm=metrics.nsd(found, wanted, geometry.spacing, TOLERANCE_MM),
        volume_ml=float(found.sum()) * geometry.voxel_volume_ml,
        reference_ml=float(wanted.sum()) * geometry.voxel_volume_ml,
    )


def _ece(error_probability: npt.NDArray[np.float32], wrong: npt.NDArray[np.bool_]) -> float:
    return expected_calibration_error(1.0 - error_probability, ~wrong)


def _qubrats(prediction: Prediction, true: npt.NDArray[np.integer], mask: npt.NDArray[np.bool_]) -> float:
    """QU-BraTS score of the total uncertainty in a mask, mean over the structures."""
    most = math.log(len(prediction.structures) + 1)
    values = np.clip(prediction.uncertainty["total"].array[mask] / most, 0.0, 1.0)
    labels = prediction.labels.array[mask]
    parts = [filtering(values, labels, true[mask], part.value) for part in prediction.structures]
    return mean_filtering(parts).score


def _mean(values: list[float]) -> float:
    return float(np.mean(values))
