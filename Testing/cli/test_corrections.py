# SPDX-License-Identifier: Apache-2.0
"""Keeping corrections on the command line, from an output folder and a segmentation edited elsewhere."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from DIANetLib.acwi.corrections import find_corrections, read_correction
from DIANetLib.acwi.review import regions_from_json, regions_to_json
from DIANetLib.cli import main
from DIANetLib.formats.image import read_volume, write_volume
from DIANetLib.formats.output_folder import write_output
from DIANetLib.formats.segmentation import write_segmentation
from DIANetLib.structures import Structure
from DIANetLib.volume import Volume
from Testing.cli.made import GEOMETRY, STRUCTURES, image, labels, prediction


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """An output folder `result` beside the image that it was made of, image.nrrd."""
    write_volume(image(), tmp_path / "image.nrrd")
    volume = read_volume(tmp_path / "image.nrrd", modality="T1")
    uncertain = np.zeros(GEOMETRY.shape, np.float32)
    uncertain[6:8, 3:9, 2:6] = 0.6
    write_output(prediction(labels(), uncertain), {}, [volume], tmp_path / "result")
    return tmp_path


@pytest.fixture
def edited() -> np.ndarray:
    """The left structure a slice thicker: 24 voxels of 2 mm³ more."""
    array = labels()
    array[7, 3:9, 2:6] = 1
    return array


def correct(folder: Path, after: Path, *more: str) -> int:
    return main(
        [
            *("correct", str(folder / "result"), "--after", str(after), "--reviewer", "Ada"),
            *("--output", str(folder / "packages"), *more),
        ]
    )


def package(folder: Path):
    (found,) = find_corrections(folder / "packages")
    return read_correction(found)


def test_a_labelmap_from_another_tool_becomes_a_package(made: Path, edited: np.ndarray, capsys):
    write_volume(Volume(edited, GEOMETRY), made / "edited.nii.gz")
    assert correct(made, made / "edited.nii.gz", "--comment", "too thin") == 0
    assert "24 voxels changed (0.05 ml)" in capsys.readouterr().out
    found = package(made)
    assert np.array_equal(found.before.array, labels())
    assert np.array_equal(found.after.array, edited)
    assert [s.key for s in found.structures] == [s.key for s in STRUCTURES]
    assert (found.reviewer, found.comment, found.model.name) == ("Ada", "too thin", "tiny")
    assert found.images[0].source == str(made / "image.nrrd")
    assert found.images[0].file is None
    assert found.started <= found.finished


def test_segments_go_by_their_names_whatever_their_values(made: Path, edited: np.ndarray):
    swapped = np.where(edited == 1, 2, np.where(edited == 2, 1, 0)).astype(np.uint8)
    left, right = STRUCTURES
    renamed = (replace(left, value=2, key="segment_1"), replace(right, value=1))  # known by name, by key
    write_segmentation(made / "e.seg.nrrd", Volume(swapped, GEOMETRY), renamed, source_name="x")
    assert correct(made, made / "e.seg.nrrd", "--copy-images") == 0
    found = package(made)
    assert np.array_equal(found.after.array, edited)
    assert [path.name for path in found.copies if path is not None] == ["image_1.nrrd"]


def test_a_segmentation_that_was_saved_cropped_is_put_back(made: Path, edited: np.ndarray):
    cut = edited[2:9, 1:11, 1:14]
    part = Volume(cut, GEOMETRY.crop((1, 1, 2), cut.shape[::-1]))
    write_segmentation(made / "cut.seg.nrrd", part, STRUCTURES, source_name="x")
    assert correct(made, made / "cut.seg.nrrd") == 0
    assert np.array_equal(package(made).after.array, edited)


def test_a_worklist_that_nobody_used_is_left_out_and_one_that_was_is_kept(made: Path, edited: np.ndarray):
    write_volume(Volume(edited, GEOMETRY), made / "edited.nrrd")
    regions = regions_from_json((made / "result" / "regions.json").read_text(encoding="utf-8"))
    assert regions
    assert correct(made, made / "edited.nrrd") == 0
    assert package(made).regions == ()
    judged = (replace(regions[0], state="corrected"), *regions[1:])
    (made / "result" / "regions.json").write_text(regions_to_json(judged), encoding="utf-8")
    assert correct(made, made / "edited.nrrd") == 0
    second = find_corrections(made / "packages")[1]
    assert read_correction(second).regions == judged


class TestBadInput:
    def test_another_image(self, made: Path, edited: np.ndarray, capsys):
        write_volume(Volume(edited, GEOMETRY), made / "edited.nrrd")
        array = image().array + 1
        write_volume(Volume(array, GEOMETRY), made / "image.nrrd")
        assert correct(made, made / "edited.nrrd") == 2
        assert "is not the one that was segmented: its hash is" in capsys.readouterr().err
        assert not (made / "packages").exists()

    def test_an_image_that_was_moved_is_asked_for(self, made: Path, edited: np.ndarray, capsys):
        write_volume(Volume(edited, GEOMETRY), made / "edited.nrrd")
        os.rename(made / "image.nrrd", made / "moved.nrrd")
        assert correct(made, made / "edited.nrrd") == 2
        assert "Say where it is with --images" in capsys.readouterr().err
        assert correct(made, made / "edited.nrrd", "--images", str(made / "moved.nrrd")) == 0
        assert package(made).images[0].source == str(made / "moved.nrrd")

    def test_another_grid(self, made: Path, edited: np.ndarray, capsys):
        moved = replace(GEOMETRY, origin=(5.0, -3.0, 7.5))
        write_volume(Volume(edited, moved), made / "edited.nrrd")
        assert correct(made, made / "edited.nrrd") == 2
        assert "corrected labels are on another grid" in capsys.readouterr().err

    def test_labels_and_segments_outside_of_the_model(self, made: Path, edited: np.ndarray, capsys):
        write_volume(Volume(edited * 5, GEOMETRY), made / "edited.nrrd")
        assert correct(made, made / "edited.nrrd") == 2
        assert "values that no structure of the model has: 5, 10" in capsys.readouterr().err
        head = STRUCTURES[0]
        tumour = Structure(3, "tumour", "Tumour", (1, 2, 3), head.category, head.type)
        extra = np.where(edited == 0, 3, edited).astype(np.uint8)
        write_segmentation(
            made / "x.seg.nrrd", Volume(extra, GEOMETRY), (*STRUCTURES, tumour), source_name="x"
        )
        assert correct(made, made / "x.seg.nrrd") == 2
        assert "The segment 'Tumour'" in capsys.readouterr().err

    def test_a_folder_of_something_else(self, made: Path, capsys):
        (made / "result" / "result.json").write_text(json.dumps({"format": "other"}), encoding="utf-8")
        assert correct(made, made / "image.nrrd") == 2
        assert "is not an output folder of DIANet" in capsys.readouterr().err


class TestListing:
    def test_who_when_which_and_how_much(self, made: Path, edited: np.ndarray, capsys):
        write_volume(Volume(edited, GEOMETRY), made / "edited.nrrd")
        assert correct(made, made / "edited.nrrd") == 0
        capsys.readouterr()
        assert main(["corrections", str(made / "packages")]) == 0
        line = capsys.readouterr().out.splitlines()[-1]
        for text in ("image-", "-ada", "Ada", "tiny 1.0.0", "24", "no regions"):
            assert text in line

    def test_a_damaged_package_is_named_beside_the_others(self, made: Path, edited: np.ndarray, capsys):
        write_volume(Volume(edited, GEOMETRY), made / "edited.nrrd")
        for _ in range(2):
            assert correct(made, made / "edited.nrrd") == 0
        (find_corrections(made / "packages")[1] / "after.seg.nrrd").unlink()
        capsys.readouterr()
        assert main(["corrections", str(made / "packages")]) == 1
        shown = capsys.readouterr().out
        assert "tiny 1.0.0" in shown
        assert "Cannot be used: " in shown
        assert "after.seg.nrrd is missing" in shown

    def test_an_empty_folder(self, tmp_path: Path, capsys):
        assert main(["corrections", str(tmp_path)]) == 0
        assert "holds no correction package" in capsys.readouterr().out
