# SPDX-License-Identifier: Apache-2.0
"""The command `dianet view`."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["add_view"]


def add_view(parser: argparse.ArgumentParser) -> None:
    """The arguments of `dianet view`."""
    parser.add_argument("directory", type=Path, metavar="DIR", help="an output folder of `dianet segment`")
    parser.add_argument(
        "--image", type=Path, help="where the segmented image is now; default: where it was read from"
    )
    parser.add_argument(
        "--reviewer", default="", metavar="NAME", help="noted with each region that you judge"
    )
    parser.add_argument(
        "--port", type=int, default=0, help="port on the loopback address; default: any free one"
    )
    parser.add_argument("--browser", action="store_true", help="also open it in the browser")
    parser.set_defaults(run=_view)


def _view(options: argparse.Namespace) -> int:
    from DIANetLib.viewer.serve import view

    view(
        options.directory,
        port=options.port,
        image=options.image,
        reviewer=options.reviewer,
        browser=options.browser,
        debug=options.debug,
        say=lambda line: print(line, flush=True),
    )
    return 0
