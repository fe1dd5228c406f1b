# SPDX-License-Identifier: Apache-2.0
"""A small made-up prediction: two balls, one on each side of the patient, with uncertain borders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from DIANetLib.inference.prediction import Box, ModelRef, Prediction
from DIANetLib.structures import ANATOMICAL_STRUCTURE, Code, Structure
from DIANetLib.volume import Geometry, Volume

BALL = Structure(
    1, "ball", "Ball", (230, 120, 60), ANATOMICAL_STRUCTURE, Code("SCT", "5366008", "Hippocampus")
)
SIDES = (BALL.on_side("left", value=1), BALL.on_side("right", value=2))
GHOST = Structure(3, "ghost", "Ghost", (90, 90, 200), ANATOMICAL_STRUCTURE, Code("SCT", "1", "Ghost"))


@dataclass(frozen=True, eq=False)
class Case:
    """What `write_output` and `render_report` take."""

    prediction: Prediction
    gradcam: dict[str, Volume]
    image: Volume


def make_case(geometry: Geometry, *, radius_mm: float = 7.0, regions: bool = True) -> Case:
    """Balls 12 mm left and right of the grid's centre, and an empty third structure."""
    k, j, i = np.indices(geometry.shape)
    world = geometry.index_to_world(np.stack([i, j, k], axis=-1))
    middle = geometry.index_to_world([(n - 1) / 2 for n in geometry.size])
    probability, boxes = [], []
    for side in (1, -1):  # +x is the patient's left
        center = np.add(middle, (12.0 * side, 0.0, 0.0))
        distance = np.linalg.norm(world - center, axis=-1)
        probability.append(1.0 / (1.0 + np.exp(2.0 * (distance - radius_mm))))
        boxes.append(Box(tuple(center - 11.5), tuple(center + 11.5)))
    foreground = np.stack(probability)
    everything = np.concatenate([1.0 - foreground.sum(axis=0, keepdims=True), foreground])
    labels = everything.argmax(axis=0).astype(np.uint8)
    total = -(everything * np.log(np.clip(everything, 1e-12, 1.0))).sum(axis=0)
    image = Volume(
        (20 + 80 * foreground.sum(axis=0)).astype(np.float32), geometry, name="head", modality="T1"
    )

    def volume(array: np.ndarray) -> Volume:
        return Volume(array.astype(np.float32), geometry)

    keys = [*(s.key for s in SIDES), GHOST.key]
    empty = np.zeros(geometry.shape)
    probabilities = dict(zip(keys, [*foreground, empty], strict=True))
    masks = {s.key: labels == s.value for s in (*SIDES, GHOST)}
    prediction = Prediction(
        geometry=geometry,
        structures=(*SIDES, GHOST),
        labels=Volume(labels, geometry),
        uncertainty={
            "total": volume(total),
            "aleatoric": volume(0.75 * total),
            "epistemic": volume(0.25 * total),
        },
        variance={key: volume(0.1 * p * (1 - p)) for key, p in probabilities.items()},
        confidence={
            key: float(p[masks[key]].mean()) if masks[key].any() else None for key, p in probabilities.items()
        },
        expected_dice={key: 0.9 if masks[key].any() else None for key in keys},
        volumes_ml={key: float(masks[key].sum()) * geometry.voxel_volume_ml for key in keys},
        error_probability=volume(1.0 - everything.max(axis=0)),
        samples=10,
        device="cpu",
        timings={"localise": 1.25, "segment": 2.5},
        warnings=("The image was <resampled> & more.",),
        regions_of_interest=tuple(boxes) if regions else (),
        model=ModelRef("balls", "1.0", "ab" * 32),
        localiser=ModelRef("rooms", "2.0", "cd" * 32),
    )
    return Case(prediction, {key: volume(p) for key, p in list(probabilities.items())[:2]}, image)


@pytest.fixture
def case_on() -> Callable[..., Case]:
    """`case_on(geometry)` makes a case on a grid."""
    return make_case


@pytest.fixture
def case() -> Case:
    """A case on a small grid whose axes point to right, anterior, superior, 2 mm slices."""
    return make_case(Geometry((52, 30, 14), (1.0, 1.0, 2.0), (26.0, 15.0, -10.0), np.diag([-1.0, -1.0, 1.0])))
