# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from DIANetLib.acwi.corrections import (
    check_image,
    find_corrections,
    read_correction,
    write_correction,
)
from DIANetLib.acwi.review import Region
from DIANetLib.errors import InputError, OutputError
from DIANetLib.formats.image import read_volume, write_volume
from DIANetLib.inference.prediction import ModelRef
from DIANetLib.structures import ANATOMICAL_STRUCTURE, LEFT, Code, Structure
from DIANetLib.volume import Geometry, Volume

HIPPOCAMPUS = Code("SCT", "5366008", "Hippocampus")
STRUCTURES = (
    Structure(1, "front_left", "Front left", (221, 130, 101), ANATOMICAL_STRUCTURE, HIPPOCAMPUS, LEFT),
    Structure(2, "back_left", "Back left", (144, 190, 109), ANATOMICAL_STRUCTURE, HIPPOCAMPUS, LEFT),
)
MODEL = ModelRef("hippocampus", "1.2.0", "ab" * 32)
TURNED = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
GRID = Geometry((5, 6, 7), (1.0, 1.1, 0.7), (3.3, -20.1, 7.0), TURNED)
REGIONS = (
    Region(
        1, ("front_left", "back_left"), (0.0, 0.0, 0.0), (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), 8.0, 4.0, 0.9
    ),
    Region(2, ("back_left",), (5.0, 0.0, 0.0), (4.0, -1.0, -1.0), (6.0, 1.0, 1.0), 8.0, 3.0, 0.8, "skipped"),
)


def image(seed: int = 0, name: str = "Patient Ödön/3") -> Volume:
    array = np.random.default_rng(seed).normal(size=GRID.shape)
    return Volume(array, GRID, name=name, modality="T1", source="/scans/3.nii.gz")


def labels(seed: int = 0) -> Volume:
    return Volume(np.random.default_rng(seed).integers(0, 3, GRID.shape).astype(np.uint8), GRID)


def write(parent: Path, **changes: Any) -> Path:
    fields: dict[str, Any] = {
        "before": labels(1),
        "after": labels(2),
        "structures": STRUCTURES,
        "regions": REGIONS,
        "images": [image()],
        "model": MODEL,
        "reviewer": "Dr. Ada Núñez",
        "started": "2026-01-31T09:00:00+01:00",
        "finished": "2026-01-31T09:30:00+01:00",
    }
    return write_correction(parent, **{**fields, **changes})


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


class TestWritingAndReading:
    def test_everything_that_was_written_is_read(self, tmp_path: Path):
        folder = write(tmp_path / "made" / "here", comment=" Hard case. ")
        found = read_correction(folder)
        assert np.array_equal(found.before.array, labels(1).array)
        assert np.array_equal(found.after.array, labels(2).array)
        assert found.before.geometry.same_grid(GRID)
        assert np.array_equal(found.changed, labels(1).array != labels(2).array)
        assert (found.structures, found.regions, found.model) == (STRUCTURES, REGIONS, MODEL)
        assert (found.reviewer, found.comment) == ("Dr. Ada Núñez", "Hard case.")
        assert (found.started, found.finished) == ("2026-01-31T09:00:00+01:00", "2026-01-31T09:30:00+01:00")
        assert found.software.startswith("dianet ")
        assert found.directory == folder
        (one,) = found.images
        assert (one.name, one.modality, one.source, one.file) == (
            "Patient Ödön/3",
            "T1",
            "/scans/3.nii.gz",
            None,
        )
        assert one.sha256 == image().sha256()

    def test_the_folder_names_case_date_and_reviewer(self, tmp_path: Path):
        assert write(tmp_path).name == "patient-odon-3-2026-01-31-dr-ada-nunez"

    def test_a_name_without_latin_letters_makes_a_folder_too(self, tmp_path: Path):
        folder = write(tmp_path, reviewer="山田", images=[image(name="症例")])
        assert folder.name == "case-2026-01-31-reviewer"
        assert read_correction(folder).reviewer == "山田"

    def test_a_second_package_never_touches_the_first(self, tmp_path: Path):
        first = write(tmp_path)
        kept = content(first)
        second = write(tmp_path, after=labels(3))
        third = write(tmp_path)
        assert [second.name, third.name] == [f"{first.name}-2", f"{first.name}-3"]
        assert content(first) == kept
        assert find_corrections(tmp_path) == (first, second, third)

    def test_the_id_tells_contents_apart_and_moves_with_the_folder(self, tmp_path: Path):
        first, second, other = write(tmp_path), write(tmp_path), write(tmp_path, after=labels(3))
        moved = tmp_path / "elsewhere" / "renamed"
        shutil.copytree(first, moved)
        ids = [read_correction(folder).id for folder in (first, second, other, moved)]
        assert ids[0] == ids[1] == ids[3] != ids[2]

    def test_images_are_copied_where_asked_for(self, tmp_path: Path):
        folder = write(tmp_path, images=[image(), image(1, "Second")], copy_images=True)
        found = read_correction(folder)
        copies = [path for path in found.copies if path is not None]
        assert [path.name for path in copies] == ["image_1.nrrd", "image_2.nrrd"]
        check_image(found, read_volume(copies[0]), "T1")
        assert np.array_equal(read_volume(copies[1]).array, image(1).array)

    def test_now_is_when_a_review_ends(self, tmp_path: Path):
        found = read_correction(write(tmp_path, finished=None))
        assert found.started < found.finished
        assert found.finished[10] == "T"

    def test_nothing_corrected_is_a_package_too(self, tmp_path: Path):
        found = read_correction(write(tmp_path, after=labels(1), regions=()))
        assert not found.changed.any()
        assert found.regions == ()


