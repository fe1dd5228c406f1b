# SPDX-License-Identifier: Apache-2.0
"""A client's end of the protocol without any transport: bytes in, events out; requests in, bytes out.

Whatever starts the worker (`subprocess`, Qt's `QProcess`) feeds this with what comes from its standard
output. Standard library only.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from DIANetLib import __version__, errors
from DIANetLib.errors import DIANetError, WorkerError
from DIANetLib.worker.codec import decode_event, encode
from DIANetLib.worker.protocol import PROTOCOL_VERSION, RECORD_SEPARATOR, Event, Failed, Hello, Request

__all__ = ["Connection", "check_hello", "error_of", "lost_sentence", "worker_command"]

_SEPARATOR = RECORD_SEPARATOR.encode()
_LONGEST_NOISE = 1 << 16
_LONGEST_LAST_WORDS = 300

# The package is loaded from its own folder, neither through a path that another DIANet may come first on, nor
# by putting a folder before the standard library. `-c` puts the current folder there, which is taken out.
_BOOTSTRAP = """
import importlib.util, sys
sys.path[:] = [p for p in sys.path if p]
spec = importlib.util.spec_from_file_location("DIANetLib", sys.argv.pop(1))
sys.modules["DIANetLib"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from DIANetLib.worker.__main__ import main
main()
"""


def worker_command(python: str | Path, exchange: Path, *, idle_minutes: float = 10) -> list[str]:
    """Program and arguments that start a worker with this very library.

    Args:
        python: The interpreter, in whose environment torch is installed.
        exchange: Folder of the session's `Exchange`.
        idle_minutes: Minutes without a request after which the worker lets go of its models.
    """
    package = Path(__file__).resolve().parent.parent / "__init__.py"
    arguments = ["--exchange", str(exchange), "--idle-minutes", f"{idle_minutes:g}"]
    return [str(python), "-c", _BOOTSTRAP, str(package), *arguments]


class Connection:
    """Splits what a worker writes to its standard output into events and noise.

    Args:
        on_noise: Called with text that is no event: what something else has printed there.
    """

    def __init__(self, on_noise: Callable[[str], None] | None = None) -> None:
        self._on_noise = on_noise or (lambda _: None)
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Event]:
        """Take bytes as they came, cut anywhere; returns the events that are complete with them."""
        searched = len(self._rest)
        self._rest += data
        if self._rest.find(b"\n", searched) < 0:
            # A message may be long, noise without a line's end must not pile up.
            if len(self._rest) > _LONGEST_NOISE and _SEPARATOR not in self._rest:
                self._noise(self.close())
            return []
        *lines, last = bytes(self._rest).split(b"\n")
        self._rest = bytearray(last)
        return [event for line in lines if (event := self._event(line)) is not None]

    def request(self, request: Request) -> bytes:
        """The line to write to the worker's standard input.

        Raises:
            ValueError: A number in it is not finite.
        """
        return encode(request).encode() + b"\n"

    def close(self) -> bytes:
        """Forget and return what came without a line's end: the process has ended in the middle of it."""
        rest = bytes(self._rest)
        self._rest.clear()
        return rest

    def _event(self, line: bytes) -> Event | None:
        # What was printed without a line's end stands before the message, in the same line.
        noise, separator, message = line.rpartition(_SEPARATOR)
        if not separator:
            noise, message = line, b""
        self._noise(noise)
        if not message:
            return None
        try:
            return decode_event(message.decode("utf-8", "replace"))
        except WorkerError:
            self._noise(message)
            return None

    def _noise(self, data: bytes) -> None:
        text = data.decode("utf-8", "replace").strip()
        if text:
            self._on_noise(text)


def check_hello(hello: Hello) -> None:
    """Make sure that a worker speaks this version of the protocol.

    Raises:
        WorkerError: It does not.
    """
    if hello.protocol != PROTOCOL_VERSION:
        raise WorkerError(
            f"The worker is DIANet {hello.version} and speaks version {hello.protocol} of the protocol, this"
            f" is DIANet {__version__}, which speaks version {PROTOCOL_VERSION}.",
            remedy="Install the same version of DIANet in both places.",
        )


def error_of(failed: Failed) -> DIANetError:
    """The exception that a `Failed` stands for, of the class that its kind names."""
    classes = {cls.kind: cls for cls in vars(errors).values() if _is_error(cls)}
    return classes.get(failed.kind, WorkerError)(failed.message, remedy=failed.remedy)


def lost_sentence(code: int | None, lines: Sequence[str] = (), *, signalled: int | None = None) -> str:
    """Say how a worker has ended without being asked to.

    Args:
        code: Its exit code; negative for the signal that ended it, as `subprocess` has it.
        lines: The last ones of its standard error.
        signalled: The signal that ended it, where known otherwise.
    """
    number = signalled if signalled is not None else -code if code is not None and code < 0 else None
    if number is not None:
        try:
            how = f"was ended by {signal.Signals(number).name}"
        except ValueError:
            how = f"was ended by signal {number}"
        if os.name == "posix" and number == signal.SIGKILL:
            how += ", which is also what happens when memory runs out"
    elif code is None:
        how = "crashed"
    else:
        how = f"ended with exit code {code}"
    said = " ".join(line.strip() for line in lines[-3:] if line.strip())
    if len(said) > _LONGEST_LAST_WORDS:  # a crash dump names every extension module in one line
        said = f"{said[:_LONGEST_LAST_WORDS]} …"
    return f"The worker process {how}.{f' Its last words: {said}' if said else ''}"


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, DIANetError)
