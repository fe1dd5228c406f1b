# SPDX-License-Identifier: Apache-2.0
"""Cases: where they lie, as they lie there, and brought onto the network's grid.

A case has one image per modality, of which some may be missing; it may have labels (a segmentation), a target
(a class) or neither. A 2-D image is a volume of one slice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from DIANetLib.errors import InputError
from DIANetLib.formats.image import read_labels, read_volume, resample_to
from DIANetLib.preprocess import Prepared, prepare
from DIANetLib.volume import Volume
from training.config import DataConfig, TrainingConfig

_Options = TypeVar("_Options", bound=BaseModel)


@dataclass(frozen=True)
class Case:
    """Where a case lies.

    Attributes:
        name: unique within the data set; a file name can be made of it.
        images: the file of each modality, None where that modality is missing. A data set whose files hold
            all modalities (a colour slide) names the one file.
        labels: the file of the segmentation, or None.
        target: the class number of the whole case, or None.
        group: the patient or specimen that the case is of; a group is never divided between folds. None: the
            case is a group by itself.
        held_out: True and False where the data set says itself what is for testing and what for fitting; None
            leaves it to the folds.
        place: where in its files the case lies; each data set says what the numbers mean.
    """

    name: str
    images: tuple[Path | None, ...]
    labels: Path | None = None
    target: int | None = None
    group: str | None = None
    held_out: bool | None = None
    place: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class SourceCase:
    """A case as it lies on disk.

    Attributes:
        name: the case's.
        volumes: one volume per modality, None where it is missing.
        labels: class numbers 0..K-1 on the grid of the first volume that is there, or None.
        target: class number of the whole case, or None.
    """

    name: str
    volumes: tuple[Volume | None, ...]
    labels: Volume | None = None
    target: int | None = None

    @property
    def present(self) -> tuple[Volume, ...]:
        """The volumes that are there."""
        return tuple(volume for volume in self.volumes if volume is not None)

    @property
    def available(self) -> tuple[bool, ...]:
        """Which of the M modalities are there."""
        return tuple(volume is not None for volume in self.volumes)


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """A case on the network's grid.

    Attributes:
        name: the case's.
        image: (M, k, j, i) float32; 0 (the mean) where a modality is missing.
        labels: (k, j, i) uint8 class numbers, or None.
        prepared: how the image came onto the grid; None for arrays that never lay on another.
        source_labels: class numbers on the grid of the files, or None.
        target: class number of the whole case, or None.
        available: which of the M modalities are there; all if left out.
    """

    name: str
    image: npt.NDArray[np.float32]
    labels: npt.NDArray[np.uint8] | None
    prepared: Prepared | None = None
    source_labels: Volume | None = None
    target: int | None = None
    available: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        if not self.available:
            object.__setattr__(self, "available", (True,) * len(self.image))


def read_files(case: Case, config: DataConfig) -> SourceCase:
    """Read a case whose modalities and labels are image files of their own, and number its classes.

    Raises:
        InputError: if a file cannot be read, no modality is there, or labels and image lie on different
            grids.
    """
    volumes = tuple(None if path is None else read_volume(path) for path in case.images)
    source = SourceCase(case.name, volumes, target=case.target)
    if not source.present:
        raise InputError(
            f"case {case.name} has none of its {len(volumes)} modalities.", remedy="Remove the case."
        )
    if case.labels is None:
        return source
    labels = read_labels(case.labels)
    image = next(path for path in case.images if path is not None)
    check_one_grid(labels, source.present[0], str(case.labels), str(image))
    return replace(source, labels=labels.with_array(map_labels(labels.array, config)))


def check_one_grid(labels: Volume, image: Volume, labels_name: str, image_name: str) -> None:
    """Raise unless labels lie on the grid of their image, to a tenth of a millimetre.

    Raises:
        InputError: it names both.
    """
    if not labels.geometry.same_grid(image.geometry, tolerance=0.1):
        raise InputError(f"labels {labels_name} lie on another grid than image {image_name}.")


def prepare_case(source: SourceCase, config: TrainingConfig) -> PreparedCase:
    """Bring a case onto the network's grid exactly as inference does."""
    prepared = prepare(source.present, config.preprocess)
    image = prepared.array
    if not all(source.available):
        image = np.zeros((len(source.volumes), *prepared.array.shape[1:]), np.float32)
        image[list(source.available)] = prepared.array
    labels = None if source.labels is None else labels_on_grid(source.labels, prepared)
    return PreparedCase(source.name, image, labels, prepared, source.labels, source.target, source.available)


def labels_on_grid(labels: Volume, prepared: Prepared) -> npt.NDArray[np.uint8]:
    """Class numbers on the network's grid: permuted and flipped, or nearest neighbour if it was resampled."""
    if prepared.interpolated:
        return resample_to(labels, prepared.geometry, interpolation="nearest").array.astype(np.uint8)
    return np.ascontiguousarray(prepared.orientation.view(labels.array))


def map_labels(values: npt.NDArray[np.generic], config: DataConfig) -> npt.NDArray[np.uint8]:
    """Class numbers 0..K-1 for the label values of a file; values of no structure become background."""
    classes = np.zeros(values.shape, np.uint8)
    integers = np.rint(values).astype(np.int64)
    for number, structure in enumerate(config.structures, start=1):
        classes[np.isin(integers, structure.source_values)] = number
    return classes


def options_of(config: DataConfig, kind: type[_Options]) -> _Options:
    """The settings of a data set, which the configuration has checked."""
    return kind.model_validate(config.options)


def modality_files(config: DataConfig, found: Mapping[str, Path], case: str) -> tuple[Path | None, ...]:
    """The file of each of the configuration's modalities.

    Args:
        config: modalities; their names and aliases are compared without regard to capitals.
        found: files by what the data set calls the modality.
        case: whose files they are.

    Returns:
        A file per modality, None for one that is missing and not required.

    Raises:
        InputError: if a required modality is missing.
    """
    by_name = {name.lower(): path for name, path in found.items()}
    files: list[Path | None] = []
    for modality in config.modalities:
        names = [name.lower() for name in (modality.name, *modality.aliases)]
        path = next((by_name[name] for name in names if name in by_name), None)
        if path is None and modality.required:
            raise InputError(
                f"case {case} has no {modality.name} image, only {', '.join(sorted(found)) or 'others'}.",
                remedy="Add the file, or set `required: false` for that modality.",
            )
        files.append(path)
    return tuple(files)


def target_of(value: str, config: DataConfig, where: str) -> int | None:
    """The class number of what the data set calls a class; None where the configuration has no classes.

    Args:
        value: the data set's name of the class.
        config: classes.
        where: what is of that class, for the sentence.

    Raises:
        InputError: if no class of the configuration has that name.
    """
    if not config.targets:
        return None
    known: list[str] = []
    for number, target in enumerate(config.targets):
        names = target.source_values or (target.key,)
        if value in names:
            return number
        known.extend(names)
    raise InputError(
        f"{where} is of the class {value!r}, expected one of {', '.join(known)}.",
        remedy="Correct the table, or add the class to data.targets.",
    )
