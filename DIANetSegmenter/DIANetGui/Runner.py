# SPDX-License-Identifier: Apache-2.0
r"""The worker's requests as a state machine, without Qt and without MRML.

    IDLE -> STARTING -> RUNNING -> IDLE          begin
                 \          \-> CANCELLING -> IDLE

One request at a time is "the run", which the state is about; others (`ask`) are answered beside it.
Everything happens in the thread that the client calls back in, which is Slicer's main thread.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from DIANetLib.errors import DIANetError, InputError, WorkerError
from DIANetLib.worker import protocol
from DIANetLib.worker.connection import check_hello
from DIANetLib.worker.protocol import SharedVolume

from .Activity import Activity, Meter
from .Messages import errorOf, filesOf
from .Translate import tr as _

__all__ = ["Run", "Runner", "State", "newId"]

_LOG_LINES = 500
_TERMINATE_MS, _KILL_MS = 2000, 5000  # after Cancel, for a worker that does not listen

_logger = logging.getLogger("DIANet")


class State(str, Enum):
    """What is going on."""

    IDLE = "idle"
    STARTING = "starting"
    RUNNING = "running"
    CANCELLING = "cancelling"


@dataclass
class Run:
    """A request that the state is about.

    Attributes:
        request: What was asked for.
        meter: Turns its progress into a fraction.
        take: Called with its payload; what it raises makes the run fail.
        event: What listeners are told when it is done.
        files: Files of the request, deleted at its end.
        nodeIds: Nodes that it was made from.
        reason: Why it was stopped, where the user did not ask for it.
    """

    request: Any
    meter: Meter
    take: Callable[[Any], None]
    event: str
    files: tuple[SharedVolume, ...] = ()
    nodeIds: tuple[str, ...] = ()
    reason: str | None = None


class Runner:
    """Sends requests to the worker and follows them to their end.

    Args:
        client: The worker; a process of Slicer's Python by default.
        later: `later(milliseconds, function)` calls a function once; Qt's single-shot timer by default.

    Attributes:
        state: What is going on.
        activity: How far it is; None while idle.
        lastError: What the latest run failed with; None if it did not.
        lastOutcome: `"done"`, `"cancelled"`, `"failed"`, or `""` before the end of the first run.
        greeted: Whether the worker has said that it is ready.
        onForgotten: Called when what the worker had kept is gone.
    """

    def __init__(
        self, client: Any = None, later: Callable[[int, Callable[[], None]], object] | None = None
    ) -> None:
        self.state = State.IDLE
        self.activity: Activity | None = None
        self.lastError: DIANetError | None = None
        self.lastOutcome = ""
        self.greeted = False
        self.run: Run | None = None
        self.onForgotten: Callable[[], None] = lambda: None
        self._client = client
        self._later = later
        self._log: deque[str] = deque(maxlen=_LOG_LINES)
        self._listeners: list[Callable[[str], None]] = []
        self._asked: dict[str, tuple[str, Callable[[Any], None]]] = {}  # id -> kind, what takes the answer
        if client is not None:
            self._attach(client)

    # --- what there is ---

    @property
    def client(self) -> Any:
        """The worker's client, made at the first use."""
        if self._client is None:
            from .WorkerClient import WorkerClient

            self._client = WorkerClient()
            self._attach(self._client)
        return self._client

    @property
    def exchange(self) -> Any:
        """The exchange folder; None before the first worker."""
        return None if self._client is None else self._client.exchange

    @property
    def workerRunning(self) -> bool:
        """Whether the worker process is there."""
        return self._client is not None and self._client.running

    @property
    def busy(self) -> bool:
        """Whether a run is going on."""
        return self.state is not State.IDLE

    @property
    def log(self) -> Sequence[str]:
        """The latest lines of the worker's log."""
        return tuple(self._log)

    def addListener(self, listener: Callable[[str], None]) -> Callable[[], None]:
        """Call a function with the name of whatever changes; returns a function that removes it again."""
        self._listeners.append(listener)

        def remove() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return remove

    def tell(self, event: str) -> None:
        """Tell the listeners that something has changed."""
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except Exception:  # one listener's fault must not stop a run half-way
                _logger.exception("A listener failed on %s", event)

    # --- requests ---

    def start(self) -> None:
        """Start the worker if it is not there.

        Raises:
            WorkerError: It cannot be started.
        """
        if not self.client.running:
            self._forget()
            self.client.start()

    def begin(self, run: Run) -> None:
        """Send the request of a run; the worker has been started.

        Raises:
            InputError: Another run is going on.
            WorkerError: The worker is gone.
        """
        if self.busy:
            raise InputError(_("A run is going on; cancel it or wait for its end."))
        self.client.send(run.request)
        self.run = run
        self.lastError, self.lastOutcome = None, ""
        stage = "load" if self.greeted else "start"
        self._set(State.RUNNING if self.greeted else State.STARTING, run.meter.at(stage))

    def ask(self, request: Any, kind: str, take: Callable[[Any], None]) -> None:
        """Send a request that goes beside the run; an answer to an earlier one of its kind is ignored.

        Raises:
            WorkerError: The worker is gone.
        """
        self.client.send(request)
        self._asked = {key: entry for key, entry in self._asked.items() if entry[0] != kind}
        self._asked[request.id] = (kind, take)

    def cancel(self, reason: str | None = None) -> None:
        """Stop the run; a worker that does not listen is ended.

        Args:
            reason: A sentence where it is not the user who asks for it.
        """
        run = self.run
        if run is None or self.state is State.CANCELLING:
            return
        run.reason = reason
        self._set(State.CANCELLING, Activity("stop"))
        try:
            self.client.send(protocol.Cancel(newId(), run.request.id))
        except WorkerError:
            self._finish("cancelled")
            return

        def unlessEnded(action: Callable[[], None]) -> Callable[[], None]:
            def act() -> None:
                if self.run is run:
                    action()

            return act

        self.later(_TERMINATE_MS, unlessEnded(self.client.terminate))
        self.later(_KILL_MS, unlessEnded(self.client.kill))

    def later(self, milliseconds: int, function: Callable[[], None]) -> None:
        """Call a function once, after some time."""
        if self._later is None:
            import qt

            self._later = qt.QTimer.singleShot
        self._later(milliseconds, function)

    def wait(self, seconds: float | None = None) -> None:
        """Wait until nothing is going on, for scripts.

        Raises:
            WorkerError: It took longer than `seconds`.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        while self.busy or self._asked:
            if deadline is not None and time.monotonic() > deadline:
                raise WorkerError(_("The worker has not answered within {n:g} s.").format(n=seconds))
            self.client.poll(0.05)

    def stop(self) -> None:
        """End the worker."""
        self.run = None
        self._forget()
        if self._client is not None:
            self._client.stop()
        if self.busy:
            self._set(State.IDLE, None)

    def discard(self, payload: Any) -> None:
        """Delete the files of a result that nobody wants."""
        if self.exchange is not None:
            self.exchange.delete(*filesOf(payload))

    # --- what the worker says ---

    def _attach(self, client: Any) -> None:
        client.onEvent, client.onLost, client.onLog = self._onEvent, self._onLost, self.note

    def note(self, line: str) -> None:
        """Add a line to the log."""
        self._log.append(line)
        self.tell("log")

    def _forget(self) -> None:
        self.greeted = False
        self._asked.clear()
        self.onForgotten()

    def _onLost(self, sentence: str) -> None:
        """The worker is gone; nothing in the scene is lost, and the next run starts a new one."""
        self._forget()
        self.note(sentence)
        if self.run is None:
            self.tell("state")
        elif self.state is State.CANCELLING:
            self._finish("cancelled")
        else:
            remedy = _("Nothing in the scene has changed. Try again: a new worker is started then.")
            self._finish("failed", WorkerError(sentence, remedy=remedy))

    def _onEvent(self, event: protocol.Event) -> None:
        run = self.run
        if isinstance(event, protocol.Hello):
            self._onHello(event)
        elif run is not None and event.id == run.request.id:
            if isinstance(event, protocol.Progress):
                if self.state is not State.CANCELLING:
                    self._set(State.RUNNING, run.meter.at(event.stage, event.done, event.total))
            else:
                self._onEnd(run, event)
        elif event.id in self._asked and not isinstance(event, protocol.Progress):
            self._onAnswer(event, *self._asked.pop(event.id))
        elif isinstance(event, protocol.Failed):
            self.note(event.message)
        elif isinstance(event, protocol.Result):
            self.discard(event.payload)

    def _onHello(self, hello: protocol.Hello) -> None:
        self.note(f"DIANet {hello.version}, worker {hello.pid}, Python {hello.python}")
        try:
            check_hello(hello)
        except WorkerError as error:
            self.client.kill()
            self._forget()
            if self.run is not None:
                self._finish("failed", error)
            return
        self.greeted = True
        if self.state is State.STARTING and self.run is not None:
            self._set(State.RUNNING, self.run.meter.at("load"))
        else:
            self.tell("state")

    def _onEnd(self, run: Run, event: protocol.Result | protocol.Failed | protocol.Cancelled) -> None:
        if isinstance(event, protocol.Failed):
            self._finish("failed", errorOf(event))
        elif isinstance(event, protocol.Cancelled):
            self._finish("cancelled")
        elif self.state is State.CANCELLING:
            # It was done before it heard of the cancellation, and the user wants nothing to change.
            self.discard(event.payload)
            self._finish("cancelled")
        else:
            self._take(run, event.payload)

    def _take(self, run: Run, payload: Any) -> None:
        self._set(State.RUNNING, run.meter.at("show"))
        try:
            run.take(payload)
        except DIANetError as error:
            self._finish("failed", error)
        except Exception as error:
            _logger.exception("The result could not be shown")
            message = _("The result could not be put into the scene: {reason}.").format(reason=error)
            remedy = _("Open Set-up and log, click Copy report, and report this with what it says.")
            self._finish("failed", WorkerError(message, remedy=remedy))
        else:
            self._finish("done")

    def _onAnswer(
        self,
        event: protocol.Result | protocol.Failed | protocol.Cancelled,
        kind: str,
        take: Callable[[Any], None],
    ) -> None:
        if isinstance(event, protocol.Result):
            take(event.payload)
        elif isinstance(event, protocol.Failed):
            error = errorOf(event)
            self.note(str(error))
            if kind != "estimate":  # an estimate is a courtesy: the run itself will say what is wrong
                self.lastError = error
                self.tell("error")

    # --- state ---

    def _finish(self, outcome: str, error: DIANetError | None = None) -> None:
        run = self.run
        assert run is not None
        self.run = None
        if self.exchange is not None:
            self.exchange.delete(*run.files)
        if outcome == "cancelled" and run.reason is not None:
            outcome, error = "failed", InputError(run.reason)
        self.lastOutcome, self.lastError = outcome, error
        self._set(State.IDLE, None)
        if error is not None:
            self.note(str(error))
            self.tell("error")
        if outcome == "done":
            self.tell(run.event)

    def _set(self, state: State, activity: Activity | None) -> None:
        changed = state is not self.state
        self.state, self.activity = state, activity
        if changed:
            self.tell("state")
        self.tell("activity")


def newId() -> str:
    """An id for a request."""
    return uuid.uuid4().hex
