# SPDX-License-Identifier: Apache-2.0
"""Which cases are fitted, set the temperature and are held out; what belongs together stays together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np

from DIANetLib.errors import InputError
from training.config import DataConfig
from training.datasets.base import Case


@dataclass(frozen=True)
class Split:
    """Names of cases that are fitted, that set the temperature, and that are held out."""

    train: tuple[str, ...]
    inner: tuple[str, ...]
    held_out: tuple[str, ...]


def split_cases(cases: Sequence[Case | str], config: DataConfig, fold: int) -> Split:
    """Divide cases by their groups: fold `fold` is held out, `config.inner` of the rest set the temperature.

    The folds are those of `sklearn.model_selection.KFold(folds, shuffle=True, random_state=split_seed)` over
    the sorted groups; as many folds as groups is leave-one-out. Where the data set itself says what is held
    out, every fold holds out just that.

    Args:
        cases: cases, or names of cases that are groups by themselves.
        config: folds, seed, inner groups.
        fold: from 0.

    Raises:
        InputError: if there are too few groups or no such fold.
    """
    if not 0 <= fold < config.folds:
        raise InputError(f"expected a fold from 0 to {config.folds - 1}, got {fold}.")
    listed = [Case(case, ()) if isinstance(case, str) else case for case in cases]
    held = _given(listed)
    groups = sorted({_group(case) for case in listed} - held)
    if held:
        shuffled = _shuffled(groups, config.split_seed)
    else:
        least = next(n for n in count(config.folds) if n - -(-n // config.folds) > config.inner)
        _check_enough(len(groups), least, f"{config.folds} folds and {config.inner} inner cases", listed)
        order = _shuffled(groups, config.split_seed)
        held = set(np.array_split(np.array(order, object), config.folds)[fold].tolist())
        shuffled = [group for group in order if group not in held]
    _check_enough(len(shuffled), config.inner + 1, f"fitting and {config.inner} inner cases", listed)
    inner = set(shuffled[: config.inner])

    def named(members: set[str]) -> tuple[str, ...]:
        return tuple(sorted(case.name for case in listed if _group(case) in members))

    return Split(train=named(set(shuffled) - inner), inner=named(inner), held_out=named(held))


def _group(case: Case) -> str:
    return case.name if case.group is None else case.group


def _shuffled(groups: Sequence[str], seed: int) -> list[str]:
    order = np.random.RandomState(seed).permutation(len(groups))
    return [groups[index] for index in order]


def _given(cases: Sequence[Case]) -> set[str]:
    """The groups that the data set itself holds out.

    Raises:
        InputError: if it says so of some cases only, or of a part of a group.
    """
    said = {case.held_out for case in cases}
    if said <= {None}:
        return set()
    if None in said:
        raise InputError("expected the data set to say of all cases or of none whether they are held out.")
    held = {_group(case) for case in cases if case.held_out}
    torn = sorted(held & {_group(case) for case in cases if not case.held_out})
    if torn:
        raise InputError(f"expected a group to be held out or fitted, got both of {', '.join(torn)}.")
    return held


def _check_enough(found: int, least: int, what: str, cases: Sequence[Case]) -> None:
    if found < least:
        grouped = "groups of cases" if any(case.group for case in cases) else "cases"
        raise InputError(f"expected at least {least} {grouped} for {what}, got {found}.")
