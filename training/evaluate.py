# SPDX-License-Identifier: Apache-2.0
"""`python -m training evaluate`: the figures of a fit on the cases that it has not seen.

Temperatures and the correction of the error probability come from the inner cases, everything else from the
held-out fold. The weights are rounded to float16 first, as a bundle stores them, so the figures are those of
the model that is shipped. What is measured depends on the heads: see `evaluate_segmentation`,
`evaluate_classification` and `evaluate_reconstruction`. Writes OUTPUT/evaluation/summary.json, and per head

    segmentation      cases.csv, structures.csv, cases/*.npz; with --subsets subsets.csv
    classification    classification.csv, a row per case
    reconstruction    reconstruction.csv, a row per slice and level
"""

from __future__ import annotations

import json
import platform
import time
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from DIANetLib.errors import InputError
from training.against import compare
from training.block_use import block_use
from training.config import TrainingConfig
from training.datasets import Split, find_cases, load_case, split_cases
from training.error_calibration import error_calibration
from training.evaluate_classification import (
    classification_summary,
    classification_table,
    classification_temperature,
    classified_cases,
)
from training.evaluate_reconstruction import reconstruction_rows, reconstruction_summary
from training.evaluate_segmentation import segmentation_scores, segmentation_temperature
from training.fitted import WeightsName, load_fitted
from training.progress import track
from training.subsets import check_subsets, subset_scores, subset_table
from training.summary import figures_over_cases, finite, write_json, write_table, write_tables
from training.trial import Trial

FORMAT_VERSION = 2
#: Split that a fit writes beside its checkpoint.
SPLIT_FILE = "split.json"


