# SPDX-License-Identifier: Apache-2.0
"""Figures of reconstructed images per slice."""

from __future__ import annotations

import math

import pytest
import torch

from DIANetLib.errors import InputError
from training.scoring_reconstruction import score_slices, shown


def ramp(slices: int = 0) -> torch.Tensor:
    size = (slices, 16, 20) if slices else (16, 20)
    return torch.rand(1, *size, generator=torch.Generator().manual_seed(0))


def test_psnr_follows_its_formula():
    clean = ramp()
    clean[0, 0, 0], clean[0, 0, 1] = 0.0, 4.0
    (score,) = score_slices(clean + 0.04, clean)

    assert score is not None
    assert score.psnr_db == pytest.approx(20 * math.log10(4 / 0.04), rel=1e-4)


def test_equal_images_are_as_good_as_can_be():
    (score,) = score_slices(ramp(), ramp())

    assert score is not None
    assert score.psnr_db == math.inf
    assert score.ssim == pytest.approx(1.0, abs=1e-5)


def test_neither_unit_nor_offset_of_the_intensities_matters():
    clean, found = ramp(), ramp() + 0.1 * torch.randn(1, 16, 20, generator=torch.Generator().manual_seed(1))
    (one,), (other,) = score_slices(found, clean), score_slices(50 * found - 7, 50 * clean - 7)

    assert one is not None
    assert other is not None
    assert other.psnr_db == pytest.approx(one.psnr_db, rel=1e-4)
    assert other.ssim == pytest.approx(one.ssim, rel=1e-3)


def test_more_noise_is_worse():
    noise = torch.randn(1, 16, 20, generator=torch.Generator().manual_seed(1))
    (little,), (much,) = (score_slices(ramp() + a * noise, ramp()) for a in (0.05, 0.3))

    assert little is not None
    assert much is not None
    assert little.psnr_db > much.psnr_db + 10
    assert little.ssim > much.ssim + 0.1


def test_volumes_are_judged_slice_by_slice_and_empty_slices_are_left_out():
    clean, found = ramp(3), ramp(3) + 0.1
    clean[:, 1] = 0.0
    scores = list(score_slices(found, clean))

    assert len(scores) == 3
    assert scores[1] is None
    assert scores[2] == next(iter(score_slices(found[:, 2], clean[:, 2])))


def test_slices_smaller_than_the_window_have_no_ssim():
    (score,) = score_slices(ramp()[:, :8], ramp()[:, :8] + 0.1)

    assert score is not None
    assert math.isnan(score.ssim)
    assert score.psnr_db > 0


def test_complex_images_are_shown_as_magnitudes_and_real_ones_with_their_sign():
    found = torch.tensor([[-3.0, 4.0]]).reshape(1, 2, 1, 1)
    real = torch.tensor([[-2.0, 0.0]]).reshape(1, 2, 1, 1)

    assert shown(found, found).item() == 5.0
    assert shown(found, real).item() == -3.0
    assert torch.equal(shown(found[:, :1], real[:, :1]), found[:, :1])


def test_images_of_different_shapes_are_refused():
    with pytest.raises(InputError, match="expected an image of"):
        list(score_slices(ramp(), ramp(3)))
