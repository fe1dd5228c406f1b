# SPDX-License-Identifier: Apache-2.0
"""How good an estimate of quality is: rank correlation with the true Dice, coverage, width of intervals."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import mannwhitneyu, spearmanr

from DIANetLib.acwi.quality import DEFAULT_LIMITS, DiceEstimate, QualityModel
from training.quality_runs import Told


@dataclass(frozen=True)
class Judgement:
    """Figures over rows of one structure in one run each.

    Attributes:
        rows: how many.
        dice: mean true Dice.
        expected: mean expected Dice.
        error: mean absolute difference of the two.
        spearman: rank correlation of the two; None for fewer than three rows, or where all are equal.
        coverage: share of rows whose true Dice lies in the interval.
        width: mean width of the intervals.
    """

    rows: int
    dice: float
    expected: float
    error: float
    spearman: float | None
    coverage: float
    width: float


@dataclass(frozen=True)
class Judged:
    """A row and what was expected of it."""

    row: Told
    estimate: DiceEstimate


def judged_rows(pairs: Sequence[tuple[Told, QualityModel]]) -> list[Judged]:
    """Estimates of rows; structures that were not found, or have no curve, are left out."""
    found = []
    for row, model in pairs:
        estimate = None if row.features is None else model.estimate(row.structure, row.features)
        if estimate is not None:
            found.append(Judged(row, estimate))
    return found


def judge(rows: Sequence[Judged]) -> Judgement | None:
    """The figures; None without rows."""
    if not rows:
        return None
    true = np.array([one.row.dice for one in rows])
    value = np.array([one.estimate.value for one in rows])
    ends = np.array([one.estimate.interval or (value, value) for one, value in zip(rows, value, strict=True)])
    varied = len(rows) > 2 and np.ptp(true) > 0 and np.ptp(value) > 0
    return Judgement(
        rows=len(rows),
        dice=float(true.mean()),
        expected=float(value.mean()),
        error=float(np.abs(value - true).mean()),
        spearman=float(spearmanr(value, true).statistic) if varied else None,
        coverage=float(((ends[:, 0] <= true) & (true <= ends[:, 1])).mean()),
        width=float((ends[:, 1] - ends[:, 0]).mean()),
    )


def judgements(rows: Sequence[Judged]) -> dict[str, Any]:
    """In distribution, and over the series of cases with corrupted copies: all, by structure, by kind."""
    clean, whole = [one for one in rows if one.row.kind == "none"], _with_copies(rows)
    return {
        "in_distribution": _with_structures(clean),
        "series": {**_with_structures(whole), **series_figures(whole)},
        "kinds": _grouped(whole, lambda one: one.row.kind),
        "levels": _grouped(whole, lambda one: f"{one.row.kind} {one.row.level:g}"),
    }


def series_figures(rows: Sequence[Judged]) -> dict[str, float | None]:
    """What the rank correlation over a series of corruptions does not tell by itself.

    Cases differ in Dice for reasons that no image shows, such as who outlined them. So three figures more:

    within_cases: rank correlation over the copies of one case and structure, mean over these.
    known_corruption: rank correlation of the true Dice with the mean true Dice of its structure, kind and
        level: what somebody would get who knows what was done to the image and what that costs on average.
    auroc_red: area under the ROC curve for finding a Dice below the limit of the traffic light's red.

    Args:
        rows: of cases with corrupted copies; others are left out.
    """
    rows = _with_copies(rows)
    if not rows:
        return {"within_cases": None, "known_corruption": None, "auroc_red": None}
    true = np.array([one.row.dice for one in rows])
    value = np.array([one.estimate.value for one in rows])
    copies = _indices(rows, lambda one: (one.row.case, one.row.structure))
    within = [
        float(spearmanr(value[own], true[own]).statistic)
        for own in copies
        if len(own) > 2 and np.ptp(true[own]) > 0 and np.ptp(value[own]) > 0
    ]
    means = np.zeros(len(rows))
    for own in _indices(rows, lambda one: (one.row.structure, one.row.kind, one.row.level)):
        means[own] = true[own].mean()
    bad = true < DEFAULT_LIMITS.amber
    return {
        "within_cases": float(np.mean(within)) if within else None,
        "known_corruption": float(spearmanr(means, true).statistic) if np.ptp(means) > 0 else None,
        "auroc_red": float(mannwhitneyu(-value[bad], -value[~bad]).statistic / (bad.sum() * (~bad).sum()))
        if bad.any() and not bad.all()
        else None,
    }


def not_found(rows: Sequence[Told]) -> int:
    """Rows whose structure was not found at all."""
    return sum(row.features is None for row in rows)


def table_row(one: Judged) -> dict[str, Any]:
    """A row of the table of all runs."""
    told = one.row.features
    return {
        "case": one.row.case,
        "kind": one.row.kind,
        "level": one.row.level,
        "structure": one.row.structure,
        "dice": round(one.row.dice, 4),
        "expected": round(one.estimate.value, 4),
        "low": None if one.estimate.low is None else round(one.estimate.low, 4),
        "high": None if one.estimate.high is None else round(one.estimate.high, 4),
        **({} if told is None else {name: _rounded(value) for name, value in asdict(told).items()}),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)


def _with_structures(rows: Sequence[Judged]) -> dict[str, Any]:
    return {"all": _plain(judge(rows)), "structures": _grouped(rows, lambda one: one.row.structure)}


def _with_copies(rows: Sequence[Judged]) -> list[Judged]:
    """Rows of cases that have corrupted copies, lest the others outweigh them."""
    whole = {one.row.case for one in rows if one.row.kind != "none"}
    return [one for one in rows if one.row.case in whole]


def _indices(rows: Sequence[Judged], key: Callable[[Judged], Hashable]) -> list[npt.NDArray[np.intp]]:
    groups: dict[Hashable, list[int]] = {}
    for number, one in enumerate(rows):
        groups.setdefault(key(one), []).append(number)
    return [np.array(group) for group in groups.values()]


def _grouped(rows: Sequence[Judged], key: Callable[[Judged], str]) -> dict[str, Any]:
    groups: dict[str, list[Judged]] = {}
    for one in rows:
        groups.setdefault(key(one), []).append(one)
    return {name: _plain(judge(group)) for name, group in groups.items()}


def _plain(found: Judgement | None) -> Mapping[str, Any] | None:
    return None if found is None else asdict(found)
