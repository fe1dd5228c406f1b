# SPDX-License-Identifier: Apache-2.0
"""The segmentation part of an evaluation: the product's own engine on held-out cases, on their source grids.

Each case is segmented three times: with T samples at the fitted temperature and with the fitted correction of
the error probability, as the product does; with the same at temperature 1 and uncorrected; and with one plain
mean pass, the peer of the uncertainty maps. What a case gave is kept, and not done again for the same weights
and settings.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from DIANetLib.acwi.error_calibration import ErrorCalibration
from DIANetLib.errors import InputError
from DIANetLib.inference.engine import Segmenter
from DIANetLib.network import DIANet
from training.datasets import Case, load_case, read_case
from training.progress import track
from training.scoring import CaseScore, StructureScore, score_case
from training.temperature import fit_sampled_temperature
from training.trial import PlainDIANet, Trial, TrialModel, named_volumes, sampled_logits

FORMAT_VERSION = 3
#: Voxels per inner case that the temperature is fitted on.
TEMPERATURE_VOXELS = 20_000


def labelled(cases: Sequence[Case]) -> tuple[Case, ...]:
    """The cases that have a segmentation to compare with."""
    return tuple(case for case in cases if case.labels is not None)


def segmentation_temperature(trial: Trial) -> float:
    """The temperature that fits the T samples of the inner cases."""
    logits, labels = [], []
    for number, case in enumerate(track(labelled(trial.inner), "temperature", unit="case")):
        for values, classes in sampled_logits(
            trial.network,
            load_case(case, trial.fitted.config),
            trial.config.window_kji,
            samples=trial.samples,
            seed=trial.seed + number,
            voxels=TEMPERATURE_VOXELS,
            mirrored=trial.config.mirror_samples,
        ):
            logits.append(values)
            labels.append(classes)
    return fit_sampled_temperature(logits, labels)


def segmentation_scores(
    trial: Trial, temperature: float, correction: ErrorCalibration | None = None
) -> list[CaseScore]:
    """The scores of the held-out cases that have labels.

    Args:
        trial: the fit and its cases.
        temperature: what divides the logits.
        correction: of the error probability at this temperature.

    Raises:
        InputError: if none has.
    """
    cases = labelled(trial.held_out)
    if not cases:
        raise InputError("no held-out case has labels to compare a segmentation with.")
    config = trial.config
    key = json.dumps(
        [
            FORMAT_VERSION,
            trial.fitted.sha256,
            round(temperature, 6),
            None if correction is None else correction.to_json(),
            trial.samples,
            trial.seed,
            config.mirror_samples,
            config.window_kji,
            [region.model_dump(mode="json") for region in config.data.regions],
        ]
    )
    engines = [
        Segmenter(
            TrialModel(trial.fitted, trial.network, temperature, error_calibration=correction),
            str(trial.device),
        ),
        Segmenter(TrialModel(trial.fitted, trial.network), str(trial.device)),
        Segmenter(TrialModel(trial.fitted, _peer(trial)), str(trial.device)),
    ]
    scores: list[CaseScore] = []
    progress = track(cases, "segmentation", unit="case")
    for case in progress:
        file = trial.folder / f"{case.name}.npz"
        score = _load_score(file, key)
        if score is None:
            score = _score(trial, case, engines)
            _save_score(score, file, key)
        scores.append(score)
        progress.note(f"Dice {np.mean([s.figures['dice'] for s in scores]):.4f}")
    return scores


def judged_voxels(folder: Path, names: Sequence[str]) -> list[dict[str, npt.NDArray[Any]]]:
    """What `CaseScore.voxels` holds, of cases that an evaluation kept.

    Args:
        folder: where it kept them, its folder "cases".
        names: of the cases.

    Raises:
        InputError: if one is missing or cannot be read.
    """
    found = []
    for name in names:
        stored = _stored(folder / f"{name}.npz")
        if stored is None:
            raise InputError(
                f"{folder / name}.npz, which holds the judged voxels of a case, cannot be read.",
                remedy="Evaluate the fit again.",
            )
        found.append(stored[1])
    return found


def _score(trial: Trial, case: Case, engines: Sequence[Segmenter]) -> CaseScore:
    source = read_case(case, trial.reading.data)
    assert source.labels is not None  # only cases with labels come here
    volumes = named_volumes(source, trial.reading)
    calibrated, uncalibrated, single = (
        engine.segment(volumes, samples=count, seed=trial.seed)
        for engine, count in zip(engines, (trial.samples, trial.samples, 0), strict=True)
    )
    return score_case(
        case.name,
        source.labels,
        calibrated=calibrated,
        uncalibrated=uncalibrated,
        plain=single,
        regions=trial.config.data.regions,
    )


def _peer(trial: Trial) -> DIANet:
    """The network whose passes are all mean passes without predicted logit noise; a plain peer is one."""
    if trial.fitted.fitted.baseline is not None:
        return trial.network
    plain = PlainDIANet(trial.fitted.fitted.network)
    plain.load_state_dict(dict(trial.fitted.state))
    return plain.to(trial.device).eval().requires_grad_(False)


def _save_score(score: CaseScore, file: Path, key: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    record = json.dumps(
        {
            "key": key,
            "figures": score.figures,
            "structures": [asdict(part) for part in score.structures],
            "regions": [asdict(part) for part in score.regions],
        }
    )
    temporary = file.with_suffix(".tmp.npz")
    arrays: dict[str, Any] = {"record": np.array(record), **score.voxels}
    np.savez_compressed(temporary, **arrays)
    temporary.replace(file)


def _load_score(file: Path, key: str) -> CaseScore | None:
    """A case's score, if it was made with the same weights and settings."""
    stored = _stored(file)
    if stored is None or stored[0]["key"] != key:
        return None
    record, voxels = stored
    structures, regions = (
        tuple(StructureScore(**part) for part in record[name]) for name in ("structures", "regions")
    )
    return CaseScore(file.stem, structures, record["figures"], voxels, regions)


def _stored(file: Path) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]] | None:
    """The record and the voxels of a case's file; None where it is missing, cut off or foreign."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as data:
            record = json.loads(str(data["record"]))
            return record, {name: data[name] for name in data.files if name != "record"}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
