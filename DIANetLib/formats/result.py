# SPDX-License-Identifier: Apache-2.0
"""`result.json`: what was computed, from what, with what, as numbers that a program can read.

The mean of an uncertainty map over a structure is the summary that the paper's Eq. 35 aims at, with its sign
put right; the map itself is what is shown.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from DIANetLib import __version__
from DIANetLib.acwi.familiarity import Familiarity
from DIANetLib.acwi.quality import LEVEL
from DIANetLib.inference.classification import Classification
from DIANetLib.inference.prediction import UNCERTAINTY_KINDS, ModelRef, PathMap, Prediction
from DIANetLib.structures import Code, Structure
from DIANetLib.volume import Geometry, Volume

__all__ = [
    "ESTIMATED_DICE_METHOD",
    "EXPECTED_DICE_METHOD",
    "ONE_PASS_DICE_METHOD",
    "RESEARCH_USE_NOTICE",
    "RESULT_FORMAT",
    "RESULT_FORMAT_VERSION",
    "classification_record",
    "dice_method",
    "geometry_record",
    "head_record",
    "input_record",
    "mean_uncertainty",
    "model_record",
    "result_record",
]

RESULT_FORMAT = "dianet-result"
RESULT_FORMAT_VERSION = 1
RESEARCH_USE_NOTICE = (
    "For research use only. Not a medical device, not cleared for diagnosis or treatment. "
    "Every result must be reviewed by a qualified person."
)
EXPECTED_DICE_METHOD = (
    "closed form from calibrated probabilities: 2 * sum of p over the mask / (mask + sum of p)"
)
ESTIMATED_DICE_METHOD = (
    "regression on the mean Dice between samples, calibrated probabilities, their variance over the samples"
    " and the volume, fitted on cases that the weights have not seen and on corrupted copies of them; 90 %"
    " interval"
)

ONE_PASS_DICE_METHOD = (
    "regression on the error probability, calibrated probabilities, the variance that one pass tells and the"
    " volume, fitted on cases that the weights have not seen and on corrupted copies of them; 90 % interval"
)


def dice_method(prediction: Prediction, with_interval: bool) -> str:
    """How the expected Dice came about.

    Args:
        prediction: Of it.
        with_interval: Whether it has an interval; those that have none are the closed form.
    """
    if not with_interval:
        return EXPECTED_DICE_METHOD
    return ONE_PASS_DICE_METHOD if prediction.one_pass else ESTIMATED_DICE_METHOD


def mean_uncertainty(prediction: Prediction) -> dict[str, dict[str, float | None]]:
    """Mean of each uncertainty map over each structure's voxels, in nats.

    Returns:
        Per structure key a mean per kind ("total", "aleatoric", "epistemic"); None for an empty structure.
    """
    means: dict[str, dict[str, float | None]] = {}
    for structure in prediction.structures:
        mask = prediction.labels.array == structure.value
        empty = not mask.any()
        means[structure.key] = {
            kind: None if empty else float(prediction.uncertainty[kind].array[mask].mean(dtype=float))
            for kind in UNCERTAINTY_KINDS
        }
    return means


def result_record(
    prediction: Prediction,
    inputs: Sequence[Volume],
    *,
    low_confidence_regions: int,
    files: Mapping[str, Any],
    path: PathMap | None = None,
    created: datetime | None = None,
) -> dict[str, Any]:
    """The content of `result.json`.

    Args:
        prediction: What was computed.
        inputs: The images, in the order of the model's modalities.
        low_confidence_regions: How many regions `regions.json` lists.
        files: File names of the folder, by what they hold.
        path: The reliable path, where asked for.
        created: Time of writing; now, in UTC, when None.

    Returns:
        A dictionary of JSON types.
    """
    means = mean_uncertainty(prediction)
    return {
        **head_record("segmentation", created),
        "model": model_record(prediction.model),
        "localiser": None if prediction.localiser is None else model_record(prediction.localiser),
        "inputs": [input_record(volume) for volume in inputs],
        "missing_modalities": list(prediction.missing_modalities),
        "geometry": geometry_record(prediction.geometry),
        "device": prediction.device,
        "samples": prediction.samples,
        "uncertainty_from": prediction.uncertainty_from,
        "timings_s": {stage: float(seconds) for stage, seconds in prediction.timings.items()},
        "regions_of_interest_lps_mm": [
            {"lo": list(box.lo), "hi": list(box.hi)} for box in prediction.regions_of_interest
        ],
        "structures": [_structure(s, prediction, means[s.key]) for s in prediction.structures],
        "familiarity": [_familiarity(found) for found in prediction.familiarity],
        "classification": [classification_record(found) for found in prediction.classifications],
        "reliable_path": None if path is None else _path(path, prediction),
        "low_confidence_regions": low_confidence_regions,
        "warnings": list(prediction.warnings),
        "files": dict(files),
    }


def head_record(task: str, created: datetime | None = None) -> dict[str, Any]:
    """What every `result.json` begins with.

    Args:
        task: `"segmentation"`, `"classification"` or `"reconstruction"`.
        created: Time of writing; now, in UTC, when None.
    """
    return {
        "format": RESULT_FORMAT,
        "format_version": RESULT_FORMAT_VERSION,
        "task": task,
        "created": (created or datetime.now(timezone.utc)).isoformat(timespec="seconds"),
        "notice": RESEARCH_USE_NOTICE,
        "software": {"dianet": __version__, "python": platform.python_version()},
    }


def classification_record(found: Classification) -> dict[str, Any]:
    """What an image as a whole was taken for, as JSON types."""
    return {
        "predicted": found.classes[found.predicted].key,
        "classes": [
            {
                "key": entry.key,
                "name": entry.name,
                "code": _code(entry.code),
                "probability": p,
                "standard_deviation": math.sqrt(v),
            }
            for entry, p, v in zip(found.classes, found.probabilities, found.variance, strict=True)
        ],
        "uncertainty_nats": {
            "total": found.total,
            "aleatoric": found.aleatoric,
            "epistemic": found.epistemic,
        },
        "samples": found.samples,
    }


def _familiarity(found: Familiarity) -> dict[str, Any]:
    return {
        "region": found.region or None,
        "grade": found.grade,
        "score": found.score,
        "fitted_on": found.about or None,
    }


def _path(path: PathMap, prediction: Prediction) -> dict[str, Any]:
    """What the numbers of the map mean, and what part of the structures' voxels each path decides."""
    shares = path.shares(prediction.labels.array > 0)
    return {
        "paths": [
            {"value": n, "name": name, "share_of_structures": share}
            for n, (name, share) in enumerate(zip(path.names, shares, strict=True), start=1)
        ]
    }


