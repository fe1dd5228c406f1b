# SPDX-License-Identifier: Apache-2.0
"""A request on its way: whether it is to stop, and how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable

from DIANetLib.errors import Cancelled
from DIANetLib.inference.prediction import Progress as Step
from DIANetLib.worker.protocol import Progress, Request

__all__ = ["Job"]

#: Steps of one stage are told at most this often, s: a client may be slow to read.
_INTERVAL_S = 0.05


class Job:
    """One request.

    Args:
        request: The request.
        send: Takes its progress.

    Attributes:
        request: The request.
        cancelled: Whether it is to stop. Set from other threads and from signal handlers, hence a plain flag.
        told: Whether the client has been told how it ended.
    """

    def __init__(self, request: Request, send: Callable[[Progress], object] = lambda _: None) -> None:
        self.request = request
        self.cancelled = self.told = False
        self._send = send
        self._stage, self._told = "", 0.0

    def check(self) -> None:
        """Ask whether to go on.

        Raises:
            Cancelled: It is to stop.
        """
        if self.cancelled:
            raise Cancelled

    def report(self, step: Step) -> None:
        """Tell how far it is; steps that follow each other quickly are left out, first and last are not.

        Raises:
            Cancelled: It is to stop.
        """
        self.check()
        now = time.monotonic()
        inside = step.stage == self._stage and step.done < step.total
        if inside and now - self._told < _INTERVAL_S:
            return
        self._stage, self._told = step.stage, now
        self._send(Progress(self.request.id, step.stage, step.done, step.total))
