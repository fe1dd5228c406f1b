# SPDX-License-Identifier: Apache-2.0
"""Arguments and call of `python -m training one-pass`, and what it prints."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.arguments import configured, count, positive

_STORE_HELP = "put the head into the model folder: a small file, metadata and card change, the weights do not"
_TEACHER_HELP = "samples whose maps the head is fitted to, 2 or more (default: 10)"
_COPIES_HELP = "fit to a corrupted copy of the first N fitted cases too (default: 0)"


def add_one_pass_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `one-pass`, beside those of every command on a data set."""
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="DIR", help="the model folder; --output is any folder")
    add("--store", action="store_true", help=_STORE_HELP)
    add("--samples", type=count, default=10, metavar="T", help="samples to compare with (default: 10)")
    add("--teacher", type=count, default=10, metavar="T", help=_TEACHER_HELP)
    add("--corrupted", type=count, default=0, metavar="N", help=_COPIES_HELP)
    add("--channels", type=positive, default=16, metavar="N", help="of the head (default: 16)")
    add("--depth", type=count, default=2, metavar="N", help="convolutions of the head (default: 2)")
    add("--epochs", type=positive, default=20, metavar="N", help="blocks of each case (default: 20)")
    add("--seed", type=count, default=0, metavar="N", help="of samples, corruptions and head (default: 0)")
    add("--no-quality", action="store_true", help="leave out the Dice to be expected of one pass")
    add("--inner", type=count, metavar="N", help="corrupt only the first N inner cases (default: all)")
    add("--held-out", type=count, metavar="N", help="corrupt only the first N held-out cases (default: all)")


def one_pass_command(options: argparse.Namespace) -> None:
    """Fit a head that tells from one pass what samples would, and judge it."""
    from training.data_folder import data_folder
    from training.distributed import single_device
    from training.one_pass import FOLDER, HEAD, OnePassRequest, one_pass
    from training.one_pass_fit import HeadSettings
    from training.one_pass_quality import QualityPart
    from training.one_pass_store import store_one_pass

    config = configured(options)
    summary = one_pass(
        OnePassRequest(
            config=config,
            data=data_folder(config.data, options.data, download=False),
            model=options.model,
            output=options.output,
            device=single_device(options.device),
            head=HeadSettings(
                channels=options.channels, depth=options.depth, epochs=options.epochs, seed=options.seed
            ),
            samples=options.samples,
            teacher=options.teacher,
            corrupted=options.corrupted,
            seed=options.seed,
            quality=None
            if options.no_quality
            else QualityPart(options.inner, options.held_out, options.seed),
            command=options.command_line,
        )
    )
    print("\n".join(one_pass_lines(summary)))
    if options.store:
        store_one_pass(options.model, summary, options.output / FOLDER / HEAD)
        print(f"stored in: {options.model}")
    print(f"written: {options.output / FOLDER}")


def one_pass_lines(summary: Mapping[str, Any]) -> list[str]:
    """What a summary says, a line per figure."""
    lines = []
    for part, title in (("inner", "inner"), ("held_out", "held out")):
        lines.append(f"{title}, {len(summary[part])} cases")
        for name, found in summary["figures"][part].items():
            interval = found["interval_95"]
            ends = "" if interval is None else f"  [{interval[0]:+.4f}, {interval[1]:+.4f}]"
            lines.append(f"  {name:36} {found['mean']:8.4f}{ends}")
    if summary["quality"] is not None:
        from training.quality_command import quality_lines

        lines += ["expected Dice of one pass", *quality_lines(summary["quality"])]
    return lines
