# SPDX-License-Identifier: Apache-2.0
"""One file per modality: images/NAME_MODALITY.nii.gz and labels/NAME.nii.gz (.nii, .nrrd and .mha as well).

MODALITY is a modality's name or alias, in capitals or not. There is a case for each label file; where the
configuration has no structures, for each name of images.
"""

from __future__ import annotations

from pathlib import Path

from DIANetLib.errors import InputError
from training.config import DataConfig
from training.datasets.base import Case, modality_files
from training.datasets.decathlon import image_folders, list_images, stem


def find_cases(folder: Path, config: DataConfig) -> tuple[Case, ...]:
    """List the cases of a folder, each with its modalities; one that is not required may be missing.

    Raises:
        InputError: if the folder has another layout, or a case lacks a modality or its labels.
    """
    images, labels = image_folders(folder)
    found: dict[str, dict[str, Path]] = {}
    for path in list_images(images):
        name, _, modality = stem(path.name).rpartition("_")
        found.setdefault(name, {})[modality] = path
    outlines = {stem(path.name): path for path in list_images(labels)}
    lone = sorted(set(outlines) - set(found))
    if lone:
        raise InputError(
            f"label {outlines[lone[0]]} has no image {images / lone[0]}_MODALITY.",
            remedy="Add the images or remove the label.",
        )
    names = outlines if config.structures else found
    return tuple(Case(name, modality_files(config, found[name], name), outlines.get(name)) for name in names)
