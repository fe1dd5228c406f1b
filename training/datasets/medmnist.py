# SPDX-License-Identifier: Apache-2.0
"""MedMNIST: one .npz file of small images with their classes, already divided into parts.

Arrays: train_images (N, J, I) or (N, J, I, C), train_labels (N, 1), and val_images, val_labels likewise. What
is called `val` is held out in every fold, what is called `train` is fitted; a part `test` is left alone.

Yang et al., MedMNIST v2, Scientific Data 10, 41 (2023), https://doi.org/10.1038/s41597-022-01721-8.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from DIANetLib.errors import InputError
from DIANetLib.volume import Geometry, Volume
from training.config import DataConfig
from training.datasets.base import Case, SourceCase, target_of

#: The parts that are read, and whether they are held out. A case's place is (part, number in it).
PARTS = (("train", False), ("val", True))


def find_cases(folder: Path, config: DataConfig) -> tuple[Case, ...]:
    """List the images of the folder's only .npz file.

    Raises:
        InputError: if there is no such file or several, or its arrays are not those of MedMNIST.
    """
    files = sorted(folder.glob("*.npz"))
    if len(files) != 1:
        raise InputError(f"{folder} holds {len(files)} .npz files, expected one.")
    arrays = _arrays(files[0], files[0].stat().st_mtime_ns)
    cases = []
    for place, (part, held_out) in enumerate(PARTS):
        classes = arrays[f"{part}_labels"]
        if classes.shape != (len(arrays[f"{part}_images"]), 1):
            raise InputError(
                f"{files[0]}: {part}_labels has shape {classes.shape}, expected one class for each of the "
                f"{len(arrays[f'{part}_images'])} images."
            )
        for number, value in enumerate(classes[:, 0]):
            name = f"{part}_{number:05d}"
            target = target_of(str(int(value)), config, name)
            images = (files[0],) * len(config.modalities)
            cases.append(Case(name, images, target=target, held_out=held_out, place=(place, number)))
    return tuple(cases)


def read_case(case: Case, config: DataConfig) -> SourceCase:
    """One image as volumes of one slice with voxels of 1 mm, for the file knows no size; a volume per colour.

    Raises:
        InputError: if the file cannot be read, or has another number of colours than the model of modalities.
    """
    path, (part, number) = case.images[0], case.place
    assert path is not None
    image = _arrays(path, path.stat().st_mtime_ns)[f"{PARTS[part][0]}_images"][number]
    channels = image[None] if image.ndim == 2 else np.moveaxis(image, -1, 0)
    if len(channels) != len(config.modalities):
        raise InputError(
            f"{path} holds images of {len(channels)} channels, got a model of {len(config.modalities)}."
        )
    j, i = channels.shape[1:]
    grid = Geometry((i, j, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3))
    volumes = tuple(
        Volume(np.ascontiguousarray(channel[None]), grid, name=modality.name)
        for channel, modality in zip(channels, config.modalities, strict=True)
    )
    return SourceCase(case.name, volumes, target=case.target)


@lru_cache(maxsize=1)
def _arrays(path: Path, written: int) -> Mapping[str, npt.NDArray[Any]]:
    """The arrays of a file as it was written then; kept, because every case is read from it."""
    wanted = [f"{part}_{what}" for part, _ in PARTS for what in ("images", "labels")]
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            missing = [name for name in wanted if name not in file.files]
            if missing:
                raise InputError(f"{path} lacks {', '.join(missing)}.")
            return {name: file[name] for name in wanted}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise InputError(f"{path} cannot be read: {error}.") from error