def model_record(model: ModelRef) -> dict[str, str]:
    """A model, as results name it."""
    return {"name": model.name, "version": model.version, "sha256": model.sha256}


def geometry_record(geometry: Geometry) -> dict[str, Any]:
    """Tuples in the order (i, j, k), LPS mm; the rows of `direction` are L, P, S."""
    return {
        "space": "left-posterior-superior",
        "size": list(geometry.size),
        "spacing_mm": list(geometry.spacing),
        "origin_mm": list(geometry.origin),
        "direction": geometry.direction.tolist(),
    }


def input_record(volume: Volume) -> dict[str, Any]:
    """An input image, with the hash of its content."""
    return {
        "name": volume.name,
        "modality": volume.modality,
        "source": volume.source,
        "sha256": volume.sha256(),
        "sha256_of": "voxel type, voxels and grid as read",
        "geometry": geometry_record(volume.geometry),
    }


def _code(code: Code | None) -> dict[str, str] | None:
    return None if code is None else {"scheme": code.scheme, "value": code.value, "meaning": code.meaning}


def _expected_dice(key: str, prediction: Prediction) -> dict[str, Any]:
    interval, told = prediction.dice_interval.get(key), prediction.quality.get(key)
    return {
        "value": prediction.expected_dice[key],
        "interval": None if interval is None else list(interval),
        "level": LEVEL,
        "method": dice_method(prediction, interval is not None),
        "sample_agreement": None if told is None else told.agreement,
    }


def _structure(
    structure: Structure, prediction: Prediction, means: Mapping[str, float | None]
) -> dict[str, Any]:
    return {
        "value": structure.value,
        "key": structure.key,
        "name": structure.name,
        "color": list(structure.color),
        "category": _code(structure.category),
        "type": _code(structure.type),
        "modifier": _code(structure.modifier),
        "volume_ml": float(prediction.volumes_ml[structure.key]),
        "expected_confidence": prediction.confidence[structure.key],
        "expected_dice": _expected_dice(structure.key, prediction),
        "mean_uncertainty_nats": dict(means),
    }
