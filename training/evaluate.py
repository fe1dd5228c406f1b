# SPDX-License-Identifier: Apache-2.0
"""`python -m training evaluate`: the figures of a fit on the cases that it has not seen.

The temperature comes from the inner cases, everything else from the held-out fold, through the product's own
engine (`DIANetLib.inference.engine`). The weights are rounded to float16 first, as a bundle stores them, so
the figures are those of the model that is shipped. Writes OUTPUT/evaluation/{cases.csv, structures.csv,
summary.json, cases/*.npz}; a case that is there for the same weights and settings is not done again.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from DIANetLib.errors import InputError
from DIANetLib.inference.engine import Segmenter
from DIANetLib.network import DIANet
from training.config import TrainingConfig
from training.datasets import Case, Split, find_cases, load_case, read_case, split_cases
from training.fitted import FittedModel, WeightsName, load_fitted
from training.latent_use import latent_use
from training.progress import track
from training.scoring import CaseScore, StructureScore, score_case
from training.summary import figures_over_cases, finite, write_json, write_tables
from training.temperature import fit_sampled_temperature
from training.trial import PlainDIANet, TrialModel, sampled_logits

FORMAT_VERSION = 1
#: Voxels per inner case that the temperature is fitted on.
TEMPERATURE_VOXELS = 20_000
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
        seed: of the samples and of the bootstrap.
        limit: evaluate only the first so many held-out cases (a quick look).
        command: how this was called, for the record.

    Raises:
        InputError: if the folder holds no such fit, or the data is not what it was fitted on.
    """
    start = time.perf_counter()
    fitted = load_fitted(output, config, weights=weights, fold=fold)
    cases = {case.name: case for case in find_cases(data, config.data)}
    split = split_cases(list(cases.values()), config.data, fitted.fold)
    check_split(split, output)
    held_out = [cases[name] for name in split.held_out[: limit or None]]
    network = fitted.network(device)
    temperature = _temperature(fitted, network, [cases[n] for n in split.inner], samples, seed)
    folder = output / "evaluation"
    scores = _scores(fitted, held_out, folder / "cases", temperature, samples, seed, device)
    prepared = [load_case(case, config) for case in track(held_out, "latent", unit="case")]
    use = latent_use(network, prepared, config.window_kji)
    summary = {
        "format": "dianet-fit-evaluation",
        "format_version": FORMAT_VERSION,
        "model": config.name,
        "fold": fitted.fold,
        "folds": config.data.folds,
        "cases": len(scores),
        "held_out": list(split.held_out),
        "inner": list(split.inner),
        "fitted_cases": len(split.train),
        "limited": len(scores) < len(split.held_out),
        "step": fitted.step,
        "steps": fitted.fitted.optimiser.steps,
        "weights": weights,
        "weights_sha256": fitted.sha256,
        "temperature": temperature,
        "samples": samples,
        "seed": seed,
        **figures_over_cases(scores, seed=seed),
        "latent": None
        if use is None
        else {**asdict(use), "dice_change_when_shuffled": use.dice_change_when_shuffled},
        "command": command,
        "versions": versions(),
        "device": str(device),
        "seconds": round(time.perf_counter() - start, 1),
    }
    summary = finite(summary)
    write_tables(scores, folder)
    write_json(folder / "summary.json", summary)
    return summary


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


def _temperature(
    fitted: FittedModel, network: DIANet, inner: Sequence[Case], samples: int, seed: int
) -> float:
    logits, labels = [], []
    for number, case in enumerate(track(inner, "temperature", unit="case")):
        prepared = load_case(case, fitted.config)
        for values, classes in sampled_logits(
            network,
            prepared,
            fitted.config.window_kji,
            samples=samples,
            seed=seed + number,
            voxels=TEMPERATURE_VOXELS,
        ):
            logits.append(values)
            labels.append(classes)
    return fit_sampled_temperature(logits, labels)


def _scores(
    fitted: FittedModel,
    cases: Sequence[Case],
    folder: Path,
    temperature: float,
    samples: int,
    seed: int,
    device: torch.device,
) -> list[CaseScore]:
    key = json.dumps(
        [FORMAT_VERSION, fitted.sha256, round(temperature, 6), samples, seed, fitted.config.window_kji]
    )
    network, plain = fitted.network(device), PlainDIANet(fitted.fitted.network)
    plain.load_state_dict(dict(fitted.state))
    engines = [
        Segmenter(TrialModel(fitted, network, temperature), str(device)),
        Segmenter(TrialModel(fitted, network), str(device)),
        Segmenter(TrialModel(fitted, plain.to(device).eval().requires_grad_(False)), str(device)),
    ]
    scores = []
    progress = track(cases, "evaluate", unit="case")
    for case in progress:
        file = folder / f"{case.name}.npz"
        score = _load_score(file, key)
        if score is None:
            source = read_case(case, fitted.config.data)
            passes = (samples, samples, 0)
            calibrated, uncalibrated, single = (
                engine.segment(source.volumes, samples=count, seed=seed)
                for engine, count in zip(engines, passes, strict=True)
            )
            score = score_case(
                case.name,
                source.labels,
                calibrated=calibrated,
                uncalibrated=uncalibrated,
                plain=single,
            )
            _save_score(score, file, key)
        scores.append(score)
        progress.note(f"Dice {np.mean([s.figures['dice'] for s in scores]):.4f}")
    return scores


def _save_score(score: CaseScore, file: Path, key: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    record = json.dumps(
        {"key": key, "figures": score.figures, "structures": [asdict(part) for part in score.structures]}
    )
    temporary = file.with_suffix(".tmp.npz")
    arrays: dict[str, Any] = {"record": np.array(record), **score.voxels}
    np.savez_compressed(temporary, **arrays)
    temporary.replace(file)


def _load_score(file: Path, key: str) -> CaseScore | None:
    """A case's score, if it was made with the same weights and settings."""
    if not file.is_file():
        return None
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as data:
            record = json.loads(str(data["record"]))
            voxels = {name: data[name] for name in data.files if name != "record"}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):  # cut off or foreign: done again
        return None
    if record["key"] != key:
        return None
    structures = tuple(StructureScore(**part) for part in record["structures"])
    return CaseScore(file.stem, structures, record["figures"], voxels)
