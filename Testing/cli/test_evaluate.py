# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from DIANetLib.cli import main
from DIANetLib.errors import InputError, OutputError
from DIANetLib.formats.image import write_volume
from DIANetLib.formats.segmentation import write_segmentation
from DIANetLib.formats.staging import check_output_directory
from DIANetLib.volume import Volume
from DIANetLib.worker.evaluation import evaluate, parse_mapping
from Testing.cli.made import GEOMETRY, STRUCTURES, labels, write_folder


def reference(path: Path, array: np.ndarray) -> Path:
    write_volume(Volume(array, GEOMETRY), path)
    return path


@pytest.fixture
def shifted() -> np.ndarray:
    """The left structure one slice thicker: 4 slices of 24 voxels were found, 5 are true."""
    array = labels()
    array[7, 3:9, 2:6] = 1
    return array


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    uncertain = np.zeros(GEOMETRY.shape, np.float32)
    uncertain[7, 3:9, 2:6] = 0.5  # exactly where it is wrong
    return write_folder(tmp_path_factory.mktemp("written") / "result", labels(), uncertain)


@pytest.fixture
def folder(tmp_path: Path, written: Path) -> Path:
    """A copy of the output folder: writing one draws a report, which takes longer than all else here."""
    return Path(shutil.copytree(written, tmp_path / "result"))


def test_a_perfect_segmentation_scores_perfectly(tmp_path: Path, folder: Path) -> None:
    result = evaluate(folder, reference(tmp_path / "truth.nii.gz", labels()))
    assert [s.structure for s in result.scores] == ["head_left", "head_right"]
    assert (result.mean_dice, result.mean_hd95_mm, result.mean_nsd) == (1.0, 0.0, 1.0)
    assert result.scores[0].volume_ml == result.scores[0].reference_ml == pytest.approx(96 * 0.002)
    assert math.isnan(result.error_auroc)


def test_figures_agree_with_counts_by_hand(tmp_path: Path, folder: Path, shifted: np.ndarray) -> None:
    result = evaluate(folder, reference(tmp_path / "truth.nrrd", shifted))
    left, right = result.scores
    assert left.dice == pytest.approx(2 * 96 / (96 + 120))
    assert left.hd95_mm == pytest.approx(2.0)
    assert left.nsd < 1.0
    assert right.dice == 1.0
    assert result.mean_dice == pytest.approx((left.dice + 1.0) / 2)
    assert result.error_auroc == 1.0
    assert result.normalised_aurc == pytest.approx(0.0, abs=1e-9)
    assert result.voxels > 24


def test_calibration_is_judged_where_the_folder_has_the_error_probability(
    tmp_path: Path, folder: Path, shifted: np.ndarray
) -> None:
    truth = reference(tmp_path / "truth.nrrd", shifted)
    (folder / "error_probability.nrrd").unlink(missing_ok=True)
    before = evaluate(folder, truth)
    assert before.uncertainty == "uncertainty_total.nrrd"
    assert math.isnan(before.ece)
    error = np.zeros(GEOMETRY.shape, np.float32)
    error[7, 3:9, 2:6] = 0.75
    write_volume(Volume(error, GEOMETRY), folder / "error_probability.nrrd")
    result = evaluate(folder, truth)
    assert result.uncertainty == "error_probability.nrrd"
    # 24 voxels with confidence 0.25 are wrong, all others with confidence 1 are right.
    assert result.ece == pytest.approx(0.25 * 24 / result.voxels)


def test_results_are_written_and_the_folder_can_still_be_replaced(
    tmp_path: Path, folder: Path, shifted: np.ndarray
) -> None:
    truth = reference(tmp_path / "truth.nii.gz", shifted)
    result = evaluate(folder, truth)
    record = json.loads((folder / "evaluation.json").read_text())
    assert record["mean_dice"] == pytest.approx(result.mean_dice)
    assert record["reference"] == str(truth)
    with (folder / "evaluation.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["structure"] for row in rows] == ["head_left", "head_right"]
    assert float(rows[0]["dice"]) == pytest.approx(result.scores[0].dice)
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]
    evaluate(folder, truth)
    check_output_directory(folder, overwrite=True)


def test_nan_figures_are_null_in_json(tmp_path: Path, folder: Path) -> None:
    evaluate(folder, reference(tmp_path / "truth.nii.gz", labels()))
    assert json.loads((folder / "evaluation.json").read_text())["error_auroc"] is None


