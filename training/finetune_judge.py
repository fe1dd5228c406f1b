# SPDX-License-Identifier: Apache-2.0
"""Whether a candidate is better than the model before it, on cases that it was not fitted on.

Corrected labels lean towards the model that they were corrected from: where nobody looked, they are its own
output, and it cannot be wrong there. So corrected cases are compared where a person judged; over whole images
the comparison only catches a candidate that went astray.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from DIANetLib.labelling import labels_of
from training.bootstrap import Difference, differences, means_of
from training.config import TrainingConfig
from training.datasets import PreparedCase
from training.finetune_cases import CorrectedCase
from training.finetune_config import JudgingConfig
from training.fit_state import model_on
from training.predict import predict_mean, structure_dice


@dataclass(frozen=True)
class CaseJudgement:
    """Dice of a case, means over its structures, by the model before and the candidate.

    Attributes:
        name: of the case.
        group: what belongs together: sides of one head.
        before: Dice over the whole image.
        after: the same, of the candidate.
        reviewed_before: Dice where a person judged; NaN for rehearsed cases.
        reviewed_after: the same, of the candidate.
    """

    name: str
    group: str
    before: float
    after: float
    reviewed_before: float = math.nan
    reviewed_after: float = math.nan


@dataclass(frozen=True)
class Score:
    """Dice of a corrected case, means over its structures.

    Attributes:
        whole: over the whole image.
        reviewed: where a person judged; NaN where neither labels nor segmentation have a structure there.
    """

    whole: float
    reviewed: float


@dataclass(frozen=True)
class Verdict:
    """What came of it.

    Attributes:
        figures: differences after - before with 95 % intervals over cases, by "new_reviewed", "new", "old".
        reasons: why the candidate is not to be shipped, sentences; empty if it may be.
        notes: what else a reader should know, sentences.
    """

    figures: Mapping[str, Difference]
    reasons: tuple[str, ...]
    notes: tuple[str, ...] = ()


def judge_corrected(
    cases: Sequence[CorrectedCase], before: Sequence[Score], after: Sequence[Score]
) -> list[CaseJudgement]:
    """Compare the scores that two sets of weights have on corrected cases, see `scores_of`."""
    return [
        CaseJudgement(case.case.name, case.group, one.whole, two.whole, one.reviewed, two.reviewed)
        for case, one, two in zip(cases, before, after, strict=True)
    ]


def judge_rehearsed(
    cases: Sequence[PreparedCase], before: Sequence[float], after: Sequence[float]
) -> list[CaseJudgement]:
    """Compare the Dice that two sets of weights have on cases of the model's own data, see `dice_of`."""
    return [
        CaseJudgement(case.name, case.name, one, two)
        for case, one, two in zip(cases, before, after, strict=True)
    ]


def scores_of(
    config: TrainingConfig,
    weights: Mapping[str, Tensor],
    cases: Sequence[CorrectedCase],
    device: torch.device,
) -> list[Score]:
    """Dice of corrected cases by some weights, over the whole image and where a person judged."""
    network = _network(config, weights, device)
    found = []
    for case in cases:
        labels = _segment(config, network, case.case)
        found.append(Score(_dice(config, labels, case.case), _dice(config, labels, case.case, case.reviewed)))
    return found


def dice_of(
    config: TrainingConfig, weights: Mapping[str, Tensor], cases: Sequence[PreparedCase], device: torch.device
) -> list[float]:
    """Mean Dice over the structures of each case, by some weights."""
    network = _network(config, weights, device)
    return [_dice(config, _segment(config, network, case), case) for case in cases]


def verdict(
    new: Sequence[CaseJudgement], old: Sequence[CaseJudgement], settings: JudgingConfig, seed: int
) -> Verdict:
    """Weigh the judgements of corrected and rehearsed cases against the tolerances."""
    figures: dict[str, Difference] = {}
    if new:
        figures["new_reviewed"] = _difference(new, "reviewed_before", "reviewed_after", seed)
        figures["new"] = _difference(new, "before", "after", seed)
    if old:
        figures["old"] = _difference(old, "before", "after", seed)
    limits = {
        "new_reviewed": (settings.tolerance_new, "where the corrected cases were reviewed"),
        "new": (settings.tolerance_whole, "over the whole of the corrected cases"),
        "old": (settings.tolerance_old, "on the rehearsed cases"),
    }
    reasons, notes = [], []
    for name, part in figures.items():
        tolerance, where = limits[name]
        text = f"the mean Dice {where} went from {part.theirs:.4f} to {part.ours:.4f} ({part.value:+.4f}"
        if part.value < -tolerance:
            reasons.append(f"{text}, tolerated is a loss of {tolerance:g})")
        elif name == "new_reviewed" and part.value <= 0:
            notes.append(f"Nothing was gained: {text}).")
    return Verdict(figures, tuple(reasons), tuple(notes))


