# SPDX-License-Identifier: Apache-2.0
"""Bootstrap intervals of any figures over cases, and of the difference between two models on the same cases.

Percentile intervals over resampled groups (Efron and Tibshirani 1993, chapter 13): cases of one patient are
drawn together. A difference is resampled in pairs, so that what is hard for both models cancels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from DIANetLib.errors import InputError

DRAWS = 2_000

Indices = npt.NDArray[np.int64]
#: Figures by name of the cases at some indices, which may be there several times.
Figures = Callable[[Indices], Mapping[str, float]]


@dataclass(frozen=True)
class Estimate:
    """A figure of all cases.

    Attributes:
        value: the figure; NaN where it is not defined.
        interval_95: percentile interval; NaN where there is one group, or no resampling defines the figure.
        n: number of cases.
    """

    value: float
    interval_95: tuple[float, float]
    n: int


@dataclass(frozen=True)
class Difference:
    """A figure of one model less that of another one, on the same cases.

    Attributes:
        value: ours less theirs.
        interval_95: percentile interval of it.
        n: number of cases.
        ours: the figure of the first model.
        theirs: that of the second one.
    """

    value: float
    interval_95: tuple[float, float]
    n: int
    ours: float
    theirs: float


def estimates(
    figures: Figures,
    count: int,
    *,
    groups: Sequence[Hashable] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Figures of `count` cases with their intervals.

    Args:
        figures: computes them for the cases at some indices.
        count: number of cases.
        groups: what each case belongs to; None for cases that are independent.
        draws: resamplings.
        seed: of the resampling.

    Raises:
        InputError: if there is no case.
    """
    if count < 1:
        raise InputError("expected at least one case to compute figures of, got none.")
    whole = figures(np.arange(count))
    single = len(set(range(count) if groups is None else groups)) < 2
    drawn = [] if single else [figures(chosen) for chosen in _resampled(count, groups, draws, seed)]
    return {
        name: Estimate(value, _interval([part[name] for part in drawn]), count)
        for name, value in whole.items()
    }


def differences(
    ours: Figures,
    theirs: Figures,
    count: int,
    *,
    groups: Sequence[Hashable] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Difference]:
    """Figures of one model less those of another one, with paired intervals; arguments as for `estimates`."""

    def both(chosen: Indices) -> dict[str, float]:
        other = theirs(chosen)
        return {name: value - other[name] for name, value in ours(chosen).items()}

    everything = np.arange(count)
    first, second = ours(everything), theirs(everything)
    return {
        name: Difference(part.value, part.interval_95, part.n, first[name], second[name])
        for name, part in estimates(both, count, groups=groups, draws=draws, seed=seed).items()
    }


def means_of(columns: Mapping[str, Sequence[float]]) -> Figures:
    """Figures that are means over cases; cases where one is NaN are left out of it."""
    arrays = {name: np.asarray(values, np.float64) for name, values in columns.items()}

    def figures(chosen: Indices) -> dict[str, float]:
        found = {}
        for name, values in arrays.items():
            there = values[chosen]
            there = there[~np.isnan(there)]
            found[name] = float(there.mean()) if there.size else math.nan
        return found

    return figures


def _resampled(count: int, groups: Sequence[Hashable] | None, draws: int, seed: int) -> list[Indices]:
    rng = np.random.default_rng(seed)
    if groups is None:
        return list(rng.integers(0, count, (draws, count)))
    if len(groups) != count:
        raise InputError(f"expected the group of each of {count} cases, got {len(groups)}.")
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    parts = [np.array(part, np.int64) for part in members.values()]
    chosen = rng.integers(0, len(parts), (draws, len(parts)))
    return [np.concatenate([parts[number] for number in row]) for row in chosen]


def _interval(values: Sequence[float]) -> tuple[float, float]:
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    if not known.size:
        return math.nan, math.nan
    low, high = np.percentile(known, (2.5, 97.5))
    return float(low), float(high)
