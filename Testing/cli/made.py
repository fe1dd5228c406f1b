# SPDX-License-Identifier: Apache-2.0
"""A segmentation made by hand, and the output folder that it gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from DIANetLib.formats.output_folder import write_output
from DIANetLib.inference.prediction import ModelRef, Prediction
from DIANetLib.structures import ANATOMICAL_STRUCTURE, Code, Structure
from DIANetLib.volume import Geometry, Volume

GEOMETRY = Geometry((14, 12, 10), (1.0, 1.0, 2.0), (5.0, -3.0, 7.0), np.diag([-1.0, -1.0, 1.0]))
HEAD = Structure(
    1, "head", "Head", (200, 40, 10), ANATOMICAL_STRUCTURE, Code("SCT", "5366008", "Hippocampal structure")
)
STRUCTURES = (HEAD.on_side("left", value=1), HEAD.on_side("right", value=2))


def labels() -> np.ndarray:
    array = np.zeros(GEOMETRY.shape, np.uint8)
    array[3:7, 3:9, 2:6] = 1
    array[3:7, 3:9, 8:12] = 2
    return array


def prediction(array: np.ndarray, uncertain: np.ndarray) -> Prediction:
    """`uncertain`, (k, j, i), is the error probability, and the entropy as well."""

    def volume(values: np.ndarray) -> Volume:
        return Volume(values, GEOMETRY)

    zero = np.zeros(GEOMETRY.shape, np.float32)
    keys = [structure.key for structure in STRUCTURES]
    return Prediction(
        geometry=GEOMETRY,
        structures=STRUCTURES,
        labels=volume(array),
        uncertainty={"total": volume(uncertain), "aleatoric": volume(uncertain), "epistemic": volume(zero)},
        variance={key: volume(zero) for key in keys},
        confidence=dict.fromkeys(keys, 0.9),
        expected_dice=dict.fromkeys(keys, 0.85),
        volumes_ml={s.key: float((array == s.value).sum()) * 0.002 for s in STRUCTURES},
        error_probability=volume(uncertain),
        samples=2,
        device="cpu",
        timings={"segment": 1.0},
        warnings=(),
        regions_of_interest=(),
        model=ModelRef("tiny", "1.0.0", "0" * 64),
    )


def image() -> Volume:
    array = np.random.default_rng(0).normal(size=GEOMETRY.shape).astype(np.float32)
    return Volume(array, GEOMETRY, name="image")


def write_folder(directory: Path, array: np.ndarray, uncertain: np.ndarray | None = None) -> Path:
    if uncertain is None:
        uncertain = np.zeros(GEOMETRY.shape, np.float32)
    return write_output(prediction(array, uncertain), {}, [image()], directory).directory
