# SPDX-License-Identifier: Apache-2.0
"""Covering an image with windows and blending what they give."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from DIANetLib.acwi.uncertainty import UncertaintyMaps
from DIANetLib.inference.sliding_window import (
    OVERLAP,
    Blend,
    Window,
    gaussian_weights,
    plan_windows,
    round_up,
    whole_window,
)


def _maps(
    mean: torch.Tensor, *, variance=None, aleatoric=None, samples=4, logit_variance=None
) -> UncertaintyMaps:
    spatial = mean.shape[1:]
    zero = torch.zeros(spatial)
    return UncertaintyMaps(
        mean_probability=mean,
        total=zero,
        aleatoric=zero if aleatoric is None else aleatoric,
        epistemic=zero,
        variance=torch.zeros_like(mean) if variance is None else variance,
        heteroscedastic=logit_variance,
        samples=samples,
    )


@pytest.mark.parametrize("shape", [(40, 56, 33), (16, 100, 17), (9, 9, 9), (64, 1, 64)])
def test_windows_cover_every_voxel_and_stay_inside(shape):
    count = np.zeros(shape, int)
    windows = plan_windows(shape, (16, 24, 16), (8, 8, 8))
    for index, window in enumerate(windows):
        assert window.index == index
        assert all(p % 8 == 0 for p in window.padded)
        assert count[window.slices].shape == window.size
        count[window.slices] += 1
    assert count.min() >= 1


def test_neighbouring_windows_overlap_by_at_least_what_was_asked_for():
    starts = sorted({window.start[0] for window in plan_windows((100, 8, 8), (16, 8, 8), (8, 8, 8))})
    steps = np.diff(starts)
    assert starts[0] == 0
    assert starts[-1] == 100 - 16
    assert steps.max() <= math.ceil(16 * (1 - OVERLAP))
    assert steps.max() - steps.min() <= 1


def test_an_image_little_larger_than_the_window_is_read_at_once():
    assert whole_window((43, 59, 47), (40, 56, 40), (8, 8, 8)) == (48, 64, 48)
    assert whole_window((43, 200, 47), (40, 56, 40), (8, 8, 8)) is None


def test_sizes_are_rounded_up_to_two_of_the_divisor_at_least():
    assert [round_up(n, 8) for n in (1, 8, 16, 17)] == [16, 16, 16, 24]
    assert round_up(1, 1) == 1


def test_a_window_larger_than_the_image_is_padded_around_it():
    (window,) = plan_windows((3, 5, 8), (8, 8, 8), (4, 4, 4))
    image = torch.ones(2, 3, 5, 8)
    read = window.cut(image)
    assert read.shape == (2, 8, 8, 8)
    assert read.sum() == image.sum()
    assert torch.equal(read[(slice(None), *window.valid)], image)
    assert [s.start for s in window.valid] == [2, 1, 0]


def test_a_window_that_fits_is_not_copied():
    image = torch.ones(1, 8, 8, 20)
    window = plan_windows((8, 8, 20), (8, 8, 8), (4, 4, 4))[1]
    assert window.cut(image).untyped_storage().data_ptr() == image.untyped_storage().data_ptr()


def test_an_overlap_out_of_range_is_refused():
    with pytest.raises(ValueError, match="overlap from 0 to below 1"):
        plan_windows((8, 8, 8), (8, 8, 8), (4, 4, 4), overlap=1.0)


def test_weights_are_a_gaussian_of_an_eighth_of_the_window():
    weights = gaussian_weights((17, 9, 1))
    assert weights.shape == (17, 9, 1)
    assert weights[8, 4, 0] == 1
    # 17/8 voxels are one standard deviation; 2 voxels are 2 / (17/8) of it.
    assert weights[10, 4, 0] == pytest.approx(math.exp(-0.5 * (2 / (17 / 8)) ** 2))
    assert weights.min() == pytest.approx(1e-3)


def test_two_windows_blend_into_weighted_means_worked_by_hand():
    # Two windows of two voxels over three; both weigh the middle voxel alike.
    windows = [Window(n, (n, 0, 0), (2, 1, 1), (2, 1, 1)) for n in range(2)]
    blend = Blend(2, (3, 1, 1), samples=4)
    first = torch.tensor([[0.8, 0.6], [0.2, 0.4]]).reshape(2, 2, 1, 1)
    second = torch.tensor([[0.2, 1.0], [0.8, 0.0]]).reshape(2, 2, 1, 1)
    entropy = torch.full((2, 1, 1), 0.1)
    blend.add(windows[0], _maps(first, variance=torch.full_like(first, 0.01), aleatoric=entropy))
    blend.add(windows[1], _maps(second, variance=torch.full_like(second, 0.03), aleatoric=3 * entropy))
    maps = blend.finish()

    torch.testing.assert_close(maps.mean_probability[0].ravel(), torch.tensor([0.8, 0.4, 1.0]))
    torch.testing.assert_close(maps.aleatoric.ravel()[:2], torch.tensor([0.1, 0.2]))
    # E[p^2] in the middle is the mean of 0.36 + 0.01 and 0.04 + 0.03; its variance 0.22 - 0.16.
    torch.testing.assert_close(maps.variance[0].ravel(), torch.tensor([0.01, 0.06, 0.03]))
    middle = -(0.4 * math.log(0.4) + 0.6 * math.log(0.6))
    assert maps.total.ravel()[1] == pytest.approx(middle, abs=1e-6)
    assert maps.epistemic.ravel()[1] == pytest.approx(middle - 0.2, abs=1e-6)
    assert maps.epistemic.min() >= 0


def test_windows_that_agree_blend_into_themselves():
    shape = (10, 6, 7)
    mean = torch.softmax(torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)), 0)
    logit_variance = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    blend = Blend(3, shape, samples=4)
    for window in plan_windows(shape, (4, 4, 4), (2, 2, 2)):
        where = (slice(None), *window.slices)
        blend.add(window, _maps(mean[where], logit_variance=logit_variance[window.slices]))
    maps = blend.finish()
    torch.testing.assert_close(maps.mean_probability, mean)
    torch.testing.assert_close(maps.variance, torch.zeros_like(mean), atol=1e-6, rtol=0)
    torch.testing.assert_close(maps.heteroscedastic, logit_variance)


def test_a_single_pass_has_no_epistemic_part_where_windows_disagree():
    windows = [Window(n, (n, 0, 0), (2, 1, 1), (2, 1, 1)) for n in range(2)]
    blend = Blend(2, (3, 1, 1), samples=1)
    for window, p in zip(windows, (0.9, 0.1), strict=True):
        blend.add(window, _maps(torch.tensor([p, 1 - p]).reshape(2, 1, 1, 1).expand(2, 2, 1, 1), samples=1))
    maps = blend.finish()
    assert maps.epistemic.abs().max() == 0
    assert maps.variance.abs().max() == 0
    assert maps.total.ravel()[1] == pytest.approx(math.log(2), abs=1e-6)