class TestRefusals:
    def test_another_grid(self, tmp_path: Path):
        moved = Volume(labels().array, replace(GRID, origin=(3.4, -20.1, 7.0)))
        with pytest.raises(InputError, match=r"corrected labels are on another grid .*Export"):
            write(tmp_path, after=moved)
        with pytest.raises(InputError, match=r"on another grid .* than the image Patient"):
            write(tmp_path, before=moved, after=moved)
        assert not list(tmp_path.iterdir())

    def test_labels_outside_of_the_model(self, tmp_path: Path):
        with pytest.raises(InputError, match=r"labels have values .*: 7; known are 1 \(front_left\)"):
            write(tmp_path, after=labels().with_array(np.full(GRID.shape, 7, np.uint8)))
        with pytest.raises(InputError, match="float64, expected whole numbers"):
            write(tmp_path, after=labels().with_array(np.zeros(GRID.shape)))

    def test_regions_of_other_structures(self, tmp_path: Path):
        with pytest.raises(InputError, match="do not have: liver"):
            write(tmp_path, regions=(replace(REGIONS[0], structures=("liver",)),))

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"reviewer": "  "}, "name of its reviewer"),
            ({"started": "2026-01-31T09:00:00"}, "with the offset from UTC"),
            ({"started": "yesterday"}, "'yesterday', expected ISO 8601"),
            ({"started": "2026-01-31T10:00:00+01:00"}, "after it ended"),
            ({"images": []}, "image that was segmented, got none"),
            ({"structures": ()}, "at least one structure"),
        ],
    )
    def test_a_package_without_what_it_needs(self, tmp_path: Path, changes: dict[str, Any], sentence: str):
        with pytest.raises(InputError, match=sentence):
            write(tmp_path, **changes)
        assert not list(tmp_path.iterdir())

    def test_times_in_utc_by_its_letter_are_taken(self, tmp_path: Path):
        write(tmp_path, started="2026-01-31T08:00:00Z", finished="2026-01-31T09:30:00+01:00")

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path):
        (tmp_path / "file").write_text("mine")
        with pytest.raises(OutputError, match=r"could not be written to .*file.*Nothing was left behind"):
            write(tmp_path / "file" / "below")
        assert (tmp_path / "file").read_text() == "mine"

    def test_a_folder_that_may_only_be_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        first = write(tmp_path)

        def forbidden(*_: Any, **__: Any) -> None:
            raise PermissionError(13, "Permission denied")  # for root, too, whom no mode bits hold

        monkeypatch.setattr("tempfile.mkdtemp", forbidden)
        with pytest.raises(OutputError, match=r"Permission denied.*earlier corrections are as they were"):
            write(tmp_path)
        assert find_corrections(tmp_path) == (first,)

    def test_a_disk_that_fills_up_leaves_earlier_packages_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        first = write(tmp_path)

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("DIANetLib.acwi.corrections.write_record", full)
        with pytest.raises(OutputError, match="No space left on device"):
            write(tmp_path)
        assert list(tmp_path.iterdir()) == [first]


