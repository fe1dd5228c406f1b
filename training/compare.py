# SPDX-License-Identifier: Apache-2.0
"""`python -m training compare`: methods of uncertainty beside each other, on cases that no fit has seen.

Temperature and calibration of every method are fitted on the inner cases in the same way; the held-out cases
are then measured at these. The model is a model folder, whose held-out cases are checked to be unseen. Writes

    compare/summary.json   figures per method, paired differences from the plain pass, cost
    compare/compare.md     the same as tables
    compare/cases          what each case gave, per pass or method; what is there is not done again
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from DIANetLib.acwi.error_calibration import ErrorCalibration
from DIANetLib.errors import InputError
from DIANetLib.inference.grid import for_inference
from DIANetLib.labelling import confidence, labels_of
from DIANetLib.network import DIANet
from training.compare_cases import Runner
from training.compare_cost import costs
from training.compare_methods import (
    MEAN_OF_ALL,
    MEAN_OF_SNAPSHOTS,
    ONE_PASS,
    PLAIN,
    Method,
    chosen,
    methods,
    weights_of,
)
from training.compare_one_pass import one_pass_calibration, one_pass_network
from training.compare_passes import SHIPPED
from training.compare_report import report
from training.compare_scores import case_figures, over_cases
from training.config import TrainingConfig
from training.datasets import Case, find_cases, load_case, split_cases
from training.error_calibration import fit_error_calibration
from training.evaluate import versions
from training.fitted import load_fitted
from training.progress import track
from training.summary import finite, write_json, write_text
from training.temperature import fit_sampled_temperature
from training.unseen import check_unseen, load_model_of
from training.weights import state_sha256

FORMAT = "dianet-compare"
FORMAT_VERSION = 1
FOLDER = "compare"


@dataclass(frozen=True)
class CompareRequest:
    """What is asked for.

    Attributes:
        config: how the data is read and divided.
        data: folder of the data set.
        output: any folder.
        model: the model folder.
        snapshots: folders of fits that go on from the model, the ends of a cyclic rate.
        methods: names of some methods; None for all.
        seed: of the samples and the bootstrap.
        rounds: how often the cost is measured; 0 for not at all.
        limit: only the first so many held-out cases.
        command: how this was called, for the record.
    """

    config: TrainingConfig
    data: Path
    output: Path
    model: Path
    snapshots: tuple[Path, ...] = ()
    methods: tuple[str, ...] | None = None
    seed: int = 0
    rounds: int = 3
    limit: int | None = None
    command: str = ""


@dataclass(frozen=True, eq=False)
class Fitted:
    """What the inner cases say about each method.

    Attributes:
        temperatures: what divides the logits.
        calibrations: of the probability of an error.
    """

    temperatures: dict[str, float]
    calibrations: dict[str, ErrorCalibration]


def compare_methods(request: CompareRequest) -> dict[str, Any]:
    """Measure methods; returns what summary.json holds.

    Raises:
        InputError: the data is not the model's, no case has labels, or a method needs what is not there.
        BundleError: the model folder cannot be used.
    """
    config, folder = request.config, request.output / FOLDER
    model = load_model_of(config, request.model)
    cases = {case.name: case for case in find_cases(request.data, config.data)}
    fold = int(model.metadata.dianet.training.get("fold", 0))
    split = split_cases(list(cases.values()), config.data, fold)
    check_unseen(model, split, fold, request.data)
    inner = [cases[name] for name in split.inner if cases[name].labels is not None]
    held_out = [cases[name] for name in split.held_out if cases[name].labels is not None][: request.limit]
    if not inner or not held_out:
        raise InputError("no inner or no held-out case has labels to compare with.")
    names = [path.name for path in request.snapshots]
    one_pass = one_pass_network(model)
    asked = chosen(request.methods, methods(names, one_pass=one_pass is not None))
    networks = _networks(model.network(), request, weights_of(asked))
    if one_pass is not None:
        networks[ONE_PASS] = for_inference(one_pass, torch.device("cpu"))
    hashes = {name: state_sha256(network.state_dict()) for name, network in networks.items()}
    runner = Runner(networks, hashes, config, folder / "cases", request.seed)

    fitted = fit_on_inner(runner, inner, asked)
    if one_pass is not None:  # its probability of an error is not that of its answer, and has its own
        fitted.calibrations[ONE_PASS] = one_pass_calibration(model)
    rows: dict[str, list[dict[str, float]]] = {method.name: [] for method in asked}
    for case in track(held_out, "held out", unit="case"):
        told, near = runner.told(case, asked, fitted.temperatures), runner.near(case)
        for name, found in told.items():
            rows[name].append(case_figures(near, found, fitted.calibrations[name], told[PLAIN]))
    first = load_case(held_out[0], config)
    cost = costs(networks, asked, first, config.window_kji, rounds=request.rounds, seed=request.seed)
    summary = finite(
        {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "model": model.name,
            "weights_sha256": model.sha256,
            "networks_sha256": hashes,
            "fold": fold,
            "inner": [case.name for case in inner],
            "held_out": [case.name for case in held_out],
            "seed": request.seed,
            "methods": {
                method.name: {
                    "title": method.title,
                    "passes": len(method.passes),
                    "temperature": fitted.temperatures[method.name],
                    "error_calibration": fitted.calibrations[method.name].to_json(),
                    "cost": cost.get(method.name),
                }
                for method in asked
            },
            "figures": over_cases(rows, PLAIN, seed=request.seed),
            "cases": rows,
            "command": request.command,
            "versions": versions(),
        }
    )
    write_json(folder / "summary.json", summary)
    write_text(folder / "compare.md", "\n".join(report(summary)) + "\n")
    return summary


def fit_on_inner(runner: Runner, inner: Sequence[Case], asked: Sequence[Method]) -> Fitted:
    """Temperature and calibration of each method, from all judged voxels of the inner cases."""
    logits: dict[str, list[Any]] = {method.name: [] for method in asked}
    labels = []
    for case in track(list(inner), "inner", unit="case"):
        for name, values in runner.log_probabilities(case, asked).items():
            logits[name].append(values)
        labels.append(runner.near(case).true)
    temperatures, calibrations = {}, {}
    for name, found in logits.items():
        temperatures[name] = fit_sampled_temperature(found, labels)
        calibrations[name] = _calibration(found, labels, temperatures[name])
    return Fitted(temperatures, calibrations)


def _calibration(logits: Sequence[Any], labels: Sequence[Any], temperature: float) -> ErrorCalibration:
    """The class-wise correction of the error probability at a temperature."""
    answers = []
    for values, true in zip(logits, labels, strict=True):
        mean = np.mean([_softmax(one / temperature) for one in values], axis=0)  # (V, K)
        classes = labels_of(mean.T)
        answers.append((1.0 - confidence(mean.T, classes), classes, classes != true))
    return fit_error_calibration(answers, logits[0].shape[2])


def _softmax(values: Any) -> Any:
    exponentials = np.exp(values - values.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def _networks(shipped: DIANet, request: CompareRequest, needed: Sequence[str]) -> dict[str, DIANet]:
    """The networks that are needed, by name, laid out for inference."""
    found = {SHIPPED: shipped}
    states = {}
    if needed:
        for path in request.snapshots:
            fit = load_fitted(path, request.config)
            states[path.name] = dict(fit.state)
            if path.name in needed:
                found[path.name] = fit.network(torch.device("cpu"))
    means = {MEAN_OF_SNAPSHOTS: list(states.values())}
    means[MEAN_OF_ALL] = [*states.values(), {name: v for name, v in shipped.state_dict().items()}]
    for name, parts in means.items():
        if name in needed:
            network = load_fitted(request.snapshots[0], request.config).network(torch.device("cpu"))
            mean = {key: torch.stack([part[key].float() for part in parts]).mean(0) for key in parts[0]}
            network.load_state_dict({key: value.half().float() for key, value in mean.items()})
            found[name] = network
    return {name: for_inference(network, torch.device("cpu")) for name, network in found.items()}
