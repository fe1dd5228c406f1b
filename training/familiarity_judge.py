# SPDX-License-Identifier: Apache-2.0
"""How well what is unlike the fitted cases is told from held-out ones, beside simpler ways to tell."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import mannwhitneyu

from DIANetLib.acwi.familiarity import FamiliarityModel
from training.familiarity_runs import Seen

#: Says how odd a run looks; more is odder.
Way = Callable[[Seen], float]


@dataclass(frozen=True)
class Rates:
    """Grades of a group.

    Attributes:
        runs: how many.
        median: of the scores.
        lowest: of the scores.
        highest: of the scores.
        unusual: share that is unusual or unfamiliar.
        unfamiliar: share that is unfamiliar.
    """

    runs: int
    median: float
    lowest: float
    highest: float
    unusual: float
    unfamiliar: float


def auroc(usual: Sequence[float], odd: Sequence[float]) -> float:
    """Chance that an odd run looks odder than a usual one; ties count half."""
    statistic = mannwhitneyu(np.asarray(odd), np.asarray(usual)).statistic
    return float(statistic / (len(usual) * len(odd)))


def rates(model: FamiliarityModel, runs: Sequence[Seen]) -> Rates:
    """Scores and grades of a group."""
    found = [model.judge(run.features) for run in runs]
    scores = [one.score for one in found]
    return Rates(
        len(runs),
        float(np.median(scores)),
        min(scores),
        max(scores),
        float(np.mean([one.grade != "familiar" for one in found])),
        float(np.mean([one.grade == "unfamiliar" for one in found])),
    )


def ways(model: FamiliarityModel, bottleneck: FamiliarityModel, fitted: Sequence[Seen]) -> dict[str, Way]:
    """Familiarity and simpler ways to tell. Where a run found nothing, the ways that look at it are sure.

    Args:
        model: of all features.
        bottleneck: of the coarsest features alone, those that come first.
        fitted: runs of the fitted cases, whose volumes are usual.
    """
    usual = math.log(float(np.median([run.volume_ml for run in fitted if run.volume_ml > 0] or [1.0])))
    count = bottleneck.centre.size

    def mean_of(part: str) -> Way:
        def odd(run: Seen) -> float:
            value = getattr(run, part)
            return math.inf if value is None else float(value)

        return odd

    return {
        "familiarity": lambda run: model.distance(run.features),
        "bottleneck features alone": lambda run: bottleneck.distance(run.features[:count]),
        "epistemic alone": mean_of("epistemic"),
        "total entropy alone": mean_of("total"),
        "volume alone": lambda run: abs(math.log(run.volume_ml) - usual) if run.volume_ml > 0 else math.inf,
    }


def compared(
    told: Mapping[str, Way], held_out: Sequence[Seen], groups: Mapping[str, Sequence[Seen]]
) -> dict[str, dict[str, float]]:
    """AUROC of every way, for each group of runs against the held-out ones."""
    usual = {name: [way(run) for run in held_out] for name, way in told.items()}
    return {
        group: {name: auroc(usual[name], [way(run) for run in runs]) for name, way in told.items()}
        for group, runs in groups.items()
    }


def familiarity_lines(summary: Mapping[str, Any]) -> list[str]:
    """What a summary says, a line each."""
    levels = summary["levels"]
    lines = [
        f"unusual from {levels['unusual']:.2f}, unfamiliar from {levels['unfamiliar']:.2f} deviations",
        f"{'':40} {'n':>4} {'median':>7} {'range':>13} {'unusual':>8} {'unfam.':>7}  AUROC: familiarity,"
        " bottleneck, epistemic, total, volume",
    ]
    for name, found in summary["rates"].items():
        values = summary["auroc"].get(name)
        told = "" if values is None else "  " + " ".join(f"{value:.3f}" for value in values.values())
        lines.append(
            f"{name:40} {found['runs']:4d} {found['median']:7.2f} {found['lowest']:6.2f}"
            f" {found['highest']:6.2f}"
            f" {100 * found['unusual']:6.1f} % {100 * found['unfamiliar']:5.1f} %{told}"
        )
    for name in ("all outliers", "all outliers and strong corruptions"):
        values = summary["auroc"].get(name)
        if values is not None:
            lines.append(f"{name:40} " + " ".join(f"{value:.3f}" for value in values.values()))
    for name, values in summary["auroc_same_images"].items():
        title = f"{name}, against right places"
        lines.append(f"{title:40} " + " ".join(f"{value:.3f}" for value in values.values()))
    return lines
