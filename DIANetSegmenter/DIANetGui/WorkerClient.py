# SPDX-License-Identifier: Apache-2.0
"""The worker as a process of Qt's, whose output comes through the event loop: nothing here blocks the views.

The worker needs torch, so it runs in a Python of its own: Slicer's `PythonSlicer`, unless the environment
variable DIANET_PYTHON or the setting `DIANet/Python` names another.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import qt
import slicer

from DIANetLib.errors import WorkerError
from DIANetLib.worker.connection import Connection, lost_sentence, worker_command
from DIANetLib.worker.exchange import Exchange
from DIANetLib.worker.processes import kill_tree
from DIANetLib.worker.protocol import Event, Request, Shutdown

from .Translate import tr as _

__all__ = ["PYTHON_SETTING", "PYTHON_VARIABLE", "WorkerClient", "chosenPython", "workerPython"]

PYTHON_VARIABLE = "DIANET_PYTHON"
PYTHON_SETTING = "DIANet/Python"

_START_MS = 10_000
_STOP_MS, _TERMINATE_MS, _KILL_MS = 2000, 1000, 2000
_LAST_LINES = 20


def chosenPython() -> str:
    """The interpreter that the user has named; empty where it is Slicer's own."""
    return os.environ.get(PYTHON_VARIABLE, "") or slicer.util.settingsValue(PYTHON_SETTING, "", str)


def workerPython() -> str:
    """The interpreter that the worker runs in.

    Raises:
        WorkerError: There is none.
    """
    chosen = chosenPython()
    if chosen:
        found = shutil.which(chosen)
        if found is None:
            raise WorkerError(
                _("The Python that was chosen for the worker, {path}, is no program.").format(path=chosen),
                remedy=_("Correct or clear the variable {variable} or the setting {setting}.").format(
                    variable=PYTHON_VARIABLE, setting=PYTHON_SETTING
                ),
            )
        return found
    suffix = ".exe" if os.name == "nt" else ""
    binaries = Path(slicer.app.slicerHome) / "bin"
    # python-real is what PythonSlicer starts; it finds its libraries through the application's environment.
    places = (str(binaries / f"PythonSlicer{suffix}"), str(binaries / f"python-real{suffix}"))
    for place in ("PythonSlicer", *places):
        found = shutil.which(place)
        if found is not None:
            return found
    raise WorkerError(
        _("Slicer's own Python was not found beside it, in {folder}.").format(folder=binaries),
        remedy=_("Name a Python that has torch in the environment variable {variable}.").format(
            variable=PYTHON_VARIABLE
        ),
    )


