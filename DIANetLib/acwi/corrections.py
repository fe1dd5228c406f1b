# SPDX-License-Identifier: Apache-2.0
"""Correction packages: what a reviewer made of a segmentation, kept so that a model can learn from it.

A package is a folder:

    correction.json     who, when, which model, which images, hashes of the files beside it
    before.seg.nrrd     the labels as the model gave them, with names, colours and terminology
    after.seg.nrrd      the labels as the reviewer left them, on the same grid
    regions.json        the places of the worklist and what was said of each (`DIANetLib.acwi.review`)
    image_1.nrrd ...    copies of the images, only where asked for

It is written to a hidden folder beside its place, flushed to the disk and renamed, so that it is there
complete or not at all; one that is there is never replaced. Everything is checked again on reading.

Runs inside Slicer's process: numpy and SimpleITK only.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import count
from pathlib import Path

import numpy as np
import numpy.typing as npt

from DIANetLib import __version__
from DIANetLib.acwi.correction_record import (
    RECORD,
    SAME_GRID_MM,
    ImageRef,
    Record,
    check_time,
    read_record,
    write_record,
)
from DIANetLib.acwi.review import Region, regions_from_json, regions_to_json
from DIANetLib.errors import InputError, OutputError
from DIANetLib.formats.image import write_volume
from DIANetLib.formats.segmentation import read_segmentation, write_segmentation
from DIANetLib.hashes import file_sha256
from DIANetLib.inference.prediction import ModelRef
from DIANetLib.structures import Structure, check_unique
from DIANetLib.volume import Volume

__all__ = [
    "Correction",
    "ImageRef",
    "check_image",
    "find_corrections",
    "read_correction",
    "write_correction",
]

BEFORE = "before.seg.nrrd"
AFTER = "after.seg.nrrd"
REGIONS = "regions.json"

_LONGEST = 60  # characters of each part of a folder's name


@dataclass(frozen=True, eq=False)
class Correction:
    """A segmentation before and after a review, and all that is known about it.

    Attributes:
        directory: The package; None for one that was not read from a disk.
        id: Hash of everything in the package, the same wherever it is copied to.
        model: The model that made the labels before.
        images: What was segmented, in the order of the model's modalities.
        reviewer: Who reviewed.
        started: When the review began, ISO 8601 with the offset from UTC.
        finished: When it ended.
        structures: What the values of both labelmaps stand for.
        regions: The worklist, with states.
        before: Labels as the model gave them.
        after: Labels as the reviewer left them, on the same grid.
        comment: The reviewer's words.
        software: What wrote the package.
    """

    directory: Path | None
    id: str
    model: ModelRef
    images: tuple[ImageRef, ...]
    reviewer: str
    started: str
    finished: str
    structures: tuple[Structure, ...]
    regions: tuple[Region, ...]
    before: Volume
    after: Volume
    comment: str
    software: str

    @property
    def changed(self) -> npt.NDArray[np.bool_]:
        """(k, j, i), the voxels that the reviewer changed."""
        changed: npt.NDArray[np.bool_] = self.before.array != self.after.array
        return changed

    @property
    def copies(self) -> tuple[Path | None, ...]:
        """Where the copy of each image is; None where there is only a reference."""
        if self.directory is None:
            return (None,) * len(self.images)
        return tuple(None if image.file is None else self.directory / image.file for image in self.images)


def write_correction(
    parent: Path,
    *,
    before: Volume,
    after: Volume,
    structures: Sequence[Structure],
    regions: Sequence[Region],
    images: Sequence[Volume],
    model: ModelRef,
    reviewer: str,
    started: str,
    finished: str | None = None,
    comment: str = "",
    copy_images: bool = False,
) -> Path:
    """Write a package; it appears complete or not at all, and never replaces another.

    Args:
        parent: Folder of packages; made where it is missing.
        before: Labels as the model gave them, 0 for background.
        after: Labels as the reviewer left them, on the same grid.
        structures: What their values stand for.
        regions: The worklist, with states; may be empty.
        images: What was segmented, in the order of the model's modalities; the first is on the labels' grid.
        model: The model that made the labels.
        reviewer: Who reviewed.
        started: When the review began, ISO 8601 with the offset from UTC.
        finished: When it ended; now when None.
        comment: The reviewer's words.
        copy_images: Put copies of the images into the package; otherwise it only says where they are.

    Returns:
        The package's folder, PARENT/CASE-DATE-REVIEWER, with a number behind where there is one already.

    Raises:
        InputError: Grids differ, a label has no structure, a name or time is missing or unusable.
        OutputError: The folder cannot be written; nothing is left behind then.
    """
    finished = finished or datetime.now(timezone.utc).astimezone().isoformat(timespec="seconds")
    _check_labels(before, after, structures)
    _check_regions(regions, structures)
    _check_images(images, before)
    _check_words(reviewer, started, finished)
    parent = Path(parent)
    base = "-".join((_slug(images[0].name) or "case", finished[:10], _slug(reviewer) or "reviewer"))
    staging: Path | None = None
    try:
        parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{base}.partial-", dir=parent))
        mask = os.umask(0)  # mkdtemp makes folders for their owner alone
        os.umask(mask)
        staging.chmod(0o777 & ~mask)
        name = images[0].name or "image"
        write_segmentation(staging / BEFORE, before, structures, source_name=name)
        write_segmentation(staging / AFTER, after, structures, source_name=name)
        (staging / REGIONS).write_text(regions_to_json(regions), encoding="utf-8")
        references = []
        for number, image in enumerate(images, start=1):
            file = f"image_{number}.nrrd" if copy_images else None
            if file is not None:
                write_volume(image, staging / file)
            references.append(ImageRef.of(image, file))
        files = {written.name: file_sha256(written) for written in sorted(staging.iterdir())}
        record = Record(
            model=model,
            images=tuple(references),
            reviewer=reviewer.strip(),
            started=started,
            finished=finished,
            comment=comment.strip(),
            software=f"dianet {__version__}",
            files=files,
        )
        write_record(record, staging / RECORD)
        for written in staging.iterdir():
            _flush(written)
        _flush(staging)
        return _put_in_place(staging, parent, base)
    except (OSError, OutputError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        reason = (cause.strerror if isinstance(cause, OSError) else None) or str(error)
        raise OutputError(
            f"The correction could not be written to {parent}: {reason.rstrip('.')}.",
            remedy="Nothing was left behind, and earlier corrections are as they were; choose a folder that"
            " you may write to, on a disk with space.",
        ) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)  # gone already where it was renamed


def read_correction(directory: Path) -> Correction:
    """Read a package and check all of it.

    Raises:
        InputError: A file is missing, changed since or unusable; or what the files say does not fit together.
    """
    directory = Path(directory)
    record = read_record(directory)
    for name in (BEFORE, AFTER, REGIONS):
        if name not in record.files:
            raise InputError(f"The correction {directory} is incomplete: {RECORD} does not list {name}.")
    for name, expected in record.files.items():
        file = directory / name
        if not file.is_file():
            raise InputError(
                f"The correction {directory} is incomplete: {name} is missing.",
                remedy="Copy the whole folder again.",
            )
        if file_sha256(file) != expected:
            raise InputError(
                f"The correction {directory} was changed since it was written: {name} has another hash than"
                f" {RECORD} says.",
                remedy="Take the folder as it was written; an edited segmentation makes a correction of its"
                " own (`dianet correct`).",
            )
    before, structures = read_segmentation(directory / BEFORE)
    after, others = read_segmentation(directory / AFTER)
    if [(s.value, s.key) for s in structures] != [(s.value, s.key) for s in others]:
        raise InputError(f"The correction {directory} has other structures in {AFTER} than in {BEFORE}.")
    regions = regions_from_json((directory / REGIONS).read_text(encoding="utf-8"))
    try:
        _check_labels(before, after, structures)
        _check_regions(regions, structures)
    except InputError as error:
        raise InputError(f"The correction {directory} cannot be used. {error.message}") from error
    return Correction(
        directory=directory,
        id=record.id,
        model=record.model,
        images=record.images,
        reviewer=record.reviewer,
        started=record.started,
        finished=record.finished,
        structures=structures,
        regions=regions,
        before=before,
        after=after,
        comment=record.comment,
        software=record.software,
    )


def find_corrections(parent: Path) -> tuple[Path, ...]:
    """The packages in a folder, sorted by name; the folder itself where it is one.

    What a writer that was killed left half-done (hidden folders) is passed over.

    Raises:
        InputError: There is no such folder, or it may not be read.
    """
    parent = Path(parent)
    if not parent.is_dir():
        raise InputError(f"There is no folder of corrections {parent}.", remedy="Check the path.")
    if (parent / RECORD).is_file():
        return (parent,)
    try:
        entries = sorted(parent.iterdir())
    except OSError as error:
        raise InputError(f"The folder {parent} cannot be read: {error.strerror}.") from error
    return tuple(e for e in entries if not e.name.startswith(".") and (e / RECORD).is_file())


def check_image(correction: Correction, volume: Volume, modality: str | None = None) -> None:
    """Raise unless a volume is one of the images that a correction is of.

    The hash of the content decides. Programs may hold the same image with its grid's numbers rounded
    otherwise, so equal voxels on the same grid (to 0.001 mm) are the same image too.

    Args:
        correction: The correction.
        volume: The image.
        modality: Which of the images it is to be; any when None.

    Raises:
        InputError: It is another image.
    """
    wanted = [i for i in correction.images if modality is None or i.modality == modality]
    if not wanted:
        known = ", ".join(image.modality or image.name for image in correction.images)
        raise InputError(
            f"The correction {correction.directory or correction.id} has no image {modality!r}, only {known}."
        )
    if any(image.is_of(volume) for image in wanted):
        return
    names = " or ".join(image.name or image.sha256[:12] for image in wanted)
    raise InputError(
        f"The image {volume.source or volume.name} is not the one that was corrected: its hash is"
        f" {volume.sha256()[:12]}…, expected {wanted[0].sha256[:12]}… ({names}).",
        remedy="Give the image that was segmented, unchanged.",
    )


def _check_labels(before: Volume, after: Volume, structures: Sequence[Structure]) -> None:
    check_unique(structures)
    if not structures:
        raise InputError("A correction needs at least one structure, got none.")
    if not before.geometry.same_grid(after.geometry, SAME_GRID_MM):
        raise InputError(
            f"The corrected labels are on another grid ({_grid(after)}) than those before ({_grid(before)}).",
            remedy="Export the corrected segmentation on the grid of the image that was segmented.",
        )
    known = {structure.value for structure in structures}
    for which, volume in (("before", before), ("corrected", after)):
        if volume.array.dtype.kind not in "biu":
            raise InputError(f"The labels {which} are {volume.array.dtype}, expected whole numbers.")
        unknown = sorted({int(value) for value in np.unique(volume.array)} - known - {0})
        if unknown:
            raise InputError(
                f"The {which} labels have values that no structure of the model has:"
                f" {', '.join(map(str, unknown))}; known are"
                f" {', '.join(f'{s.value} ({s.key})' for s in structures)}.",
                remedy="Remove the additional segments, or merge them into the model's structures.",
            )


def _check_regions(regions: Sequence[Region], structures: Sequence[Structure]) -> None:
    keys = {structure.key for structure in structures}
    unknown = sorted({key for region in regions for key in region.structures} - keys)
    if unknown:
        raise InputError(
            f"The regions name structures that the labels do not have: {', '.join(unknown)}; known are"
            f" {', '.join(sorted(keys))}."
        )


def _check_images(images: Sequence[Volume], before: Volume) -> None:
    if not images:
        raise InputError("A correction needs the image that was segmented, got none.")
    if not images[0].geometry.same_grid(before.geometry, SAME_GRID_MM):
        raise InputError(
            f"The labels are on another grid ({_grid(before)}) than the image {images[0].name or 'given'}"
            f" ({_grid(images[0])}).",
            remedy="Give the image that was segmented.",
        )


def _check_words(reviewer: str, started: str, finished: str) -> None:
    if not reviewer.strip():
        raise InputError("A correction needs the name of its reviewer, got none.", remedy="Give a name.")
    if check_time(started, "started") > check_time(finished, "finished"):
        raise InputError(f"The review began at {started}, after it ended at {finished}.")


def _put_in_place(staging: Path, parent: Path, base: str) -> Path:
    """Rename the complete folder to the first free name; another writer may take one meanwhile."""
    for number in count(1):
        target = parent / (base if number == 1 else f"{base}-{number}")
        if target.exists():
            continue
        try:
            staging.rename(target)
        except OSError:
            if target.exists():
                continue
            raise
        _flush(parent)
        return target
    raise AssertionError("count() does not end")


def _flush(path: Path) -> None:
    """Have the system put a file's or folder's content on the disk, for a crash of the machine."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _slug(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9_]+", "-", plain).strip("-")[:_LONGEST].rstrip("-").lower()


def _grid(volume: Volume) -> str:
    size = " × ".join(str(n) for n in volume.geometry.size)
    spacing = " × ".join(f"{s:g}" for s in volume.geometry.spacing)
    return f"{size} voxels of {spacing} mm"
