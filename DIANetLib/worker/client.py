# SPDX-License-Identifier: Apache-2.0
"""A worker of one's own from plain Python: for scripts, tests and programs without Qt.

Threads collect what the process writes; `LocalWorker.poll` hands it out in the thread that calls it.

Standard library and numpy only.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from DIANetLib.errors import Cancelled as CancelledError
from DIANetLib.errors import WorkerError
from DIANetLib.worker.connection import Connection, check_hello, error_of, lost_sentence, worker_command
from DIANetLib.worker.exchange import Exchange
from DIANetLib.worker.processes import kill_tree
from DIANetLib.worker.protocol import (
    Cancelled,
    Event,
    Failed,
    Hello,
    Payload,
    Request,
    Result,
    Shutdown,
)

__all__ = ["LocalWorker"]

_READ = 1 << 16


class LocalWorker:
    """A worker process that this process has started.

    The callbacks are spelled as in the client that lives in Slicer, so that either can be handed to the same
    owner. They are called by `poll`, in its thread.

    Args:
        python: Interpreter to start the worker with; this one when None.
        base: Where the exchange folder is made; the system's temporary folder when None.
        idle_minutes: Minutes without a request after which the worker lets go of its models.
        environment: Variables to set for the worker in addition to this process's own.

    Attributes:
        exchange: The session's folder; there from `start` on.
        onEvent: Called with every event.
        onLost: Called with a sentence when the process has ended otherwise than by `stop`.
        onLog: Called with each line of the worker's log.
    """

    def __init__(
        self,
        python: str | Path | None = None,
        *,
        base: Path | None = None,
        idle_minutes: float = 10,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.exchange: Exchange | None = None
        self.onEvent: Callable[[Event], None] = lambda _: None
        self.onLost: Callable[[str], None] = lambda _: None
        self.onLog: Callable[[str], None] = lambda _: None
        self._python, self._base, self._idle_minutes = python or sys.executable, base, idle_minutes
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._threads: list[threading.Thread] = []
        self._stopping = False
        self._begin_session()

    @property
    def running(self) -> bool:
        """Whether the process is alive; one that is still starting is."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Process id, also of a process that has ended."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process, unless it runs.

        Raises:
            WorkerError: It cannot be started.
            OutputError: There is no place for its exchange folder.
        """
        if self.running:
            return
        self._close_session()
        self._begin_session()
        exchange = Exchange.create(self._base)
        command = worker_command(self._python, exchange.folder, idle_minutes=self._idle_minutes)
        detached = sys.platform != "win32"  # Ctrl-C in a terminal is for this process alone
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, **self._environment},
                start_new_session=detached,
                creationflags=_creation_flags(),
            )
        except OSError as error:
            exchange.close()
            raise WorkerError(
                f"The worker could not be started with {self._python}: {error.strerror or error}.",
                remedy="Check that this is a Python interpreter.",
            ) from error
        self.exchange, self._process = exchange, process
        assert process.stdout is not None
        assert process.stderr is not None
        self._threads = [
            threading.Thread(target=_forward, args=(stream, self._arrived, kind), daemon=True)
            for kind, stream in (("out", process.stdout), ("err", process.stderr))
        ]
        for thread in self._threads:
            thread.start()

    def send(self, request: Request) -> None:
        """Hand a request to the worker.

        Raises:
            WorkerError: It does not run.
        """
        process = self._process
        if process is None or process.stdin is None or not self.running:
            raise WorkerError("The worker does not run.")
        try:
            process.stdin.write(self._connection.request(request))
            process.stdin.flush()
        except (OSError, ValueError) as error:
            raise WorkerError(f"The request could not be handed to the worker: {error}.") from error

    def poll(self, seconds: float = 0.0) -> None:
        """Deliver what has come, waiting up to `seconds` for something to come."""
        if self._process is None or self._told_end:
            return
        try:
            arrived: tuple[str, bytes] | None = self._arrived.get(timeout=max(seconds, 1e-3))
        except queue.Empty:
            return
        while arrived is not None:
            self._take(*arrived)
            try:
                arrived = self._arrived.get_nowait()
            except queue.Empty:
                arrived = None

    def ask(self, request: Request, seconds: float = 600.0) -> Payload:
        """Send a request, wait for its end and return what it gave; other events go to `onEvent`.

        Raises:
            DIANetError: The request failed, was cancelled, or has not ended after `seconds`.
            WorkerError: The worker ended.
        """
        end: list[Event] = []
        lost: list[str] = []
        own, own_lost = self.onEvent, self.onLost

        def take(event: Event) -> None:
            if isinstance(event, Result | Failed | Cancelled) and event.id == request.id:
                end.append(event)
            own(event)

        self.onEvent, self.onLost = take, lost.append
        try:
            self.send(request)
            until = time.monotonic() + seconds
            while not end and not lost and time.monotonic() < until:
                self.poll(0.2)
        finally:
            self.onEvent, self.onLost = own, own_lost
        if lost:
            own_lost(lost[0])
            raise WorkerError(lost[0])
        if not end:
            raise WorkerError(f"The worker has not answered within {seconds:g} seconds.")
        if isinstance(end[0], Result):
            return end[0].payload
        raise error_of(end[0]) if isinstance(end[0], Failed) else CancelledError

    def terminate(self) -> None:
        """Ask the process to end."""
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """End the process and those that it has started, at once."""
        if self._process is not None and self.running:
            kill_tree(self._process.pid)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)

    def stop(self) -> None:
        """End the worker in order, or by force where that takes long, and remove the exchange folder."""
        self._stopping = True
        process = self._process
        if process is not None and self.running:
            with contextlib.suppress(WorkerError):
                self.send(Shutdown("shutdown"))
            for end, seconds in ((lambda: None, 2.0), (process.terminate, 1.0), (self.kill, 5.0)):
                end()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(seconds)
                    break
        self._close_session()

    def __enter__(self) -> LocalWorker:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _begin_session(self) -> None:
        self._arrived: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        self._connection = Connection(lambda text: self.onLog(text))
        self._log_rest = b""
        self._last_lines: deque[str] = deque(maxlen=20)
        self._threads = []
        self._open_streams = {"out", "err"}
        self._stopping = self._told_end = False

    def _close_session(self) -> None:
        for thread in self._threads:
            thread.join(5)
        if self._process is not None:
            for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
                with contextlib.suppress(OSError):
                    if stream is not None:
                        stream.close()
        self._process, self._threads = None, []
        if self.exchange is not None:
            self.exchange.close()
            self.exchange = None

    def _take(self, kind: str, data: bytes) -> None:
        if not data:
            self._end_of(kind)
        elif kind == "out":
            for event in self._connection.feed(data):
                self._deliver(event)
        else:
            *lines, self._log_rest = (self._log_rest + data).split(b"\n")
            for line in lines:
                self._log(line)

    def _deliver(self, event: Event) -> None:
        if self._told_end:
            return
        if isinstance(event, Hello):
            try:
                check_hello(event)
            except WorkerError as error:
                self.kill()
                self._told_end = True
                self.onLost(str(error))
                return
        self.onEvent(event)

    def _log(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip()
        if text:
            self._last_lines.append(text)
            self.onLog(text)

    def _end_of(self, kind: str) -> None:
        self._open_streams.discard(kind)
        if kind == "err":
            self._log(self._log_rest)
            self._log_rest = b""
        if self._open_streams or self._process is None or self._told_end:
            return
        self._told_end = True
        try:
            code: int | None = self._process.wait(5)
        except subprocess.TimeoutExpired:  # it has closed its output, and is of no use any more
            self.kill()
            code = self._process.poll()
        if not self._stopping:
            self.onLost(lost_sentence(code, tuple(self._last_lines)))


def _forward(stream: IO[bytes], arrived: queue.SimpleQueue[tuple[str, bytes]], kind: str) -> None:
    """Put what a stream gives into the queue, and nothing at its end."""
    with contextlib.suppress(OSError, ValueError):
        while data := os.read(stream.fileno(), _READ):
            arrived.put((kind, data))
    arrived.put((kind, b""))


def _creation_flags() -> int:
    if sys.platform == "win32":
        return subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP
    return 0
