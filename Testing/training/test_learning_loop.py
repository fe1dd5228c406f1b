# SPDX-License-Identifier: Apache-2.0
"""The experiment on learning from review: its site, its reviewer, and one small run of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from DIANetLib.acwi.corrections import find_corrections, read_correction
from DIANetLib.errors import InputError
from DIANetLib.formats.image import read_volume, write_volume
from Testing.training.corrected import labelled_case, region, write_model, wrong
from Testing.training.tiny import config, make_case, write_config
from training.__main__ import main
from training.learning_site import SEQUENCES, corrected, divide


def write_mixed(folder: Path) -> Path:
    """Ten cases, of which the last five are bytes."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for number in range(10):
        image, labels = make_case(number)
        if number >= 5:
            image = image.with_array(np.clip(image.array, 0, 255).astype(np.uint8))
        write_volume(image, folder / "images" / f"case_{number:02d}.nii.gz")
        write_volume(labels, folder / "labels" / f"case_{number:02d}.nii.gz")
    return folder


class TestReviewer:
    def test_the_boxes_of_the_first_regions_are_put_right_and_nothing_else(self):
        _, labels = labelled_case(3)
        before = wrong(labels)
        regions = tuple(
            region(rank, labels, (0, 0, k), (13, 15, k), "open") for rank, k in ((1, 6), (2, 0), (3, 5))
        )
        after, judged = corrected(before, labels.array, regions, 2)
        assert np.array_equal(after.array[6], labels.array[6])
        assert np.array_equal(np.delete(after.array, 6, 0), np.delete(before.array, 6, 0))
        assert [r.state for r in judged] == ["corrected", "accepted", "open"]  # nothing is at k = 0

    def test_one_who_corrects_all_leaves_nothing_open(self):
        _, labels = labelled_case(3)
        regions = (region(1, labels, (0, 0, 5), (13, 15, 5), "open"),)
        after, judged = corrected(wrong(labels), labels.array, regions, None)
        assert np.array_equal(after.array, labels.array)
        assert judged[0].state == "corrected"


class TestSite:
    def test_images_of_one_voxel_type_are_held_back_and_made_another_sequence(self, tmp_path: Path):
        data = write_mixed(tmp_path / "data")
        folders = divide(data, config().data, tmp_path / "out", voxels="uint8", sequence="t2")
        names = [sorted(path.name for path in (f / "images").iterdir()) for f in (folders.old, folders.site)]
        assert names[0] == [f"case_{n:02d}.nii.gz" for n in range(5)]
        assert names[1] == [f"case_{n:02d}.nii.gz" for n in range(5, 10)]
        assert (folders.old / "images" / "case_00.nii.gz").is_symlink()
        image, labels = make_case(5)
        made = read_volume(folders.site / "images" / "case_05.nii.gz").array
        ball = labels.array > 0
        assert image.array[ball].mean() > image.array[~ball].mean()
        assert made[ball].mean() < made[~ball].mean()  # the contrast is turned round

    def test_a_sequence_is_the_same_whenever_it_is_made(self):
        image, _ = make_case(1)
        for make in SEQUENCES.values():
            one, two = (make(image.array.astype(float), np.random.default_rng(3)) for _ in range(2))
            assert np.array_equal(one, two)

    def test_a_data_set_without_such_images_is_refused(self, tmp_path: Path):
        data = write_mixed(tmp_path / "data")
        with pytest.raises(InputError, match=r"0 of 10 images .* have voxels of int16"):
            divide(data, config().data, tmp_path / "out", voxels="int16", sequence="none")
        with pytest.raises(InputError, match="no sequence 'x', only none, t2, flair"):
            divide(data, config().data, tmp_path / "other", voxels="uint8", sequence="x")


@pytest.mark.slow
def test_the_whole_loop_runs_through_packages_and_judges_every_arm(tmp_path: Path):
    data, model = write_mixed(tmp_path / "data"), write_model(tmp_path / "models")
    command = [
        *("learning-loop", str(write_config(tmp_path / "c.yaml")), "--data", str(data)),
        *("--output", str(tmp_path / "out"), "--device", "cpu", "--counts", "2"),
    ]
    assert main(command) == 0
    assert (tmp_path / "out" / "site" / "images").is_dir()
    quick = ["steps=2", "fisher.patches=1", "judging.samples=1", "rehearsal.judged=2"]
    command += ["--model", str(model), "--scratch-steps", "3", "--learn", *quick]
    assert main(command) == 0
    packages = find_corrections(tmp_path / "out" / "packages-all-2")
    assert [read_correction(folder).reviewer for folder in packages] == ["simulated (all)"] * 2
    rows = json.loads((tmp_path / "out" / "learning.json").read_text(encoding="utf-8"))["arms"]
    assert [row["arm"] for row in rows] == ["none", "finetune-all-2", "plain-all-2", "scratch-all-2"]
    assert [rows[0][part]["cases"] for part in ("new", "old")] == [3, 1]
    assert "| 2 | `finetune` |" in (tmp_path / "out" / "learning.md").read_text(encoding="utf-8")
