# SPDX-License-Identifier: Apache-2.0
"""`python -m training fit|evaluate|export CONFIG --data DIR --output DIR`.

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
        run = {"fit": _fit, "evaluate": _evaluate, "export": _export}[options.command]
        run(options)
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
        command=options.command_line,
    )


def _evaluate(options: argparse.Namespace) -> None:
    from training.data_folder import data_folder
    from training.distributed import single_device
    from training.evaluate import evaluate
    from training.summary import print_summary

    config = _config(options)
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
        prog="python -m training", description="Fit, evaluate and export segmentation models."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="fit|evaluate|export")
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

    add = commands.add_parser("evaluate", parents=[common], help="measure a fit on unseen cases").add_argument
    add("--weights", choices=["latest", "best"], default="latest", help="which checkpoint (default: latest)")
    add("--samples", type=_count, default=10, metavar="T", help="stochastic passes (default: 10)")
    add("--seed", type=_count, default=0, metavar="N", help="of samples and bootstrap (default: 0)")
    add("--limit", type=_count, metavar="N", help="only the first N cases, for a quick look")

    add = commands.add_parser(
        "export", parents=[common], help="write a model folder that dianet runs"
    ).add_argument
    add("--into", type=Path, metavar="DIR", help="folder of model folders (default: OUTPUT/models)")
    add("--replace", action="store_true", help="replace a model folder that is there")
    add("--check-cases", type=_count, default=8, metavar="N", help=_CHECK_HELP)
    return parser


_DATA_HELP = (
    "folder with imagesTr/ and labelsTr/, or images/ and labels/; fit downloads a public release that CONFIG"
    " names into a folder that is empty or missing"
)
_SET_HELP = "settings that replace CONFIG's, such as optimiser.steps=100"
_CHECK_HELP = "unseen cases on which float16 weights are compared with float32 (default: 8)"


if __name__ == "__main__":
    sys.exit(main())
