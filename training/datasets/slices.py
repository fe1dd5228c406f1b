# SPDX-License-Identifier: Apache-2.0
"""Axial slices of volumes as cases of their own: images/NAME.nii.gz, and labels/NAME.nii.gz for structures.

Every volume gives the same number of slices, evenly spaced over a part of its extent, so that no file has to
be read to list them. The slices of a volume are one group.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from pydantic import Field, model_validator

from DIANetLib.errors import InputError
from DIANetLib.formats.image import read_labels, read_volume
from DIANetLib.volume import Volume
from training.config import DataConfig
from training.config_tasks import Section
from training.datasets.base import Case, SourceCase, check_one_grid, map_labels, options_of
from training.datasets.decathlon import LAYOUTS, list_images, stem


class Options(Section):
    """Which slices are taken.

    Attributes:
        count: slices per volume.
        between: the part of the volume they lie in, as shares of its extent from below.
    """

    count: int = Field(default=32, ge=1)
    between: tuple[float, float] = (0.3, 0.9)

    @model_validator(mode="after")
    def _rises(self) -> Options:
        low, high = self.between
        if not 0.0 <= low < high <= 1.0:
            raise ValueError(f"between: expected two rising numbers from 0 to 1, got {list(self.between)}")
        return self


def find_cases(folder: Path, config: DataConfig) -> tuple[Case, ...]:
    """List the slices of a folder's volumes; a case's place is its number among the slices of the volume.

    Raises:
        InputError: if there is no image, a volume lacks its labels, or the model wants several modalities.
    """
    if len(config.modalities) != 1:
        raise InputError(
            f"expected a data set of one modality per case, got a model of {len(config.modalities)}."
        )
    pairs = [pair for pair in LAYOUTS if (folder / pair[0]).is_dir()]
    volumes = list_images(folder / pairs[0][0]) if pairs else []
    if not volumes:
        raise InputError(
            f"{folder} holds no volumes: expected image files in imagesTr/ or images/.",
            remedy="Point --data to the folder that contains it.",
        )
    cases = []
    for image in volumes:
        labels = folder / pairs[0][1] / image.name if config.structures else None
        if labels is not None and not labels.is_file():
            raise InputError(f"image {image} has no labels {labels}.", remedy="Add them or remove the image.")
        name = stem(image.name)
        for number in range(options_of(config, Options).count):
            cases.append(Case(f"{name}_{number:03d}", (image,), labels, group=name, place=(number,)))
    return tuple(cases)


def read_case(case: Case, config: DataConfig) -> SourceCase:
    """One slice of a volume, on its place in the patient.

    Raises:
        InputError: if a file cannot be read, or labels and image lie on different grids.
    """
    path, options = case.images[0], options_of(config, Options)
    assert path is not None  # a slice without its volume is never listed
    volume = _volume(path)
    image = _slice(volume, case.place[0], options)
    if case.labels is None:
        return SourceCase(case.name, (image,), target=case.target)
    labels = _labels(case.labels)
    check_one_grid(labels, volume, str(case.labels), str(path))
    part = _slice(labels, case.place[0], options)
    return SourceCase(case.name, (image,), part.with_array(map_labels(part.array, config)), case.target)


def _slice(volume: Volume, number: int, options: Options) -> Volume:
    grid = volume.geometry
    axis = next(place for place, letter in enumerate(grid.anatomical_axes) if letter in "SI")
    low, high = options.between
    share = low + (high - low) * (number + 0.5) / options.count
    start, size = [0, 0, 0], list(grid.size)
    above = min(int(share * grid.size[axis]), grid.size[axis] - 1)
    start[axis] = above if grid.anatomical_axes[axis] == "S" else grid.size[axis] - 1 - above
    size[axis] = 1
    array = np.take(volume.array, [start[axis]], axis=2 - axis)
    return Volume(array, grid.crop(start, size), name=volume.name, modality=volume.modality)


@lru_cache(maxsize=1)
def _volume(path: Path) -> Volume:
    """The last volume read is kept: its other slices come next."""
    return read_volume(path)


@lru_cache(maxsize=1)
def _labels(path: Path) -> Volume:
    return read_labels(path)