def evaluate(
    config: TrainingConfig,
    data: Path,
    output: Path,
    *,
    device: torch.device,
    fold: int | None = None,
    weights: WeightsName = "latest",
    samples: int = 10,
    seed: int = 0,
    limit: int | None = None,
    subsets: bool = False,
    elsewhere: tuple[TrainingConfig, Path] | None = None,
    against: Path | None = None,
    pictures: Path | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Evaluate the fit in `output`; returns what summary.json holds.

    Args:
        config: the fit's configuration.
        data: folder of the data set.
        output: the fit's folder.
        device: where the network runs.
        fold: the fold that is expected to be held out; None takes the checkpoint's.
        weights: "latest" or "best" checkpoint; averaged weights either way.
        samples: T.
        seed: of the samples, the masks of k-space and the bootstrap.
        limit: evaluate only the first so many held-out cases (a quick look).
        subsets: segment with every non-empty subset of the modalities too.
        elsewhere: another data set, of which every case is judged in place of the held-out ones: the
            configuration whose `data` says how it is read, and its folder. What is found is written to
            OUTPUT/evaluation-NAME.
        against: folder of another fit that was evaluated on the same cases, for paired differences.
        pictures: folder for pictures of what classifications look at and of reconstructions.
        command: how this was called, for the record.

    Raises:
        InputError: if the folder holds no such fit, the data is not what it was fitted on, or the other fit
            was evaluated on other cases.
    """
    start = time.perf_counter()
    if subsets:
        check_subsets(config)
    fitted = load_fitted(output, config, weights=weights, fold=fold)
    cases = {case.name: case for case in find_cases(data, config.data)}
    split = split_cases(list(cases.values()), config.data, fitted.fold)
    check_split(split, output)
    judged, folder = [cases[name] for name in split.held_out], output / "evaluation"
    if elsewhere is not None:
        check_elsewhere(config, elsewhere[0])
        judged = list(find_cases(elsewhere[1], elsewhere[0].data))
        folder = output / f"evaluation-{elsewhere[0].name}"
    trial = Trial(
        fitted,
        fitted.network(device),
        held_out=tuple(judged[: limit or None]),
        inner=tuple(cases[name] for name in split.inner),
        folder=folder / "cases",
        samples=samples,
        seed=seed,
        elsewhere=None if elsewhere is None else elsewhere[0].data,
    )
    summary = {
        "format": "dianet-fit-evaluation",
        "format_version": FORMAT_VERSION,
        "model": config.name,
        "baseline": config.baseline,
        "elsewhere": None if elsewhere is None else elsewhere[0].name,
        "fold": fitted.fold,
        "folds": config.data.folds,
        "folder": folder.name,
        "cases": len(trial.held_out),
        "held_out": [case.name for case in judged],
        "inner": list(split.inner),
        "fitted_cases": len(split.train),
        "limited": len(trial.held_out) < len(judged),
        "step": fitted.step,
        "steps": fitted.fitted.optimiser.steps,
        "parameters": sum(value.numel() for value in trial.network.parameters()),
        "weights": weights,
        "weights_sha256": fitted.sha256,
        "samples": samples,
        "seed": seed,
    }
    if config.network.classes:
        summary |= _segmentation(trial, folder, subsets=subsets)
    if config.network.classification is not None:
        summary["classification"] = _classification(trial, folder)
    if config.network.reconstruction is not None:
        summary["reconstruction"] = _reconstruction(trial, folder)
    prepared = [load_case(case, trial.reading) for case in track(trial.held_out, "blocks", unit="case")]
    summary |= block_use(trial.network, prepared, config.window_kji, seed=seed)
    if against is not None:
        write_json(folder / "summary.json", summary)  # `compare` looks for it
        summary["against"] = compare(folder, against, seed=seed)
    if pictures is not None:
        from training.pictures import write_pictures

        write_pictures(trial, pictures)
    summary |= {
        "command": command,
        "versions": versions(),
        "device": str(device),
        "seconds": round(time.perf_counter() - start, 1),
    }
    summary = finite(summary)
    write_json(folder / "summary.json", summary)
    return summary


def check_elsewhere(config: TrainingConfig, other: TrainingConfig) -> None:
    """Find out whether cases of another data set can be judged by what the model puts out.

    Raises:
        InputError: if they have other structures or classes.
    """
    for name in ("structures", "targets"):
        ours, theirs = ([part.key for part in getattr(of.data, name)] for of in (config, other))
        if ours != theirs:
            raise InputError(
                f"expected the data.{name} of {config.name!r} ({', '.join(ours) or 'none'}) in the data set"
                f" {other.name!r} too, got {', '.join(theirs) or 'none'}."
            )


def check_split(split: Split, output: Path) -> None:
    """Compare the split with the one that the fit wrote, if it wrote one.

    Raises:
        InputError: if they differ, so that held-out cases may have been fitted.
    """
    path = output / SPLIT_FILE
    if not path.is_file():
        return
    if json.loads(path.read_text(encoding="utf-8")) != finite(asdict(split)):
        raise InputError(
            f"the cases in --data are not those that {output} was fitted on ({SPLIT_FILE} there differs), so"
            " cases that were fitted could be taken for unseen ones.",
            remedy="Give the folder that the fit had.",
        )


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    found = {"python": platform.python_version()}
    for package in ("dianet", "torch", "monai", "numpy", "scipy", "SimpleITK"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _segmentation(trial: Trial, folder: Path, *, subsets: bool) -> dict[str, Any]:
    temperature = segmentation_temperature(trial)
    correction = error_calibration(trial, temperature)
    scores = segmentation_scores(trial, temperature, correction)
    write_tables(scores, folder)
    told = {"temperature": temperature, "error_calibration": correction.to_json()}
    found = {**told, **figures_over_cases(scores, seed=trial.seed)}
    table = folder / "subsets.csv"
    if subsets:
        rows = subset_scores(trial, temperature)
        write_table(table, [row.row for row in rows])
        found["subsets"] = subset_table(rows, seed=trial.seed)
    else:
        table.unlink(missing_ok=True)  # it may be of other weights
    return found


def _classification(trial: Trial, folder: Path) -> dict[str, Any]:
    temperature = classification_temperature(trial)
    cases = classified_cases(trial, temperature)
    keys = [target.key for target in trial.config.data.targets]
    write_table(folder / "classification.csv", classification_table(cases, keys))
    return classification_summary(cases, keys, temperature, seed=trial.seed)


def _reconstruction(trial: Trial, folder: Path) -> dict[str, Any]:
    rows = reconstruction_rows(trial)
    write_table(folder / "reconstruction.csv", [row.row for row in rows])
    return reconstruction_summary(rows, seed=trial.seed)