class WorkerClient:
    """A worker process, spoken to through `DIANetLib.worker`'s protocol.

    Args:
        python: Interpreter; `workerPython()` by default, asked when the worker is started.
        idleMinutes: Minutes without a request after which the worker lets go of its models.

    Attributes:
        exchange: The session's folder for volumes; there from `start` to `stop`.
        onEvent: Called with every event.
        onLost: Called with a sentence when the process has ended, but not by `stop`.
        onLog: Called with each line of its log.
    """

    def __init__(self, python: str | None = None, *, idleMinutes: float = 10) -> None:
        self.exchange: Exchange | None = None
        self.onEvent: Callable[[Event], None] = lambda _event: None
        self.onLost: Callable[[str], None] = lambda _sentence: None
        self.onLog: Callable[[str], None] = lambda _line: None
        self._python = python
        self._idleMinutes = idleMinutes
        self._process = None
        self._connection = Connection()
        self._errorRest = b""
        self._lastLines: deque[str] = deque(maxlen=_LAST_LINES)

    @property
    def running(self) -> bool:
        """Whether the process is alive; one that is still starting is."""
        return self._process is not None and self._process.state() != qt.QProcess.NotRunning

    def start(self) -> None:
        """Start the process, unless it runs.

        Raises:
            WorkerError: It cannot be started.
            OutputError: There is no place for its exchange folder.
        """
        if self.running:
            return
        python = self._python or workerPython()
        self._dropProcess()
        self._closeExchange()
        self._connection = Connection(lambda text: self.onLog(text))
        self._errorRest = b""
        self._lastLines.clear()
        self.exchange = Exchange.create()
        program, *arguments = worker_command(python, self.exchange.folder, idle_minutes=self._idleMinutes)
        # With a parent it belongs to Qt: Python must not delete it in the middle of one of its signals.
        process = qt.QProcess(slicer.app)
        self._process = process
        process.connect("readyReadStandardOutput()", self._onOutput)
        process.connect("readyReadStandardError()", self._onErrorOutput)
        process.connect("finished(int,QProcess::ExitStatus)", self._onFinished)
        if python == self._python or chosenPython():
            # Slicer's libraries and paths are not for another Python.
            process.setProcessEnvironment(slicer.app.startupEnvironment())
        process.start(program, arguments)
        if not process.waitForStarted(_START_MS):
            reason = process.errorString()
            self._dropProcess()
            self._closeExchange()
            raise WorkerError(
                _("The worker could not be started with {python}: {reason}.").format(
                    python=python, reason=reason
                ),
                remedy=_("Check that this is a Python interpreter."),
            )

    def send(self, request: Request) -> None:
        """Hand a request to the worker.

        Raises:
            WorkerError: It does not run.
        """
        if not self.running:
            raise WorkerError(_("The worker does not run."))
        data = self._connection.request(request)
        # A bytes object goes to write(QByteArray), with its length; a str would end at a null character.
        if self._process.write(qt.QByteArray(data)) != len(data):
            raise WorkerError(
                _("The request could not be handed to the worker: {reason}.").format(
                    reason=self._process.errorString()
                )
            )

    def terminate(self) -> None:
        """Ask the process to end."""
        if self.running:
            self._process.terminate()

    def kill(self) -> None:
        """End the process and those that it has started, at once."""
        if self.running:
            # PythonSlicer is a launcher: the interpreter is its child.
            kill_tree(int(self._process.processId()))
            self._process.kill()

    def stop(self) -> None:
        """End the worker in order, or by force where that takes long, and remove the exchange folder."""
        process = self._process
        if process is not None:
            self._silence(process)
            if self.running:
                with contextlib.suppress(WorkerError):
                    self.send(Shutdown("shutdown"))
                process.closeWriteChannel()
                for end, milliseconds in (
                    (lambda: None, _STOP_MS),
                    (process.terminate, _TERMINATE_MS),
                    (self.kill, _KILL_MS),
                ):
                    end()
                    if process.waitForFinished(milliseconds) or not self.running:
                        break
        self._dropProcess()
        self._closeExchange()

    def poll(self, seconds: float) -> None:
        """Let Qt deliver what has come, for about that long."""
        until = time.monotonic() + seconds
        while True:
            slicer.app.processEvents()
            if time.monotonic() >= until:
                return
            time.sleep(min(0.01, max(0.0, until - time.monotonic())))

    # --- what Qt says ---

    def _onOutput(self) -> None:
        process = self._process
        if process is not None:
            for event in self._connection.feed(_bytesOf(process.readAllStandardOutput())):
                self.onEvent(event)

    def _onErrorOutput(self) -> None:
        if self._process is not None:
            *lines, self._errorRest = (
                self._errorRest + _bytesOf(self._process.readAllStandardError())
            ).split(b"\n")
            for line in lines:
                self._log(line)

    def _onFinished(self, code: int, status: int) -> None:
        process = self._process
        if process is None:
            return
        self._onOutput()  # what came last may not have been announced
        self._onErrorOutput()
        self._log(self._errorRest)
        self._errorRest = b""
        if self._process is not process:  # an answer just taken has made its owner stop or start anew
            return
        self._dropProcess()
        crashed = int(status) == int(qt.QProcess.CrashExit)
        signalled = int(code) if crashed and sys.platform != "win32" else None
        self.onLost(
            lost_sentence(None if crashed else int(code), tuple(self._lastLines), signalled=signalled)
        )

    def _log(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip()
        if text:
            self._lastLines.append(text)
            self.onLog(text)

    # --- the ends of things ---

    def _silence(self, process) -> None:
        process.disconnect("readyReadStandardOutput()", self._onOutput)
        process.disconnect("readyReadStandardError()", self._onErrorOutput)
        process.disconnect("finished(int,QProcess::ExitStatus)", self._onFinished)

    def _dropProcess(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.deleteLater()

    def _closeExchange(self) -> None:
        if self.exchange is not None:
            self.exchange.close()
            self.exchange = None


def _bytesOf(data) -> bytes:
    """The bytes of a QByteArray."""
    return bytes(data.data())
