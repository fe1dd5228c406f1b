# SPDX-License-Identifier: Apache-2.0
"""Progress, timings and cancellation of one run, in one place that every step passes by."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from DIANetLib.errors import Cancelled
from DIANetLib.inference.prediction import Progress

__all__ = ["Meter"]


class Meter:
    """Progress that never runs backwards, seconds per stage, and the question whether to go on.

    Args:
        progress: Called with every step.
        cancel: Asked whether to stop.

    Attributes:
        timings: Seconds per stage, in order.
    """

    def __init__(
        self, progress: Callable[[Progress], None] | None = None, cancel: Callable[[], bool] | None = None
    ) -> None:
        self.timings: dict[str, float] = {}
        self._progress, self._cancel = progress, cancel
        self._stage, self._done, self._total = "", 0, 0

    @contextmanager
    def stage(self, name: str, total: int = 1) -> Iterator[None]:
        """A stage of ``total`` steps; at its end those that were not counted are done too."""
        self.check()
        self._stage, self._done, self._total = name, 0, total
        self._report()
        with self.timed(name):
            yield
        if self._done < self._total:
            self.advance(self._total - self._done)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Count the seconds of a piece of work to a stage, without progress of its own."""
        self.check()
        start = time.perf_counter()
        yield
        self.timings[name] = self.timings.get(name, 0.0) + time.perf_counter() - start

    def advance(self, steps: int = 1) -> None:
        """Count steps as done.

        Raises:
            Cancelled: The run is to stop.
        """
        self._done += steps
        self._total = max(self._total, self._done)
        self._report()
        self.check()

    def extend(self, steps: int) -> None:
        """Add steps to the stage: work that is done again makes it longer, never the progress shorter."""
        self._total += steps

    def check(self) -> None:
        """Ask whether to go on.

        Raises:
            Cancelled: The run is to stop.
        """
        if self._cancel is not None and self._cancel():
            raise Cancelled

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(Progress(self._stage, self._done, self._total))