def blended(start: Mapping[str, Tensor], fitted: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Weights that are so far on the straight way from the start to those fitted."""
    return {name: torch.lerp(value, fitted[name], share) for name, value in start.items()}


def choose_share(verdicts: Mapping[float, Verdict]) -> float:
    """Which of several candidates on the way from the weights before to those fitted is the one.

    Weights in between keep most of what was known and have most of what was learned (Wortsman et al., "Robust
    fine-tuning of zero-shot models", CVPR 2022). Of those that may be shipped, the one that is best where
    corrected cases were reviewed; the farthest where no corrected case judges; the nearest where none may be.
    """
    good = [share for share, found in verdicts.items() if not found.reasons]
    if not good:
        return min(verdicts)
    judged = {share: verdicts[share].figures.get("new_reviewed") for share in good}
    return max(good, key=lambda share: (part.ours if (part := judged[share]) else 0.0, share))


def as_json(found: Verdict, new: Sequence[CaseJudgement], old: Sequence[CaseJudgement]) -> dict[str, Any]:
    """The table with its cases, of JSON types; figures that are not defined are null."""
    return {
        "figures": {name: _plain(_named(part)) for name, part in found.figures.items()},
        "reasons": list(found.reasons),
        "notes": list(found.notes),
        "corrected_cases": [_plain(asdict(case)) for case in new],
        "rehearsed_cases": [_plain(asdict(case)) for case in old],
    }


def as_markdown(table: Mapping[str, Any]) -> str:
    """The figures of `as_json` as a Markdown table."""
    words = {
        "new_reviewed": "corrected cases, where reviewed",
        "new": "corrected cases, whole image",
        "old": "rehearsed cases",
    }
    lines = ["| judged on | cases | before | after | difference (95 %) |", "|---|---|---|---|---|"]
    for name, part in table["figures"].items():
        low, high = part["interval_95"]
        interval = "" if low is None or high is None else f" ({low:+.4f} to {high:+.4f})"
        numbers = [("–" if v is None else f"{v:.4f}") for v in (part["before"], part["after"])]
        difference = "–" if part["difference"] is None else f"{part['difference']:+.4f}"
        lines.append(f"| {words[name]} | {part['cases']} | {' | '.join(numbers)} | {difference}{interval} |")
    return "\n".join(lines)


def _named(part: Difference) -> dict[str, Any]:
    return {
        "cases": part.n,
        "before": part.theirs,
        "after": part.ours,
        "difference": part.value,
        "interval_95": list(part.interval_95),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def _difference(cases: Sequence[CaseJudgement], before: str, after: str, seed: int) -> Difference:
    theirs, ours = (means_of({"dice": [getattr(case, name) for case in cases]}) for name in (before, after))
    groups = [case.group for case in cases]
    return differences(ours, theirs, len(cases), groups=groups, seed=seed)["dice"]


def _network(config: TrainingConfig, weights: Mapping[str, Tensor], device: torch.device) -> torch.nn.Module:
    """The network with weights rounded as a model folder stores them."""
    network = model_on(config, device)
    network.load_state_dict({name: value.half().float() for name, value in weights.items()})
    return network.eval()


def _segment(
    config: TrainingConfig, network: torch.nn.Module, case: PreparedCase
) -> npt.NDArray[np.integer[Any]]:
    return labels_of(predict_mean(network, case.image, config, case.available))


def _dice(
    config: TrainingConfig,
    labels: npt.NDArray[np.integer[Any]],
    case: PreparedCase,
    mask: npt.NDArray[np.bool_] | None = None,
) -> float:
    """Mean Dice over the structures that the case or the segmentation has there; NaN without any."""
    assert case.labels is not None  # judged cases have some
    pair = (labels, case.labels) if mask is None else (labels[mask], case.labels[mask])
    scores = structure_dice(*pair, config.network.classes)
    return math.nan if np.isnan(scores).all() else float(np.nanmean(scores))
