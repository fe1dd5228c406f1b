# SPDX-License-Identifier: Apache-2.0
"""A small model folder with random weights, and corrections of its segmentations as a review writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from DIANetLib.acwi.corrections import write_correction
from DIANetLib.acwi.review import Region
from DIANetLib.bundle import make_metadata, save_bundle
from DIANetLib.bundle_schema import DianetSection, ModalitySpec
from DIANetLib.formats.image import write_volume
from DIANetLib.inference.prediction import ModelRef
from DIANetLib.network import DIANet
from DIANetLib.volume import Volume
from Testing.training.tiny import deterministic, make_case
from training.trial import structures_of

STRUCTURES = structures_of(deterministic())
MODEL = ModelRef("two-balls", "1.0.3", "a" * 64)


def write_model(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """FOLDER/two-balls, a model folder of the tiny configuration."""
    config = deterministic()
    fields: dict[str, Any] = {
        "name": "two-balls",
        "network": config.network.model_dump(mode="json"),
        "preprocess": config.preprocess.model_dump(mode="json"),
        "window": config.patch,
        "structures": STRUCTURES,
        "modalities": (ModalitySpec(name="T1"),),
        "training": {"held_out": ["case_00", "case_01", "case_02"], "patch": list(config.patch)},
        "figures": {"dice": {"mean": 0.5}},
    }
    section = DianetSection(**{**fields, **changes})
    torch.manual_seed(seed)
    state = DIANet(config.network).state_dict()
    metadata = make_metadata(section, version="1.0.3", task="Test", description="Two balls.")
    return save_bundle(folder / section.name, metadata, state, card="# two-balls\n", licence="Free.\n")


def labelled_case(seed: int) -> tuple[Volume, Volume]:
    """An image and its labels 1 and 2, the values of the model."""
    image, labels = make_case(seed)
    array = np.where(labels.array == 5, 1, np.where(labels.array > 5, 2, 0)).astype(np.uint8)
    named = Volume(image.array, image.geometry, name=f"new_{seed}", modality="T1")
    return named, labels.with_array(array)


def wrong(labels: Volume) -> Volume:
    """The labels with their front half gone."""
    return labels.with_array(np.where(labels.array == 1, 0, labels.array).astype(np.uint8))


def region(
    rank: int, labels: Volume, low: tuple[int, int, int], high: tuple[int, int, int], state: str
) -> Region:
    """A region of the voxels (i, j, k) from `low` to `high`, both included."""
    world = labels.geometry.index_to_world([low, high])
    lo, hi = world.min(axis=0) - 0.5, world.max(axis=0) + 0.5
    middle = tuple(world.mean(axis=0))
    box = (tuple(lo), tuple(hi))
    return Region(rank, ("front",), middle, *box, 10.0, 5.0, 0.9, state)  # type: ignore[arg-type]


def write_package(parent: Path, seed: int = 50, *, reviewer: str = "Ada", **changes: Any) -> Path:
    """A correction of a case with its image beside the packages, in PARENT/../images."""
    image, labels = labelled_case(seed)
    images = parent.parent / "images"
    images.mkdir(parents=True, exist_ok=True)
    file = images / f"{image.name}.nrrd"
    if not file.exists():
        write_volume(image, file)
    image = Volume(image.array, image.geometry, image.name, "T1", source=str(file))
    fields: dict[str, Any] = {
        "before": wrong(labels),
        "after": labels,
        "structures": STRUCTURES,
        "regions": (),
        "images": [image],
        "model": MODEL,
        "reviewer": reviewer,
        "started": "2026-01-31T09:00:00+01:00",
        "finished": "2026-01-31T09:30:00+01:00",
    }
    return write_correction(parent, **{**fields, **changes})
