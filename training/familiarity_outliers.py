# SPDX-License-Identifier: Apache-2.0
"""What a model is shown beside its own data, to see whether it notices: other places, scanners, contrasts.

A YAML file lists groups of images (`training/outliers/`). Of each image all is shown, or boxes as large as
the fitted cases: around a structure that its labels have, elsewhere in what is labelled, or anywhere that is
not dark.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from DIANetLib.errors import ConfigError, InputError
from DIANetLib.formats.image import read_labels, read_volume
from DIANetLib.inference.prediction import Box
from DIANetLib.volume import Geometry, Volume
from training.datasets.decathlon import stem

_TRIES = 1000


class OutlierGroup(BaseModel):
    """Images of one kind.

    Attributes:
        name: for tables.
        images: patterns of files, below the folder of data.
        labels: folder of labels with the images' names.
        values: label values of the structure that the model looks for.
        only: names of images; empty for all.
        place: which boxes are shown, see the module.
        crops: boxes per image, for `elsewhere` and `anywhere`.
        margin_mm: around the structure, for `there`.
        upside_down: turn the image's third axis round.
        outlier: whether the model should notice; else the rate of its alarms is only stated.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    images: tuple[str, ...] = Field(min_length=1)
    labels: str | None = None
    values: tuple[int, ...] = ()
    only: tuple[str, ...] = ()
    place: Literal["whole", "there", "elsewhere", "anywhere"] = "whole"
    crops: int = Field(default=1, ge=1)
    margin_mm: float = Field(default=7.0, ge=0)
    upside_down: bool = False
    outlier: bool = True


class _Groups(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    groups: tuple[OutlierGroup, ...] = Field(min_length=1)


@dataclass(frozen=True, eq=False)
class Shown:
    """One image, or a box of it, that a model is shown.

    Attributes:
        name: of the image and the box.
        volume: the image.
        box: what of it is read, LPS mm; None for all.
    """

    name: str
    volume: Volume
    box: Box | None


def read_groups(file: Path) -> tuple[OutlierGroup, ...]:
    """The groups that a file lists.

    Raises:
        ConfigError: if it cannot be read or has other entries.
    """
    try:
        return _Groups.model_validate(yaml.safe_load(file.read_text(encoding="utf-8"))).groups
    except (OSError, yaml.YAMLError, ValidationError) as error:
        first = str(error).splitlines()[-1].strip()
        raise ConfigError(f"{file} lists no groups of images ({first}).") from error


def files_of(group: OutlierGroup, data: Path) -> list[Path]:
    """The image files of a group, sorted.

    Raises:
        InputError: if there are none.
    """
    found = sorted({path for pattern in group.images for path in data.glob(pattern)})
    found = [path for path in found if not group.only or stem(path.name) in group.only]
    if not found:
        raise InputError(
            f"{data} has no image of the group {group.name!r} ({', '.join(group.images)}).",
            remedy="Give the folder that its paths start from with --outlier-data.",
        )
    return found


def shown(
    group: OutlierGroup, file: Path, data: Path, sizes_mm: Sequence[tuple[float, float, float]]
) -> Iterator[Shown]:
    """What of an image is shown; the same at every call.

    Args:
        group: its group.
        file: the image.
        data: folder that the group's paths start from.
        sizes_mm: sizes of boxes along the world's axes; one is drawn for each box.
    """
    name, volume = stem(file.name), read_volume(file)
    if group.upside_down:
        volume = volume.with_array(np.ascontiguousarray(volume.array[::-1]))
    if group.place == "whole":
        yield Shown(name, volume, None)
        return
    rng = np.random.default_rng(zlib.crc32(f"{group.name} {name}".encode()))
    geometry = volume.geometry
    if group.place == "anywhere":
        # Brighter than half of what is brighter than half: air and background are dark.
        bright = volume.array > np.percentile(volume.array, 75)
        for number, box in enumerate(_boxes(geometry, bright, None, sizes_mm, group.crops, rng)):
            yield Shown(f"{name} {number}", volume, box)
        return
    if group.labels is None or not group.values:
        raise ConfigError(f"the group {group.name!r} needs labels and values to find its places by.")
    labels = read_labels(data / group.labels / file.name)
    structure = np.isin(labels.array, group.values)
    if group.place == "elsewhere":
        boxes = _boxes(geometry, labels.array > 0, structure, sizes_mm, group.crops, rng)
        for number, box in enumerate(boxes):
            yield Shown(f"{name} {number}", volume, box)
        return
    for value in group.values:
        mask = labels.array == value
        if mask.any():
            yield Shown(f"{name} {value}", volume, _around(mask, geometry).expanded(group.margin_mm))


def _boxes(
    geometry: Geometry,
    where: npt.NDArray[np.bool_],
    without: npt.NDArray[np.bool_] | None,
    sizes_mm: Sequence[tuple[float, float, float]],
    count: int,
    rng: np.random.Generator,
) -> list[Box]:
    """Boxes in the image with their middle in a mask, that do not touch another one.

    Raises:
        InputError: if there is no room for them.
    """
    middles = np.argwhere(where)[:, ::-1]
    taken = np.empty((0, 3)) if without is None else _points(without, geometry)
    ends = geometry.index_to_world(np.array([[0, 0, 0], np.array(geometry.size) - 1]))
    lowest, highest = ends.min(0), ends.max(0)
    found: list[Box] = []
    for _ in range(_TRIES):
        if len(found) == count or not len(middles):
            break
        middle = geometry.index_to_world(middles[rng.integers(len(middles))][None])[0]
        half = np.array(sizes_mm[int(rng.integers(len(sizes_mm)))]) / 2
        low, high = middle - half, middle + half
        inside = bool((low >= lowest).all() and (high <= highest).all())
        if inside and not ((taken >= low) & (taken <= high)).all(1).any():
            found.append(Box(tuple(low), tuple(high)))
    if len(found) < count:
        raise InputError(f"there is no room for {count} boxes in an image of {geometry.size} voxels.")
    return found


def _around(mask: npt.NDArray[np.bool_], geometry: Geometry) -> Box:
    points = _points(mask, geometry)
    half = np.abs(np.asarray(geometry.direction)) @ np.array(geometry.spacing) / 2
    return Box(tuple(points.min(0) - half), tuple(points.max(0) + half))


def _points(mask: npt.NDArray[np.bool_], geometry: Geometry) -> npt.NDArray[np.float64]:
    return np.asarray(geometry.index_to_world(np.argwhere(mask)[:, ::-1]))
