# SPDX-License-Identifier: Apache-2.0
"""Cases on disk, their division into folds, and preprocessed arrays held in memory.

Layouts read: the Medical Segmentation Decathlon's (imagesTr/labelsTr) and plain images/labels folders, a case
being the pair of files of one name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from DIANetLib.errors import InputError
from DIANetLib.formats.image import read_labels, read_volume, resample_to
from DIANetLib.preprocess import Prepared, prepare
from DIANetLib.volume import Volume
from training.config import DataConfig, TrainingConfig

#: Folders of images and of labels in the layouts that are read.
LAYOUTS = (("imagesTr", "labelsTr"), ("images", "labels"))
_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")


@dataclass(frozen=True)
class Case:
    """One labelled image: its name, one image file per modality, and its label file."""

    name: str
    images: tuple[Path, ...]
    labels: Path


@dataclass(frozen=True)
class Split:
    """Names of cases that are fitted, that set the temperature, and that are held out."""

    train: tuple[str, ...]
    inner: tuple[str, ...]
    held_out: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """A case on the network's grid: image (M, k, j, i) float32, labels (k, j, i) uint8 class numbers."""

    name: str
    image: npt.NDArray[np.float32]
    labels: npt.NDArray[np.uint8]
    prepared: Prepared
    source_labels: Volume


def find_cases(folder: str | Path, modalities: int = 1) -> tuple[Case, ...]:
    """List the labelled cases of a folder, sorted by name.

    Raises:
        InputError: if the folder has no layout that is known or no case.
    """
    folder = Path(folder)
    if modalities != 1:
        raise InputError(f"expected a data set of one modality per case, got a model of {modalities}.")
    for images, labels in LAYOUTS:
        if (folder / images).is_dir() and (folder / labels).is_dir():
            break
    else:
        raise InputError(
            f"{folder} holds no data set: expected imagesTr/ and labelsTr/ (or images/ and labels/).",
            remedy="Point --data to the folder that contains them.",
        )
    cases = []
    for label in sorted((folder / labels).iterdir()):
        if label.name.startswith(".") or not label.name.endswith(_SUFFIXES):
            continue
        image = folder / images / label.name
        if not image.is_file():
            raise InputError(
                f"label {label} has no image {image}.", remedy="Add the image or remove the label."
            )
        cases.append(Case(_stem(label.name), (image,), label))
    if not cases:
        raise InputError(f"{folder / labels} holds no label file ({', '.join(_SUFFIXES)}).")
    return tuple(cases)


def split_cases(names: Sequence[str], config: DataConfig, fold: int) -> Split:
    """Divide sorted names: fold `fold` is held out, `config.inner` of the rest set the temperature.

    The folds are those of `sklearn.model_selection.KFold(folds, shuffle=True, random_state=split_seed)`.

    Raises:
        InputError: if there are too few cases or no such fold.
    """
    if not 0 <= fold < config.folds:
        raise InputError(f"expected a fold from 0 to {config.folds - 1}, got {fold}.")
    ordered = sorted(names)
    if len(ordered) < config.folds + config.inner:
        raise InputError(
            f"expected at least {config.folds + config.inner} cases for {config.folds} folds and "
            f"{config.inner} inner cases, got {len(ordered)}."
        )
    shuffled = np.random.RandomState(config.split_seed).permutation(len(ordered))
    held = set(np.array_split(shuffled, config.folds)[fold].tolist())
    rest = [index for index in shuffled.tolist() if index not in held]
    inner = set(rest[: config.inner])

    def pick(members: Callable[[int], bool]) -> tuple[str, ...]:
        return tuple(name for index, name in enumerate(ordered) if members(index))

    return Split(
        train=pick(lambda i: i not in held and i not in inner),
        inner=pick(lambda i: i in inner),
        held_out=pick(lambda i: i in held),
    )


@dataclass(frozen=True, eq=False)
class SourceCase:
    """A case as it lies on disk: one volume per modality, and class numbers 0..K-1 on the same grid."""

    name: str
    volumes: tuple[Volume, ...]
    labels: Volume


def read_case(case: Case, config: DataConfig) -> SourceCase:
    """Read a case and map its label values to class numbers.

    Raises:
        InputError: if a file cannot be read, or labels and image lie on different grids.
    """
    volumes = tuple(read_volume(path) for path in case.images)
    labels = read_labels(case.labels)
    if not labels.geometry.same_grid(volumes[0].geometry, tolerance=0.1):
        raise InputError(f"labels {case.labels} lie on another grid than image {case.images[0]}.")
    return SourceCase(case.name, volumes, labels.with_array(map_labels(labels.array, config)))


def load_case(case: Case, config: TrainingConfig) -> PreparedCase:
    """Read and preprocess a case exactly as inference does."""
    return prepare_case(read_case(case, config.data), config)


def prepare_case(source: SourceCase, config: TrainingConfig) -> PreparedCase:
    """Bring a case onto the network's grid."""
    prepared = prepare(source.volumes, config.preprocess)
    labels = labels_on_grid(source.labels, prepared)
    return PreparedCase(source.name, prepared.array, labels, prepared, source.labels)


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


def _stem(name: str) -> str:
    for suffix in _SUFFIXES:
        if name.endswith(suffix):
            return name[: -len(suffix)]
    return name
