# SPDX-License-Identifier: Apache-2.0
"""`python -m training export`: a fit and its evaluation as a model folder that `dianet` runs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from DIANetLib.bundle import load_bundle, make_metadata, save_bundle
from DIANetLib.bundle_schema import DianetSection, LocaliserSpec
from DIANetLib.errors import InputError
from training.card import LICENCES, licence_notice, model_card
from training.config import TrainingConfig
from training.datasets import Case, find_cases, load_case
from training.fitted import FittedModel, load_fitted, state_sha256
from training.predict import predict_mean, structure_dice
from training.progress import track
from training.trial import modalities_of, structures_of

#: Difference of the mean Dice that rounding the weights is expected to stay within, and the one that it must.
#: (A single voxel on a border between two classes can make the former in few cases.)
ROUNDING_TOLERANCE = 1e-4
ROUNDING_LIMIT = 1e-3
#: Figures that travel in the metadata.
_FIGURES = (
    "dice",
    "hd95_mm",
    "nsd_1mm",
    "ece_before",
    "ece",
    "error_auroc_total",
    "error_auroc_epistemic",
    "error_auroc_error_probability",
    "error_auroc_plain",
    "normalised_aurc_total",
    "normalised_aurc_plain",
)


def export(
    config: TrainingConfig,
    data: Path,
    output: Path,
    into: Path,
    *,
    device: torch.device,
    fold: int | None = None,
    check_cases: int = 8,
    replace: bool = False,
) -> Path:
    """Write INTO/NAME from the fit and the evaluation in `output`; returns that folder.

    Args:
        config: the fit's configuration, with the words and codes that the bundle gets.
        data: folder of the data set, for the check of the rounding.
        output: the fit's folder, evaluated.
        into: folder of model folders.
        device: where the check runs.
        fold: the fold that is expected to be held out; None takes the checkpoint's.
        check_cases: held-out cases on which float16 weights are compared with float32.
        replace: replace a model folder that is there.

    Raises:
        InputError: if there is no evaluation of these weights, or rounding changes the Dice.
        BundleError, OutputError: if the folder cannot be written.
    """
    summary = _summary(output, config)
    licence = licence_notice(config)
    fitted = load_fitted(output, config, weights=summary["weights"], fold=fold)
    if fitted.sha256 != summary["weights_sha256"]:
        raise InputError(
            f"the evaluation in {output} is of other weights than its checkpoint now holds (step"
            f" {summary['step']}, now {fitted.step}).",
            remedy="Run `python -m training evaluate` again.",
        )
    cases = {case.name: case for case in find_cases(data, config.data)}
    missing = [name for name in summary["held_out"] if name not in cases]
    if missing:
        raise InputError(
            f"{data} lacks held-out cases of the evaluation: {', '.join(missing[:3])}"
            f"{' and more' if len(missing) > 3 else ''}.",
            remedy="Give the folder that the fit had.",
        )
    chosen = [cases[name] for name in summary["held_out"][:check_cases]]
    rounding = rounding_check(fitted, chosen, device)
    facts = training_facts(fitted, summary)
    figures = {name: summary["figures"][name] for name in _FIGURES}
    section = DianetSection(
        name=config.name,
        network=fitted.fitted.network.model_dump(mode="json"),
        preprocess=config.preprocess.model_dump(mode="json"),
        window=config.window or config.patch,
        structures=structures_of(config),
        modalities=modalities_of(config),
        temperature=summary["temperature"],
        localiser=_localiser(config),
        training=facts,
        figures={
            "cases": summary["cases"],
            "samples": summary["samples"],
            **figures,
            "structures": summary["structures"],
            "pooled": summary["pooled"],
            "latent": summary["latent"],
            "float16": rounding,
        },
    )
    metadata = make_metadata(
        section,
        version=config.version,
        task=f"Segmentation of {config.anatomy or config.name} with uncertainty",
        description=config.description,
        copyright=f"Copyright (c) The DIANet contributors, {LICENCES[config.licence][0]}",
        data_source=" ".join(part for part in (config.about.data, config.about.attribution) if part),
        references=config.about.references,
    )
    folder = save_bundle(
        into / config.name,
        metadata,
        fitted.averages,
        card=model_card(config, summary, facts),
        licence=licence,
        overwrite=replace,
    )
    _check_written(folder, fitted)
    return folder


def rounding_check(fitted: FittedModel, cases: Sequence[Case], device: torch.device) -> dict[str, Any]:
    """Dice of the mean pass with float32 and with float16-rounded weights.

    Raises:
        InputError: if the means differ by more than `ROUNDING_LIMIT`.
    """
    full, rounded = fitted.network(device, rounded=False), fitted.network(device)
    classes = fitted.fitted.network.classes
    dice = []
    for case in track(cases, "float16 check", unit="case"):
        prepared = load_case(case, fitted.config)
        pair = []
        for network in (full, rounded):
            labels = predict_mean(network, prepared.image, fitted.config).argmax(0)
            pair.append(float(np.nanmean(structure_dice(labels, prepared.labels, classes))))
        dice.append(pair)
    if not dice:
        return {"cases": 0}
    means = np.mean(dice, axis=0)
    difference = float(means[1] - means[0])
    if math.isnan(difference) or abs(difference) > ROUNDING_LIMIT:
        raise InputError(
            f"rounding the weights to float16 changes the mean Dice of {len(dice)} cases by"
            f" {difference:+.6f}, expected at most {ROUNDING_LIMIT:g}.",
            remedy="Look for weights that float16 cannot hold.",
        )
    return {
        "cases": len(dice),
        "dice_float32": float(means[0]),
        "dice_float16": float(means[1]),
        "difference": difference,
        "tolerance": ROUNDING_TOLERANCE,
        "within_tolerance": abs(difference) <= ROUNDING_TOLERANCE,
        "largest_difference_of_a_case": float(np.abs(np.subtract(*np.transpose(dice))).max()),
    }


def training_facts(fitted: FittedModel, summary: dict[str, Any]) -> dict[str, Any]:
    """How the weights came about."""
    ran = fitted.fitted
    try:
        code = version("dianet")
    except PackageNotFoundError:
        code = "not installed"
    return {
        "data_set": ran.data.release or fitted.config.about.data,
        "licence": fitted.config.licence,
        "cases_fitted": summary["fitted_cases"],
        "cases_inner": len(summary["inner"]),
        "cases_held_out": len(summary["held_out"]),
        "held_out": summary["held_out"],
        "fold": fitted.fold,
        "folds": ran.data.folds,
        "split_seed": ran.data.split_seed,
        "steps": ran.optimiser.steps,
        "steps_done": fitted.step,
        "batch": ran.optimiser.batch,
        "patch": list(ran.patch),
        "learning_rate": ran.optimiser.learning_rate,
        "schedule": ran.optimiser.schedule,
        "ema_decay": ran.optimiser.ema_decay,
        "seed": ran.seed,
        "weights": summary["weights"],
        "weights_sha256": fitted.sha256,
        "code_version": code,
        "versions": summary["versions"],
    }


def _summary(output: Path, config: TrainingConfig) -> dict[str, Any]:
    path = output / "evaluation" / "summary.json"
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{output} has not been evaluated: {path} is missing.",
            remedy="Run `python -m training evaluate` with this --output first.",
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read.", remedy="Run `python -m training evaluate` again."
        ) from error
    if not isinstance(summary, dict) or summary.get("format") != "dianet-fit-evaluation":
        raise InputError(f"{path} is no summary of an evaluation.", remedy="Evaluate the fit again.")
    if summary["model"] != config.name:
        raise InputError(f"{path} is about the model {summary['model']!r}, not {config.name!r}.")
    if summary["limited"]:
        raise InputError(
            f"the evaluation in {output} was limited to {summary['cases']} of its"
            f" {len(summary['held_out'])} cases.",
            remedy="Run `python -m training evaluate` without --limit.",
        )
    return summary


def _localiser(config: TrainingConfig) -> LocaliserSpec | None:
    return None if config.localiser is None else LocaliserSpec(**config.localiser.model_dump())


def _check_written(folder: Path, fitted: FittedModel) -> None:
    """Load what was written as a user would, and compare it with what was evaluated."""
    stored = load_bundle(folder).network().state_dict()
    if state_sha256(stored) != fitted.sha256:
        raise InputError(f"the weights in {folder} are not the ones that were evaluated.")
