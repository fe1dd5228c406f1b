# SPDX-License-Identifier: Apache-2.0
"""How good an estimate of quality is: rank correlation with the true Dice, coverage, width of intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from DIANetLib.acwi.quality import DiceEstimate, QualityModel
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
    """In distribution and over the series, together and by structure; and by corruption."""
    clean = [one for one in rows if one.row.kind == "none"]
    return {
        "in_distribution": _with_structures(clean),
        "series": _with_structures(rows),
        "kinds": _grouped(rows, lambda one: one.row.kind),
        "levels": _grouped(rows, lambda one: f"{one.row.kind} {one.row.level:g}"),
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
        **({} if told is None else {name: round(value, 5) for name, value in asdict(told).items()}),
    }


def _with_structures(rows: Sequence[Judged]) -> dict[str, Any]:
    return {"all": _plain(judge(rows)), "structures": _grouped(rows, lambda one: one.row.structure)}


def _grouped(rows: Sequence[Judged], key: Callable[[Judged], str]) -> dict[str, Any]:
    groups: dict[str, list[Judged]] = {}
    for one in rows:
        groups.setdefault(key(one), []).append(one)
    return {name: _plain(judge(group)) for name, group in groups.items()}


def _plain(found: Judgement | None) -> Mapping[str, Any] | None:
    return None if found is None else asdict(found)
