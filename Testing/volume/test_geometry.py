# SPDX-License-Identifier: Apache-2.0
"""Hand-worked grids and properties of random oblique ones."""

from __future__ import annotations

import numpy as np
import pytest

from DIANetLib.errors import InputError
from DIANetLib.volume import Geometry

# i runs to posterior, j to superior, k to the left: columns (0,1,0), (0,0,1), (1,0,0).
CYCLIC = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


@pytest.fixture
def cyclic() -> Geometry:
    return Geometry((4, 5, 6), (1.0, 2.0, 3.0), (10.0, 20.0, 30.0), CYCLIC)


def test_an_index_maps_to_the_hand_worked_world_point(cyclic):
    # x = 10 + 3k, y = 20 + i, z = 30 + 2j
    np.testing.assert_array_equal(cyclic.index_to_world([1, 2, 3]), [19.0, 21.0, 34.0])
    np.testing.assert_array_equal(cyclic.world_to_index([19.0, 21.0, 34.0]), [1.0, 2.0, 3.0])


def test_points_keep_their_leading_axes(cyclic):
    points = np.zeros((2, 7, 3))
    assert cyclic.index_to_world(points).shape == (2, 7, 3)
    assert cyclic.world_to_index(points).shape == (2, 7, 3)


def test_the_affine_holds_spacing_direction_and_origin(cyclic):
    expected = [[0, 0, 3, 10], [1, 0, 0, 20], [0, 2, 0, 30], [0, 0, 0, 1]]
    np.testing.assert_array_equal(cyclic.affine, expected)


def test_the_shape_is_the_size_reversed(cyclic):
    assert cyclic.shape == (6, 5, 4)


def test_extent_and_voxel_volume_are_hand_worked(cyclic):
    assert cyclic.extent_mm == (4.0, 10.0, 18.0)
    assert cyclic.voxel_volume_ml == pytest.approx(0.006, abs=1e-15)


def test_bounds_reach_half_a_voxel_beyond_the_centres(cyclic):
    # x: 10 - 1.5 .. 10 + 15 + 1.5; y: 20 - 0.5 .. 23.5; z: 30 - 1 .. 30 + 8 + 1
    np.testing.assert_allclose(cyclic.bounds_world(), [[8.5, 19.5, 29.0], [26.5, 23.5, 39.0]], atol=1e-12)


def test_a_crop_starts_at_the_world_point_of_its_first_voxel(cyclic):
    crop = cyclic.crop((1, 2, 3), (2, 3, 1))
    assert crop.size == (2, 3, 1)
    assert crop.origin == (19.0, 21.0, 34.0)
    np.testing.assert_array_equal(crop.index_to_world([1, 1, 0]), cyclic.index_to_world([2, 3, 3]))


@pytest.mark.parametrize(
    ("start", "size"), [((-1, 0, 0), (1, 1, 1)), ((0, 0, 0), (5, 1, 1)), ((0, 0, 0), (0, 1, 1))]
)
def test_a_crop_beyond_the_grid_is_refused(cyclic, start, size):
    with pytest.raises(InputError, match="does not fit in a grid of 4 × 5 × 6"):
        cyclic.crop(start, size)


@pytest.mark.parametrize(
    ("diagonal", "code"),
    [((1, 1, 1), "LPS"), ((-1, -1, 1), "RAS"), ((-1, 1, -1), "RPI"), ((1, -1, 1), "LAS")],
)
def test_orientation_codes_name_where_the_axes_point(diagonal, code):
    assert Geometry((2, 2, 2), (1, 1, 1), (0, 0, 0), np.diag(diagonal)).anatomical_axes == code


def test_a_permuted_grid_has_a_permuted_code(cyclic):
    assert cyclic.anatomical_axes == "PSL"


