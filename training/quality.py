# SPDX-License-Identifier: Apache-2.0
"""`python -m training quality`: fit the Dice to be expected without a reference, and judge it.

Fitted on the inner cases, which set the temperature too but not the weights, and on corrupted copies of them;
judged on the held-out fold, as it is and corrupted. Of a fit, the outcome lies in OUTPUT/quality and `export`
takes it from there into the bundle. Of a model folder, it can be stored right there: the weights stay, only
the metadata and the card change. Writes

    summary.json      the estimate and its figures
    rows.csv          a row per held-out run and structure
    inner, held-out   what runs told, a file per case; what is there is not done again
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from DIANetLib.acwi.quality import QualityModel
from DIANetLib.bundle import LoadedModel
from DIANetLib.errors import InputError
from DIANetLib.inference.engine import Model, Segmenter
from training.config import TrainingConfig
from training.datasets import Case, Split, find_cases, read_case, split_cases
from training.evaluate import check_split, versions
from training.fitted import load_fitted
from training.progress import track
from training.quality_fit import cross_validated, fit_quality, usual_volumes
from training.quality_judge import judged_rows, judgements, not_found, table_row
from training.quality_runs import Told, run_cases
from training.quality_series import LEVELS, Corruption, series
from training.summary import finite, write_json, write_table
from training.trial import TrialModel
from training.unseen import check_unseen, load_model_of

FORMAT = "dianet-quality"
FORMAT_VERSION = 1
FOLDER = "quality"


@dataclass(frozen=True, eq=False)
class _Source:
    """What is judged: a model, the hash of its weights, and which cases are which."""

    model: Model
    sha256: str
    fold: int
    split: Split


@dataclass(frozen=True)
class QualityRequest:
    """What is asked for.

    Attributes:
        config: the configuration that says how the data is read and divided.
        data: folder of the data set.
        output: the fit's folder; with `model` any folder.
        device: where the network runs.
        model: a model folder in place of a fit.
        fold: the held-out fold; None takes the checkpoint's, or the model folder's.
        samples: T, 2 or more.
        seed: of the samples and the corruptions.
        inner: corrupt only the first so many inner cases; None for all.
        held_out: corrupt only the first so many held-out cases; None for all.
        middle: corrupt with the middle level of each kind alone.
        command: how this was called, for the record.
    """

    config: TrainingConfig
    data: Path
    output: Path
    device: torch.device
    model: Path | None = None
    fold: int | None = None
    samples: int = 10
    seed: int = 0
    inner: int | None = None
    held_out: int | None = None
    middle: bool = False
    command: str = ""


def quality(request: QualityRequest) -> dict[str, Any]:
    """Fit and judge an estimate of quality; returns what summary.json holds.

    Raises:
        InputError: if there are fewer than two samples, nothing that segments, no evaluation of the fit, or
            other cases than it was fitted on.
        BundleError: if the model folder cannot be used.
    """
    start = time.perf_counter()
    config = request.config
    if request.samples < 2:
        raise InputError(
            f"expected two samples or more, which can agree with each other, got {request.samples}."
        )
    if not config.data.structures:
        raise InputError(f"{config.name!r} segments nothing, so that there is no Dice to expect.")
    cases = {case.name: case for case in find_cases(request.data, config.data)}
    listed = list(cases.values())
    if request.model is None:
        source = _of_fit(request, listed)
    else:
        source = _of_folder(request, request.model, listed)
    engine, split = Segmenter(source.model, str(request.device)), source.split
    folder, corruptions = request.output / FOLDER, series(middle=request.middle)

    def told(names: Sequence[str], part: str, corrupted: int | None) -> list[Told]:
        known = [cases[name] for name in names if cases[name].labels is not None]
        most = len(known) if corrupted is None else corrupted
        rows: list[Told] = []
        for group, chosen in ((known[:most], corruptions), (known[most:], (Corruption(),))):
            rows += run_cases(
                engine,
                config,
                group,
                chosen,
                folder / part,
                samples=request.samples,
                seed=request.seed,
                sha256=source.sha256,
                title=part,
            )
        return rows

    inner = told(split.inner, "inner", request.inner)
    volumes = usual_volumes(reference_volumes([cases[name] for name in (*split.train, *split.inner)], config))
    model_fitted = fit_quality(inner, volumes, samples=request.samples)
    again = judgements(judged_rows(cross_validated(inner, volumes, samples=request.samples)))
    held_out = told(split.held_out, "held-out", request.held_out)
    judged = judged_rows([(row, model_fitted) for row in held_out])
    if not any(one.row.kind == "none" for one in judged):
        raise InputError(
            "no held-out case has labels and a structure that was found, to judge expected Dice on."
        )
    write_table(folder / "rows.csv", [table_row(one) for one in judged])
    summary = finite(
        {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "model": config.name,
            "weights_sha256": source.sha256,
            "fold": source.fold,
            "samples": request.samples,
            "seed": request.seed,
            "inner": list(split.inner),
            "held_out": list(split.held_out),
            "corrupted_inner": len(split.inner) if request.inner is None else request.inner,
            "corrupted_held_out": len(split.held_out) if request.held_out is None else request.held_out,
            "levels": {k: [one.level for one in corruptions if one.kind == k] for k in LEVELS},
            "quality": as_json(model_fitted),
            "inner_cross_validated": again,
            "held_out_judged": judgements(judged),
            "not_found": {"inner": not_found(inner), "held_out": not_found(held_out)},
            "command": request.command,
            "versions": versions(),
            "device": str(request.device),
            "seconds": round(time.perf_counter() - start, 1),
        }
    )
    write_json(folder / "summary.json", summary)
    return summary


def reference_volumes(cases: Sequence[Case], config: TrainingConfig) -> dict[str, list[float]]:
    """Volumes of the structures in the references of cases, ml; of those that have them."""
    found: dict[str, list[float]] = {part.key: [] for part in config.data.structures}
    for case in track([case for case in cases if case.labels is not None], "volumes", unit="case"):
        labels = read_case(case, config.data).labels
        assert labels is not None
        counts = np.bincount(labels.array.ravel(), minlength=len(found) + 1)[1:]
        for key, count in zip(found, counts, strict=False):
            if count:
                found[key].append(float(count) * labels.geometry.voxel_volume_ml)
    return found


def as_json(model: QualityModel) -> dict[str, Any]:
    """An estimate as JSON types."""
    return {**asdict(model), "structures": {key: asdict(curve) for key, curve in model.structures.items()}}


def read_summary(folder: Path) -> dict[str, Any] | None:
    """The summary in a fit's folder; None if there is none.

    Raises:
        InputError: it cannot be read.
    """
    path = folder / FOLDER / "summary.json"
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read.", remedy="Run `python -m training quality` again."
        ) from error
    if not isinstance(summary, dict) or summary.get("format") != FORMAT:
        raise InputError(
            f"{path} is no summary of expected Dice.", remedy="Run `python -m training quality`."
        )
    return summary


class _Whole(LoadedModel):
    """A model folder that reads images as they are: cases of its own data need no localiser."""

    @property
    def localiser(self) -> None:
        """There is none."""


def _of_fit(request: QualityRequest, cases: list[Case]) -> _Source:
    config = request.config
    evaluation = request.output / "evaluation" / "summary.json"
    try:
        evaluated = json.loads(evaluation.read_text(encoding="utf-8"))
        weights, temperature = evaluated["weights"], float(evaluated["temperature"])
        sha256 = evaluated["weights_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{request.output} has not been evaluated, so that its temperature is not known.",
            remedy="Run `python -m training evaluate` with this --output first.",
        ) from None
    fitted = load_fitted(request.output, config, weights=weights, fold=request.fold)
    if fitted.sha256 != sha256:
        raise InputError(
            f"the evaluation in {request.output} is of other weights than its checkpoint now holds.",
            remedy="Run `python -m training evaluate` again.",
        )
    split = split_cases(cases, config.data, fitted.fold)
    check_split(split, request.output)
    model = TrialModel(fitted, fitted.network(request.device), temperature)
    return _Source(model, sha256, fitted.fold, split)


def _of_folder(request: QualityRequest, folder: Path, cases: list[Case]) -> _Source:
    config = request.config
    found = load_model_of(config, folder)
    facts = found.metadata.dianet.training
    fold = int(facts.get("fold", 0)) if request.fold is None else request.fold
    split = split_cases(cases, config.data, fold)
    check_unseen(found, split, fold, request.data)
    model = _Whole(found.metadata, found.path, found.sha256)
    return _Source(model, found.sha256, fold, split)
