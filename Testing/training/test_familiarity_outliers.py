# SPDX-License-Identifier: Apache-2.0
"""What a model is shown beside its own data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from DIANetLib.errors import ConfigError, InputError
from DIANetLib.formats.image import write_volume
from DIANetLib.volume import Geometry, Volume
from training.familiarity_outliers import OutlierGroup, files_of, read_groups, shown

GRID = Geometry((40, 44, 48), (2.0, 2.0, 2.0), (3.0, -5.0, 7.0), np.diag([-1.0, -1.0, 1.0]))
SIZE = ((24.0, 20.0, 16.0),)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    labels = np.zeros(GRID.shape, np.uint8)
    labels[5:43, 5:39, 5:35] = 1
    labels[20:24, 18:22, 16:19] = 7
    image = rng.normal(size=GRID.shape).astype(np.float32) + 100 * (labels > 0)
    for name in ("a", "b"):
        write_volume(Volume(image, GRID), tmp_path / f"images/{name}.nii.gz")
        write_volume(Volume(labels, GRID), tmp_path / f"labels/{name}.nii.gz")
    return tmp_path


def group(**changes) -> OutlierGroup:
    fields = {"name": "g", "images": ("images/*.nii.gz",), "labels": "labels", "values": (7,)}
    return OutlierGroup(**{**fields, **changes})


def target() -> np.ndarray:
    k, j, i = np.meshgrid(range(20, 24), range(18, 22), range(16, 19), indexing="ij")
    return GRID.index_to_world(np.stack([i, j, k], -1).reshape(-1, 3))


def test_boxes_elsewhere_have_the_size_asked_for_and_do_not_touch_the_structure(data: Path):
    boxes = [
        one.box for one in shown(group(place="elsewhere", crops=4), data / "images/a.nii.gz", data, SIZE)
    ]
    assert len(boxes) == 4
    for box in boxes:
        assert box.size_mm == pytest.approx(SIZE[0])
        assert not box.contains(target()).any()
    again = [
        one.box for one in shown(group(place="elsewhere", crops=4), data / "images/a.nii.gz", data, SIZE)
    ]
    assert again == boxes


def test_a_box_there_is_the_structure_with_its_margin(data: Path):
    (one,) = shown(group(place="there", margin_mm=3.0), data / "images/a.nii.gz", data, SIZE)
    points = target()
    np.testing.assert_allclose(one.box.lo, points.min(0) - 4.0, atol=1e-4)  # half a voxel and the margin
    np.testing.assert_allclose(one.box.hi, points.max(0) + 4.0, atol=1e-4)


def test_boxes_anywhere_have_their_middle_where_the_image_is_bright(data: Path):
    found = list(shown(group(place="anywhere", crops=3), data / "images/a.nii.gz", data, SIZE))
    for one in found:
        i, j, k = np.round(GRID.world_to_index(np.array([one.box.center]))[0]).astype(int)
        assert one.volume.array[k, j, i] > 50
    assert len({one.name for one in found}) == 3


def test_an_image_can_be_turned_upside_down(data: Path):
    (plain,), (turned,) = (
        shown(group(upside_down=flag), data / "images/a.nii.gz", data, SIZE) for flag in (False, True)
    )
    np.testing.assert_array_equal(turned.volume.array, plain.volume.array[::-1])
    assert plain.box is None


def test_files_are_those_of_the_patterns_that_were_named(data: Path):
    assert [path.name for path in files_of(group(), data)] == ["a.nii.gz", "b.nii.gz"]
    assert [path.name for path in files_of(group(only=("b",)), data)] == ["b.nii.gz"]
    with pytest.raises(InputError, match="no image of the group 'g'"):
        files_of(group(only=("c",)), data)


def test_no_room_gets_a_sentence(data: Path):
    with pytest.raises(InputError, match="no room for 1 boxes"):
        list(shown(group(place="elsewhere"), data / "images/a.nii.gz", data, ((70.0, 70.0, 70.0),)))


def test_a_file_with_other_entries_gets_a_sentence(tmp_path: Path):
    (tmp_path / "g.yaml").write_text("groups: [{name: a, pictures: b}]\n")
    with pytest.raises(ConfigError, match="lists no groups of images"):
        read_groups(tmp_path / "g.yaml")


@pytest.mark.parametrize("name", ["hippocampus", "brain-structures"])
def test_the_lists_that_come_along_can_be_read(name: str):
    groups = read_groups(Path(__file__).parents[2] / f"training/outliers/{name}.yaml")
    assert any(one.outlier for one in groups)
    assert any(not one.outlier for one in groups)
