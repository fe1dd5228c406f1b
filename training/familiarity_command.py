# SPDX-License-Identifier: Apache-2.0
"""Arguments and call of `python -m training familiarity`."""

from __future__ import annotations

import argparse
from pathlib import Path

from training.arguments import configured, count

_STORE_HELP = "put it into the model folder: a file, metadata and card change, the weights do not"
_OUTLIERS_HELP = "file that lists images of other kinds, see training/outliers"


def add_familiarity(parser: argparse.ArgumentParser) -> None:
    """The arguments of `familiarity`, beside those of every command on a data set."""
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="DIR", help="the model folder")
    add("--store", action="store_true", help=_STORE_HELP)
    add("--outliers", type=Path, metavar="FILE", help=_OUTLIERS_HELP)
    add("--outlier-data", type=Path, default=Path(), metavar="DIR", help="folder that its paths start from")
    add("--samples", type=count, default=4, metavar="T", help="of the runs that are judged (default: 4)")
    add("--seed", type=count, default=0, metavar="N", help="of samples and corruptions (default: 0)")
    add("--inner", type=count, metavar="N", help="corrupt only the first N inner cases (default: all)")
    add("--held-out", type=count, metavar="N", help="corrupt only the first N held-out cases (default: all)")


def familiarity_command(options: argparse.Namespace) -> None:
    """Learn what a model's own images look like to it, and judge that."""
    from training.data_folder import data_folder
    from training.distributed import single_device
    from training.familiarity import FOLDER, FamiliarityRequest, familiarity
    from training.familiarity_judge import familiarity_lines
    from training.familiarity_store import store_familiarity

    config = configured(options)
    model, summary = familiarity(
        FamiliarityRequest(
            config=config,
            data=data_folder(config.data, options.data, download=False),
            output=options.output,
            model=options.model,
            device=single_device(options.device),
            fold=options.fold,
            samples=options.samples,
            seed=options.seed,
            inner=options.inner,
            held_out=options.held_out,
            outliers=options.outliers,
            outlier_data=options.outlier_data,
            command=options.command_line,
        )
    )
    print("\n".join(familiarity_lines(summary)))
    if options.store:
        store_familiarity(options.model, model, summary)
        print(f"stored in: {options.model}")
    print(f"written: {options.output / FOLDER}")
