# SPDX-License-Identifier: Apache-2.0
"""Preparing volumes for a network and bringing its results back."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from DIANetLib.errors import InputError
from DIANetLib.inference.prediction import Box
from DIANetLib.preprocess import (
    PreprocessConfig,
    normalise,
    part_of,
    prepare,
    restore,
    restore_labels,
    scale_by_magnitude,
)
from DIANetLib.volume import Geometry, Volume

RAS = np.diag([-1.0, -1.0, 1.0])


def _volume(shape=(5, 6, 7), spacing=(1.0, 1.0, 1.0), direction=RAS, origin=(10.0, -20.0, 30.0), seed=0):
    array = np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)
    return Volume(array, Geometry(shape[::-1], spacing, origin, direction), name="image")


def _ball(geometry: Geometry, radius_mm: float) -> np.ndarray:
    """A smooth ball (k, j, i) in the middle of a grid; 0.5 at its border."""
    k, j, i = np.indices(geometry.shape)
    points = geometry.index_to_world(np.stack([i, j, k], axis=-1))
    centre = geometry.index_to_world((np.array(geometry.size) - 1) / 2)
    distance = np.linalg.norm(points - centre, axis=-1)
    return (1 / (1 + np.exp(np.clip((distance - radius_mm) / 1.0, -50, 50)))).astype(np.float32)


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.parametrize("axes", list(permutations(range(3))))
@pytest.mark.parametrize("signs", list(product((-1, 1), repeat=3)))
def test_every_permutation_and_flip_is_undone_bit_for_bit(axes, signs):
    direction = np.zeros((3, 3))
    for index_axis, (world_axis, sign) in enumerate(zip(axes, signs, strict=True)):
        direction[world_axis, index_axis] = sign
    volume = _volume(direction=direction)
    prepared = prepare([volume], PreprocessConfig())

    assert not prepared.interpolated
    assert prepared.geometry.anatomical_axes == "RAS"
    np.testing.assert_array_equal(prepared.array[0], prepared.orientation.view(normalise(volume.array)))
    back = restore(np.ascontiguousarray(prepared.orientation.view(volume.array)), prepared)
    np.testing.assert_array_equal(back, volume.array)
    # A voxel keeps its place in the world.
    marked = np.zeros(volume.array.shape)
    marked[1, 2, 3] = 1
    (k, j, i) = np.argwhere(prepared.orientation.view(marked))[0]
    np.testing.assert_allclose(
        prepared.geometry.index_to_world((i, j, k)), volume.geometry.index_to_world((3, 2, 1)), atol=1e-9
    )


def test_a_grid_of_nearly_the_spacing_and_nearly_upright_is_not_interpolated():
    tilt = Rotation.from_euler("xyz", [5, -8, 3], degrees=True).as_matrix() @ RAS
    volume = _volume(spacing=(1.04, 0.97, 1.0), direction=tilt)
    prepared = prepare([volume], PreprocessConfig())
    assert not prepared.interpolated
    np.testing.assert_array_equal(prepared.array[0], normalise(volume.array))
    np.testing.assert_array_equal(restore(volume.array, prepared), volume.array)


@pytest.mark.parametrize("seed", range(12))
def test_a_smooth_structure_survives_the_way_there_and_back_on_random_grids(seed):
    rng = np.random.default_rng(seed)
    direction = Rotation.random(random_state=seed).as_matrix() @ RAS
    spacing = rng.uniform(0.7, 2.5, 3)
    extent = rng.uniform(45, 60, 3)
    size = np.ceil(extent / spacing).astype(int)
    grid = Geometry(tuple(size), tuple(spacing), tuple(rng.uniform(-80, 80, 3)), direction)
    ball = _ball(grid, 15.0)
    prepared = prepare([Volume(ball, grid)], PreprocessConfig(spacing_mm=(1.5, 1.5, 1.5)))

    assert prepared.interpolated
    assert prepared.geometry.spacing == (1.5, 1.5, 1.5)
    assert prepared.source_geometry.same_grid(grid, tolerance=1e-6)
    # On the network's grid the same ball lies at the same place in the world.
    inside = prepared.array[0] > (prepared.array[0].min() + prepared.array[0].max()) / 2
    wanted = _ball_at(prepared.geometry, grid) > 0.5
    assert _dice(inside, wanted) > 0.95

    probability = _ball_at(prepared.geometry, grid)
    labels = restore_labels([1 - probability, probability], prepared).labels
    full = np.zeros(grid.shape, np.uint8)
    part_of(full, prepared)[...] = labels
    assert _dice(full == 1, ball > 0.5) > 0.95
    assert restore(probability, prepared).shape == grid.shape


def _ball_at(geometry: Geometry, original: Geometry) -> np.ndarray:
    k, j, i = np.indices(geometry.shape)
    points = geometry.index_to_world(np.stack([i, j, k], axis=-1))
    centre = original.index_to_world((np.array(original.size) - 1) / 2)
    distance = np.linalg.norm(points - centre, axis=-1)
    return (1 / (1 + np.exp(np.clip(distance - 15.0, -50, 50)))).astype(np.float32)


def test_a_linear_ramp_is_resampled_without_error_away_from_the_edges():
    grid = Geometry((24, 20, 16), (1.0, 1.5, 3.0), (0.0, 0.0, 0.0), RAS)
    k, j, i = np.indices(grid.shape)
    world = grid.index_to_world(np.stack([i, j, k], axis=-1))
    ramp = (0.3 * world[..., 0] - 0.2 * world[..., 1] + 0.1 * world[..., 2]).astype(np.float32)
    prepared = prepare(
        [Volume(ramp, grid)], PreprocessConfig(spacing_mm=(2.0, 2.0, 2.0), clip_percentiles=(0, 100))
    )
    k, j, i = np.indices(prepared.geometry.shape)
    there = prepared.geometry.index_to_world(np.stack([i, j, k], axis=-1))
    wanted = 0.3 * there[..., 0] - 0.2 * there[..., 1] + 0.1 * there[..., 2]
    inner = (slice(3, -3),) * 3
    slope, offset = np.polyfit(wanted[inner].ravel(), prepared.array[0][inner].ravel(), 1)
    np.testing.assert_allclose(prepared.array[0][inner], slope * wanted[inner] + offset, atol=1e-4)
    np.testing.assert_allclose(
        restore(wanted.astype(np.float32), prepared)[3:-3, 3:-3, 3:-3], ramp[3:-3, 3:-3, 3:-3], atol=1e-4
    )


def test_a_region_is_cut_out_normalised_by_itself_and_pasted_back():
    volume = _volume(shape=(20, 22, 24), direction=np.eye(3), origin=(0.0, 0.0, 0.0))
    volume.array[5:9, 6:11, 7:13] += 500
    prepared = prepare([volume], PreprocessConfig(), region=Box((6.6, 5.6, 4.6), (12.4, 10.4, 8.4)))
    assert prepared.geometry.size == (6, 5, 4)
    np.testing.assert_array_equal(prepared.array[0], normalise(volume.array[5:9, 6:11, 7:13])[:, ::-1, ::-1])
    back = restore(np.ones(prepared.geometry.shape, np.uint8), prepared)
    assert back.sum() == 6 * 5 * 4
    assert back[5:9, 6:11, 7:13].all()


def test_a_region_of_a_resampled_image_stays_within_it():
    volume = _volume(shape=(30, 32, 34), spacing=(2.0, 1.5, 1.0), direction=np.eye(3), origin=(0.0, 0.0, 0.0))
    prepared = prepare([volume], PreprocessConfig(), region=Box((20.0, 12.0, 8.0), (40.0, 30.0, 20.0)))
    assert prepared.size == (11, 13, 13)
    assert prepared.geometry.size == (22, 20, 13)
    back = restore(np.ones(prepared.geometry.shape, np.float32), prepared)
    assert back.sum() == 11 * 13 * 13


def test_a_region_outside_of_the_image_gets_a_sentence():
    with pytest.raises(InputError, match=r"lies outside of the image, which spans \(.*\(RAS\)"):
        prepare([_volume()], PreprocessConfig(), region=Box((900, 900, 900), (910, 910, 910)))


def test_a_constant_image_gets_a_sentence_with_its_name():
    volume = _volume()
    with pytest.raises(InputError, match="'image' cannot be used: the image is constant"):
        prepare([volume.with_array(np.full(volume.array.shape, 7.0))], PreprocessConfig())


def test_no_image_gets_a_sentence():
    with pytest.raises(InputError, match="no image was given"):
        prepare([], PreprocessConfig())


def test_normalising_gives_zero_mean_and_unit_deviation_and_keeps_the_input():
    array = np.random.default_rng(0).normal(5, 3, (10, 10, 10))
    before = array.copy()
    values = normalise(array, (0, 100))
    np.testing.assert_array_equal(array, before)
    assert values.dtype == np.float32
    assert abs(values.mean()) < 1e-5
    assert abs(values.std() - 1) < 1e-5


def test_normalising_clips_at_the_percentiles_worked_by_hand():
    # Percentiles 25 and 75 of 0..4 are 1 and 3: 1 1 2 3 3 with mean 2 and deviation sqrt(0.8).
    expected = np.array([-1, -1, 0, 1, 1]) / np.sqrt(0.8)
    np.testing.assert_allclose(normalise(np.arange(5), (25, 75)), expected, rtol=1e-6)


def test_normalising_is_the_same_whatever_the_scale_of_the_intensities():
    array = np.random.default_rng(0).uniform(0, 255, (8, 8, 8))
    np.testing.assert_allclose(normalise(array), normalise(array * 6000 + 12), atol=1e-4)


def test_voxels_that_are_not_finite_become_the_mean():
    array = np.array([0.0, 1.0, 2.0, 3.0, np.nan, np.inf])
    values = normalise(array, (0, 100))
    np.testing.assert_allclose(values[:4], normalise(array[:4], (0, 100)))
    np.testing.assert_array_equal(values[4:], 0)


def test_a_few_bright_voxels_on_black_are_not_clipped_away():
    array = np.zeros((20, 20, 20))
    array[3, 3, 3] = 9
    assert normalise(array)[3, 3, 3] > 1


def test_an_image_without_finite_voxels_gets_a_sentence():
    with pytest.raises(InputError, match="no finite voxel"):
        normalise(np.full((2, 2), np.nan))


def test_labels_come_from_interpolated_probabilities_with_ties_for_the_lower_class():
    prepared = prepare([_volume(shape=(1, 1, 4))], PreprocessConfig())
    probabilities = np.array([[0.5, 0.2, 0.1, 0.3], [0.5, 0.5, 0.2, 0.3], [0.0, 0.3, 0.7, 0.4]], np.float32)
    result = restore_labels(probabilities[:, None, None, :], prepared)
    np.testing.assert_array_equal(result.labels[0, 0], [0, 1, 2, 2])
    np.testing.assert_allclose(result.confidence[0, 0], [0.5, 0.5, 0.7, 0.4])
    np.testing.assert_allclose(result.soft_voxels, [1.1, 1.5, 1.4], rtol=1e-6)


def test_two_structures_that_are_told_apart_badly_leave_no_crack_between_them():
    prepared = prepare([_volume(shape=(1, 1, 5))], PreprocessConfig())
    front = [0.9, 0.5, 0.31, 0.1, 0.0]
    back = [0.0, 0.1, 0.29, 0.5, 0.3]
    nothing = [1 - a - b for a, b in zip(front, back, strict=True)]  # 0.4 in the middle
    probabilities = np.array([nothing, front, back], np.float32)
    result = restore_labels(probabilities[:, None, None, :], prepared)
    np.testing.assert_array_equal(result.labels[0, 0], [1, 1, 1, 2, 0])
    np.testing.assert_allclose(result.confidence[0, 0], [0.9, 0.5, 0.31, 0.5, 0.7], rtol=1e-6)
    np.testing.assert_array_equal(result.joined[0, 0], [False, False, True, False, False])


def test_results_of_another_shape_are_refused():
    prepared = prepare([_volume()], PreprocessConfig())
    with pytest.raises(ValueError, match="expected an array of shape"):
        restore(np.zeros((2, 2, 2)), prepared)


def test_a_model_without_a_world_keeps_the_axes_of_the_file():
    volume = _volume(shape=(1, 6, 7), direction=np.eye(3))
    config = PreprocessConfig(spacing_mm=(None, None, None), orientation="source")
    np.testing.assert_array_equal(prepare([volume], config).array[0], normalise(volume.array))


def test_spacing_of_none_keeps_the_images_own_along_that_axis():
    volume = _volume(shape=(4, 20, 20), spacing=(1.0, 1.0, 6.0))
    prepared = prepare([volume], PreprocessConfig(spacing_mm=(2.0, 2.0, None)))
    assert prepared.geometry.size == (10, 10, 4)
    assert prepared.geometry.spacing == (2.0, 2.0, 6.0)


def test_percentiles_out_of_order_are_refused():
    with pytest.raises(ValueError, match="clip_percentiles must rise"):
        PreprocessConfig(clip_percentiles=(99, 1))


def test_the_parts_of_a_complex_image_are_scaled_together_and_keep_phase_and_zero():
    real, imaginary = np.full((1, 2, 5), 3.0), np.full((1, 2, 5), -4.0)
    real[0, 0, 0] = imaginary[0, 0, 0] = 0.0
    grid = _volume(shape=(1, 2, 5)).geometry
    config = PreprocessConfig(normalisation="magnitude")

    prepared = prepare([Volume(real, grid), Volume(imaginary, grid)], config)

    assert prepared.array[:, 0, 0, 0].tolist() == [0.0, 0.0]
    np.testing.assert_allclose(prepared.array[:, 0, 1, 2], [0.6, -0.8], rtol=1e-6)


def test_the_magnitude_that_scales_is_the_percentile_worked_by_hand():
    parts = np.arange(101, dtype=np.float32).reshape(1, 1, 101)

    np.testing.assert_allclose(scale_by_magnitude(parts, 80.0), parts / 80.0, rtol=1e-6)
    few = np.zeros((2, 1, 101), np.float32)
    few[1, 0, 7] = -5.0  # all that there is lies beyond the percentile
    assert scale_by_magnitude(few, 80.0).min() == -1.0


def test_a_complex_image_of_zeros_gets_a_sentence():
    with pytest.raises(InputError, match=r"magnitude is 0 at its 99\.5th percentile, expected more than 0"):
        scale_by_magnitude(np.zeros((2, 1, 4), np.float32), 99.5)
