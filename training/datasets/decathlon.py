# SPDX-License-Identifier: Apache-2.0
"""The Medical Segmentation Decathlon's layout, and plain folders like it: one modality, one file per case.

A case is the image and the labels of one name, in imagesTr/ and labelsTr/ or in images/ and labels/.
"""

from __future__ import annotations

from pathlib import Path

from DIANetLib.errors import InputError
from training.config import DataConfig
from training.datasets.base import Case

#: Folders of images and of labels.
LAYOUTS = (("imagesTr", "labelsTr"), ("images", "labels"))
_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")


def find_cases(folder: Path, config: DataConfig | None = None) -> tuple[Case, ...]:
    """List the labelled cases of a folder, sorted by name.

    Raises:
        InputError: if the folder has no layout that is known or no case.
    """
    if config is not None and len(config.modalities) != 1:
        raise InputError(
            f"expected a data set of one modality per case, got a model of {len(config.modalities)}.",
            remedy="Name the data set's layout with data.format.",
        )
    images, labels = image_folders(folder)
    cases = []
    for label in list_images(labels):
        image = images / label.name
        if not image.is_file():
            raise InputError(
                f"label {label} has no image {image}.", remedy="Add the image or remove the label."
            )
        cases.append(Case(stem(label.name), (image,), label))
    if not cases:
        raise InputError(f"{labels} holds no label file ({', '.join(_SUFFIXES)}).")
    return tuple(cases)


def list_images(folder: Path) -> list[Path]:
    """The image files of a folder, sorted; hidden ones are passed over."""
    return sorted(
        path for path in folder.iterdir() if path.name.endswith(_SUFFIXES) and not path.name.startswith(".")
    )


def image_folders(folder: Path) -> tuple[Path, Path]:
    """The folder of the images and that of the labels.

    Raises:
        InputError: if the folder has neither layout.
    """
    for images, labels in LAYOUTS:
        if (folder / images).is_dir() and (folder / labels).is_dir():
            return folder / images, folder / labels
    raise InputError(
        f"{folder} holds no data set: expected imagesTr/ and labelsTr/ (or images/ and labels/).",
        remedy="Point --data to the folder that contains them.",
    )


def stem(name: str) -> str:
    """A file name without the endings of image files."""
    for suffix in _SUFFIXES:
        if name.endswith(suffix):
            return name[: -len(suffix)]
    return name
