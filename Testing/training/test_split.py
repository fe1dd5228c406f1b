# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import KFold, LeaveOneOut

from DIANetLib.errors import ConfigError, InputError
from Testing.training.tiny import config
from training.config import DataConfig
from training.datasets import Case, known_formats, split_cases

#: Six patients with one to three images each; names and groups are sorted differently on purpose.
SIZES = {"p3": 1, "p1": 3, "p6": 2, "p2": 1, "p5": 2, "p4": 3}
CASES = [Case(f"{n}-of-{p}", (), group=p) for p, size in SIZES.items() for n in range(size)]


def data_config(**changes: Any) -> DataConfig:
    return DataConfig(**{**config().data.model_dump(), "folds": 3, "inner": 1, **changes})


def groups(names: tuple[str, ...]) -> set[str]:
    return {name.rpartition("-")[2] for name in names}


@pytest.mark.parametrize("fold", range(3))
def test_a_patient_is_never_divided_and_folds_are_scikit_learns_over_the_patients(fold: int):
    split = split_cases(CASES, data_config(), fold)

    patients = np.array(sorted(SIZES))
    _, held = list(KFold(3, shuffle=True, random_state=12345).split(patients))[fold]
    assert groups(split.held_out) == set(patients[held])
    assert len(split.held_out) == sum(SIZES[name] for name in patients[held])
    assert sorted(split.train + split.inner + split.held_out) == sorted(case.name for case in CASES)
    assert not groups(split.train) & groups(split.inner)
    assert len(groups(split.inner)) == 1


def test_as_many_folds_as_patients_leave_one_out():
    splits = [split_cases(CASES, data_config(folds=6), fold) for fold in range(6)]

    assert [len(groups(split.held_out)) for split in splits] == [1] * LeaveOneOut().get_n_splits(list(SIZES))
    assert set().union(*(groups(split.held_out) for split in splits)) == set(SIZES)
    with pytest.raises(InputError, match="at least 7 groups of cases for 7 folds and 1 inner cases, got 6"):
        split_cases(CASES, data_config(folds=7), 0)


def test_what_the_data_set_holds_out_is_held_out_in_every_fold():
    cases = [Case(f"train_{n}", (), held_out=False) for n in range(5)]
    cases += [Case(f"val_{n}", (), held_out=True) for n in range(2)]

    first, second = (split_cases(cases, data_config(), fold) for fold in (0, 1))

    assert first == second
    assert first.held_out == ("val_0", "val_1")
    assert len(first.train) == 4
    assert len(first.inner) == 1


def test_a_part_that_is_given_for_some_or_against_the_patients_is_refused():
    given, unknown = Case("a", (), held_out=True), Case("b", ())
    with pytest.raises(InputError, match="of all cases or of none"):
        split_cases([given, unknown], data_config(), 0)
    torn = [Case("a", (), group="p", held_out=True), Case("b", (), group="p", held_out=False)]
    with pytest.raises(InputError, match="held out or fitted, got both of p"):
        split_cases(torn, data_config(), 0)
    with pytest.raises(InputError, match="at least 2 cases for fitting and 1 inner cases, got 0"):
        split_cases([given], data_config(), 0)


def test_an_unknown_format_is_told_with_the_known_ones():
    assert {"decathlon"} <= set(known_formats())
    with pytest.raises(ConfigError, match=r"data\.format: expected one of .*decathlon.*, got 'spreadsheet'"):
        config(data__format="spreadsheet")
