# SPDX-License-Identifier: Apache-2.0
"""Expected Dice of whole heads: what is read, and what the table says of it."""

from __future__ import annotations

import json

import pytest

from Testing.benchmarks.whole_heads_quality import Side, main, read_sides, row, table


def write_head(folder, name, group, left, right, dice):
    """A head whose sides have two structures each; `left` and `right` are (value, low, high) of each."""
    structures = []
    for side, parts in (("left", left), ("right", right)):
        for part, told in zip(("anterior", "posterior"), parts, strict=True):
            expected = None if told is None else {"value": told[0], "interval": told[1:]}
            structures.append({"key": f"hippocampus_{part}_{side}", "expected_dice": expected})
    (folder / "heads").mkdir(exist_ok=True)
    (folder / "results" / name).mkdir(parents=True)
    (folder / "results" / name / "result.json").write_text(json.dumps({"structures": structures}))
    agreement = {side: {"dice": value} for side, value in zip(("left", "right"), dice, strict=True)}
    record = {"name": name, "group": group, "agreement": agreement if any(dice) else None}
    (folder / "heads" / f"{name}.json").write_text(json.dumps(record))


def test_a_side_is_the_mean_of_its_structures(tmp_path):
    left = [(0.8, 0.7, 0.9), (0.6, 0.4, 0.7)]
    write_head(tmp_path, "one", "A", left, [(0.9, 0.8, 1.0)] * 2, (0.75, 0.5))

    first, second = read_sides(tmp_path)

    assert first.expected == pytest.approx(0.7)
    assert first.interval == pytest.approx((0.55, 0.8))
    assert (first.dice, first.covered) == (0.75, True)
    assert (second.dice, second.covered) == (0.5, False)


def test_heads_without_labels_and_sides_without_interval_are_left_out(tmp_path):
    good = [(0.8, 0.7, 0.9)] * 2
    write_head(tmp_path, "unlabelled", "A", good, good, (0.0, 0.0))
    write_head(tmp_path, "half", "A", [(0.8, 0.7, 0.9), None], good, (0.8, 0.9))

    assert [side.dice for side in read_sides(tmp_path)] == [0.9]


def test_the_table_has_a_row_per_group_with_hand_worked_figures():
    sides = [
        Side("A", 0.9, (0.8, 1.0), 0.7),
        Side("A", 0.8, (0.7, 0.9), 0.8),
        Side("A", 0.7, (0.6, 0.8), 0.9),
    ]

    assert row("A", sides) == "| A | 3 | 0.800 | 0.800 | 0.133 | -1.00 | 33 % |"
    assert len(table([*sides, Side("B", 0.5, (0.4, 0.6), 0.5)])) == 4


def test_an_empty_folder_is_a_sentence(tmp_path, capsys):
    assert main(["--output", str(tmp_path)]) == 2
    assert "run Testing.benchmarks.whole_heads" in capsys.readouterr().err
