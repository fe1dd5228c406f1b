# SPDX-License-Identifier: Apache-2.0
"""Where the cases are: the folder given, or the public release that a configuration names, put into it."""

from __future__ import annotations

from pathlib import Path

from DIANetLib.errors import InputError
from training.config import DataConfig
from training.datasets import LAYOUTS


def has_cases(folder: Path) -> bool:
    """Whether the folder has a layout that `find_cases` reads."""
    return any(all((folder / part).is_dir() for part in layout) for layout in LAYOUTS)


def data_folder(config: DataConfig, folder: Path, *, download: bool = True) -> Path:
    """The folder that holds the cases: `folder` itself or the release's folder in it.

    Where `folder` is missing or empty and the configuration names a release of the Medical Segmentation
    Decathlon, the release is downloaded into it by MONAI, which checks its MD5.

    Raises:
        InputError: if there is no data and it cannot be had.
    """
    release = config.release
    if has_cases(folder) or release is None:
        return folder  # what else it may be, find_cases says
    inside = folder / release
    if has_cases(inside):
        return inside
    empty = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if download and (empty or (folder / f"{release}.tar").is_file()):
        _download(release, folder)
        return inside
    return folder


def _download(release: str, folder: Path) -> None:
    from monai.apps import DecathlonDataset

    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The archive holds every section; which one is listed makes no difference, and no image is read here.
        DecathlonDataset(folder, release, section="training", download=True, cache_rate=0.0, val_frac=0.0)
    except (OSError, RuntimeError, ValueError) as error:  # no network, a bad archive, an unknown release
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise InputError(
            f"{folder} holds no data, and {release} could not be downloaded into it ({reason}).",
            remedy=f"Check the internet connection, or get {release}.tar from http://medicaldecathlon.com,"
            " unpack it and give its folder as --data.",
        ) from error
