# SPDX-License-Identifier: Apache-2.0
"""The worker's life: requests in, events out, one job at a time, and an end when nobody listens any more.

A thread reads requests, so that `Cancel` and `Shutdown` act while a job runs; jobs run in the main thread. A
second thread watches whether the client still lives, and whether a job that was told to stop does so.
"""

from __future__ import annotations

import logging
import math
import os
import platform
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from DIANetLib import __version__
from DIANetLib.errors import Cancelled as CancelledError
from DIANetLib.errors import DIANetError, WorkerError
from DIANetLib.worker.codec import decode_request, encode
from DIANetLib.worker.job import Job
from DIANetLib.worker.protocol import (
    PROTOCOL_VERSION,
    RECORD_SEPARATOR,
    Cancel,
    Cancelled,
    Done,
    Event,
    Failed,
    Hello,
    Payload,
    Request,
    Result,
    Shutdown,
)

__all__ = ["Answerer", "Server"]

_READ = 1 << 16
_LONGEST_LINE = 1 << 24
_TICK_S = 0.5
_WATCH_S, _LOOK_S = 0.2, 2.0
#: Told to stop, a job that still runs after this long never ends; there is less time when the worker ends.
_STUCK_S, _END_S = 60.0, 3.0

_log = logging.getLogger("DIANet")


class Answerer(Protocol):
    """What the server asks."""

    def answer(self, job: Job) -> Payload:
        """What a request asks for."""

    def discard(self) -> None:
        """The client has not been told of the latest answer."""

    def idle(self, seconds: float) -> None:
        """Nothing has been asked for some seconds; called again and again, between requests."""


