# SPDX-License-Identifier: Apache-2.0
"""The folder through which a client and its worker hand volumes to each other, as raw files.

The client makes the folder and removes it; `owner.json` in it says whose it is, so that the next client can
remove what one that was killed has left behind. Only its user can look into it.

Runs inside Slicer's process: numpy and the standard library only.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from DIANetLib.errors import OutputError, WorkerError
from DIANetLib.volume import Geometry, Volume
from DIANetLib.worker.processes import is_running, machine, started
from DIANetLib.worker.protocol import SharedVolume

__all__ = ["NEAR_ZERO", "Exchange", "geometry_of", "owner_is_gone", "remove_orphans"]

#: Values of a map closer to 0 than this count as 0 where a file is cropped.
NEAR_ZERO = 1e-6

_PREFIX = "dianet-"
_OWNER = "owner.json"


class Exchange:
    """A session's folder for volumes.

    Attributes:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._later: set[str] = set()  # Windows deletes no file that is still mapped

    @classmethod
    def create(cls, base: Path | None = None) -> Exchange:
        """Make a new folder that only this user can look into; those that nobody owns any more are removed.

        Args:
            base: Where to make it; the system's temporary folder when None.

        Raises:
            OutputError: It cannot be made.
        """
        base = Path(tempfile.gettempdir()) if base is None else base
        remove_orphans(base)
        owner = {"pid": os.getpid(), "started": started(os.getpid()) or "", "machine": machine()}
        folder: Path | None = None
        try:
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))  # mode 0700
            # Renamed into place: whoever looks for orphans sees all of it or nothing.
            unfinished = folder / f"{_OWNER}.part"
            unfinished.write_text(json.dumps(owner), encoding="utf-8")
            unfinished.replace(folder / _OWNER)
        except OSError as error:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            raise OutputError(
                f"Cannot make a folder for exchanging images in {base}: {error.strerror or error}.",
                remedy="Check that you may write there and that the disk has space.",
            ) from error
        return cls(folder)

    @classmethod
    def open(cls, folder: Path) -> Exchange:
        """Use a folder that a client has made.

        Raises:
            WorkerError: There is no such folder.
        """
        if not folder.is_dir():
            raise WorkerError(f"The exchange folder {folder} does not exist.")
        return cls(folder)

    def write(
        self, volume: Volume, *, crop_zeros: bool = False, check: Callable[[], None] | None = None
    ) -> SharedVolume:
        """Write a volume to a new file.

        Args:
            volume: The volume; booleans become 0 and 1, numbers longer than 64 bits are shortened.
            crop_zeros: Write only the box that holds all values of at least `NEAR_ZERO`.
            check: Called between planes; what it raises ends the writing.

        Raises:
            OutputError: The file cannot be written; nothing of it is left.
        """
        array, part = volume.array, None
        if crop_zeros:
            box = _box_of_values(array)
            if box != tuple(slice(0, n) for n in array.shape):
                array = array[box]
                part = (*(s.start for s in reversed(box)), *reversed(array.shape))
        dtype = _little_endian(array.dtype)
        file = self.folder / f"{uuid.uuid4().hex}.raw"
        try:
            try:
                with file.open("xb") as stream:
                    _write_planes(array, dtype, stream, check)
            except BaseException:
                file.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise OutputError(
                f"Cannot write '{volume.name or 'a volume'}' to {self.folder}: {error.strerror or error}.",
                remedy="Make room on that disk, or set the environment variable TMPDIR to a folder on another"
                " one and start again.",
            ) from error
        geometry = volume.geometry
        return SharedVolume(
            file=file.name,
            dtype=dtype.str,
            size=geometry.size,
            spacing=geometry.spacing,
            origin=geometry.origin,
            direction=tuple(np.asarray(geometry.direction, np.float64).ravel().tolist()),
            name=volume.name,
            modality=volume.modality,
            frame_of_reference=volume.frame_of_reference,
            part=part,
        )

    def read(self, shared: SharedVolume) -> Volume:
        """The volume in a file: mapped into memory, read-only, where the file is whole; else a copy.

        Raises:
            WorkerError: The file is not there, or is not what the message says.
            InputError: The grid is none.
        """
        geometry = geometry_of(shared.size, shared.spacing, shared.origin, shared.direction)
        dtype = _known_dtype(shared.dtype)
        start, size = _box(shared)
        file = self._path(shared.file)
        expected = dtype.itemsize * math.prod(size)
        try:
            status = file.lstat()
            if not stat.S_ISREG(status.st_mode) or status.st_size != expected:
                raise WorkerError(
                    f"The exchange file {shared.file} has {status.st_size:,} bytes, expected {expected:,} for"
                    f" {' × '.join(map(str, size))} voxels of {dtype.str}."
                )
            shape = size[::-1]
            mapped: npt.NDArray[Any] = np.memmap(file, dtype, "r", shape=shape)
        except OSError as error:
            raise WorkerError(
                f"Cannot read the exchange file {shared.file}: {error.strerror or error}."
            ) from error
        if shared.part is not None:
            whole = np.zeros(geometry.shape, dtype)
            whole[tuple(slice(a, a + n) for a, n in zip(start[::-1], shape, strict=True))] = mapped
            mapped = whole
        return Volume(mapped, geometry, shared.name, shared.modality, shared.frame_of_reference)

    def delete(self, *shared: SharedVolume) -> None:
        """Delete files; those that are gone, or cannot be deleted now, are no error."""
        self._later.update(volume.file for volume in shared)
        for name in sorted(self._later):
            with contextlib.suppress(OSError, WorkerError):
                self._path(name).unlink(missing_ok=True)
                self._later.discard(name)

    def close(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        # Nothing outside the folder, on no system.
        if not name or name in (".", "..") or set(name) & set("/\\:\0"):
            raise WorkerError(f"{name!r} is no name of an exchange file.")
        return self.folder / name


def geometry_of(
    size: tuple[int, int, int],
    spacing: tuple[float, float, float],
    origin: tuple[float, float, float],
    direction: tuple[float, ...],
) -> Geometry:
    """The grid that a message describes.

    Raises:
        WorkerError: The direction has not nine numbers.
        InputError: The grid is none.
    """
    if len(direction) != 9:
        raise WorkerError(f"A direction has {len(direction)} numbers, expected 9 (row by row).")
    return Geometry(size, spacing, origin, np.array(direction, np.float64).reshape(3, 3))


def remove_orphans(base: Path) -> int:
    """Remove exchange folders of this user in `base` whose owner does not run any more; returns how many."""
    removed = 0
    with contextlib.suppress(OSError):
        for folder in list(base.glob(f"{_PREFIX}*")):
            if _is_own_folder(folder) and owner_is_gone(folder):
                shutil.rmtree(folder, ignore_errors=True)
                removed += not folder.exists()
    return removed


def owner_is_gone(folder: Path) -> bool:
    """Whether the process that made an exchange folder has ended; False where that cannot be told."""
    try:
        owner = json.loads((folder / _OWNER).read_text(encoding="utf-8"))
        here = owner["machine"] == machine()
        return here and not is_running(int(owner["pid"]), str(owner["started"]))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _is_own_folder(folder: Path) -> bool:
    try:
        status = folder.lstat()
    except OSError:
        return False
    # Windows gives each user a temporary folder of their own.
    own = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    return stat.S_ISDIR(status.st_mode) and own


def _box_of_values(array: npt.NDArray[Any]) -> tuple[slice, ...]:
    """The box that holds all values that are not nearly 0; one voxel where there is none."""
    # NaN compares false, and so counts as a value.
    held = ~(np.abs(array) < NEAR_ZERO) if array.dtype.kind == "f" else array != 0
    plane = held.any(axis=0)
    lines = held.any(axis=(1, 2)), plane.any(axis=1), plane.any(axis=0)
    if not lines[0].any():
        return (slice(0, 1),) * 3
    ends = [np.flatnonzero(line)[[0, -1]] for line in lines]
    return tuple(slice(int(first), int(last) + 1) for first, last in ends)


def _little_endian(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.kind == "b":
        return np.dtype("u1")
    if dtype.kind == "f" and dtype.itemsize > 8:  # long double differs between machines
        return np.dtype("<f8")
    return dtype.newbyteorder("<")


def _write_planes(
    array: npt.NDArray[Any], dtype: np.dtype[Any], stream: BinaryIO, check: Callable[[], None] | None
) -> None:
    for plane in array:  # a contiguous copy of the whole may not fit beside it
        if check is not None:
            check()
        stream.write(np.ascontiguousarray(plane, dtype=dtype).data)


def _known_dtype(text: str) -> np.dtype[Any]:
    try:
        dtype = np.dtype(text)
    except (TypeError, ValueError, SyntaxError):
        dtype = np.dtype("V")
    if dtype.kind not in "iuf" or dtype.str != text or text.startswith(">"):
        raise WorkerError(f"{text!r} is no voxel type, expected one such as '<f4', '<i2' or '|u1'.")
    return dtype


def _box(shared: SharedVolume) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """First voxel and size (i, j, k) of what the file holds."""
    if shared.part is None:
        return (0, 0, 0), shared.size
    start, size = shared.part[:3], shared.part[3:]
    fits = len(shared.part) == 6 and all(
        a >= 0 and n >= 1 and a + n <= whole for a, n, whole in zip(start, size, shared.size, strict=True)
    )
    if not fits:
        raise WorkerError(f"The part {shared.part} does not fit in a volume of {shared.size} voxels.")
    return start, size
