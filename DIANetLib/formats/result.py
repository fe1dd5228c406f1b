# SPDX-License-Identifier: Apache-2.0
"""`result.json`: what was computed, from what, with what, as numbers that a program can read.

The mean of an uncertainty map over a structure is the summary that the paper's Eq. 35 aims at, with its sign
put right; the map itself is what is shown.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from DIANetLib import __version__
from DIANetLib.inference.prediction import UNCERTAINTY_KINDS, ModelRef, PathMap, Prediction
from DIANetLib.structures import Code, Structure
from DIANetLib.volume import Geometry, Volume

__all__ = [
    "EXPECTED_DICE_METHOD",
    "RESEARCH_USE_NOTICE",
    "RESULT_FORMAT",
    "RESULT_FORMAT_VERSION",
    "mean_uncertainty",
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
        "format": RESULT_FORMAT,
        "format_version": RESULT_FORMAT_VERSION,
        "created": (created or datetime.now(timezone.utc)).isoformat(timespec="seconds"),
        "notice": RESEARCH_USE_NOTICE,
        "software": {"dianet": __version__, "python": platform.python_version()},
        "model": _model(prediction.model),
        "localiser": None if prediction.localiser is None else _model(prediction.localiser),
        "inputs": [_input(volume) for volume in inputs],
        "missing_modalities": list(prediction.missing_modalities),
        "geometry": _geometry(prediction.geometry),
        "device": prediction.device,
        "samples": prediction.samples,
        "timings_s": {stage: float(seconds) for stage, seconds in prediction.timings.items()},
        "regions_of_interest_lps_mm": [
            {"lo": list(box.lo), "hi": list(box.hi)} for box in prediction.regions_of_interest
        ],
        "structures": [_structure(s, prediction, means[s.key]) for s in prediction.structures],
        "reliable_path": None if path is None else _path(path, prediction),
        "low_confidence_regions": low_confidence_regions,
        "warnings": list(prediction.warnings),
        "files": dict(files),
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


def _model(model: ModelRef) -> dict[str, str]:
    return {"name": model.name, "version": model.version, "sha256": model.sha256}


def _geometry(geometry: Geometry) -> dict[str, Any]:
    """Tuples in the order (i, j, k), LPS mm; the rows of `direction` are L, P, S."""
    return {
        "space": "left-posterior-superior",
        "size": list(geometry.size),
        "spacing_mm": list(geometry.spacing),
        "origin_mm": list(geometry.origin),
        "direction": geometry.direction.tolist(),
    }


def _input(volume: Volume) -> dict[str, Any]:
    return {
        "name": volume.name,
        "modality": volume.modality,
        "source": volume.source,
        "sha256": volume.sha256(),
        "sha256_of": "voxel type, voxels and grid as read",
        "geometry": _geometry(volume.geometry),
    }


def _code(code: Code | None) -> dict[str, str] | None:
    return None if code is None else {"scheme": code.scheme, "value": code.value, "meaning": code.meaning}


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
        "expected_dice": {
            "value": prediction.expected_dice[structure.key],
            "interval": None,
            "method": EXPECTED_DICE_METHOD,
        },
        "mean_uncertainty_nats": dict(means),
    }
