# SPDX-License-Identifier: Apache-2.0
"""What is measured of an image, (3, 4): adjoints, projections, masks and consistency."""

from __future__ import annotations

import monai.data.fft_utils
import numpy as np
import pytest
import torch

from DIANetLib.errors import ConfigError, InputError
from DIANetLib.operators import (
    Denoising,
    ForwardOperator,
    KSpaceUndersampling,
    cartesian_masks,
    complex_channels,
    consistent,
    magnitude,
)

SIZES = {2: (12, 16), 3: (3, 11, 15)}  # even and odd: the middle is where FFTs put it
DIMS = pytest.mark.parametrize("dims", [2, 3])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(dims: int = 2, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 2, *SIZES[dims], generator=seeded(1))


def undersampling(dims: int = 2, count: int = 2, **options) -> KSpaceUndersampling:
    return KSpaceUndersampling(cartesian_masks(SIZES[dims], 4, 0.1, seeded(2), count), **options)


def coils(dims: int, number: int = 3) -> torch.Tensor:
    return torch.randn(1, number, *SIZES[dims], generator=seeded(3), dtype=torch.complex64)


def inner(a: torch.Tensor, b: torch.Tensor) -> complex:
    return complex((a.conj() * b).sum())


def as_complex(image: torch.Tensor) -> torch.Tensor:
    return torch.complex(image[:, :1], image[:, 1:])


@DIMS
def test_measuring_twice_measures_nothing_more(dims: int) -> None:
    operator, x = undersampling(dims), images(dims)
    once = operator.normal(x)
    assert operator.exact
    torch.testing.assert_close(operator.normal(once), once, atol=1e-5, rtol=0)
    torch.testing.assert_close(operator.observe(x), once)


@DIMS
def test_the_transform_keeps_norms_and_what_is_measured_has_no_more(dims: int) -> None:
    x = images(dims)
    everything = KSpaceUndersampling(torch.ones(1, 1, *SIZES[dims]))
    assert torch.linalg.vector_norm(everything.forward(x)) == pytest.approx(
        torch.linalg.vector_norm(x).item(), rel=1e-5
    )
    torch.testing.assert_close(everything.normal(x), x, atol=1e-5, rtol=0)
    assert torch.linalg.vector_norm(undersampling(dims).normal(x)) < torch.linalg.vector_norm(x)


@DIMS
@pytest.mark.parametrize("several", [False, True])
def test_the_adjoint_is_the_adjoint(dims: int, several: bool) -> None:
    operator = undersampling(dims, sensitivities=coils(dims) if several else None)
    x = images(dims)
    measured = operator.forward(x)
    y = torch.randn(measured.shape, generator=seeded(4), dtype=torch.complex64)
    expected = inner(measured, y)
    assert inner(as_complex(x), as_complex(operator.adjoint(y))) == pytest.approx(expected, rel=1e-4)


@DIMS
def test_frequencies_are_those_of_the_field_s_own_transform(dims: int) -> None:
    x = images(dims)
    everything = KSpaceUndersampling(torch.ones(1, 1, *SIZES[dims]))
    last = torch.stack([x[:, 0], x[:, 1]], dim=-1)  # MONAI: real and imaginary part on the last axis
    oracle = monai.data.fft_utils.fftn_centered(last, spatial_dims=2, is_complex=True)
    torch.testing.assert_close(everything.forward(x)[:, 0], torch.view_as_complex(oracle.contiguous()))


