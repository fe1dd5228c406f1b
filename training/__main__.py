# SPDX-License-Identifier: Apache-2.0
"""`python -m training COMMAND ...`; `--help` behind a command says what it needs.

Exit status: 0 done; 2 for an error, which is one sentence on standard error; 130 when stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from DIANetLib.errors import Cancelled, DIANetError, optional_import
from training.arguments import configured, count, parse_setting, positive
from training.compare_command import add_compare, compare_command
from training.explanation_command import add_explanations, explanations_command
from training.familiarity_command import add_familiarity, familiarity_command
from training.finetune_command import add_finetune, add_learning_loop, finetune, learning_loop
from training.one_pass_command import add_one_pass_arguments, one_pass_command
from training.quality_command import add_quality, quality_command

__all__ = ["main", "parse_setting"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    options.command_line = "python -m training " + shlex.join(given)
    try:
        if options.threads:
            import torch

            torch.set_num_threads(options.threads)
        _RUN[options.command](options)
    except (KeyboardInterrupt, Cancelled) as error:
        print(str(error) or "stopped", file=sys.stderr)
        return 130
    except DIANetError as error:
        print(f"training: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _fit(options: argparse.Namespace) -> None:
    optional_import("tqdm", feature="fitting", extra="train", version=">=4.66")
    from training.fit import run_fit

    run_fit(
        configured(options),
        options.data,
        options.output,
        device=options.device,
        fold=options.fold or 0,
        workers=options.workers,
        restart=options.restart,
        start_from=options.start_from,
        command=options.command_line,
    )


def _evaluate(options: argparse.Namespace) -> None:
    from training.config import load_config
    from training.data_folder import data_folder
    from training.distributed import single_device
    from training.evaluate import evaluate
    from training.printed import print_summary

    config, other = configured(options), options.elsewhere
    summary = evaluate(
        config,
        data_folder(config.data, options.data, download=False),
        options.output,
        device=single_device(options.device),
        fold=options.fold,
        weights=options.weights,
        samples=options.samples,
        seed=options.seed,
        limit=options.limit,
        subsets=options.subsets,
        elsewhere=None if other is None else (load_config(other[0]), other[1]),
        against=options.against,
        pictures=options.pictures,
        command=options.command_line,
    )
    print_summary(summary)
    print(f"written: {options.output / summary['folder']}")


def _pool(options: argparse.Namespace) -> None:
    from training.pool import pool
    from training.printed import print_summary

    summary = pool(
        configured(options),
        options.folders,
        options.output,
        against=options.against,
        command=options.command_line,
    )
    print_summary(summary)
    print(f"written: {options.output / 'evaluation'}")


def _export(options: argparse.Namespace) -> None:
    from training.data_folder import data_folder
    from training.distributed import single_device
    from training.export import export

    config = configured(options)
    bundle = export(
        config,
        data_folder(config.data, options.data, download=False),
        options.output,
        options.into or options.output / "models",
        device=single_device(options.device),
        fold=options.fold,
        check_cases=options.check_cases,
        replace=options.replace,
    )
    megabytes = sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file()) / 1e6
    print(f"written: {bundle} ({megabytes:.1f} MB)")


def _ablate(options: argparse.Namespace) -> None:
    from training.ablate_report import write_report

    if options.report_only:
        print(f"written: {write_report(options.output, options.command_line)}")
        return
    optional_import("tqdm", feature="fitting", extra="train", version=">=4.66")
    from training.ablate import Budget, ablate

    report = ablate(
        configured(options),
        options.data,
        options.output,
        Budget(options.steps, options.warm_up, options.start_from, options.seeds),
        arms=options.arms,
        device=options.device,
        fold=options.fold or 0,
        workers=options.workers,
        command=options.command_line,
    )
    print(report.read_text(encoding="utf-8"))
    print(f"written: {report}")


def _replay(options: argparse.Namespace) -> None:
    from training.data_folder import data_folder
    from training.distributed import single_device
    from training.replay import replay, replay_lines
    from training.replay_regions import ReviewSettings

    config = configured(options)
    summary = replay(
        config,
        data_folder(config.data, options.data, download=False),
        options.output,
        device=single_device(options.device),
        model=options.model,
        fits=options.fits,
        fold=options.fold,
        settings=ReviewSettings(threshold=options.threshold),
        samples=options.samples,
        seed=options.seed,
        draws=options.draws,
        limit=options.limit,
        command=options.command_line,
    )
    print("\n".join(replay_lines(summary)))
    print(f"written: {options.output / 'replay'}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training", description="Fit, evaluate, export and correct models."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    add = common.add_argument
    add("config", metavar="CONFIG", type=Path, help="YAML file, see training/configs")
    add("--data", type=Path, required=True, metavar="DIR", help=_DATA_HELP)
    add("--output", type=Path, required=True, metavar="DIR", help="the fit's folder")
    add("--fold", type=count, metavar="N", help="the held-out fold (default: 0, or the fit's)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    add("--threads", type=count, metavar="N", help="CPU threads of this process")
    add("--set", nargs="+", default=[], action="extend", metavar="NAME=VALUE", help=_SET_HELP)

    add = commands.add_parser("fit", parents=[common], help="fit a model, or go on with a fit").add_argument
    add("--workers", type=count, default=0, metavar="N", help="processes that prepare patches (default: 0)")
    add("--restart", action="store_true", help="begin anew: remove the fit that is in --output")
    add("--from", type=Path, dest="start_from", metavar="DIR", help=_FROM_HELP)

    add = commands.add_parser("evaluate", parents=[common], help="measure a fit on unseen cases").add_argument
    add("--weights", choices=["latest", "best"], default="latest", help="which checkpoint (default: latest)")
    add("--samples", type=count, default=10, metavar="T", help="stochastic passes (default: 10)")
    add("--seed", type=count, default=0, metavar="N", help="of samples and bootstrap (default: 0)")
    add("--limit", type=count, metavar="N", help="only the first N cases, for a quick look")
    add("--subsets", action="store_true", help="segment with every subset of the modalities too")
    add("--elsewhere", nargs=2, type=Path, metavar=("CONFIG", "DIR"), help=_ELSEWHERE_HELP)
    add("--against", type=Path, metavar="DIR", help=_AGAINST_HELP)
    add("--pictures", type=Path, metavar="DIR", help=_PICTURES_HELP)

    pool = commands.add_parser("pool", help="put the evaluations of several folds together")
    pool.set_defaults(threads=None)
    add = pool.add_argument
    add("config", metavar="CONFIG", type=Path, help="YAML file of the fits")
    add("folders", metavar="FIT", type=Path, nargs="+", help="--output of an evaluated fit, one per fold")
    add("--output", type=Path, required=True, metavar="DIR", help="where the pooled evaluation goes")
    add("--against", type=Path, metavar="DIR", help=_AGAINST_HELP)
    add("--set", nargs="+", default=[], action="extend", metavar="NAME=VALUE", help=_SET_HELP)

    add = commands.add_parser(
        "export", parents=[common], help="write a model folder that dianet runs"
    ).add_argument
    add("--into", type=Path, metavar="DIR", help="folder of model folders (default: OUTPUT/models)")
    add("--replace", action="store_true", help="replace a model folder that is there")
    add("--check-cases", type=count, default=8, metavar="N", help=_CHECK_HELP)

    add = commands.add_parser("ablate", parents=[common], help="measure what each part adds").add_argument
    add("--steps", type=positive, metavar="N", help="steps of each arm (default: CONFIG's)")
    add("--warm-up", type=count, default=0, metavar="N", help=_WARM_UP_HELP)
    add("--from", type=Path, dest="start_from", metavar="DIR", help=_START_HELP)
    add("--arms", nargs="+", metavar="NAME", help="some arms only (default: all); a wrong name lists them")
    add("--seeds", type=positive, default=1, metavar="K", help="repetitions of each arm (default: 1)")
    add("--workers", type=count, default=0, metavar="N", help="processes that prepare patches (default: 0)")
    add("--report-only", action="store_true", help="write the report on the arms that are done")

    add = commands.add_parser(
        "replay", parents=[common], help="measure what correcting the worklist's regions brings"
    ).add_argument
    add(
        "--model",
        type=Path,
        metavar="DIR",
        help="a model folder in place of a fit; --output is then any folder",
    )
    add("--fits", type=Path, nargs="+", default=[], metavar="DIR", help="fits of several folds, put together")
    add("--samples", type=count, default=10, metavar="T", help="stochastic passes (default: 10)")
    add("--seed", type=count, default=0, metavar="N", help="of samples, draws and bootstrap (default: 0)")
    add(
        "--threshold",
        type=float,
        default=0.2,
        metavar="P",
        help="error probability that counts (default: 0.2)",
    )
    add("--draws", type=positive, default=20, metavar="N", help="draws of random regions (default: 20)")
    add("--limit", type=count, metavar="N", help="only the first N cases of each fold, for a quick look")

    add_quality(
        commands.add_parser("quality", parents=[common], help="fit the Dice to be expected of new cases")
    )
    add_one_pass_arguments(
        commands.add_parser("one-pass", parents=[common], help="fit a head that stands for samples")
    )
    add_compare(
        commands.add_parser("compare", parents=[common], help="put methods of uncertainty beside each other")
    )
    add_explanations(
        commands.add_parser("explanations", help="measure whether a model's explanations mean anything")
    )
    add_familiarity(
        commands.add_parser("familiarity", parents=[common], help="learn what a model's own images look like")
    )
    add_finetune(commands.add_parser("finetune", help="let a model learn from corrections"))
    add_learning_loop(
        commands.add_parser("learning-loop", parents=[common], help="measure what a model learns from review")
    )
    return parser


_DATA_HELP = (
    "folder with imagesTr/ and labelsTr/, or images/ and labels/; fit downloads a public release that CONFIG"
    " names into a folder that is empty or missing"
)
_SET_HELP = "settings that replace CONFIG's, such as optimiser.steps=100"
_FROM_HELP = (
    "--output of another fit, or a model folder, whose weights this one starts from; blocks that it lacks"
    " start as built"
)
_WARM_UP_HELP = "fit the plain network so many steps first, and start every arm from it (default: 0)"
_START_HELP = "--output of a fit of the plain network that every arm starts from"
_ELSEWHERE_HELP = "judge all cases of another data set, read as CONFIG says, in place of the held-out ones"
_AGAINST_HELP = "another fit (or pooled fits) evaluated on the same cases: paired differences"
_PICTURES_HELP = "folder for pictures of reconstructions, and of what a classification looks at"
_CHECK_HELP = "unseen cases on which float16 weights are compared with float32 (default: 8)"

_RUN = {
    "fit": _fit,
    "evaluate": _evaluate,
    "export": _export,
    "pool": _pool,
    "ablate": _ablate,
    "replay": _replay,
    "quality": quality_command,
    "one-pass": one_pass_command,
    "compare": compare_command,
    "explanations": explanations_command,
    "familiarity": familiarity_command,
    "finetune": finetune,
    "learning-loop": learning_loop,
}


if __name__ == "__main__":
    sys.exit(main())
