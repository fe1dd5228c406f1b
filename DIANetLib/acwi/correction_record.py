# SPDX-License-Identifier: Apache-2.0
"""`correction.json`: what a correction package says of itself.

Its `id` is a hash of all the rest, hashes of the files included: it tells packages apart wherever they are
copied to, and that nobody changed a word.

Runs inside Slicer's process: numpy only.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from DIANetLib.acwi.regions import check_version
from DIANetLib.errors import InputError
from DIANetLib.inference.prediction import ModelRef
from DIANetLib.volume import Geometry, Volume

#: Name of the file.
RECORD = "correction.json"
SCHEMA = "dianet.correction"
SCHEMA_VERSION = 1

_SHA256 = re.compile(r"[0-9a-f]{64}")
#: How far apart the corners of one grid may be: NIfTI keeps positions as float32.
SAME_GRID_MM = 1e-3


@dataclass(frozen=True)
class ImageRef:
    """An image that was segmented.

    Attributes:
        name: Name for people.
        modality: What the model takes it for, such as `"T1"`; empty where nobody said.
        sha256: `Volume.sha256()`.
        source: Path that it was read from, where known.
        file: File in the package, where it was copied.
        voxels_sha256: Hash of the voxels as float32 alone, without type and grid.
        grid: The affine (i, j, k) to LPS mm, row by row, and the size, 19 numbers.
    """

    name: str
    modality: str
    sha256: str
    source: str | None
    file: str | None
    voxels_sha256: str
    grid: tuple[float, ...]

    @classmethod
    def of(cls, volume: Volume, file: str | None = None) -> ImageRef:
        """What identifies a volume; `file` is its copy in the package."""
        return cls(
            name=volume.name,
            modality=volume.modality or "",
            sha256=volume.sha256(),
            source=volume.source,
            file=file,
            voxels_sha256=_voxels_hash(volume),
            grid=(*volume.geometry.affine.ravel().tolist(), *map(float, volume.geometry.size)),
        )

    @property
    def geometry(self) -> Geometry:
        """The image's grid."""
        return Geometry.from_affine(np.reshape(self.grid[:16], (4, 4)), [int(n) for n in self.grid[16:]])

    def is_of(self, volume: Volume) -> bool:
        """Whether a volume is this image: the same content, or the same voxels on the same grid."""
        if volume.sha256() == self.sha256:
            return True
        same = self.geometry.same_grid(volume.geometry, SAME_GRID_MM)
        return same and _voxels_hash(volume) == self.voxels_sha256


@dataclass(frozen=True)
class Record:
    """The content of `correction.json`; attributes as in `DIANetLib.acwi.corrections.Correction`.

    Attributes:
        files: SHA-256 of each other file of the package, by name.
    """

    model: ModelRef
    images: tuple[ImageRef, ...]
    reviewer: str
    started: str
    finished: str
    comment: str
    software: str
    files: Mapping[str, str]

    @property
    def id(self) -> str:
        """The first 16 digits of the hash of all the rest."""
        text = json.dumps(asdict(self), sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_record(record: Record, path: Path) -> None:
    """Write `correction.json`.

    Raises:
        OSError: It cannot be written.
    """
    document = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "id": record.id, **asdict(record)}
    path.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_record(directory: Path) -> Record:
    """Read and check the `correction.json` of a package.

    Raises:
        InputError: It is missing, no such file, newer than this program, changed, or has unusable entries.
    """
    path = directory / RECORD
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{directory} is no correction package: {RECORD} is missing.",
            remedy="Give a folder that a review or `dianet correct` wrote.",
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__}).") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise InputError(f'{path} is no record of a correction: expected "schema": "{SCHEMA}".')
    check_version(document.get("schema_version"), SCHEMA_VERSION, str(path))
    try:
        record = _record(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} has an entry that cannot be read: {error}.") from error
    if record.id != document.get("id"):
        raise InputError(
            f"{path} was changed since it was written: its id is {document.get('id')!r}, expected"
            f" {record.id!r}.",
            remedy="Take the folder as it was written.",
        )
    return record


def check_time(text: str, what: str) -> datetime:
    """Read a time that says which time it is.

    Args:
        text: ISO 8601 with the offset from UTC, such as "2026-01-31T09:30:00+01:00".
        what: How the sentence names it.

    Raises:
        InputError: It is none, or lacks the offset.
    """
    try:
        # Python 3.10 does not know the letter for UTC.
        time = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
    except (TypeError, ValueError):
        time = None
    if time is None or time.tzinfo is None:
        raise InputError(
            f"The time {what!r} is {text!r}, expected ISO 8601 with the offset from UTC, such as"
            " 2026-01-31T09:30:00+01:00."
        )
    return time


def _record(document: Mapping[str, Any]) -> Record:
    model = ModelRef(**{name: _text(document["model"], name) for name in ("name", "version", "sha256")})
    images = tuple(_image(entry) for entry in document["images"])
    if not images:
        raise ValueError("it names no image")
    words = {n: _text(document, n) for n in ("reviewer", "started", "finished", "comment", "software")}
    check_time(words["started"], "started")
    check_time(words["finished"], "finished")
    files = {}
    for name, value in document["files"].items():
        if not name or Path(name).name != name or name in (".", "..", RECORD):
            raise ValueError(f"{name!r} is no name of a file in the package")
        files[name] = _hash(value)
    missing = [image.file for image in images if image.file is not None and image.file not in files]
    if missing:
        raise ValueError(f"the copies {', '.join(missing)} have no hash")
    return Record(model=model, images=images, files=files, **words)


def _image(entry: Mapping[str, Any]) -> ImageRef:
    grid = tuple(float(number) for number in entry["grid"])
    if len(grid) != 19:
        raise ValueError(f"the grid of an image has {len(grid)} numbers, expected 19")
    found = ImageRef(
        name=_text(entry, "name"),
        modality=_text(entry, "modality"),
        sha256=_hash(entry["sha256"]),
        source=None if entry["source"] is None else _text(entry, "source"),
        file=None if entry["file"] is None else _text(entry, "file"),
        voxels_sha256=_hash(entry["voxels_sha256"]),
        grid=grid,
    )
    found.geometry  # noqa: B018 (raises where the numbers make no grid)
    return found


def _text(entry: Mapping[str, Any], name: str) -> str:
    value = entry[name]
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r}, expected text")
    return value


def _hash(value: Any) -> str:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise ValueError(f"{value!r} is no SHA-256 hash")
    return value


def _voxels_hash(volume: Volume) -> str:
    digest = hashlib.sha256(str(volume.array.shape).encode())
    for plane in volume.array:  # by planes: a full copy may not fit beside the volume
        digest.update(np.ascontiguousarray(plane, dtype="<f4").data)
    return digest.hexdigest()
