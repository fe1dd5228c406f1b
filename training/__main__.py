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
from typing import Any

import yaml

from DIANetLib.errors import Cancelled, ConfigError, DIANetError, optional_import


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
        _config(options),
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

    config, other = _config(options), options.elsewhere
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
        _config(options),
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

    config = _config(options)
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
        _config(options),
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

    config = _config(options)
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


def _finetune(options: argparse.Namespace) -> None:
    optional_import("tqdm", feature="fitting", extra="train", version=">=4.66")
    from training.config import load_config
    from training.distributed import single_device
    from training.finetune import Request, run_finetune
    from training.finetune_config import load_finetune_config

    request = Request(
        model=options.model,
        corrections=options.corrections,
        output=options.output,
        rehearse=options.rehearse,
        rehearse_as=None if options.rehearse_as is None else load_config(options.rehearse_as).data,
        reviewers=options.reviewers,
        images=options.images,
        version=options.version,
        replace=options.replace,
        unjudged=options.unjudged,
    )
    settings = load_finetune_config(options.config, dict(parse_setting(text) for text in options.set))
    print(f"written: {run_finetune(request, settings, single_device(options.device))}")


def _learning_loop(options: argparse.Namespace) -> None:
    optional_import("tqdm", feature="fitting", extra="train", version=">=4.66")
    from DIANetLib.bundle import load_bundle
    from training.distributed import single_device
    from training.finetune_config import load_finetune_config
    from training.learning_loop import Loop, run_loop
    from training.learning_site import divide

    config = _config(options)
    folders = divide(
        options.data, config.data, options.output, voxels=options.voxels, sequence=options.sequence
    )
    if options.model is None:
        print(f"written: {folders.old} and {folders.site}; now fit and export a model on the former")
        return
    loop = Loop(
        config,
        load_finetune_config(options.settings, dict(parse_setting(text) for text in options.learn)),
        load_bundle(options.model),
        folders,
        options.output,
        single_device(options.device),
        counts=tuple(sorted(options.counts)),
        arms=tuple(options.arms),
        reviewer=options.reviewer,
        regions=options.regions,
        scratch_steps=options.scratch_steps,
    )
    report = run_loop(loop)
    print(report.read_text(encoding="utf-8"))
    print(f"written: {report}")


def _config(options: argparse.Namespace) -> Any:
    from training.config import load_config

    return load_config(options.config, dict(parse_setting(text) for text in options.set))