def test_values_of_the_reference_may_stand_for_several_structures(tmp_path: Path, folder: Path) -> None:
    merged = (labels() > 0).astype(np.uint8) * 7
    truth = reference(tmp_path / "truth.nii.gz", merged)
    for text in ("7=head", "7=head_left+head_right"):
        (score,) = evaluate(folder, truth, mapping=parse_mapping([text])).scores
        assert (score.structure, score.reference, score.dice) == ("head_left+head_right", "7", 1.0)


def test_several_values_may_stand_for_one_structure(tmp_path: Path, folder: Path) -> None:
    split = labels()
    split[3:5][split[3:5] == 1] = 3
    truth = reference(tmp_path / "truth.nii.gz", split)
    result = evaluate(folder, truth, mapping=parse_mapping(["1=head_left,3=head_left", "2=head_right"]))
    assert [(s.reference, s.dice) for s in result.scores] == [("1+3", 1.0), ("2", 1.0)]


def test_a_segmentation_of_slicer_is_matched_by_its_names(tmp_path: Path, folder: Path) -> None:
    swapped = labels()
    swapped[labels() == 1], swapped[labels() == 2] = 2, 1
    path = tmp_path / "truth.seg.nrrd"
    named = tuple(replace(s, value=3 - s.value) for s in STRUCTURES)
    write_segmentation(path, Volume(swapped, GEOMETRY), named, source_name="image")
    assert evaluate(folder, path).mean_dice == 1.0


def test_a_reference_on_another_grid_gets_a_sentence(tmp_path: Path, folder: Path) -> None:
    array = labels()[:-1]
    path = tmp_path / "truth.nii.gz"
    write_volume(Volume(array, GEOMETRY.crop((0, 0, 0), (14, 12, 9))), path)
    with pytest.raises(InputError, match=r"on another grid .* 14 × 12 × 9 voxels .* expected 14 × 12 × 10"):
        evaluate(folder, path)


def test_unknown_values_of_the_reference_ask_for_a_mapping(tmp_path: Path, folder: Path) -> None:
    truth = reference(tmp_path / "truth.nii.gz", labels() * 3)
    with pytest.raises(InputError, match=r"values 3, 6, which are no structures here: 1 head_left, .* --map"):
        evaluate(folder, truth)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["1"], "'1' is not of the form VALUE=STRUCTURE"),
        (["x=head"], "is not of the form"),
        (["1=head+"], "is not of the form"),
        (["1=head", "1=head_left"], "value 1 is mapped twice"),
    ],
)
def test_mappings_of_another_form_get_a_sentence(texts: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_mapping(texts)


def test_mappings_to_what_is_not_there_get_a_sentence(tmp_path: Path, folder: Path) -> None:
    truth = reference(tmp_path / "truth.nii.gz", labels())
    with pytest.raises(InputError, match="no structure 'tail' to map to; there are head_left, head_right"):
        evaluate(folder, truth, mapping={1: ("tail",)})
    with pytest.raises(InputError, match="'head_left' is mapped to in different combinations"):
        evaluate(folder, truth, mapping={1: ("head",), 2: ("head_left",)})


def test_what_is_no_output_folder_gets_a_sentence(tmp_path: Path, folder: Path) -> None:
    truth = reference(tmp_path / "truth.nii.gz", labels())
    with pytest.raises(InputError, match=r"is not an output folder: segmentation\.seg\.nrrd is missing"):
        evaluate(tmp_path, truth)
    with pytest.raises(InputError, match="nowhere"):
        evaluate(folder, tmp_path / "nowhere.nii.gz")
    for name in ("error_probability.nrrd", "uncertainty_total.nrrd"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(InputError, match=r"uncertainty_total\.nrrd is missing or cannot be read"):
        evaluate(folder, truth)
    (folder / "uncertainty_total.nrrd").write_text("NRRD0004")
    with pytest.raises(InputError, match=r"uncertainty_total\.nrrd is missing or cannot be read"):
        evaluate(folder, truth)


def test_a_folder_that_cannot_be_written_gets_a_sentence(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = reference(tmp_path / "truth.nii.gz", labels())
    (folder / "evaluation.json").mkdir()
    with pytest.raises(OutputError, match=r"Cannot write .*evaluation\.json"):
        evaluate(folder, truth)
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]


def test_the_command_prints_a_table(
    tmp_path: Path, folder: Path, shifted: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = reference(tmp_path / "truth.nii.gz", shifted)
    assert main(["evaluate", str(folder), "--reference", str(truth)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["structure", "Dice", "HD95", "mm", "NSD", "1", "mm", "ml", "reference", "ml"]
    assert lines[1].split()[:3] == ["head_left", "0.889", "2.00"]
    assert lines[3].startswith("mean")
    assert "error AUROC 1.000" in lines[-1]
    assert main(["evaluate", str(folder), "--reference", str(truth), "--map", "1=x"]) == 2
