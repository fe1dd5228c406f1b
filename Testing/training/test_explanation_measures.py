# SPDX-License-Identifier: Apache-2.0
"""Figures that judge maps, on arrays worked by hand and by brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr

from training.explanation_measures import (
    area_under,
    centred,
    correlation,
    descending,
    distance_mm,
    heat_share,
    points_at,
    rank_correlation,
    scaled,
    structural_similarity,
)

RNG = np.random.default_rng(0)


def noise(shape=(9, 10, 11)):
    return gaussian_filter(RNG.random(shape), 1.0)


def test_a_map_is_like_itself_whatever_its_scale_and_unlike_another():
    one, other = noise(), noise()
    assert structural_similarity(one, one) == pytest.approx(1.0)
    assert structural_similarity(one, 7 * one) == pytest.approx(1.0)
    assert structural_similarity(one, other) == pytest.approx(structural_similarity(other, one))
    assert structural_similarity(one, other) < 0.9


def test_ssim_of_constant_maps_is_that_of_their_means():
    # Without variance SSIM is (2 m n + C1) / (m^2 + n^2 + C1); a constant map scaled to its maximum is 1.
    ones, none = np.ones((8, 8, 8)), np.zeros((8, 8, 8))
    assert structural_similarity(ones, 5 * ones) == pytest.approx(1.0)
    assert structural_similarity(ones, none) == pytest.approx(1e-4 / (1 + 1e-4))


def test_ssim_agrees_with_its_definition_at_every_voxel():
    one, other = scaled(noise((5, 5, 5))), scaled(noise((5, 5, 5)))
    sigma, reach = 1.5, 5  # 3.5 sigma
    offsets = np.arange(-reach, reach + 1)
    line = np.exp(-0.5 * (offsets / sigma) ** 2)
    window = line[:, None, None] * line[None, :, None] * line[None, None, :]
    window /= window.sum()
    pads = [np.pad(values, reach, mode="symmetric") for values in (one, other)]
    total = []
    for at in np.ndindex(one.shape):
        x, y = (pad[tuple(slice(a, a + 2 * reach + 1) for a in at)] for pad in pads)
        mx, my = (window * x).sum(), (window * y).sum()
        vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
        cov = (window * (x - mx) * (y - my)).sum()
        total.append((2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)))
    assert structural_similarity(one, other) == pytest.approx(np.mean(total), rel=1e-6)


def test_correlations_agree_with_scipy_and_are_not_defined_for_constant_maps():
    one = np.maximum(noise() - 0.5, 0)  # with ties
    other = noise()
    assert rank_correlation(one, other) == pytest.approx(spearmanr(one.ravel(), other.ravel()).statistic)
    assert correlation(one, -2 * one + 1) == pytest.approx(-1.0)
    assert math.isnan(correlation(one, np.zeros_like(one)))
    assert math.isnan(rank_correlation(np.ones_like(one), one))


def test_a_map_is_moved_to_the_middle_of_another_grid():
    line = np.arange(1.0, 6.0).reshape(1, 1, 5)
    assert centred(line, (1, 1, 3)).ravel().tolist() == [2, 3, 4]
    assert centred(line, (1, 1, 7)).ravel().tolist() == [0, 1, 2, 3, 4, 5, 0]
    assert centred(line, (3, 1, 5))[:, 0, 0].tolist() == [0, 1, 0]


def test_a_maximum_points_at_a_structure_within_the_tolerance_in_millimetres():
    mask = np.zeros((1, 1, 8), bool)
    mask[0, 0, 2] = True
    distance = distance_mm(mask, (1.0, 1.0, 2.0))
    assert distance.ravel().tolist() == [4, 2, 0, 2, 4, 6, 8, 10]
    heat = np.zeros(mask.shape)
    heat[0, 0, 3] = 1
    assert points_at(heat, distance, 3.0)
    assert not points_at(heat, distance, 1.0)
    heat[0, 0, 5] = 2
    assert not points_at(heat, distance, 3.0)


def test_voxels_come_in_falling_order_and_equal_ones_at_random():
    values = np.array([[0.0, 3.0, 0.0], [1.0, 0.0, 0.0]])
    orders = [descending(values, np.random.default_rng(seed)) for seed in range(20)]
    assert all(order[:2].tolist() == [1, 3] for order in orders)
    assert all(sorted(order.tolist()) == list(range(6)) for order in orders)
    assert len({tuple(order) for order in orders}) > 5


def test_the_share_of_heat_is_of_all_heat():
    values = np.array([1.0, 2.0, 5.0])
    assert heat_share(values, np.array([True, True, False])) == pytest.approx(3 / 8)
    assert math.isnan(heat_share(np.zeros(3), np.ones(3, bool)))


def test_the_area_under_a_curve_is_its_mean_height():
    assert area_under((0, 1, 4), (1.0, 0.0, 0.0)) == pytest.approx(0.5 / 4)
    assert area_under((0, 2, 8, 16), (0.3,) * 4) == pytest.approx(0.3)
