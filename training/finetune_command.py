# SPDX-License-Identifier: Apache-2.0
"""Arguments and calls of `python -m training finetune` and `python -m training learning-loop`."""

from __future__ import annotations

import argparse
from pathlib import Path

from DIANetLib.errors import optional_import
from training.arguments import configured, count, parse_setting, positive

_REHEARSE_HELP = "cases of the model's own data, fitted along so that they are not forgotten"
_REHEARSE_AS_HELP = (
    "configuration that says how DATA is laid out (default: images/ and labels/ with the model's values)"
)
_REVIEWERS_HELP = "which counts of several reviewers of one image: latest, consensus or a name"
_LOOP_MODEL_HELP = "model folder that was fitted without the site; without it, the data is divided alone"
_REVIEWER_HELP = "what the simulated reviewer corrects: every voxel, or the boxes of the first regions"
_SETTINGS_HELP = "settings that replace those of FILE, such as steps=500 weights.changed=8"


def add_finetune(parser: argparse.ArgumentParser) -> None:
    """The arguments of `finetune`."""
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
    add("--threads", type=count, metavar="N", help="CPU threads of this process")
    add("--set", nargs="+", default=[], action="extend", metavar="NAME=VALUE", help=_SETTINGS_HELP)


def add_learning_loop(parser: argparse.ArgumentParser) -> None:
    """The arguments of `learning-loop`, beside those of every command on a data set."""
    add = parser.add_argument
    add("--model", type=Path, metavar="DIR", help=_LOOP_MODEL_HELP)
    add("--voxels", default="uint8", metavar="TYPE", help="voxel type of the site's images (default: uint8)")
    add("--sequence", default="none", help="what the site's images are made: none, t2 or flair (simulated)")
    add("--reviewer", choices=["all", "regions"], default="all", help=_REVIEWER_HELP)
    add("--regions", type=positive, default=10, metavar="N", help="regions that are looked at (default: 10)")
    add(
        "--counts",
        type=positive,
        nargs="+",
        default=[5, 10, 20],
        metavar="N",
        help="corrected cases (default: 5 10 20)",
    )
    add("--arms", nargs="+", default=["finetune", "plain", "scratch"], metavar="NAME", help="what to compare")
    add("--scratch-steps", type=positive, default=800, metavar="N", help="steps of a fit from scratch")
    add("--settings", type=Path, metavar="FILE", help="YAML file of the settings of finetune")
    add("--learn", nargs="+", default=[], action="extend", metavar="NAME=VALUE", help=_SETTINGS_HELP)


def finetune(options: argparse.Namespace) -> None:
    """Let a model learn from corrections."""
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


def learning_loop(options: argparse.Namespace) -> None:
    """Divide a data set, or measure what a model that was fitted on a part of it learns from the rest."""
    optional_import("tqdm", feature="fitting", extra="train", version=">=4.66")
    from DIANetLib.bundle import load_bundle
    from training.distributed import single_device
    from training.finetune_config import load_finetune_config
    from training.learning_loop import Loop, run_loop
    from training.learning_site import divide

    config = configured(options)
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
