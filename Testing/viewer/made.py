# SPDX-License-Identifier: Apache-2.0
"""A small output folder with every kind of layer, made as the commands make it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from DIANetLib.acwi.familiarity import Familiarity
from DIANetLib.acwi.review import Region
from DIANetLib.formats.image import read_volume, write_volume
from DIANetLib.formats.output_folder import write_output
from DIANetLib.inference.prediction import InnerMaps, ModelRef, PathMap, Prediction
from DIANetLib.structures import ANATOMICAL_STRUCTURE, Code, Structure
from DIANetLib.volume import Geometry, Volume

GEOMETRY = Geometry((40, 44, 36), (2.0, 2.0, 2.5), (40.0, 44.0, -45.0), np.diag([-1.0, -1.0, 1.0]))
_HEAD = Structure(
    1, "head", "Head", (230, 120, 40), ANATOMICAL_STRUCTURE, Code("SCT", "5366008", "Hippocampal structure")
)
STRUCTURES = (_HEAD.on_side("left", value=1), replace(_HEAD.on_side("right", value=2), color=(70, 180, 90)))
CENTRES = {1: (20.0, 0.0, 5.0), 2: (-20.0, -8.0, -10.0)}  # LPS mm
RADIUS = 11.0


def distance(centre) -> np.ndarray:
    """mm of each voxel from a point, shape (k, j, i)."""
    k, j, i = np.meshgrid(*(np.arange(n) for n in GEOMETRY.shape), indexing="ij")
    return np.linalg.norm(GEOMETRY.index_to_world(np.stack([i, j, k], axis=-1)) - centre, axis=-1)


#: Centre (LPS mm), peak and structure of each place that is uncertain, the most uncertain first.
PLACES = (
    ((31.0, 0.0, 5.0), 0.9, "head_left"),
    ((20.0, 0.0, 16.0), 0.7, "head_left"),
    ((-31.0, -8.0, -10.0), 0.6, "head_right"),
    ((-20.0, 4.0, -10.0), 0.5, "head_right"),
)


def error_probability() -> np.ndarray:
    """A blob at each place."""
    error = np.zeros(GEOMETRY.shape, np.float32)
    for centre, peak, _ in PLACES:
        error = np.maximum(error, peak * np.exp(-((distance(centre) / 6.0) ** 2)).astype(np.float32))
    return error


def regions() -> tuple[Region, ...]:
    """A list that does not depend on how regions are found."""
    return tuple(
        Region(
            rank=rank,
            structures=(key,),
            centre=centre,
            lo=tuple(x - 6.0 for x in centre),
            hi=tuple(x + 6.0 for x in centre),
            volume_mm3=900.0,
            expected_error_mm3=round(500.0 * peak, 3),
            peak=peak,
        )
        for rank, (centre, peak, key) in enumerate(PLACES, start=1)
    )


def image_array() -> np.ndarray:
    noise = np.random.default_rng(3).normal(0, 4, GEOMETRY.shape)
    body = np.clip(200 - 2.2 * distance((0.0, 0.0, 0.0)), 0, None)
    return (body + noise).astype(np.float32)


def prediction() -> Prediction:
    labels = np.zeros(GEOMETRY.shape, np.uint8)
    for value, centre in CENTRES.items():
        labels[distance(centre) < RADIUS] = value
    error = error_probability()

    def volume(array: np.ndarray) -> Volume:
        return Volume(array.astype(np.float32), GEOMETRY)

    keys = [structure.key for structure in STRUCTURES]
    return Prediction(
        geometry=GEOMETRY,
        structures=STRUCTURES,
        labels=Volume(labels, GEOMETRY),
        uncertainty={
            "total": volume(error * np.log(2)),
            "aleatoric": volume(error * 0.5),
            "epistemic": volume(error * 0.1),
        },
        variance={key: volume(error * 0.1) for key in keys},
        confidence=dict.fromkeys(keys, 0.9),
        expected_dice=dict(zip(keys, (0.91, 0.62), strict=True)),
        volumes_ml={s.key: float((labels == s.value).sum()) * 0.01 for s in STRUCTURES},
        error_probability=volume(error),
        samples=4,
        device="cpu",
        timings={"segment": 1.0},
        dice_interval=dict(zip(keys, ((0.86, 0.94), (0.5, 0.75)), strict=True)),
        warnings=("The image has <b>thick</b> slices & is noisy.",),
        familiarity=(Familiarity(-0.5, "familiar", "left"), Familiarity(3.1, "unusual", "right")),
        regions_of_interest=(),
        model=ModelRef("tiny", "1.0.0", "0" * 64),
    )


def write_case(folder: Path) -> Path:
    """`folder`/image.nii.gz and its result in `folder`/result; returns the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    image = folder / "image.nii.gz"
    write_volume(Volume(image_array(), GEOMETRY, name="image"), image)
    made = prediction()
    keys = [structure.key for structure in STRUCTURES]
    relevance = {
        key: Volume(np.exp(-distance(c) / 15).astype(np.float32), GEOMETRY)
        for key, c in zip(keys, CENTRES.values(), strict=True)
    }
    volume = read_volume(image, modality="T1")
    attention = Volume(np.exp(-distance((0, 0, 0)) / 20).astype(np.float32), GEOMETRY)
    saliency = Volume(image_array() * attention.array, GEOMETRY)
    path = PathMap(made.labels, ("coarse", "fine"))
    inner = InnerMaps(attention={"attention": attention, "saliency": saliency}, path=path)
    return write_output(
        made, relevance, [volume], folder / "result", inner=inner, regions=regions()
    ).directory
