# SPDX-License-Identifier: Apache-2.0
"""Work that cannot be asked to stop, done in a thread that need not be waited for.

Importing torch takes seconds and looks at no flag. Whoever waits for it can give up at once; it then ends in
its own time, and what comes next waits its turn.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

__all__ = ["Background"]

_STEP_S = 0.05
Result = TypeVar("Result")


class Background:
    """One thread that does one piece of work after the other."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="background")

    def run(self, work: Callable[[], Result], check: Callable[[], None]) -> Result:
        """Do the work and return what it gives, asking `check` meanwhile; what that raises ends the waiting.

        Only for work that may end, or fail, with nobody looking.
        """
        future = self._executor.submit(work)
        while not wait([future], _STEP_S).done:
            try:
                check()
            except BaseException:
                future.cancel()  # unless it has begun
                raise
        return future.result()

    def close(self) -> None:
        """Take no more work."""
        self._executor.shutdown(wait=False, cancel_futures=True)