class Server:
    """Serves one client over two pipes.

    Args:
        answers: Answers the requests.
        requests: File descriptor to read requests from.
        events: File descriptor to write events to.
        client_gone: Whether the client is known to have ended.
        give_up: Called when a job that was told to stop has not done so for long; ends the process.
    """

    def __init__(
        self,
        answers: Answerer,
        *,
        requests: int,
        events: int,
        client_gone: Callable[[], bool] = lambda: False,
        give_up: Callable[[], None] = lambda: None,
    ) -> None:
        self._answers, self._client_gone, self._give_up = answers, client_gone, give_up
        self._requests, self._events = requests, events
        self._writing = threading.Lock()
        self._changed = threading.Condition()  # guards the queue, what runs, and who has been told
        self._queue: deque[Job] = deque()
        self._running: Job | None = None
        self._ending = False  # a plain flag: signal handlers set it
        self._shutdown: Shutdown | None = None
        #: Whether the client has closed its end without a `Shutdown`.
        self.hung_up = False

    def run(self) -> None:
        """Serve until the client says so, or is gone."""
        self._send(Hello(PROTOCOL_VERSION, __version__, os.getpid(), platform.python_version()))
        for target in (self._read, self._watch):
            threading.Thread(target=target, name=target.__name__, daemon=True).start()
        while (job := self._next()) is not None:
            self._do(job)
        self._tell_end()

    def end(self) -> None:
        """Stop what runs and end soon; takes no lock, so that signal handlers may call it."""
        self._ending = True
        job = self._running
        if job is not None:
            job.cancelled = True

    # --- jobs, in the main thread ---

    def _next(self) -> Job | None:
        """The next job; None when it is time to end."""
        since = time.monotonic()
        while True:
            with self._changed:
                self._running = None
                if not self._queue and not self._ending:
                    self._changed.wait(_TICK_S)
                if self._ending:
                    return None
                if self._queue:
                    self._running = self._queue.popleft()
                    return self._running
            self._idle(time.monotonic() - since)

    def _do(self, job: Job) -> None:
        event = self._answer(job)
        try:
            line = _line(event)
        except ValueError as error:  # a number that is not finite
            event = self._internal(job.request.id, error)
            line = _line(event)
        if not isinstance(event, Result):
            self._answers.discard()
        with self._changed:
            first, job.told = not job.told, True
        told = first and self._write(line)
        if isinstance(event, Result) and not told:
            self._answers.discard()

    def _answer(self, job: Job) -> Event:
        identity = job.request.id
        try:
            if self._ending:  # said between taking the job and noting that it runs
                return Cancelled(identity)
            return Result(identity, self._answers.answer(job))
        except CancelledError:
            return Cancelled(identity)
        except DIANetError as error:
            return Failed(identity, error.kind, error.message, error.remedy)
        except MemoryError:
            _log.exception("Out of memory")
            remedy = "Close other programs, or segment a smaller region."
            return Failed(identity, "device", "The memory of this computer did not suffice.", remedy)
        except BaseException as error:  # SystemExit of a library included: the worker goes on
            return self._internal(identity, error)

    def _internal(self, identity: str | None, error: BaseException) -> Failed:
        _log.error("".join(traceback.format_exception(error)).rstrip())
        what = f"Something unexpected happened in the worker ({type(error).__name__}: {error})."
        return Failed(identity, "internal", what, "Please report this with the worker's log.")

    def _idle(self, seconds: float) -> None:
        try:
            self._answers.idle(seconds)
        except Exception:
            _log.exception("Something failed while nothing was asked")

    # --- requests, in a thread ---

    def _read(self) -> None:
        rest = b""
        try:
            while data := os.read(self._requests, _READ):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    if line.strip():
                        self._take(line.decode("utf-8", "replace"))
                if len(rest) > _LONGEST_LINE:
                    rest = b""
                    self._send(Failed(None, "worker", "A line is too long to be a request."))
        except OSError:
            _log.exception("Requests cannot be read any more")
        self.hung_up = self._shutdown is None
        self.end()

    def _take(self, line: str) -> None:
        try:
            self._accept(decode_request(line))
        except WorkerError as error:
            self._send(Failed(None, error.kind, error.message, error.remedy))
        except Exception as error:
            self._send(self._internal(None, error))

    def _accept(self, request: Request) -> None:
        if isinstance(request, Cancel):
            self._cancel(request)
        elif isinstance(request, Shutdown):
            self._shutdown = request
            self.end()
        elif not self._ending:
            with self._changed:
                # A job that has been told of may not have ended yet; its id is free all the same.
                known = {job.request.id for job in (*self._queue, self._running) if job and not job.told}
                if request.id in known:
                    raise WorkerError(f"The request id {request.id!r} is in use already.")
                self._queue.append(Job(request, self._send))
                self._changed.notify()

    def _cancel(self, request: Cancel) -> None:
        with self._changed:
            jobs = [job for job in (*self._queue, self._running) if job and job.request.id == request.target]
            for job in jobs:
                if job in self._queue:
                    self._queue.remove(job)
        self._tell_cancelled(jobs)
        self._send(Result(request.id, Done()))

    def _tell_cancelled(self, jobs: Sequence[Job]) -> None:
        """Tell the client at once. A job that runs ends at its next step, what comes next waits for that."""
        for job in jobs:
            with self._changed:
                first, job.told = not job.told, True
                job.cancelled = True
            if first:
                self._send(Cancelled(job.request.id))

    def _tell_end(self) -> None:
        with self._changed:
            jobs = [job for job in (self._running, *self._queue) if job is not None]
            self._queue.clear()
            shutdown, self._shutdown = self._shutdown, None
        self._tell_cancelled(jobs)
        if shutdown is not None:
            self._send(Result(shutdown.id, Done()))

    # --- the client and the running job, in a thread ---

    def _watch(self) -> None:
        look, stuck_since = 0.0, math.inf
        while not self._ending:
            time.sleep(_WATCH_S)
            now = time.monotonic()
            if now >= look:
                look = now + _LOOK_S
                if self._client_gone():
                    _log.warning("The client has ended without saying so")
                    self.end()
            job = self._running
            stuck_since = min(stuck_since, now) if job is not None and job.cancelled else math.inf
            if now - stuck_since > _STUCK_S:
                break
        self._tell_end()
        if self._ending:
            time.sleep(_END_S)
        _log.warning("The running job does not stop; ending without it")
        self._give_up()

    def _send(self, event: Event) -> bool:
        return self._write(_line(event))

    def _write(self, line: bytes) -> bool:
        """Write a line; False where nobody reads any more, which ends the server."""
        try:
            with self._writing:
                rest = memoryview(line)
                while rest:
                    rest = rest[os.write(self._events, rest) :]
        except OSError:
            self.end()
            return False
        return True


def _line(event: Event) -> bytes:
    return f"{RECORD_SEPARATOR}{encode(event)}\n".encode()
