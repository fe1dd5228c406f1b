# SPDX-License-Identifier: Apache-2.0
"""Dice with every non-empty subset of the modalities, from the same weights (N2).

One mean pass of the product's engine per case and subset. A case that lacks modalities itself counts for the
subsets of those that it has.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from DIANetLib.bundle_schema import ModalitySpec
from DIANetLib.errors import InputError
from DIANetLib.inference.engine import Segmenter
from DIANetLib.preprocess import on_one_grid
from training.config import TrainingConfig
from training.datasets import Case, read_case
from training.evaluate_segmentation import labelled
from training.progress import track
from training.scoring import score_regions, score_structures
from training.summary import statistics, write_json
from training.trial import Trial, TrialModel, named_volumes

FORMAT_VERSION = 1


@dataclass(frozen=True)
class SubsetScore:
    """Dice of one case, read with some of its modalities.

    Attributes:
        case: its name.
        subset: names of the modalities, joined by "+".
        modalities: how many they are.
        dice: per structure, per region, and "dice" for the mean over structures.
    """

    case: str
    subset: str
    modalities: int
    dice: dict[str, float]

    @property
    def row(self) -> dict[str, Any]:
        """As a row of a table."""
        return {"case": self.case, "subset": self.subset, "modalities": self.modalities, **self.dice}


def check_subsets(config: TrainingConfig) -> None:
    """Find out whether a model can be asked for subsets.

    Raises:
        InputError: if it segments nothing or reads one modality.
    """
    if not config.data.structures or len(config.data.modalities) < 2:
        raise InputError(
            "expected a segmentation of two modalities or more for --subsets, got "
            f"{len(config.data.modalities)} and {len(config.data.structures)} structures."
        )


def subsets_of(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """All non-empty subsets in their order, the largest first."""
    for size in range(len(names), 0, -1):
        yield from combinations(names, size)


def subset_scores(trial: Trial, temperature: float) -> list[SubsetScore]:
    """Segment the held-out cases with every subset of their modalities; no case is done twice.

    Args:
        trial: the fit and its cases.
        temperature: divides the logits.
    """
    check_subsets(trial.config)
    key = json.dumps(
        [FORMAT_VERSION, trial.fitted.sha256, round(temperature, 6), trial.config.window_kji]
        + [region.model_dump(mode="json") for region in trial.config.data.regions]
    )
    model = _AnySubset(trial.fitted, trial.network, temperature)
    engine = Segmenter(model, str(trial.device))
    scores = []
    for case in track(labelled(trial.held_out), "subsets", unit="case"):
        file = trial.folder / f"{case.name}.subsets.json"
        found = _load(file, key)
        if found is None:
            found = list(_case_scores(trial, case, engine))
            write_json(file, {"key": key, "scores": [asdict(score) for score in found]})
        scores += found
    return scores


def subset_table(scores: Sequence[SubsetScore], *, seed: int = 0) -> dict[str, Any]:
    """Statistics per subset, the largest subsets first."""
    sizes = {score.subset: score.modalities for score in scores}
    return {
        subset: statistics([score.dice for score in scores if score.subset == subset], seed=seed)
        for subset in sorted(sizes, key=lambda name: -sizes[name])
    }


class _AnySubset(TrialModel):
    """The model with no modality required, whatever its bundle is going to say."""

    @property
    def modalities(self) -> tuple[ModalitySpec, ...]:
        """What the input channels stand for."""
        return tuple(part.model_copy(update={"required": False}) for part in super().modalities)


def _case_scores(trial: Trial, case: Case, engine: Segmenter) -> Iterator[SubsetScore]:
    source = read_case(case, trial.reading.data)
    assert source.labels is not None  # only cases with labels come here
    # One grid for all subsets, that of the labels.
    volumes, _ = on_one_grid(named_volumes(source, trial.reading))
    modalities = [str(volume.modality) for volume in volumes]
    for subset in subsets_of(modalities):
        chosen = [volume for volume in volumes if volume.modality in subset]
        found = engine.segment(chosen, samples=0).labels.array
        structures = score_structures(found, source.labels, engine.model.structures)
        regions = score_regions(found, source.labels, engine.model.structures, trial.config.data.regions)
        dice = {"dice": float(np.mean([part.dice for part in structures]))}
        dice |= {part.structure: part.dice for part in (*structures, *regions)}
        yield SubsetScore(case.name, "+".join(subset), len(subset), dice)


def _load(file: Path, key: str) -> list[SubsetScore] | None:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if record["key"] != key:
            return None
        return [SubsetScore(**score) for score in record["scores"]]
    except (OSError, ValueError, KeyError, TypeError):  # not there, or foreign: done again
        return None
