# SPDX-License-Identifier: Apache-2.0
"""Arguments and call of `python -m training explanations`."""

from __future__ import annotations

import argparse
from pathlib import Path

from training.arguments import count

_CONFIG_HELP = "how the data is read and divided (default: training/configs/NAME.yaml of the model's name)"
_CASES_HELP = "cases that are randomised, perturbed and asked for regions (default: 14)"
_CONTEXT_HELP = "so many also by plain gradients and occlusion, which takes long (default: none)"
_STORE_HELP = "put the figures into the model folder: metadata and card change, the weights do not"
_INNER_HELP = "look at the inner cases, on which choices are made, in place of the held-out ones"


def add_explanations(parser: argparse.ArgumentParser) -> None:
    """The arguments of `explanations`."""
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="DIR", help="the model folder")
    add(
        "--data", type=Path, required=True, metavar="DIR", help="folder of the data set that it was fitted on"
    )
    add("--output", type=Path, required=True, metavar="DIR", help="where the figures go")
    add("--config", type=Path, metavar="FILE", help=_CONFIG_HELP)
    add("--cases", type=count, default=14, metavar="N", help=_CASES_HELP)
    add("--context", type=count, default=0, metavar="N", help=_CONTEXT_HELP)
    add(
        "--samples",
        type=count,
        default=10,
        metavar="T",
        help="stochastic passes of the worklist (default: 10)",
    )
    add("--inner", action="store_true", help=_INNER_HELP)
    add("--store", action="store_true", help=_STORE_HELP)
    add("--seed", type=count, default=0, metavar="N", help="of weights, orders and bootstrap (default: 0)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    add("--threads", type=count, metavar="N", help="CPU threads of this process")


def explanations_command(options: argparse.Namespace) -> None:
    """Measure whether a model's explanations mean anything."""
    from DIANetLib.bundle import read_metadata
    from training.config import load_config
    from training.data_folder import data_folder
    from training.distributed import single_device
    from training.explanation import FOLDER, ExplanationRequest, explanations
    from training.explanation_store import store_explanations
    from training.explanation_tables import table

    file = options.config
    if file is None:
        name = read_metadata(options.model).dianet.name
        file = Path(__file__).parent / "configs" / f"{name}.yaml"
    config = load_config(file, {})
    summary = explanations(
        ExplanationRequest(
            config=config,
            model=options.model,
            data=data_folder(config.data, options.data, download=False),
            output=options.output,
            device=single_device(options.device),
            cases=options.cases,
            context=options.context,
            inner=options.inner,
            samples=options.samples,
            seed=options.seed,
            command=options.command_line,
        )
    )
    print("\n".join(table(summary)))
    if options.store:
        store_explanations(options.model, summary)
        print(f"stored in: {options.model}")
    print(f"written: {options.output / FOLDER}")
