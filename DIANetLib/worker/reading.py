# SPDX-License-Identifier: Apache-2.0
"""What the jobs of the command share: from files and numbers that were given to volumes and boxes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from DIANetLib.errors import InputError
from DIANetLib.inference.prediction import Box, Progress
from DIANetLib.modalities import assign
from DIANetLib.worker.case import Cancel, Report, stop_if

if TYPE_CHECKING:
    from DIANetLib.bundle import LoadedModel
    from DIANetLib.volume import Volume

__all__ = [
    "Clock",
    "ImageSource",
    "assign_modalities",
    "box_from_ras",
    "box_of_mask",
    "check_draws",
    "read_images",
]


def check_draws(samples: int, seed: int) -> None:
    """Refuse what no stochastic passes can be made of, before anything is read.

    Raises:
        InputError: One of them is negative.
    """
    if samples < 0 or seed < 0:
        raise InputError(f"Samples and seed are {samples} and {seed}, expected 0 or more of each.")


@dataclass(frozen=True)
class ImageSource:
    """An image to read.

    Attributes:
        path: A file, or a folder with a DICOM series.
        modality: Which modality of the model it is; None for the next one that is not named.
    """

    path: Path
    modality: str | None = None


def assign_modalities(
    images: Sequence[ImageSource], model: LoadedModel
) -> tuple[tuple[ImageSource, ...], tuple[str, ...]]:
    """Put images in the order of the model's modalities and name each.

    Returns:
        The images, without those of modalities that are missing; and a sentence where file names were what
        told which is which.

    Raises:
        InputError: Their number or a name does not fit the model, or it cannot be told which is which.
    """
    names = [image.modality for image in images]
    found = assign(names, model.modalities, model.name, files=[image.path.name for image in images])
    placed = tuple(
        replace(images[place], modality=modality.name)
        for place, modality in zip(found.places, model.modalities, strict=True)
        if place is not None
    )
    if not found.guessed:
        return placed, ()
    told = ", ".join(f"{name} is {file}" for name, file in found.guessed.items())
    return placed, (f"File names told which image is which: {told}. --modalities says it instead.",)


def read_images(
    sources: Sequence[ImageSource], series: str | None, report: Report, cancel: Cancel | None
) -> list[Volume]:
    """Read images; each gets the name of its modality.

    Raises:
        Cancelled: `cancel` said so.
        InputError: One cannot be read.
    """
    from DIANetLib.formats.image import read_volume

    report(Progress("read", 0, len(sources)))
    volumes = []
    for done, source in enumerate(sources, start=1):
        stop_if(cancel)
        volumes.append(read_volume(source.path, modality=source.modality, series=series))
        report(Progress("read", done, len(sources)))
    return volumes


def box_from_ras(values: Sequence[float]) -> Box:
    """The box between x1, x2, y1, y2, z1, z2 in mm as 3D Slicer shows them (RAS), as LPS.

    Args:
        values: Six numbers; the two of an axis may be in any order.

    Raises:
        InputError: Not six finite numbers, or no extent along an axis.
    """
    if len(values) != 6 or not np.isfinite(values).all():
        raise InputError(
            f"The region of interest has {len(values)} numbers, expected six: x1,x2,y1,y2,z1,z2 in mm."
        )
    pairs = [sorted(values[n : n + 2]) for n in (0, 2, 4)]
    if any(a == b for a, b in pairs):
        raise InputError(
            f"The region of interest {', '.join(f'{v:g}' for v in values)} has no extent along an axis,"
            " expected x1,x2,y1,y2,z1,z2 in mm."
        )
    (r1, r2), (a1, a2), (s1, s2) = pairs
    return Box((-r2, -a2, s1), (-r1, -a1, s2))


def box_of_mask(path: Path) -> Box:
    """The bounding box of the voxels above 0 of a mask.

    Raises:
        InputError: The file is no labelmap, or empty.
    """
    from DIANetLib.formats.image import read_labels

    mask = read_labels(path)
    where = np.argwhere(mask.array > 0)
    if not len(where):
        raise InputError(f"The mask {path} is empty, expected voxels above 0 where to look.")
    low, high = where.min(axis=0)[::-1], where.max(axis=0)[::-1]
    part = mask.geometry.crop(low, high - low + 1)
    (x0, y0, z0), (x1, y1, z1) = part.bounds_world().tolist()
    return Box((x0, y0, z0), (x1, y1, z1))


class Clock:
    """Seconds between laps, by name."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self._laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Note the seconds since the lap before under a name."""
        now = time.perf_counter()
        self._laps[name] = now - self._last
        self._last = now

    def __getitem__(self, name: str) -> float:
        return self._laps[name]