def test_the_oblique_angle_of_a_known_rotation_is_found():
    angle = np.radians(10.0)
    turn = [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    assert Geometry((2, 2, 2), (1, 1, 1), (0, 0, 0), np.array(turn)).oblique_angle_deg == pytest.approx(10.0)
    assert Geometry((2, 2, 2), (1, 1, 1), (0, 0, 0), CYCLIC).oblique_angle_deg == 0.0


def test_same_grid_measures_the_farthest_corner():
    aligned = Geometry((101, 2, 2), (1.0, 1.0, 1.0), (0, 0, 0), np.eye(3))
    # 1e-4 mm more per voxel: the far corner, 100.5 voxels out, moves by 0.01005 mm.
    stretched = Geometry((101, 2, 2), (1.0001, 1.0, 1.0), (0, 0, 0), np.eye(3))
    assert aligned.same_grid(stretched, tolerance=0.0101)
    assert not aligned.same_grid(stretched, tolerance=0.0100)
    assert not aligned.same_grid(aligned.crop((0, 0, 0), (100, 2, 2)), tolerance=1e9)


def test_grids_compare_and_hash_by_their_numbers(cyclic):
    twin = Geometry(cyclic.size, cyclic.spacing, cyclic.origin, cyclic.direction.copy())
    assert twin == cyclic
    assert hash(twin) == hash(cyclic)
    assert twin != cyclic.crop((0, 0, 0), (1, 1, 1))
    assert cyclic != "grid"


def test_the_direction_cannot_be_changed_in_place(cyclic):
    with pytest.raises(ValueError, match="read-only"):
        cyclic.direction[0, 0] = 2.0


@pytest.mark.parametrize("seed", range(20))
def test_world_and_index_are_inverse_on_oblique_grids(oblique_geometry, seed):
    geometry = oblique_geometry(seed)
    points = np.random.default_rng(seed).uniform(-50, 300, (100, 3))
    np.testing.assert_allclose(geometry.world_to_index(geometry.index_to_world(points)), points, atol=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_an_affine_gives_its_grid_back(oblique_geometry, seed):
    geometry = oblique_geometry(seed)
    assert Geometry.from_affine(geometry.affine, geometry.size).same_grid(geometry, tolerance=1e-11)


@pytest.mark.parametrize("seed", range(5))
def test_bounds_of_oblique_grids_hold_every_corner_and_touch_them(oblique_geometry, seed):
    geometry = oblique_geometry(seed)
    low, high = geometry.bounds_world()
    corners = geometry.corners_world()
    assert (corners >= low).all()
    assert (corners <= high).all()
    np.testing.assert_array_equal([corners.min(0), corners.max(0)], [low, high])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"spacing": (1.0, 0.0, 1.0)}, "spacing is 1 × 0 × 1 mm, expected three positive"),
        ({"spacing": (1.0, -2.0, 1.0)}, "spacing is 1 × -2 × 1 mm, expected three positive"),
        ({"spacing": (1.0, float("nan"), 1.0)}, "expected three positive"),
        ({"origin": (0.0, float("inf"), 0.0)}, "origin is .* expected three finite"),
        ({"size": (0, 4, 4)}, "size is 0 × 4 × 4, expected three whole numbers"),
        ({"size": (4, 4)}, "size has 2 entries, expected 3"),
        ({"direction": np.ones((3, 3))}, "is singular"),
        ({"direction": np.zeros((3, 3))}, "is singular"),
        ({"direction": np.full((3, 3), np.nan)}, "expected 3 × 3 finite numbers"),
        ({"direction": np.eye(2)}, "expected 3 × 3 finite numbers"),
        ({"direction": np.array([[1, 0.1, 0], [0, 1, 0], [0, 0, 1]])}, "is off from three perpendicular"),
        ({"direction": 2 * np.eye(3)}, "is off from three perpendicular"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_with_a_sentence(change, sentence):
    values = {
        "size": (4, 4, 4),
        "spacing": (1.0, 1.0, 1.0),
        "origin": (0.0, 0.0, 0.0),
        "direction": np.eye(3),
    }
    with pytest.raises(InputError, match=sentence):
        Geometry(**(values | change))


def test_an_affine_of_another_shape_or_with_a_zero_column_is_refused():
    with pytest.raises(InputError, match="expected \\(4, 4\\)"):
        Geometry.from_affine(np.eye(3), (2, 2, 2))
    with pytest.raises(InputError, match="spacing is 1 × 0 × 1"):
        Geometry.from_affine(np.diag([1.0, 0.0, 1.0, 1.0]), (2, 2, 2))
