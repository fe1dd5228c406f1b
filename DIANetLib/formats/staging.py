# SPDX-License-Identifier: Apache-2.0
"""Writing folders of results: complete or not there at all, and never over somebody else's files.

Everything is written to a hidden folder beside the one wanted, which is then renamed; on any failure it is
removed. Maps are gzip-compressed NRRD files of float32 with a float64 grid. The compression level is the
writer's fast default: a map of a 1 mm head (8.5 million voxels) takes 0.06 s to compress if it is mostly
zero, 0.5 s if it is dense; the highest level costs half as much again and saves nothing.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from DIANetLib.errors import DIANetError, OutputError
from DIANetLib.formats.image import write_volume
from DIANetLib.formats.result import RESULT_FORMAT
from DIANetLib.volume import Volume

__all__ = ["RESULT", "check_complete", "check_output_directory", "file_names", "staged", "write_map"]

#: Name of the file that says what a folder of results holds.
RESULT = "result.json"

# Far below what samples can tell apart; without it the tail of a softmax fills 30 MB per map of a head.
_NEGLIGIBLE = 1e-6


def check_output_directory(directory: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Raise if an output folder could not be written there; to be asked before a long computation.

    Args:
        directory: The folder wanted. An empty folder that exists is fine.
        overwrite: Whether an earlier output folder of DIANet may be replaced. One that holds any other file
            is never replaced.

    Raises:
        OutputError: With the reason and the way out.
    """
    target = Path(directory).resolve()
    another = "Choose another folder with --output."
    try:
        if target.exists() and not target.is_dir():
            raise OutputError(
                f"The output folder {target} cannot be made: a file has that name.", remedy=another
            )
        if target.is_dir() and any(target.iterdir()):
            ours = _own_files(target)
            if not overwrite:
                remedy = f"{another[:-1]}, or replace it with --overwrite." if ours else another
                raise OutputError(f"The output folder {target} exists already.", remedy=remedy)
            if not ours:
                raise OutputError(
                    f"The folder {target} is not replaced: it is not an output folder of DIANet"
                    f" (no {RESULT} of DIANet in it).",
                    remedy=another,
                )
            foreign = sorted(entry.name for entry in target.iterdir() if entry.name not in ours)
            if foreign:
                more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
                raise OutputError(
                    f"The output folder {target} is not replaced: it also holds files that DIANet"
                    f" did not write ({', '.join(foreign[:3])}{more}).",
                    remedy="Move them away, or choose another folder with --output.",
                )
        parent = next(p for p in target.parents if p.exists())
        if not parent.is_dir():
            raise OutputError(
                f"The output folder {target} cannot be made: {parent} is a file.", remedy=another
            )
        if not os.access(parent, os.W_OK | os.X_OK):
            raise OutputError(
                f"The output folder {target} cannot be made: no permission to write to {parent}.",
                remedy=another,
            )
    except OSError as error:
        raise OutputError(
            f"The output folder {target} cannot be looked at: {error.strerror or error}.", remedy=another
        ) from error


@contextlib.contextmanager
def staged(target: Path, *, largest_file: int) -> Iterator[Path]:
    """A folder to write to, which gets the name `target` if the block ends well and is gone otherwise.

    Args:
        target: The folder wanted; see `check_output_directory` for what may be there.
        largest_file: Bytes of the largest file that will be written, to tell a full disk.

    Raises:
        OutputError: The folder cannot be written, or the disk is full. A folder that was there is as it was.
    """
    with _sentences(target), _staging(target) as folder, _full_disk_noticed(folder, largest_file):
        yield folder
        _put_in_place(folder, target)


def write_map(volume: Volume, path: Path) -> None:
    """Write a map as float32; values that mean nothing become 0, so that it compresses."""
    array = volume.array.astype(np.float32)
    array[np.abs(array) < _NEGLIGIBLE] = 0.0
    write_volume(volume.with_array(array, name=path.stem), path)
    check_complete(path, array.nbytes)


