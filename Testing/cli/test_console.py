# SPDX-License-Identifier: Apache-2.0
"""What a segmentation says on the console about how good it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from DIANetLib.acwi.familiarity import Familiarity
from DIANetLib.acwi.quality import LightLimits
from DIANetLib.console import quality_lines, structure_table
from DIANetLib.inference.prediction import Prediction
from Testing.cli import made


def found(values: dict[str, float | None], ends=None) -> Prediction:
    blank = made.prediction(made.labels(), np.zeros(made.GEOMETRY.shape, np.float32))
    return replace(blank, expected_dice=values, dice_interval=ends or {})


@pytest.fixture
def keys() -> tuple[str, str]:
    first, second = (structure.key for structure in made.STRUCTURES)
    return first, second


def test_the_table_has_the_interval_beside_the_value(keys):
    first, second = keys
    lines = structure_table(found({first: 0.9, second: 0.6}, {first: (0.86, 0.93)})).splitlines()
    assert lines[0].endswith("expected Dice  90 % interval")
    assert lines[1].split()[-2:] == ["0.90", "0.86–0.93"]
    assert lines[2].split()[-2:] == ["0.60", "-"]


def test_the_worst_is_told_first_with_its_light(keys):
    first, second = keys
    names = {structure.key: structure.name for structure in made.STRUCTURES}
    lines = quality_lines(found({first: 0.9, second: 0.6}, {first: (0.86, 0.93), second: (0.4, 0.7)}))
    assert lines == [
        f"{names[second]}: expected Dice 0.60 (0.40–0.70), red",
        f"{names[first]}: expected Dice 0.90 (0.86–0.93), green",
    ]


def test_a_structure_that_was_not_found_comes_first(keys):
    first, second = keys
    lines = quality_lines(found({first: 0.2, second: None}))
    assert lines[0].endswith("not found, so no Dice is expected, red")


def test_limits_of_the_light_are_the_callers(keys):
    values = dict.fromkeys(keys, 0.75)
    assert all(line.endswith("green") for line in quality_lines(found(values), LightLimits(0.7, 0.5)))


def test_of_many_structures_those_that_are_green_are_counted(keys, monkeypatch):
    monkeypatch.setattr("DIANetLib.console._FEW", 1)
    first, second = keys
    assert quality_lines(found({first: 0.9, second: 0.75}))[1:] == [
        "1 of 2 structures: expected Dice 0.85 or more, green"
    ]
    assert quality_lines(found(dict.fromkeys(keys, 0.9))) == [
        "2 of 2 structures: expected Dice 0.85 or more, green"
    ]


def test_familiarity_is_told_last(keys):
    blank = found(dict.fromkeys(keys, 0.9))
    odd = replace(blank, familiarity=(Familiarity(3.2, "unusual"),))
    assert quality_lines(odd)[:-1] == quality_lines(blank)
    assert quality_lines(odd)[-1].startswith("Image: unusual, unlike most of what the model was fitted on")
