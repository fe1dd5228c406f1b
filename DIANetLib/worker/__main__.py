# SPDX-License-Identifier: Apache-2.0
"""`python -m DIANetLib.worker --exchange DIR`: the worker process; see docs/worker.md.

Nothing but the protocol goes to standard output: whatever else prints there ends up in the log, which is
standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from DIANetLib.errors import DIANetError

__all__ = ["DESCRIPTION", "add_arguments", "main", "serve"]

DESCRIPTION = (
    "Keep models warm for a program such as 3D Slicer, which starts this and speaks JSON lines with it over"
    " standard input and output (docs/worker.md). Not meant to be typed by people."
)

#: A process that is being killed closes its pipes a little before it is gone.
_DYING_S = 1.0


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a worker; ends the process."""
    parser = argparse.ArgumentParser(prog="python -m DIANetLib.worker", description=DESCRIPTION)
    add_arguments(parser)
    options = parser.parse_args(arguments)
    serve(options.exchange, idle_minutes=options.idle_minutes)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the worker's options."""
    parser.add_argument(
        "--exchange", required=True, type=Path, metavar="DIR", help="folder that volumes are handed over in"
    )
    parser.add_argument(
        "--idle-minutes",
        type=float,
        default=10.0,
        metavar="N",
        help="let go of the models after this long without a request (default: 10)",
    )


def serve(folder: Path, *, idle_minutes: float = 10.0) -> NoReturn:
    """Serve the client at standard input and output, then end the process.

    Args:
        folder: The exchange folder.
        idle_minutes: Minutes without a request after which models are let go of.
    """
    requests, events = _take_over_streams()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s: %(message)s")
    from DIANetLib.worker.answers import Answers
    from DIANetLib.worker.exchange import Exchange, owner_is_gone
    from DIANetLib.worker.server import Server
    from DIANetLib.worker.session import Session

    try:
        exchange = Exchange.open(folder)
    except DIANetError as error:
        print(f"dianet: error: {error}", file=sys.stderr, flush=True)
        os._exit(2)

    def leave(code: int) -> NoReturn:
        if owner_is_gone(folder):
            exchange.close()
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        # At once: threads of libraries, and one that waits for standard input, would hold up an orderly exit.
        os._exit(code)

    server = Server(
        Answers(exchange, Session(), rest_s=60.0 * idle_minutes),
        requests=requests,
        events=events,
        client_gone=lambda: owner_is_gone(folder),
        give_up=lambda: leave(1),
    )
    signal.signal(signal.SIGTERM, lambda *_: server.end())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the client
    server.run()
    until = time.monotonic() + _DYING_S
    while server.hung_up and not owner_is_gone(folder) and time.monotonic() < until:
        time.sleep(0.05)
    leave(0)


def _take_over_streams() -> tuple[int, int]:
    """Keep standard input and output for the protocol; returns their private copies.

    What reads standard input from now on finds it empty, what prints ends up in the log. On Windows, loading
    a library would else wait for a thread that reads standard input.
    """
    requests, events = os.dup(0), os.dup(1)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    try:
        os.dup2(2, 1)
    except OSError:  # there is no standard error
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    if hasattr(sys.stderr, "reconfigure"):
        sys.stderr.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
    sys.stdout = sys.stderr
    with contextlib.suppress(OSError, ValueError):
        faulthandler.enable()
    return requests, events


if __name__ == "__main__":
    main()
