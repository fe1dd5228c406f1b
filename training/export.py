# SPDX-License-Identifier: Apache-2.0
"""`python -m training export`: a fit and its evaluation as a model folder that `dianet` runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from DIANetLib.acwi.error_calibration import ErrorCalibration
from DIANetLib.bundle import load_bundle, make_metadata, save_bundle
from DIANetLib.bundle_schema import DianetSection, LocaliserSpec, ReconstructionSpec
from DIANetLib.errors import InputError
from training.card import model_card
from training.card_quality import quality_section, with_section
from training.config import TrainingConfig
from training.datasets import find_cases
from training.fitted import FittedModel, load_fitted, state_sha256
from training.licences import licence_notice, licence_of
from training.quality import FOLDER, read_summary
from training.quality_store import quality_figures
from training.rounding import rounding_check
from training.trial import classes_of, modalities_of, structures_of, window_of

#: Figures that travel in the metadata.
_FIGURES = (
    "dice",
    "dice_regions",
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
    "error_auprc_total",
    "error_auprc_plain",
    "qubrats_total",
)
_PARTS = (
    "worst",
    "structures",
    "regions",
    "pooled",
    "subsets",
    "classification",
    "reconstruction",
    "latent",
    "codebook",
    "scale_weights",
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
        InputError: if there is no evaluation of these weights, an estimate of quality is of others, or
            rounding changes the Dice.
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
    if config.baseline is not None:
        raise InputError(
            f"expected a DIANet to export, got the baseline {config.baseline}.",
            remedy="A baseline is there to be compared with: `python -m training evaluate --against`.",
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
    expected = _expected_dice(output, fitted)
    card = model_card(config, summary, facts)
    atlas = fitted.priors.atlas
    section = DianetSection(
        name=config.name,
        network=fitted.fitted.network.model_dump(mode="json"),
        preprocess=config.preprocess.model_dump(mode="json"),
        window=window_of(config),
        structures=structures_of(config),
        modalities=modalities_of(config),
        classes=classes_of(config, summary.get("classification", {}).get("temperature", 1.0)),
        reconstruction=reconstruction_of(config),
        temperature=summary.get("temperature", 1.0),
        error_calibration=_error_calibration(summary),
        localiser=_localiser(config),
        quality=None if expected is None else expected["quality"],
        mirror_samples=config.mirror_samples,
        training=facts,
        figures={
            **figures_of(summary),
            **({} if expected is None else {"quality": quality_figures(expected)}),
            "float16": rounding,
        },
    )
    metadata = make_metadata(
        section,
        version=config.version,
        task=task_in_words(config),
        description=config.description,
        copyright=f"Copyright (c) The DIANet contributors, {licence_of(config).name}",
        data_source=" ".join(part for part in (config.about.data, config.about.attribution) if part),
        references=config.about.references,
    )
    folder = save_bundle(
        into / config.name,
        metadata,
        fitted.averages,
        card=card if expected is None else with_section(card, quality_section(expected)),
        licence=licence,
        overwrite=replace,
        atlas=None if atlas is None else atlas.stored(),
        atlas_spacing_mm=_atlas_spacing(config),
    )
    _check_written(folder, fitted)
    return folder


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
        "atlas": fitted.priors.atlas is not None,
    }


def reconstruction_of(config: TrainingConfig) -> ReconstructionSpec | None:
    """What the reconstruction head is for."""
    task = config.tasks.reconstruction
    if task is None:
        return None
    return ReconstructionSpec(task="k-space" if task.operator == "kspace" else "denoising")


def task_in_words(config: TrainingConfig) -> str:
    """What the model does, in a few words."""
    network, of = config.network, config.anatomy or config.name
    parts = []
    if network.classes:
        parts.append(f"Segmentation of {of} with uncertainty")
    if network.classification is not None:
        parts.append(f"Classification of {of} into {', '.join(t.name for t in config.data.targets)}")
    if network.reconstruction is not None:
        parts.append(f"Reconstruction of {of}")
    return "; ".join(parts)


def figures_of(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of an evaluation that travel in the metadata."""
    figures = summary.get("figures", {})
    return {
        "cases": summary["cases"],
        "samples": summary["samples"],
        **{name: figures[name] for name in _FIGURES if name in figures},
        **{name: summary[name] for name in _PARTS if summary.get(name) is not None},
    }


def _atlas_spacing(config: TrainingConfig) -> tuple[float, float, float]:
    """Voxel size of the network's grid, on which the atlas lies; 1 along axes that keep the image's own."""
    i, j, k = (side or 1.0 for side in config.preprocess.spacing_mm)
    return i, j, k


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


def _expected_dice(output: Path, fitted: FittedModel) -> dict[str, Any] | None:
    """The estimate of quality of the fit, if `python -m training quality` was run."""
    found = read_summary(output)
    if found is not None and found["weights_sha256"] != fitted.sha256:
        raise InputError(
            f"the expected Dice in {output / FOLDER} was fitted for other weights than those evaluated.",
            remedy="Run `python -m training quality` again.",
        )
    return found


def _localiser(config: TrainingConfig) -> LocaliserSpec | None:
    return None if config.localiser is None else LocaliserSpec(**config.localiser.model_dump())


def _error_calibration(summary: Mapping[str, Any]) -> ErrorCalibration | None:
    """The fitted correction; None for an evaluation of before there was one."""
    kept = summary.get("error_calibration")
    return None if kept is None else ErrorCalibration.from_json(kept)


def _check_written(folder: Path, fitted: FittedModel) -> None:
    """Load what was written as a user would, and compare it with what was evaluated."""
    stored = load_bundle(folder).network().state_dict()
    if state_sha256(stored) != fitted.sha256:
        raise InputError(f"the weights in {folder} are not the ones that were evaluated.")
