# SPDX-License-Identifier: Apache-2.0
"""Networks with random weights on trial, as if they had been fitted, and data sets in other layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from DIANetLib.formats.image import write_volume
from Testing.training.tiny import config, make_case
from training.baselines import build_model
from training.config import TrainingConfig
from training.datasets import find_cases
from training.fitted import FittedModel
from training.trial import Trial

TARGETS = [
    {"key": "dark", "name": "Dark", "source_values": ["0"]},
    {"key": "bright", "name": "Bright", "source_values": ["1"]},
]
MODALITIES = [{"name": "T1"}, {"name": "T2"}]
KSPACE = {"operator": "kspace", "complex": True, "accelerations": [2.0, 4.0], "centre_fraction": 0.1}


def classifying(**changes: Any) -> TrainingConfig:
    """Two classes of pictures of 12 × 12 pixels."""
    return config(**classes(**changes))


def classes(**changes: Any) -> dict[str, Any]:
    """What `classifying` changes of the tiny configuration."""
    return {
        "data__format": "medmnist",
        "data__structures": [],
        "data__targets": TARGETS,
        "data__inner": 6,
        "network__classes": 0,
        "network__spatial_dims": 2,
        "network__classification": {"classes": 2},
        "preprocess": {"spacing_mm": [None, None, None], "orientation": "source"},
        "patch": [12, 12, 1],
        "augment": {"affine_probability": 0.0, "mirror_axes": [], "foreground_crops": 0.0},
        **changes,
    }


def reconstructing(**changes: Any) -> TrainingConfig:
    """Axial slices from undersampled k-space."""
    return config(**slices(**changes))


def slices(**changes: Any) -> dict[str, Any]:
    """What `reconstructing` changes of the tiny configuration."""
    return {
        "data__format": "slices",
        "data__options": {"count": 2, "between": [0.3, 0.7]},
        "data__structures": [],
        "network__classes": 0,
        "network__spatial_dims": 2,
        "network__modalities": 2,
        "network__reconstruction": {"resolutions": 1},
        "preprocess": {"spacing_mm": [None, None, None], "normalisation": "magnitude"},
        "tasks": {"reconstruction": KSPACE},
        "patch": [14, 16, 1],
        "augment": {"affine_probability": 0.0, "mirror_axes": [], "foreground_crops": 0.0},
        **changes,
    }


def two_modalities(**changes: Any) -> TrainingConfig:
    """T1 and T2, either of which may be missing."""
    fields = {
        "data__format": "modality-files",
        "data__modalities": MODALITIES,
        "network__modalities": 2,
        "network__modality_fusion": {"channels": 4},
        "augment": {"modality_dropout": 0.3},
    }
    return config(**{**fields, **changes})


def write_pictures(folder: Path) -> Path:
    """Thirty pictures to fit and eight to hold out, every second of them brighter in the middle."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for part, count in (("train", 30), ("val", 8)):
        labels = np.arange(count) % 2
        images = rng.integers(0, 120, (count, 12, 12))
        images[:, 4:8, 4:8] += 120 * labels[:, None, None]
        arrays |= {f"{part}_images": images.astype(np.uint8), f"{part}_labels": labels[:, None]}
    np.savez(folder / "pictures.npz", **arrays)
    return folder


def write_two_modalities(folder: Path, count: int = 8) -> Path:
    """The balls of `tiny`, as T1 and, inverted, as T2."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for number in range(count):
        image, labels = make_case(number)
        write_volume(image, folder / "images" / f"case_{number:02d}_T1.nii.gz")
        inverted = image.with_array(200 - image.array)
        write_volume(inverted, folder / "images" / f"case_{number:02d}_T2.nii.gz")
        write_volume(labels, folder / "labels" / f"case_{number:02d}.nii.gz")
    return folder


def random_fit(settings: TrainingConfig, seed: int = 0) -> FittedModel:
    """Random weights everywhere, so that every block matters."""
    torch.manual_seed(seed)
    network = build_model(settings)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    averages = {name: value.detach().float() for name, value in network.state_dict().items()}
    state = {name: value.half().float() for name, value in averages.items()}
    return FittedModel(settings, settings, 0, 0, 0.0, "latest", averages, state)


def trial(settings: TrainingConfig, data: Path, folder: Path, *, samples: int = 2, seed: int = 0) -> Trial:
    """A random fit; the first four cases of a data set set the temperature, the last four judge it."""
    fitted = random_fit(settings, seed)
    cases = find_cases(data, settings.data)
    return Trial(
        fitted,
        fitted.network(torch.device("cpu")),
        held_out=cases[-4:],
        inner=cases[:4],
        folder=folder,
        samples=samples,
    )
