# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C (or SIGTERM from a scheduler) as a wish to stop after the step at hand, so that nothing is lost."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: A second Ctrl-C later than this stops at once; launchers send the first one twice.
_GRACE_SECONDS = 2.0


class StopRequest:
    """Whether somebody has asked to stop."""

    def __init__(self) -> None:
        self._since: float | None = None

    def __call__(self) -> bool:
        """True once a signal has come."""
        return self._since is not None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take a signal.

        Raises:
            KeyboardInterrupt: at a second one: the user does not want to wait.
        """
        if self._since is not None and time.monotonic() - self._since > _GRACE_SECONDS:
            raise KeyboardInterrupt
        if self._since is None:
            self._since = time.monotonic()


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Answer SIGINT and SIGTERM by a `StopRequest` while the block runs; only in the main thread."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