def parse_setting(text: str) -> tuple[str, Any]:
    """Read `optimiser.steps=100`; the value is YAML.

    Raises:
        ConfigError: if it has another form.
    """
    name, equals, value = text.partition("=")
    if not equals or not all(name.split(".")):
        raise ConfigError(f"the setting '{text}' is not of the form section.name=value.")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"the value of the setting '{text}' is no valid YAML.") from error


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected 0 or more, got {value}")
    return value


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
    add("--fold", type=_count, metavar="N", help="the held-out fold (default: 0, or the fit's)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    add("--threads", type=_count, metavar="N", help="CPU threads of this process")
    add("--set", nargs="+", default=[], action="extend", metavar="NAME=VALUE", help=_SET_HELP)

    add = commands.add_parser("fit", parents=[common], help="fit a model, or go on with a fit").add_argument
    add("--workers", type=_count, default=0, metavar="N", help="processes that prepare patches (default: 0)")
    add("--restart", action="store_true", help="begin anew: remove the fit that is in --output")
    add("--from", type=Path, dest="start_from", metavar="DIR", help=_FROM_HELP)

    add = commands.add_parser("evaluate", parents=[common], help="measure a fit on unseen cases").add_argument
    add("--weights", choices=["latest", "best"], default="latest", help="which checkpoint (default: latest)")
    add("--samples", type=_count, default=10, metavar="T", help="stochastic passes (default: 10)")
    add("--seed", type=_count, default=0, metavar="N", help="of samples and bootstrap (default: 0)")
    add("--limit", type=_count, metavar="N", help="only the first N cases, for a quick look")
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
    add("--check-cases", type=_count, default=8, metavar="N", help=_CHECK_HELP)

    add = commands.add_parser("ablate", parents=[common], help="measure what each part adds").add_argument
    add("--steps", type=_positive, metavar="N", help="steps of each arm (default: CONFIG's)")
    add("--warm-up", type=_count, default=0, metavar="N", help=_WARM_UP_HELP)
    add("--from", type=Path, dest="start_from", metavar="DIR", help=_START_HELP)
    add("--arms", nargs="+", metavar="NAME", help="some arms only (default: all); a wrong name lists them")
    add("--seeds", type=_positive, default=1, metavar="K", help="repetitions of each arm (default: 1)")
    add("--workers", type=_count, default=0, metavar="N", help="processes that prepare patches (default: 0)")
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
    add("--samples", type=_count, default=10, metavar="T", help="stochastic passes (default: 10)")
    add("--seed", type=_count, default=0, metavar="N", help="of samples, draws and bootstrap (default: 0)")
    add(
        "--threshold",
        type=float,
        default=0.3,
        metavar="P",
        help="error probability that counts (default: 0.3)",
    )
    add("--draws", type=_positive, default=20, metavar="N", help="draws of random regions (default: 20)")
    add("--limit", type=_count, metavar="N", help="only the first N cases of each fold, for a quick look")

    _add_finetune(commands.add_parser("finetune", help="let a model learn from corrections"))
    loop = commands.add_parser(
        "learning-loop", parents=[common], help="measure what a model learns from review"
    )
    add = loop.add_argument
    add("--model", type=Path, metavar="DIR", help=_LOOP_MODEL_HELP)
    add("--voxels", default="uint8", metavar="TYPE", help="voxel type of the site's images (default: uint8)")
    add("--sequence", default="none", help="what the site's images are made: none, t2 or flair (simulated)")
    add("--reviewer", choices=["all", "regions"], default="all", help=_REVIEWER_HELP)
    add("--regions", type=_positive, default=10, metavar="N", help="regions that are looked at (default: 10)")
    add(
        "--counts",
        type=_positive,
        nargs="+",
        default=[5, 10, 20],
        metavar="N",
        help="numbers of corrected cases",
    )
    add("--arms", nargs="+", default=["finetune", "plain", "scratch"], metavar="NAME", help="what to compare")
    add("--scratch-steps", type=_positive, default=800, metavar="N", help="steps of a fit from scratch")
    add("--settings", type=Path, metavar="FILE", help="YAML file of the settings of finetune")
    add("--learn", nargs="+", default=[], action="extend", metavar="NAME=VALUE", help=_SETTINGS_HELP)
    return parser


def _add_finetune(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="DIR", help="the model folder to start from")
    add("--corrections", type=Path, required=True, metavar="DIR", help="folder of correction packages")
    add("--output", type=Path, required=True, metavar="DIR", help="table, fits and models/NAME")
    add("--rehearse", type=Path, metavar="DATA", help=_REHEARSE_HELP)
    add("--rehearse-as", type=Path, metavar="CONFIG", help=_REHEARSE_AS_HELP)
    add("--config", type=Path, metavar="FILE", help="YAML file of settings (default: all as documented)")
    add("--reviewers", metavar="WHOSE", help=_REVIEWERS_HELP)
    add("--images", type=Path, metavar="DIR", help="where to look for images that are not where they were")
    add("--version", metavar="TEXT", help="version of the new model (default: the next)")
    add("--replace", action="store_true", help="replace a model folder that is there")
    add(
        "--unjudged",
        action="store_true",
        help="do not judge on corrected cases, which takes most of the time",
    )
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    add("--threads", type=_count, metavar="N", help="CPU threads of this process")
    add("--set", nargs="+", default=[], action="extend", metavar="NAME=VALUE", help=_SETTINGS_HELP)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {value}")
    return value


_DATA_HELP = (
    "folder with imagesTr/ and labelsTr/, or images/ and labels/; fit downloads a public release that CONFIG"
    " names into a folder that is empty or missing"
)
_SET_HELP = "settings that replace CONFIG's, such as optimiser.steps=100"
_FROM_HELP = "--output of another fit whose weights this one starts from; blocks that it lacks start as built"
_WARM_UP_HELP = "fit the plain network so many steps first, and start every arm from it (default: 0)"
_START_HELP = "--output of a fit of the plain network that every arm starts from"
_ELSEWHERE_HELP = "judge all cases of another data set, read as CONFIG says, in place of the held-out ones"
_AGAINST_HELP = "another fit (or pooled fits) evaluated on the same cases: paired differences"
_PICTURES_HELP = "folder for pictures of reconstructions, and of what a classification looks at"
_REHEARSE_HELP = "cases of the model's own data, fitted along so that they are not forgotten"
_REHEARSE_AS_HELP = (
    "configuration that says how DATA is laid out (default: images/ and labels/ with the model's values)"
)
_REVIEWERS_HELP = "which counts of several reviewers of one image: latest, consensus or a name"
_LOOP_MODEL_HELP = "model folder that was fitted without the site; without it, the data is divided alone"
_REVIEWER_HELP = "what the simulated reviewer corrects: every voxel, or the boxes of the first regions"
_SETTINGS_HELP = "settings that replace those of FILE, such as steps=500 weights.changed=8"
_CHECK_HELP = "unseen cases on which float16 weights are compared with float32 (default: 8)"

_RUN = {
    "fit": _fit,
    "evaluate": _evaluate,
    "export": _export,
    "pool": _pool,
    "ablate": _ablate,
    "replay": _replay,
    "finetune": _finetune,
    "learning-loop": _learning_loop,
}


if __name__ == "__main__":
    sys.exit(main())
