# SPDX-License-Identifier: Apache-2.0
"""Arguments and call of `python -m training compare`, and what it prints."""

from __future__ import annotations

import argparse
from pathlib import Path

from training.arguments import configured, count


def add_compare(parser: argparse.ArgumentParser) -> None:
    """The arguments of `compare`, beside those of every command on a data set."""
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="DIR", help="the model folder; --output is any folder")
    add("--snapshots", type=Path, nargs="+", default=[], metavar="DIR", help=_SNAPSHOTS_HELP)
    add("--methods", nargs="+", metavar="NAME", help="some only (default: all); a wrong name lists them")
    add("--seed", type=count, default=0, metavar="N", help="of samples and bootstrap (default: 0)")
    add("--rounds", type=count, default=3, metavar="N", help="of measuring the cost (default: 3; 0: not)")
    add("--limit", type=count, metavar="N", help="only the first N held-out cases, for a quick look")


def compare_command(options: argparse.Namespace) -> None:
    """Put methods of uncertainty beside each other."""
    from training.compare import FOLDER, CompareRequest, compare_methods
    from training.compare_report import report
    from training.data_folder import data_folder

    config = configured(options)
    summary = compare_methods(
        CompareRequest(
            config=config,
            data=data_folder(config.data, options.data, download=False),
            output=options.output,
            model=options.model,
            snapshots=tuple(options.snapshots),
            methods=None if options.methods is None else tuple(options.methods),
            seed=options.seed,
            rounds=options.rounds,
            limit=options.limit,
            command=options.command_line,
        )
    )
    print("\n".join(report(summary)))
    print(f"written: {options.output / FOLDER}")


_SNAPSHOTS_HELP = "--output of fits that go on from the model (`fit --from`), one per end of a cyclic rate"
