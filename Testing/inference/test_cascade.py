# SPDX-License-Identifier: Apache-2.0
"""From what a localiser found to regions."""

from __future__ import annotations

import numpy as np
import pytest

from DIANetLib.errors import InputError
from DIANetLib.inference.cascade import far_from, find_instances, is_crop, sided
from DIANetLib.volume import Geometry
from Testing.inference.fakes import RAS, structures

GRID = Geometry((60, 50, 40), (2.0, 2.0, 2.0), (60.0, 50.0, -40.0), RAS)  # 120 x 100 x 80 mm


def _grid_with(*blocks, geometry=GRID):
    """Blocks are (centre LPS mm, size mm along x, y, z)."""
    k, j, i = np.indices(geometry.shape)
    points = geometry.index_to_world(np.stack([i, j, k], axis=-1))
    mask = np.zeros(geometry.shape, bool)
    for center, size in blocks:
        mask |= (np.abs(points - center) <= np.array(size) / 2).all(axis=-1)
    return mask


def _find(mask, body=None, instances="left-right", geometry=GRID, margin_mm=0.0):
    body = mask if body is None else body
    return find_instances(
        mask, body, geometry, instances=instances, margin_mm=margin_mm, minimum_ml=0.5, what="Hippocampus"
    )


LEFT, RIGHT = ((26.0, 0.0, 0.0), (14.0, 30.0, 14.0)), ((-24.0, 2.0, 0.0), (14.0, 30.0, 12.0))


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("flip", [1, -1])
def test_left_is_the_patients_left_however_the_image_is_stored(axes, flip):
    direction = (RAS * flip)[:, axes]
    size = np.array(GRID.size)[list(axes)]
    centre = np.array([0.0, 0.0, 0.0])
    origin = centre - direction @ ((size - 1) * 2.0 / 2)
    grid = Geometry(tuple(int(n) for n in size), (2.0, 2.0, 2.0), tuple(origin), direction)
    left, right = _find(_grid_with(LEFT, RIGHT, geometry=grid), geometry=grid)
    assert (left.side, right.side) == ("left", "right")
    assert left.box.center[0] == pytest.approx(26, abs=2)
    assert right.box.center[0] == pytest.approx(-24, abs=2)


def test_boxes_hold_whole_voxels_and_grow_by_the_margin():
    mask = np.zeros(GRID.shape, bool)
    mask[10:14, 20:26, 5:15] = True
    (one,) = _find(mask, instances="single", margin_mm=5.0)
    part = GRID.crop((5, 20, 10), (10, 6, 4)).bounds_world()
    np.testing.assert_allclose(one.box.lo, part[0] - 5)
    np.testing.assert_allclose(one.box.hi, part[1] + 5)
    assert one.volume_ml == pytest.approx(240 * 0.008)
    assert one.side is None


def test_noise_is_left_out_and_fragments_near_a_structure_are_kept():
    speck = ((50.0, -40.0, 30.0), (2.0, 2.0, 2.0))
    tail = ((26.0, 20.0, 0.0), (10.0, 8.0, 10.0))
    left, _ = _find(_grid_with(LEFT, RIGHT, speck, tail))
    assert left.box.hi[1] > 20
    assert left.box.hi[0] < 45


def test_a_false_find_above_the_structure_is_no_partner():
    above = ((24.0, 0.0, 30.0), (12.0, 20.0, 10.0))
    left, right = _find(_grid_with(LEFT, RIGHT, above))
    assert left.box.hi[2] < 20
    assert right.box.center[0] < 0


@pytest.mark.parametrize(("block", "side"), [(LEFT, "left"), (RIGHT, "right")])
def test_a_single_find_gets_its_side_from_the_middle_of_all_that_was_found(block, side):
    body = _grid_with(((0.0, 0.0, 0.0), (100.0, 80.0, 60.0)))
    (one,) = _find(_grid_with(block), body)
    assert one.side == side


def test_a_pair_joined_by_a_bridge_is_divided_in_the_middle():
    bridge = ((0.0, 0.0, 0.0), (60.0, 4.0, 4.0))
    body = _grid_with(((0.0, 0.0, 0.0), (100.0, 80.0, 60.0)))
    left, right = _find(_grid_with(LEFT, RIGHT, bridge), body)
    assert left.box.lo[0] >= -2
    assert right.box.hi[0] <= 2


def test_nothing_found_gets_a_sentence():
    with pytest.raises(InputError, match=r"Hippocampus was not found in the image.*--roi"):
        _find(_grid_with(((0.0, 0.0, 0.0), (4.0, 4.0, 4.0))))


def test_sides_number_the_structures_on():
    both = structures("anterior", "posterior")
    left, right = sided(both, "left"), sided(both, "right")
    assert [s.value for s in left + right] == [1, 2, 3, 4]
    assert [s.key for s in right] == ["anterior_right", "posterior_right"]
    assert right[0].side == "right"


def test_small_images_are_crops():
    assert is_crop(Geometry((40, 56, 40), (1.0, 1.0, 1.0), (0, 0, 0), np.eye(3)))
    assert not is_crop(Geometry((40, 56, 40), (1.0, 1.0, 2.0), (0, 0, 0), np.eye(3)))


def test_pieces_far_from_what_the_localiser_found_are_told_apart() -> None:
    geometry = Geometry((30, 12, 12), (1.0, 1.0, 1.0), (-3.0, 5.0, 7.0), np.diag([-1.0, -1.0, 1.0]))
    labels = np.zeros(geometry.shape, np.uint8)
    labels[2:5, 2:5, 2:5] = 1  # touches the anchor
    labels[2:5, 2:5, 9:11] = 2  # 4 mm away: a second piece of the structure
    labels[6:9, 6:9, 20:24] = 1  # 10 mm away and more
    anchor = geometry.index_to_world(np.array([[3, 3, 3], [5, 3, 3]]))
    far = far_from(anchor, labels, geometry)
    expected = np.zeros_like(far)
    expected[6:9, 6:9, 20:24] = True
    np.testing.assert_array_equal(far, expected)
    assert not far_from(anchor, np.zeros_like(labels), geometry).any()


def test_a_larger_look_alike_elsewhere_is_no_partner() -> None:
    neck = ((-2.0, 36.0, -32.0), (24.0, 26.0, 14.0))  # larger than either, far below and behind
    found = _find(_grid_with(LEFT, RIGHT, neck))
    assert [instance.side for instance in found] == ["left", "right"]
    assert all(abs(instance.box.center[1]) < 5 for instance in found)
