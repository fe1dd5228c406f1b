# SPDX-License-Identifier: Apache-2.0
"""Arguments and call of `python -m training quality`, and what it prints."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.arguments import configured, count
from training.card_quality import SERIES_FIGURES

_MODEL_HELP = "a model folder in place of a fit; --output is then any folder"
_STORE_HELP = "put the estimate into the model folder: metadata and card change, the weights do not"


def add_quality(parser: argparse.ArgumentParser) -> None:
    """The arguments of `quality`, beside those of every command on a data set."""
    add = parser.add_argument
    add("--model", type=Path, metavar="DIR", help=_MODEL_HELP)
    add("--store", action="store_true", help=_STORE_HELP)
    add("--samples", type=count, default=10, metavar="T", help="stochastic passes, 2 or more (default: 10)")
    add("--seed", type=count, default=0, metavar="N", help="of samples and corruptions (default: 0)")
    add("--inner", type=count, metavar="N", help="corrupt only the first N inner cases (default: all)")
    add("--middle", action="store_true", help="only the middle level of each kind of corruption")
    add("--held-out", type=count, metavar="N", help="corrupt only the first N held-out cases (default: all)")


def quality_command(options: argparse.Namespace) -> None:
    """Fit the Dice to be expected without a reference, and judge it."""
    from DIANetLib.errors import InputError
    from training.data_folder import data_folder
    from training.distributed import single_device
    from training.quality import FOLDER, QualityRequest, quality
    from training.quality_store import store_quality

    if options.store and options.model is None:
        raise InputError(
            "--store puts an estimate into the folder that --model names, and there is none.",
            remedy="Give --model, or run `python -m training export`, which takes a fit's estimate along.",
        )
    config = configured(options)
    summary = quality(
        QualityRequest(
            config=config,
            data=data_folder(config.data, options.data, download=False),
            output=options.output,
            device=single_device(options.device),
            model=options.model,
            fold=options.fold,
            samples=options.samples,
            seed=options.seed,
            inner=options.inner,
            held_out=options.held_out,
            middle=options.middle,
            command=options.command_line,
        )
    )
    print("\n".join(quality_lines(summary)))
    if options.store:
        store_quality(options.model, summary)
        print(f"stored in: {options.model}")
    print(f"written: {options.output / FOLDER}")


def quality_lines(summary: Mapping[str, Any]) -> list[str]:
    """What a summary says, a line each: judged on inner cases left out, and on held-out ones."""
    lines = [
        f"{'':38} {'n':>5} {'Dice':>6} {'exp.':>6} {'error':>6} {'Spearman':>8} {'cover':>6} {'width':>6}"
    ]
    for title, key in (
        ("inner, cross-validated", "inner_cross_validated"),
        ("held out", "held_out_judged"),
    ):
        judged = summary[key]
        for name, part in (("as they are", "in_distribution"), ("and corrupted", "series")):
            lines.append(_line(f"{title}, {name}", judged[part]["all"]))
            lines += [_line(f"  {key}", found) for key, found in judged[part]["structures"].items()]
        lines += [_line(f"  {kind}", found) for kind, found in judged["kinds"].items()]
        told = (f"{name.replace('_', ' ')} {_figure(judged['series'][name])}" for name in SERIES_FIGURES)
        lines.append(f"  {title}, series: {', '.join(told)}")
    missed = summary["not_found"]
    lines.append(f"not found: {missed['inner']} of inner runs, {missed['held_out']} of held-out runs")
    return lines


def _line(name: str, part: Mapping[str, Any] | None) -> str:
    if part is None:
        return f"{name:38}     0"
    return (
        f"{name:38} {part['rows']:5d} {part['dice']:6.3f} {part['expected']:6.3f} {part['error']:6.3f}"
        f" {_figure(part['spearman']):>8} {part['coverage']:6.3f} {part['width']:6.3f}"
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