def test_a_constant_image_has_one_frequency_in_the_middle() -> None:
    for size in SIZES[2], (7, 5):
        operator = KSpaceUndersampling(torch.ones(1, 1, *size))
        found = operator.forward(complex_channels(torch.ones(1, 1, *size)))[0, 0].abs()
        expected = torch.zeros(size)
        expected[size[0] // 2, size[1] // 2] = (size[0] * size[1]) ** 0.5
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@DIMS
def test_a_consistent_image_shows_what_was_measured_and_the_truth_stays(dims: int) -> None:
    operator, x = undersampling(dims), images(dims)
    observed = operator.observe(x)
    guess = torch.randn(x.shape, generator=seeded(5))
    torch.testing.assert_close(
        operator.normal(consistent(guess, observed, operator)), observed, atol=1e-5, rtol=0
    )
    torch.testing.assert_close(consistent(x, observed, operator), x, atol=1e-5, rtol=0)


def test_consistency_never_takes_an_image_further_from_the_truth() -> None:
    operator, x = undersampling(), images()
    guess = x + torch.randn(x.shape, generator=seeded(5))
    better = consistent(guess, operator.observe(x), operator)
    assert torch.linalg.vector_norm(better - x) < torch.linalg.vector_norm(guess - x)


def test_several_coils_and_noise_are_not_exact() -> None:
    several = undersampling(sensitivities=coils(2))
    assert not several.exact
    once = several.normal(images())
    assert (several.normal(once) - once).abs().max() > 0.1
    assert not undersampling(noise=0.1).exact


def test_one_even_coil_is_no_coil() -> None:
    even = torch.ones(1, 1, *SIZES[2], dtype=torch.complex64)
    torch.testing.assert_close(
        undersampling(sensitivities=even).normal(images()), undersampling().normal(images())
    )


def test_noise_is_measured_where_the_mask_is_and_of_the_deviation_asked_for() -> None:
    size = (64, 64)
    operator = KSpaceUndersampling(cartesian_masks(size, 4, 0.1, seeded()), noise=0.2)
    x = 3 * torch.randn(1, 2, *size, generator=seeded(1))
    noise = operator.forward(operator.observe(x, seeded(6))) - operator.forward(x)
    measured = operator.mask.bool()
    assert noise[~measured].abs().max() < 1e-4
    assert noise[measured].real.std() == pytest.approx(0.2 * 3, rel=0.1)
    assert noise[measured].imag.std() == pytest.approx(0.2 * 3, rel=0.1)


def test_denoising_adds_noise_relative_to_each_image() -> None:
    x = torch.stack([torch.randn(1, 64, 64), 100 * torch.randn(1, 64, 64)])
    noise = Denoising(0.5).observe(x, seeded()) - x
    assert noise[0].std() == pytest.approx(0.5, rel=0.1)
    assert noise[1].std() == pytest.approx(50, rel=0.1)
    assert not Denoising(0.5).exact
    assert torch.equal(Denoising(0.5).normal(x), x)
    torch.testing.assert_close(consistent(torch.zeros_like(x), x, Denoising(0.5)), x)


@pytest.mark.parametrize("operator", [Denoising(0.3), undersampling(noise=0.3)])
def test_equal_generators_observe_alike(operator: ForwardOperator) -> None:
    x = images()
    assert torch.equal(operator.observe(x, seeded(7)), operator.observe(x, seeded(7)))
    assert not torch.equal(operator.observe(x, seeded(7)), operator.observe(x, seeded(8)))
    torch.manual_seed(0)
    drawn = operator.observe(x)
    assert not torch.equal(operator.observe(x), drawn)


def test_rows_are_measured_by_their_own_masks() -> None:
    operator, x = undersampling(), images()
    for row in range(2):
        alone = KSpaceUndersampling(operator.mask[row : row + 1])
        torch.testing.assert_close(operator.normal(x)[row : row + 1], alone.normal(x[row : row + 1]))
    shared = KSpaceUndersampling(operator.mask[:1])
    torch.testing.assert_close(shared.normal(x)[:1], operator.normal(x)[:1])


def test_half_precision_and_gradients_pass() -> None:
    operator, x = undersampling(), images()
    low = operator.normal(x.bfloat16())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), operator.normal(x), atol=0.05, rtol=0)
    x.requires_grad_(True)
    operator.normal(x).square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * operator.normal(x.detach()), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("acceleration", "centre"), [(1, 0.08), (4, 0.08), (8, 0.04), (3.5, 0.0)])
@pytest.mark.parametrize("size", [(6, 90), (2, 6, 91)])
def test_masks_reach_the_acceleration_and_keep_the_centre(
    size: tuple[int, ...], acceleration: float, centre: float
) -> None:
    masks = cartesian_masks(size, acceleration, centre, seeded(), count=5)
    width = size[-1]
    assert masks.shape == (5, 1, *size)
    assert set(masks.unique().tolist()) <= {0.0, 1.0}
    lines = masks.reshape(5, -1, width)
    assert (lines == lines[:, :1]).all()  # whole columns, alike in all slices
    assert lines[:, 0].sum(dim=1).tolist() == [round(width / acceleration)] * 5
    kept = round(width * centre)
    first = width // 2 - kept // 2
    assert (lines[:, 0, first : first + kept] == 1).all()


def test_masks_differ_and_equal_seeds_give_equal_masks() -> None:
    masks = cartesian_masks((4, 64), 4, 0.08, seeded(1), count=3)
    assert torch.equal(masks, cartesian_masks((4, 64), 4, 0.08, seeded(1), count=3))
    assert not torch.equal(masks[0], masks[1])
    assert not torch.equal(masks, cartesian_masks((4, 64), 4, 0.08, seeded(2), count=3))


def test_every_column_outside_of_the_centre_is_as_likely() -> None:
    share = cartesian_masks((1, 20), 4, 0.1, seeded(), count=4000)[:, 0, 0].mean(dim=0)
    outside = np.delete(share.numpy(), [9, 10])
    np.testing.assert_allclose(outside, 3 / 18, atol=0.03)


def test_real_images_become_complex_and_back() -> None:
    x = torch.randn(2, 1, 4, 5).abs()
    assert complex_channels(x).shape == (2, 2, 4, 5)
    assert torch.equal(magnitude(complex_channels(x)), x)
    assert magnitude(torch.tensor([3.0, -4.0]).reshape(1, 2, 1, 1)).item() == 5


@pytest.mark.parametrize(("acceleration", "centre"), [(0.5, 0.0), (100, 0.0), (8, 0.5), (4, -0.1)])
def test_impossible_masks_are_refused(acceleration: float, centre: float) -> None:
    with pytest.raises(ConfigError, match="acceleration"):
        cartesian_masks((4, 32), acceleration, centre, seeded())


def test_wrong_shapes_and_values_get_a_sentence() -> None:
    with pytest.raises(InputError, match=r"shape \(B, 1, \*S\)"):
        KSpaceUndersampling(torch.ones(4, 4))
    with pytest.raises(InputError, match="0 and 1 alone"):
        KSpaceUndersampling(torch.full((1, 1, 4, 4), 0.5))
    with pytest.raises(InputError, match="sensitivities are complex"):
        KSpaceUndersampling(torch.ones(1, 1, 4, 4), sensitivities=torch.ones(1, 2, 4, 4))
    with pytest.raises(InputError, match="two channels, real and imaginary"):
        undersampling().normal(torch.ones(2, 1, *SIZES[2]))
    with pytest.raises(InputError, match="expected images of the mask's"):
        undersampling().normal(torch.ones(2, 2, 4, 4))
    with pytest.raises(InputError, match="as many as there are masks"):
        undersampling().normal(torch.ones(3, 2, *SIZES[2]))
    with pytest.raises(ConfigError, match="sigma: expected 0 or more"):
        Denoising(-1.0)
