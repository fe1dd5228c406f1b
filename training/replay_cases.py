# SPDX-License-Identifier: Apache-2.0
"""Held-out cases as the product segments them, for replayed reviews; what was segmented once is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch

from DIANetLib.acwi.error_calibration import ErrorCalibration
from DIANetLib.bundle import LoadedModel
from DIANetLib.inference.engine import Model, Segmenter
from DIANetLib.network import DIANet
from DIANetLib.structures import Structure
from DIANetLib.volume import Volume
from training.config import TrainingConfig
from training.datasets import Case, Split, find_cases, read_case, split_cases
from training.error_calibration import error_calibration
from training.evaluate import check_split
from training.evaluate_segmentation import segmentation_temperature
from training.fitted import WeightsName, load_fitted
from training.progress import track
from training.summary import write_json
from training.trial import PlainDIANet, Trial, TrialModel, named_volumes
from training.unseen import check_unseen, load_model_of

_FORMAT_VERSION = 2


@dataclass(frozen=True, eq=False)
class Segmented:
    """A held-out case as the product segments it.

    Attributes:
        name: of the case.
        structures: what the labels stand for.
        reference: true labels.
        labels: what the product found.
        error_probability: calibrated.
        entropy: of the softmax of one plain pass, nats.
    """

    name: str
    structures: tuple[Structure, ...]
    reference: Volume
    labels: Volume
    error_probability: Volume
    entropy: Volume


@dataclass(frozen=True, eq=False)
class Source:
    """What segments some held-out cases."""

    model: Model
    peer: Model
    held_out: tuple[Case, ...]
    told: Mapping[str, Any]


@dataclass(frozen=True)
class Runs:
    """How cases are segmented.

    Attributes:
        config: the configuration that says how the data is read.
        data: folder of the data set.
        device: where the network runs.
        samples: T.
        seed: of the samples.
    """

    config: TrainingConfig
    data: Path
    device: torch.device
    samples: int = 10
    seed: int = 0


def segmented_cases(
    source: Source, runs: Runs, folder: Path, limit: int | None = None
) -> Iterator[Segmented]:
    """The held-out cases of a source that have labels, segmented or read from what an earlier run kept.

    Args:
        source: what segments them.
        runs: how.
        folder: where their maps are kept.
        limit: only the first so many.
    """
    cases = [case for case in source.held_out if case.labels is not None]
    for case in track(cases[: limit or None], "replay", unit="case"):
        yield _segmented(source, case, runs, folder)


def source_of_model(runs: Runs, folder: Path, fold: int) -> Source:
    """A model folder and the cases that it was not fitted on.

    Raises:
        InputError: it has other structures than the configuration, or names other cases as held out.
        BundleError: it cannot be used.
    """
    config, data = runs.config, runs.data
    model = load_model_of(config, folder)
    cases, split = _split(config, data, fold)
    check_unseen(model, split, fold, data)
    network = model.network(runs.device)
    told = {"model": model.name, "version": model.version, "sha256": model.sha256, "fold": fold}
    correction = model.error_calibration
    return Source(
        model,
        _Peer(model, _plain(network)),
        tuple(cases[name] for name in split.held_out),
        {
            **told,
            "temperature": model.temperature,
            "error_calibration": None if correction is None else correction.to_json(),
        },
    )


def source_of_fit(
    runs: Runs, output: Path, fold: int | None = None, weights: WeightsName = "latest"
) -> Source:
    """A fit and its held-out cases, calibrated on its inner ones, as far as that was not done before.

    Raises:
        InputError: the folder holds no such fit, or the data is not what it was fitted on.
    """
    config = runs.config
    fitted = load_fitted(output, config, weights=weights, fold=fold)
    cases, split = _split(config, runs.data, fitted.fold)
    check_split(split, output)
    trial = Trial(
        fitted,
        fitted.network(runs.device),
        held_out=tuple(cases[name] for name in split.held_out),
        inner=tuple(cases[name] for name in split.inner),
        folder=output / "replay",
        samples=runs.samples,
        seed=runs.seed,
    )
    file = trial.folder / "calibration.json"
    key = [_FORMAT_VERSION, trial.fitted.sha256, trial.samples, trial.seed, [c.name for c in trial.inner]]
    kept = _read_json(file)
    if kept.get("key") != key:
        temperature = segmentation_temperature(trial)
        correction = error_calibration(trial, temperature)
        kept = {"key": key, "temperature": temperature, "error_calibration": correction.to_json()}
        write_json(file, kept)
    told = {
        "fit": str(trial.folder.parent),
        "sha256": trial.fitted.sha256,
        "fold": trial.fitted.fold,
        "temperature": kept["temperature"],
        "error_calibration": kept["error_calibration"],
    }
    # A baseline knows nothing but plain passes.
    plain = trial.network if fitted.fitted.baseline is not None else _plain(trial.network)
    return Source(
        TrialModel(
            trial.fitted,
            trial.network,
            kept["temperature"],
            error_calibration=ErrorCalibration.from_json(kept["error_calibration"]),
        ),
        TrialModel(trial.fitted, plain),
        trial.held_out,
        told,
    )


def _split(config: TrainingConfig, data: Path, fold: int) -> tuple[dict[str, Case], Split]:
    cases = {case.name: case for case in find_cases(data, config.data)}
    return cases, split_cases(list(cases.values()), config.data, fold)


def _plain(network: DIANet) -> DIANet:
    """The same weights, each pass a mean pass without predicted logit noise."""
    plain = PlainDIANet(network.config)
    plain.load_state_dict(network.state_dict())
    device = next(network.parameters()).device
    return plain.to(device).eval().requires_grad_(False)


class _Peer:
    """A model folder whose network is replaced by its plain peer at temperature 1."""

    temperature = 1.0
    error_calibration = None

    def __init__(self, model: LoadedModel, network: DIANet) -> None:
        self._model, self._network = model, network

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def network(self, device: str | torch.device = "cpu") -> DIANet:
        return self._network.to(device)


def _segmented(source: Source, case: Case, runs: Runs, folder: Path) -> Segmented:
    read = read_case(case, runs.config.data)
    assert read.labels is not None  # only cases with labels come here
    file = folder / f"{case.name}.npz"
    key = json.dumps([_FORMAT_VERSION, runs.samples, runs.seed, dict(source.told)])
    maps = _load_maps(file, key)
    if maps is None:
        volumes = named_volumes(read, runs.config)
        ours = Segmenter(source.model, str(runs.device)).segment(
            volumes, samples=runs.samples, seed=runs.seed
        )
        plain = Segmenter(source.peer, str(runs.device)).segment(volumes, samples=0, seed=runs.seed)
        maps = {
            "labels": ours.labels.array,
            "error_probability": ours.error_probability.array,
            "entropy": plain.uncertainty["total"].array,
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(".tmp.npz")
        np.savez_compressed(temporary, key=np.array(key), **maps)  # type: ignore[arg-type]
        temporary.replace(file)
    made = {name: read.labels.with_array(array, name) for name, array in maps.items()}
    return Segmented(case.name, tuple(source.model.structures), read.labels, **made)


def _load_maps(file: Path, key: str) -> dict[str, npt.NDArray[Any]] | None:
    if not file.is_file():
        return None
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as kept:
            if str(kept["key"]) != key:
                return None
            return {name: kept[name] for name in ("labels", "error_probability", "entropy")}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):  # cut off or foreign: done again
        return None


def _read_json(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