def check_complete(path: Path, raw_bytes: int) -> None:
    """Raise if a compressed NRRD lacks its end: ITK is silent if the disk fills up as it closes the file."""
    with path.open("rb") as stream:
        stream.seek(-4, os.SEEK_END)
        length = int.from_bytes(stream.read(4), "little")  # of the raw data, modulo 2^32, as gzip notes it
    if length != raw_bytes % 2**32:
        raise OutputError(f"{path.name} was not written completely.")


def file_names(paths: object) -> dict[str, Any]:
    """Names of a folder's files, by what they hold, for `result.json`, which is how they are known later.

    Args:
        paths: An object whose attributes are paths, None, or mappings of paths; `directory` is left out.
    """
    names: dict[str, Any] = {}
    for what, value in vars(paths).items():
        if isinstance(value, Mapping):
            names[what] = {key: path.name for key, path in value.items()}
        elif what != "directory" and value is not None:
            names[what] = value.name
    return names


def _own_files(folder: Path) -> set[str]:
    """Names of the files that DIANet wrote to a folder, by its result.json; empty if it has none of ours."""
    try:
        record = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    if not isinstance(record, dict) or record.get("format") != RESULT_FORMAT:
        return set()
    names = {RESULT}
    files = record.get("files")
    for value in files.values() if isinstance(files, dict) else ():
        names.update(str(v) for v in (value.values() if isinstance(value, dict) else (value,)))
    return names


@contextlib.contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """A hidden folder beside `target`, gone afterwards unless it was renamed; so are parents made for it."""
    made: list[Path] = []
    folder = None
    try:
        for parent in reversed([p for p in target.parents if not p.exists()]):
            parent.mkdir()
            made.append(parent)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
        # mkdtemp makes folders for their owner alone; a result should have the usual permissions.
        mask = os.umask(0)
        os.umask(mask)
        folder.chmod(0o777 & ~mask)
        yield folder
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        for parent in reversed(made):
            with contextlib.suppress(OSError):  # not empty: the result is in it
                parent.rmdir()


def _put_in_place(folder: Path, target: Path) -> None:
    """Rename the complete folder to its name; what is there (checked before) goes, or comes back."""
    if not target.exists():
        folder.rename(target)
        return
    own = _own_files(target)
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.previous-", dir=target.parent))
    aside.rmdir()
    target.rename(aside)
    try:
        folder.rename(target)
    except OSError:
        aside.rename(target)
        raise
    # The new folder stands; failing to clear the old one away is no reason to say that it does not. Foreign
    # files that came in since the check stay in the folder set aside.
    with contextlib.suppress(OSError):
        for entry in aside.iterdir():
            if entry.name in own:
                entry.unlink()
        aside.rmdir()


@contextlib.contextmanager
def _sentences(target: Path) -> Iterator[None]:
    """Turn failures of writing into one sentence about the output folder."""
    try:
        yield
    except (OSError, OutputError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        number = cause.errno if isinstance(cause, OSError) else None
        if number in (errno.ENOSPC, errno.EDQUOT):
            reason, remedy = "the disk is full", "Make room on it, or choose another disk with --output."
        elif number in (errno.EACCES, errno.EPERM, errno.EROFS):
            reason, remedy = "it may not be written to", "Choose another folder with --output."
        else:
            reason = (cause.strerror if isinstance(cause, OSError) else None) or (
                error.message if isinstance(error, DIANetError) else str(error)
            )
            remedy = "Nothing was left behind; choose another folder with --output, or try again."
        raise OutputError(
            f"The results could not be written to {target}: {reason.rstrip('.')}.", remedy=remedy
        ) from error


@contextlib.contextmanager
def _full_disk_noticed(folder: Path, largest_file: int) -> Iterator[None]:
    """Raise ENOSPC where a writer failed for no stated reason and the disk cannot hold its largest file.

    SimpleITK's writers say that writing failed, but not why.
    """
    try:
        yield
    except OutputError as error:
        unexplained = not isinstance(error.__cause__, OSError) or error.__cause__.errno is None
        if unexplained and shutil.disk_usage(folder).free < largest_file:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise
