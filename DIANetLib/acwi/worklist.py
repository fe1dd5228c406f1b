# SPDX-License-Identifier: Apache-2.0
"""The worklist of a review: what was said of each place, when and by whom (paper section 3.4, Figure 5).

A worklist is a value: each change gives a new one. It is kept as `regions.json`, with the same as a table
beside it, so a review can be left and resumed. Regions can be looked for again with other options at any
time; what was judged stays judged.

Runs inside Slicer's process: numpy and scipy only.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import get_args

import numpy as np

from DIANetLib.acwi.regions import (
    Region,
    State,
    regions_from_csv,
    regions_from_json,
    regions_to_csv,
    regions_to_json,
)
from DIANetLib.acwi.review import RegionFinder, edit_mask
from DIANetLib.errors import InputError, OutputError

__all__ = [
    "REGIONS",
    "Progress",
    "RegionFinder",
    "Worklist",
    "edit_mask",
    "load_worklist",
    "save_worklist",
]

#: Name of the file that keeps a worklist; the table beside it ends in `.csv`.
REGIONS = "regions.json"

# Shared by the boxes of one place found twice, as a part of what they cover together. Boxes of neighbours
# along a boundary share less; a place that shrinks by an eighth along each edge still shares more.
_SAME_PLACE = 1 / 3
_PARTIAL = ".partial"
_ABANDONED_S = 3600.0


@dataclass(frozen=True)
class Progress:
    """How far a review is.

    Attributes:
        open: regions not judged yet.
        accepted: regions whose segmentation is right.
        corrected: regions whose segmentation was wrong and was put right.
        skipped: regions that the reviewer left undecided.
        expected_error_mm3_open: expected wrong volume in the open regions.
    """

    open: int
    accepted: int
    corrected: int
    skipped: int
    expected_error_mm3_open: float

    @property
    def total(self) -> int:
        """All regions."""
        return self.open + self.judged

    @property
    def judged(self) -> int:
        """Regions that are not open."""
        return self.accepted + self.corrected + self.skipped


@dataclass(frozen=True)
class Worklist:
    """Regions in the order of their ranks, and what was said of them.

    Raises:
        InputError: two regions have the same rank.
    """

    regions: tuple[Region, ...]

    def __post_init__(self) -> None:
        regions = tuple(sorted(self.regions, key=lambda region: region.rank))
        for one, other in itertools.pairwise(regions):
            if one.rank == other.rank:
                raise InputError(f"The worklist has two regions of rank {one.rank}, expected one.")
        object.__setattr__(self, "regions", regions)

    def with_state(
        self, rank: int, state: State, *, reviewer: str = "", when: datetime | None = None
    ) -> Worklist:
        """The worklist after a reviewer has judged a region, or opened it again.

        Args:
            rank: of the region.
            state: what is said of it.
            reviewer: who says so.
            when: the time; now when None. A time without an offset is taken for local time.

        Raises:
            InputError: no region has this rank, or there is no such state.
        """
        if state not in get_args(State):
            raise InputError(
                f"The state of a region is {state!r}, expected one of {', '.join(get_args(State))}."
            )
        if all(region.rank != rank for region in self.regions):
            raise InputError(
                f"The worklist has no region of rank {rank}; it has {len(self.regions)} regions."
            )
        changed = ""
        if state == "open":
            reviewer = ""
        else:
            changed = (when or datetime.now()).astimezone().isoformat(timespec="seconds")
            reviewer = " ".join(reviewer.split())
        return Worklist(
            tuple(
                replace(region, state=state, changed=changed, reviewer=reviewer)
                if region.rank == rank
                else region
                for region in self.regions
            )
        )

    def reranked(self, found: Sequence[Region]) -> Worklist:
        """The worklist with regions that were looked for anew; judged places are never lost.

        A new region is the same place as an old one if each has the other's centre in its box and the boxes
        share at least a third of what they cover together. Pairs are made one to one, those that share most
        first. The new region takes over what was said of its old one. Old regions that were judged and have
        no new region stay as they were. All are ranked anew by their expected wrong volume.

        Args:
            found: what `find_regions` or `RegionFinder.find` gave for the same image.
        """
        judged = [region for region in self.regions if region.state != "open"]
        pairs = sorted(
            (
                (-shared, old, new)
                for old, one in enumerate(judged)
                for new, other in enumerate(found)
                if (shared := _shared(one, other)) >= _SAME_PLACE
            ),
        )
        heirs: dict[int, int] = {}
        for _, old, new in pairs:
            if old not in heirs and new not in heirs.values():
                heirs[old] = new
        regions = list(found)
        for old, new in heirs.items():
            said = judged[old]
            regions[new] = replace(
                regions[new], state=said.state, changed=said.changed, reviewer=said.reviewer
            )
        regions += [region for old, region in enumerate(judged) if old not in heirs]
        # The sort is stable: among equals the order of the finder stays.
        regions.sort(key=lambda region: -region.expected_error_mm3)
        return Worklist(tuple(replace(region, rank=rank) for rank, region in enumerate(regions, start=1)))

    def following(self, rank: int | None) -> Region | None:
        """The next open region after a rank, from the start again behind the last; None if none is open.

        Args:
            rank: the region that was looked at; None for the first open one. The region itself comes last.
        """
        open_ = [region for region in self.regions if region.state == "open"]
        later = [region for region in open_ if rank is not None and region.rank > rank]
        return next(iter(later or open_), None)

    def progress(self) -> Progress:
        """How far the review is."""
        counts = {state: sum(region.state == state for region in self.regions) for state in get_args(State)}
        left = math.fsum(region.expected_error_mm3 for region in self.regions if region.state == "open")
        return Progress(**counts, expected_error_mm3_open=round(left, 6))


def load_worklist(path: str | os.PathLike[str]) -> Worklist:
    """Read a worklist.

    Args:
        path: a file `.json` or `.csv`, or an output folder, whose `regions.json` is meant.

    Raises:
        InputError: it is not there, cannot be read, or is no worklist.
    """
    file = _file(path)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"There is no worklist {file}.", remedy="Segment the image first.") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InputError(f"The worklist {file} cannot be read: {reason}.") from error
    try:
        return Worklist(regions_from_csv(text) if file.suffix == ".csv" else regions_from_json(text))
    except InputError as error:
        raise InputError(f"{file}: {error.message}", remedy=error.remedy) from error


def save_worklist(path: str | os.PathLike[str], worklist: Worklist) -> None:
    """Write a worklist, and the same as a table beside it; whoever reads sees the old or the new one.

    Args:
        path: the file `.json`, or a folder, in which it is called `regions.json`.
        worklist: what to write.

    Raises:
        OutputError: it cannot be written; what was there is as it was.
    """
    file = _file(path)
    if file.suffix != ".json":
        raise OutputError(f"The worklist {file} cannot be written: expected a name that ends in .json.")
    _replace_text(file, regions_to_json(worklist.regions))
    # The JSON file is what is read again. The table follows it; saving again puts right one that is behind.
    _replace_text(file.with_suffix(".csv"), regions_to_csv(worklist.regions))


def _file(path: str | os.PathLike[str]) -> Path:
    file = Path(path)
    return file / REGIONS if file.is_dir() else file


def _replace_text(file: Path, text: str) -> None:
    temporary: str | None = None
    try:
        _sweep(file)
        handle, temporary = tempfile.mkstemp(prefix=f".{file.name}.", suffix=_PARTIAL, dir=file.parent)
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes files for their owner alone; a result keeps or gets the usual permissions.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, file.stat().st_mode & 0o777 if file.exists() else 0o666 & ~mask)
        os.replace(temporary, file)
        temporary = None
    except OSError as error:
        raise OutputError(
            f"The worklist {file} cannot be written: {error.strerror or error}.",
            remedy="Make the folder writable or make room on the disk; the earlier list is as it was.",
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _sweep(file: Path) -> None:
    """Remove what a process left behind that was killed while it wrote; another one may be writing now."""
    for left in file.parent.glob(f".{file.name}.*{_PARTIAL}"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED_S:
                left.unlink()


def _shared(one: Region, other: Region) -> float:
    """What two boxes share of what they cover together; 0 unless each holds the other's centre."""
    low_1, high_1, low_2, high_2 = (np.asarray(p) for p in (one.lo, one.hi, other.lo, other.hi))
    centre_1, centre_2 = np.asarray(one.centre), np.asarray(other.centre)
    if not (((centre_1 >= low_2) & (centre_1 <= high_2)).all() and (centre_2 >= low_1).all()):
        return 0.0
    if not (centre_2 <= high_1).all():
        return 0.0
    common = np.prod(np.minimum(high_1, high_2) - np.maximum(low_1, low_2))
    return float(common / (np.prod(high_1 - low_1) + np.prod(high_2 - low_2) - common))