class TestDamagedPackages:
    @pytest.mark.parametrize("name", ["before.seg.nrrd", "after.seg.nrrd", "regions.json", "image_1.nrrd"])
    def test_a_missing_file_is_named(self, tmp_path: Path, name: str):
        folder = write(tmp_path, copy_images=True)
        (folder / name).unlink()
        with pytest.raises(InputError, match=f"incomplete: {name} is missing"):
            read_correction(folder)

    @pytest.mark.parametrize("name", ["before.seg.nrrd", "after.seg.nrrd", "regions.json", "image_1.nrrd"])
    def test_a_changed_file_is_named(self, tmp_path: Path, name: str):
        folder = write(tmp_path, copy_images=True)
        with (folder / name).open("ab") as stream:
            stream.write(b" ")
        with pytest.raises(InputError, match=f"changed since it was written: {name}"):
            read_correction(folder)

    def test_a_changed_word_of_the_record_is_noticed(self, tmp_path: Path):
        folder = write(tmp_path)
        self.edit(folder, reviewer="Somebody else")
        with pytest.raises(InputError, match="was changed since it was written: its id"):
            read_correction(folder)

    def test_no_package_and_no_record_of_one(self, tmp_path: Path):
        with pytest.raises(InputError, match=r"no correction package: correction\.json is missing"):
            read_correction(tmp_path)
        (tmp_path / "correction.json").write_text("{")
        with pytest.raises(InputError, match="cannot be read"):
            read_correction(tmp_path)
        (tmp_path / "correction.json").write_text('{"schema": "other"}')
        with pytest.raises(InputError, match="no record of a correction"):
            read_correction(tmp_path)

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"schema_version": 99}, "version 99, this program reads up to 1. Update"),
            ({"schema_version": "1"}, "expected a whole number"),
            ({"model": {"name": "x"}}, "cannot be read"),
            ({"images": []}, "names no image"),
            ({"files": {"../../etc/passwd": "a" * 64}}, "no name of a file in the package"),
            ({"files": {"before.seg.nrrd": "short"}}, "no SHA-256 hash"),
            ({"finished": 7}, "expected text"),
        ],
    )
    def test_unusable_entries_are_named(self, tmp_path: Path, changes: dict[str, Any], sentence: str):
        folder = write(tmp_path)
        self.edit(folder, **changes)
        with pytest.raises(InputError, match=sentence):
            read_correction(folder)

    @staticmethod
    def edit(folder: Path, **changes: Any) -> None:
        file = folder / "correction.json"
        document = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps({**document, **changes}), encoding="utf-8")


class TestFinding:
    def test_a_package_is_its_own_folder_of_packages(self, tmp_path: Path):
        folder = write(tmp_path)
        assert find_corrections(folder) == (folder,)

    def test_other_folders_and_half_written_ones_are_passed_over(self, tmp_path: Path):
        folder = write(tmp_path)
        (tmp_path / "notes").mkdir()
        shutil.copytree(folder, tmp_path / f".{folder.name}.partial-x")
        (tmp_path / "file.txt").write_text("")
        assert find_corrections(tmp_path) == (folder,)

    def test_a_folder_that_is_not_there(self, tmp_path: Path):
        with pytest.raises(InputError, match="no folder of corrections"):
            find_corrections(tmp_path / "missing")


class TestCheckingImages:
    def test_the_very_image_and_one_read_by_another_program_are_taken(self, tmp_path: Path):
        found = read_correction(write(tmp_path))
        check_image(found, image())
        rounded = replace(GRID, origin=(3.3000001, -20.1, 7.0))
        check_image(found, Volume(image().array.astype(np.float32), rounded), "T1")

    def test_another_image_is_refused(self, tmp_path: Path):
        found = read_correction(write(tmp_path))
        for other in (image(5), Volume(image().array, replace(GRID, origin=(3.4, -20.1, 7.0)))):
            with pytest.raises(InputError, match=r"not the one that was corrected: its hash is .*expected"):
                check_image(found, other)
        with pytest.raises(InputError, match="no image 'T2', only T1"):
            check_image(found, image(), "T2")

    def test_a_file_written_and_read_again_is_the_same_image(self, tmp_path: Path):
        write_volume(image(), tmp_path / "image.nrrd")
        found = read_correction(write(tmp_path / "packages"))
        check_image(found, read_volume(tmp_path / "image.nrrd"))


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import Testing.acwi.test_corrections as made

def writing(times):
    child = os.fork()
    if child:
        return child
    for _ in range(times):
        made.write(parent, copy_images=True)
    os._exit(0)

random.seed(4)
parent = Path(sys.argv[1])
began = time.monotonic()
os.waitpid(writing(3), 0)
each = (time.monotonic() - began) / 3
for _ in range(10):
    child = writing(10**6)
    time.sleep(random.uniform(0.0, 2 * each))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_a_writer_killed_at_any_moment_leaves_whole_packages_alone(tmp_path: Path):
    parent = tmp_path / "packages"
    first = write(parent)
    kept = content(first)
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run(
        [sys.executable, "-c", KILLED, str(parent)], cwd=root, env=environment, check=True, timeout=60
    )
    found = find_corrections(parent)
    assert len(found) >= 4  # the first, and those that were not cut off
    assert any(entry.name.startswith(".") for entry in parent.iterdir())  # and some were cut off
    for folder in found:
        assert read_correction(folder).reviewer == "Dr. Ada Núñez"
    assert content(first) == kept
    write(parent)  # and the next one finds its place
