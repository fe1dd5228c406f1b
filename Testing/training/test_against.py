# SPDX-License-Identifier: Apache-2.0
"""Paired differences between two evaluations."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from DIANetLib.errors import InputError
from training.against import compare, compare_tables
from training.evaluate_classification import ClassifiedCase, classification_table
from training.evaluate_reconstruction import SliceRow
from training.evaluation_tables import Tables, evaluation_folder, read_tables
from training.scoring import StructureScore
from training.subsets import SubsetScore
from training.summary import write_json, write_table

EMPTY = Tables({}, {}, (), (), (), ())


def segmented(dice: dict[str, float]) -> Tables:
    return Tables(
        figures={case: {"dice": value, "ece": 0.1} for case, value in dice.items()},
        structures={
            case: (StructureScore("front", value, 1.0, 0.9, 2.0, 2.1),) for case, value in dice.items()
        },
        subsets=tuple(SubsetScore(case, "T1", 1, {"dice": value / 2}) for case, value in dice.items()),
        classes=(),
        classified=(),
        slices=(),
    )


def classified(bright: dict[str, float]) -> tuple[ClassifiedCase, ...]:
    cases = []
    for number, (name, value) in enumerate(bright.items()):
        p = np.array([1 - value, value])
        cases.append(ClassifiedCase(name, name, number % 2, p, p, 0.5, 0.1))
    return tuple(cases)


def sliced(psnr: dict[str, float]) -> tuple[SliceRow, ...]:
    return tuple(
        SliceRow(case, case, level, 0, {"psnr_db": value + more, "ssim": 0.5})
        for case, value in psnr.items()
        for level, more in (("4x", 0.0), ("8x", -3.0))
    )


def test_dice_is_compared_case_by_case_whatever_their_order():
    ours, theirs = segmented({"a": 0.8, "b": 0.6, "c": 0.7}), segmented({"c": 0.6, "b": 0.5, "a": 0.7})
    found = compare_tables(ours, theirs)

    assert found["segmentation"]["dice"]["value"] == pytest.approx(0.1)
    assert found["segmentation"]["dice"]["interval_95"] == pytest.approx((0.1, 0.1))
    assert "ece" not in found["segmentation"]
    assert found["structures"]["front"]["ours"] == pytest.approx(0.7)
    assert found["subsets"]["T1"]["dice"]["value"] == pytest.approx(0.05)


def test_classes_and_slices_are_compared_by_their_own_figures():
    ours = Tables(
        {}, {}, (), ("x", "y"), classified({"a": 0.2, "b": 0.9, "c": 0.3, "d": 0.8}), sliced({"a": 30.0})
    )
    theirs = Tables(
        {}, {}, (), ("x", "y"), classified({"a": 0.8, "b": 0.9, "c": 0.3, "d": 0.7}), sliced({"a": 28.0})
    )
    found = compare_tables(ours, theirs)

    assert found["classification"]["accuracy"]["value"] == pytest.approx(0.25)
    assert found["classification"]["auroc"]["theirs"] == pytest.approx(3 / 4)
    assert found["reconstruction"]["4x"]["psnr_db"]["value"] == pytest.approx(2.0)
    assert found["reconstruction"]["8x"]["psnr_db"]["ours"] == pytest.approx(27.0)


def test_a_case_without_a_figure_in_one_counts_for_neither():
    ours, theirs = segmented({"a": 0.8, "b": float("nan")}), segmented({"a": 0.5, "b": 0.1})
    found = compare_tables(ours, theirs)["segmentation"]["dice"]

    assert (found["ours"], found["theirs"]) == (0.8, 0.5)


def test_other_cases_are_refused_and_named():
    with pytest.raises(InputError, match="got 2 and 1 cases, of which 1 are in one alone, such as b"):
        compare_tables(segmented({"a": 0.8, "b": 0.6}), segmented({"a": 0.8}))


def test_what_is_written_is_read_back(tmp_path: Path):
    cases = classified({"a": 1 / 3, "b": 0.9})
    write_table(tmp_path / "classification.csv", classification_table(cases, ("x", "y")))
    write_table(tmp_path / "reconstruction.csv", [row.row for row in sliced({"a": 30.0})])
    tables = read_tables(tmp_path)

    assert tables.classes == ("x", "y")
    assert [part.target for part in tables.classified] == [0, 1]
    np.testing.assert_allclose(tables.classified[0].probabilities, [2 / 3, 1 / 3], rtol=1e-5)
    assert tables.slices == sliced({"a": 30.0})
    assert (tables.figures, tables.structures, tables.subsets) == ({}, {}, ())


def test_folders_are_those_of_fits_or_of_evaluations(tmp_path: Path):
    inside = tmp_path / "fit" / "evaluation"
    write_json(inside / "summary.json", {"model": "m"})

    assert evaluation_folder(tmp_path / "fit") == evaluation_folder(inside) == inside
    with pytest.raises(InputError, match="holds no evaluation"):
        evaluation_folder(tmp_path)


def test_two_models_without_a_common_task_cannot_be_compared(tmp_path: Path):
    for name, file, rows in (
        ("one", "reconstruction.csv", [row.row for row in sliced({"a": 1.0})]),
        ("other", "classification.csv", classification_table(classified({"a": 0.1}), ("x", "y"))),
    ):
        write_json(tmp_path / name / "summary.json", {"model": name, "baseline": "unet"})
        write_table(tmp_path / name / file, rows)

    with pytest.raises(InputError, match="no task in common"):
        compare(tmp_path / "one", tmp_path / "other")
    found = compare(tmp_path / "one", tmp_path / "one")
    assert (found["model"], found["baseline"]) == ("one", "unet")
    assert json.dumps(found)
