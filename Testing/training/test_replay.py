# SPDX-License-Identifier: Apache-2.0
"""Replayed reviews: regions of equal sizes, corrected by the reference; and the command."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from DIANetLib.errors import InputError
from DIANetLib.structures import ANATOMICAL_STRUCTURE, Code, Structure
from DIANetLib.volume import Geometry, Volume
from Testing.bundle.tiny import write_bundle
from Testing.training.tiny import config, write_config
from training.__main__ import main
from training.replay import METHODS, POINTS, RIVALS, corrected, replay, replay_case, replay_lines, summarise
from training.replay_cases import Segmented
from training.replay_regions import (
    ReviewSettings,
    boundary_voxels,
    random_regions,
    scored_regions,
    sized_regions,
)

CPU = torch.device("cpu")
ISOTROPIC = (1.0, 1.0, 1.0)
ONE = (Structure(1, "one", "One", (200, 40, 0), ANATOMICAL_STRUCTURE, Code("99TEST", "one", "One")),)


def case() -> Segmented:
    """A box of which a corner is missed; the error probability knows where, the entropy does not."""
    reference = np.zeros((20, 22, 24), np.uint8)
    reference[4:16, 4:18, 4:20] = 1
    labels = reference.copy()
    labels[4:8, 4:9, 4:9] = 0
    boundary = boundary_voxels(labels)
    error = np.where(labels != reference, 0.8, np.where(boundary, 0.35, 0.0)).astype(np.float32)
    entropy = np.where(boundary, 0.6, 0.0).astype(np.float32)
    i, j, k = labels.shape[::-1]
    grid = Geometry((i, j, k), ISOTROPIC, (0.0, 0.0, 0.0), np.eye(3))
    return Segmented("case", ONE, *(Volume(array, grid) for array in (reference, labels, error, entropy)))


def test_correcting_all_that_is_wrong_makes_the_segmentation_perfect():
    one = case()
    wrong = np.argwhere(one.labels.array != one.reference.array)
    right = np.argwhere(one.labels.array == one.reference.array)[:50]
    dice, share, voxels = corrected(one, [right, wrong[:60], wrong[60:]], 4)
    assert dice[0] == dice[1] < dice[2] < dice[3] == dice[4] == 1.0
    assert share == pytest.approx([0.0, 0.0, 0.6, 1.0, 1.0])
    assert voxels == [0, 50, 110, 150, 150]
    assert one.labels.array[4, 4, 4] == 0  # the case itself stays as it is


def test_every_method_corrects_as_many_voxels_at_each_rank():
    rows = {row.method: row for row in replay_case(case(), ReviewSettings(), draws=3)}
    assert set(rows) == set(METHODS)
    assert len({row.voxels for row in rows.values()}) == 1
    assert rows["worklist"].voxels[1] > 0
    assert len({row.dice[0] for row in rows.values()}) == 1


def test_a_worklist_that_knows_where_the_error_is_comes_first():
    rows = replay_case(case(), ReviewSettings(), draws=3)
    dice = {row.method: row.dice[1] for row in rows}
    assert dice["worklist"] > max(dice[rival] for rival in RIVALS)
    worklist = next(row for row in rows if row.method == "worklist")
    assert worklist.share[1] == 1.0


def test_regions_have_the_sizes_asked_for_and_share_no_voxel():
    rng = np.random.default_rng(0)
    score = rng.random((14, 15, 16)).astype(np.float32) * (rng.random((14, 15, 16)) > 0.5)
    sizes = [40, 30, 200, 1]
    boundary = boundary_voxels((score > 0.5).astype(np.uint8))
    for regions in (
        scored_regions(score, 500, sizes, ISOTROPIC, ReviewSettings()),
        random_regions(boundary, sizes, ISOTROPIC, ReviewSettings(), rng),
    ):
        assert [len(voxels) for voxels in regions] == sizes
        assert len(np.unique(np.concatenate(regions), axis=0)) == sum(sizes)


def test_a_region_takes_the_highest_scores_within_its_ball_and_then_the_nearest_voxels():
    score = np.zeros((1, 1, 20), np.float32)
    score[0, 0, [4, 7, 15]] = (0.5, 0.9, 1.0)
    centre = np.array([0, 0, 5])
    (three,) = sized_regions(score, [centre], [3], ISOTROPIC, 2.0)
    assert three[:, 2].tolist() == [7, 4, 5]
    (six,) = sized_regions(score, [centre], [6], ISOTROPIC, 2.0)
    assert six[:, 2].tolist() == [7, 4, 5, 6, 3, 2]
    first, second = sized_regions(score, [centre], [3, 2], ISOTROPIC, 2.0)
    assert first[:, 2].tolist() == [7, 4, 5]
    assert second[:, 2].tolist()[0] == 15  # no centre is left: the highest score is one


def test_a_ball_is_round_in_millimetres():
    score = np.ones((5, 5, 9), np.float32)
    (region,) = sized_regions(score, [np.array([2, 2, 4])], [3], (3.0, 3.0, 1.0), 2.0)
    assert sorted(region.tolist()) == [[2, 2, 3], [2, 2, 4], [2, 2, 5]]


def test_nothing_to_look_at_gives_no_regions():
    empty = np.zeros((4, 4, 4), np.float32)
    assert scored_regions(empty, 0, [3], ISOTROPIC, ReviewSettings()) == []
    assert random_regions(empty > 0, [3], ISOTROPIC, ReviewSettings(), np.random.default_rng(0)) == []
    assert scored_regions(empty + 1, 10, [], ISOTROPIC, ReviewSettings()) == []


def test_boundary_voxels_share_a_face_with_another_label():
    labels = np.zeros((3, 3, 5), np.uint8)
    labels[:, :, 2:] = 1
    labels[:, :, 4:] = 2
    expected = np.zeros(labels.shape, bool)
    expected[:, :, 1:] = True
    np.testing.assert_array_equal(boundary_voxels(labels), expected)


def test_a_summary_pairs_the_methods_by_case():
    rows = []
    for name in ("a", "b", "c"):
        rows += [replace(row, case=name) for row in replay_case(case(), ReviewSettings(), draws=2)]
    summary = summarise(rows)
    assert summary["cases"] == 3
    assert summary["best_at_every_point"]
    for rival in RIVALS:
        for point in POINTS:
            apart = summary["differences"][rival][f"dice_{point}"]
            assert apart["value"] == pytest.approx(apart["ours"] - apart["theirs"])
            # The same case three times: no spread.
            assert apart["interval_95"] == pytest.approx((apart["value"], apart["value"]))


@pytest.fixture(scope="module")
def fit(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replayed")
    write_config(folder / "c.yaml", optimiser__steps=4, validate_every=4)
    assert main(["fit", *arguments(folder, data)]) == 0
    return folder


def arguments(folder: Path, data: Path) -> list[str]:
    return [str(folder / "c.yaml"), "--data", str(data), "--output", str(folder / "out"), "--device", "cpu"]


def test_the_command_replays_a_fit_and_goes_on_where_it_stopped(
    fit: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    command = ["replay", *arguments(fit, data), "--samples", "2", "--draws", "2"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "| Dice after | 1 region | 3 regions | 5 regions | 10 regions |" in printed
    assert "| worklist − softmax entropy |" in printed
    folder = fit / "out" / "replay"
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    held_out = json.loads((fit / "out" / "split.json").read_text())["held_out"]
    assert summary["cases"] == len(held_out)
    assert summary["sources"][0]["error_calibration"].keys() == {"offsets", "slopes"}
    assert next(iter(replay_lines(summary))) in printed
    with (folder / "cases.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(held_out) * len(METHODS) * (max(POINTS) + 1)

    monkeypatch.setattr("training.replay_cases.Segmenter", None)  # all is there already
    assert main(command) == 0
    assert json.loads((folder / "summary.json").read_text(encoding="utf-8"))["methods"] == summary["methods"]


def test_a_model_folder_is_replayed_on_the_cases_that_it_names(data: Path, tmp_path: Path):
    settings = config()
    names = [part.key for part in settings.data.structures]
    from Testing.bundle.tiny import structures

    model = write_bundle(tmp_path, structures=structures(*names))
    summary = replay(settings, data, tmp_path / "out", device=CPU, model=model, samples=2, draws=1, limit=1)
    assert summary["cases"] == 1
    assert summary["sources"][0]["model"] == "tiny"
    named = write_bundle(tmp_path / "b", structures=structures(*names), training={"held_out": ["elsewhere"]})
    with pytest.raises(InputError, match=r"not the 1 that the model 'tiny' names as held out.*Give the data"):
        replay(settings, data, tmp_path / "out", device=CPU, model=named, samples=2)


def test_what_cannot_be_replayed_gets_a_sentence(data: Path, tmp_path: Path):
    with pytest.raises(InputError, match="holds no fitted model"):
        replay(config(), data, tmp_path, device=CPU)
    other = write_bundle(tmp_path)
    with pytest.raises(
        InputError, match=r"structures of 'two-balls' \(front, back\), got 'tiny' with head, tail"
    ):
        replay(config(), data, tmp_path, device=CPU, model=other)
    with pytest.raises(InputError, match="either a model or fits"):
        replay(config(), data, tmp_path, device=CPU, model=other, fits=[tmp_path])
