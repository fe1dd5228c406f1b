# SPDX-License-Identifier: Apache-2.0
"""The review of an output folder's regions: what was said of each, kept in the folder's `regions.json`.

For each judgement the file is read, changed and written at once, so that nothing is lost if the viewer is
stopped, and what 3D Slicer wrote in the meantime stays.
"""

from __future__ import annotations

import math
import os
from datetime import datetime
from pathlib import Path

from DIANetLib.acwi.review import Region, State
from DIANetLib.acwi.worklist import REGIONS, Worklist, load_worklist, save_worklist
from DIANetLib.errors import DIANetError

__all__ = ["ReviewSession"]

_SAME_PLACE_MM = 1e-3


class ReviewSession:
    """A worklist and where it is kept.

    A list that cannot be read is taken for empty and never written over.

    Args:
        directory: The output folder.
        reviewer: Who judges; noted with each judgement.

    Attributes:
        worklist: The regions with what was said of them.
        problem: A sentence on why the list is missing or judgements are not kept; empty where all is well.
    """

    def __init__(self, directory: Path, reviewer: str = "") -> None:
        self._file = directory / REGIONS
        self._reviewer = reviewer
        self.worklist = Worklist(())
        self.problem = ""
        # What could not be written yet; the next time that something can be, it is.
        self._pending: dict[int, tuple[State, datetime]] = {}
        self.reload()

    def reload(self) -> None:
        """Read the list again, as another program may have changed it."""
        try:
            self.worklist, self.problem = load_worklist(self._file), ""
        except DIANetError as error:
            self.problem = f"The worklist cannot be shown. {error}"
            return
        if not os.access(self._file.parent, os.W_OK):
            self.problem = f"{self._file.parent} cannot be written: what you say of regions will not be kept."

    def region(self, rank: int) -> Region | None:
        """The region of a rank; None if there is none."""
        return next((region for region in self.worklist.regions if region.rank == rank), None)

    def judge(self, rank: int, state: State) -> bool:
        """Set a region's state, and keep it.

        Args:
            rank: Of the region, in `worklist`.
            state: What is said of it.

        Returns:
            Whether it is kept in the folder; `problem` says why not. What could not be written counts until
            the viewer ends, and is written as soon as something can be. Where another program has changed
            the list of places, nothing is set: the new list is in `worklist`.
        """
        shown = self.region(rank)
        if shown is None:
            return False
        self._pending[rank] = (state, datetime.now())
        try:
            stored = load_worklist(self._file)
            there = next((region for region in stored.regions if region.rank == rank), None)
            if there is None or math.dist(there.centre, shown.centre) > _SAME_PLACE_MM:
                self.worklist, self._pending = stored, {}
                self.problem = (
                    "Another program has changed the list of regions; it was read again, nothing set."
                )
                return False
            changed = self._judged(stored)
            save_worklist(self._file, changed)
        except DIANetError as error:
            self.worklist = self._judged(self.worklist)
            self.problem = f"What you say is not kept: {error}"
            return False
        self.worklist, self._pending, self.problem = changed, {}, ""
        return True

    def _judged(self, worklist: Worklist) -> Worklist:
        for rank, (state, when) in self._pending.items():
            worklist = worklist.with_state(rank, state, reviewer=self._reviewer, when=when)
        return worklist
