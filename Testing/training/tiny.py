# SPDX-License-Identifier: Apache-2.0
"""A data set of two touching balls in noise, and a configuration that fits it in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from DIANetLib.formats.image import write_volume
from DIANetLib.volume import Geometry, Volume
from training.config import TrainingConfig, parse_config
from training.datasets import PreparedCase, find_cases, load_case

SIZE = (14, 16, 12)  # (i, j, k)


def settings(**changes: Any) -> dict[str, Any]:
    """The configuration as its YAML file holds it; `changes` are dotted names with "__" for the dot."""
    code = {"value": "5366008", "meaning": "Hippocampus"}
    data: dict[str, Any] = {
        "name": "two-balls",
        "description": "Two balls.",
        "data": {
            "folds": 4,
            "inner": 2,
            "modalities": [{"name": "T1"}],
            "structures": [
                {"key": "front", "name": "Front", "color": [255, 0, 0], "source_values": [5], "type": code},
                {"key": "back", "name": "Back", "color": [0, 0, 255], "source_values": [7, 8], "type": code},
            ],
        },
        "network": {
            "classes": 3,
            "widths": [6, 8],
            "blocks": [0, 0],
            "strides": [2],
            "deep_supervision": 0,
            "latent": {"channels": 2},
        },
        "patch": [16, 16, 12],
        "augment": {"affine_probability": 0.3, "mirror_axes": [2]},
        "optimiser": {
            "steps": 30,
            "batch": 2,
            "learning_rate": 0.01,
            "warmup_steps": 3,
            "precision": "float32",
            "ema_decay": 0.9,
        },
        "validate_every": 15,
        "checkpoint_every": 10,
    }
    for dotted, value in changes.items():
        *parents, last = dotted.split("__")
        part = data
        for name in parents:
            part = part[name]
        part[last] = value
    return data


def config(**changes: Any) -> TrainingConfig:
    return parse_config(settings(**changes), "tiny")


def deterministic(**changes: Any) -> TrainingConfig:
    """Without dropout, latent draws and logit noise: equal histories give equal weights."""
    plain = {"network__latent": None, "network__dropout": 0.0, "network__decoder_dropout": 0.0}
    return config(**{**plain, "network__heteroscedastic": False, **changes})


def write_config(path: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump(settings(**changes)), encoding="utf-8")
    return path


def make_case(seed: int) -> tuple[Volume, Volume]:
    """An image and its labels 5 and 7 or 8, axes turned as in no canonical image."""
    rng = np.random.default_rng(seed)
    i, j, k = SIZE
    grid = np.stack(np.meshgrid(np.arange(k), np.arange(j), np.arange(i), indexing="ij"), -1)
    middle = np.array([k, j, i]) / 2 + rng.uniform(-1, 1, 3)
    distance = np.linalg.norm(grid - middle, axis=-1)
    ball = distance < 4.5
    front = grid[..., 1] < middle[1]
    labels = np.where(ball, np.where(front, 5, 7 + seed % 2), 0).astype(np.uint8)
    image = 50 + 40 * ball + 30 * (ball & front) + 8 * rng.normal(size=(k, j, i))
    geometry = Geometry(SIZE, (1.0, 1.0, 1.0), (5.0, -7.0, 9.0), np.diag([1.0, -1.0, 1.0]))
    return Volume(image.astype(np.float32), geometry), Volume(labels, geometry)


def write_cases(folder: Path, count: int = 8, *, layout: tuple[str, str] = ("images", "labels")) -> Path:
    for part in layout:
        (folder / part).mkdir(parents=True)
    for number in range(count):
        image, labels = make_case(number)
        write_volume(image, folder / layout[0] / f"case_{number:02d}.nii.gz")
        write_volume(labels, folder / layout[1] / f"case_{number:02d}.nii.gz")
    return folder


def load_all(folder: Path, settings_: TrainingConfig) -> list[PreparedCase]:
    return [load_case(case, settings_) for case in find_cases(folder)]
