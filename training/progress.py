# SPDX-License-Identifier: Apache-2.0
"""A progress bar on standard error for terminals, a plain line now and then elsewhere; rich alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_Item = TypeVar("_Item")
#: Seconds between two lines where there is no terminal.
_INTERVAL = 10.0


class track(Generic[_Item]):  # noqa: N801 (used like a function, as rich's own)
    """Iterate over a sequence and show how far it is.

    Args:
        items: what to go through.
        title: what is being done.
        unit: what an item is.
        shown: whether to show anything, for processes that don't lead.
    """

    def __init__(self, items: Sequence[_Item], title: str, *, unit: str = "item", shown: bool = True) -> None:
        self.items, self.title, self.unit, self.shown = items, title, unit, shown
        self._note = ""

    def note(self, text: str) -> None:
        """Show a text beside the bar from the next step on."""
        self._note = text

    def __iter__(self) -> Iterator[_Item]:
        if not self.shown:
            yield from self.items
        elif sys.stderr.isatty():
            yield from self._bar()
        else:
            yield from self._lines()

    def _bar(self) -> Iterator[_Item]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(self.title, total=len(self.items), note="")
            for item in self.items:
                yield item
                bar.update(task, advance=1, note=self._note)

    def _lines(self) -> Iterator[_Item]:
        said = time.monotonic()
        for number, item in enumerate(self.items, start=1):
            yield item
            if number == len(self.items) or time.monotonic() - said > _INTERVAL:
                said = time.monotonic()
                text = f"{self.title}: {number}/{len(self.items)} {self.unit}s {self._note}"
                print(text.rstrip(), file=sys.stderr, flush=True)
