# SPDX-License-Identifier: Apache-2.0
"""The reconstruction loss (3, 4, 20, 21) worked by hand, with operators that are masks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from DIANetLib.losses.reconstruction import ReconstructionLoss


class Mask:
    """An operator that passes some voxels and no others."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def normal(self, image: Tensor) -> Tensor:
        return image * self.mask


EVERYTHING = Mask(torch.ones(()))
HALF = Mask(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
IMAGE = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
OBSERVED = torch.tensor([[[[1.5, 2.0], [0.0, 0.0]]]])
CLEAN = torch.tensor([[[[1.0, 2.0], [3.0, 2.0]]]])


def loss(**options: Any) -> ReconstructionLoss:
    return ReconstructionLoss(**options)


def test_the_data_term_compares_what_the_operator_passes_with_what_was_measured() -> None:
    terms = loss(data_weight=3.0)(IMAGE, OBSERVED, HALF)
    assert terms.data.item() == pytest.approx(0.25 / 4)
    assert terms.total.item() == pytest.approx(3 * 0.25 / 4)
    assert terms.clean.item() == terms.ssim.item() == 0.0


def test_what_the_operator_does_not_pass_gets_no_gradient_from_the_data_term() -> None:
    image = IMAGE.clone().requires_grad_()
    loss()(image, OBSERVED, HALF).total.backward()
    assert image.grad is not None
    assert image.grad[0, 0, 0, 0] != 0
    assert image.grad[0, 0, 1].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("norm", "distance"), [("l1", 2 / 4), ("l2", 4 / 4)])
def test_the_clean_term_is_the_mean_difference_of_the_chosen_norm(norm: str, distance: float) -> None:
    terms = loss(norm=norm, clean_weight=2.0)(IMAGE, OBSERVED, HALF, clean=CLEAN)
    assert terms.clean.item() == pytest.approx(distance)
    assert terms.total.item() == pytest.approx(0.1 * 0.25 / 4 + 2.0 * distance)


def test_rows_whose_clean_image_is_unknown_have_the_data_term_alone() -> None:
    image = torch.cat([IMAGE, IMAGE]).requires_grad_()
    observed = torch.cat([OBSERVED, OBSERVED])
    clean = torch.cat([CLEAN, torch.full_like(CLEAN, float("nan"))])
    terms = loss()(image, observed, HALF, clean=clean, known=torch.tensor([True, False]))
    assert terms.clean.item() == pytest.approx(0.5)
    assert terms.data.item() == pytest.approx(0.25 / 4)
    terms.total.backward()
    assert image.grad is not None
    assert torch.isfinite(image.grad).all()
    assert image.grad[0, 0, 1, 1] > 0
    assert image.grad[1, 0, 1, 1] == 0.0
    assert image.grad[1, 0, 0, 0] != 0.0


def test_where_no_clean_image_is_known_its_terms_are_zero() -> None:
    nothing = torch.full_like(IMAGE, float("nan"))
    terms = loss(ssim_weight=1.0)(IMAGE, OBSERVED, HALF, clean=nothing, known=torch.tensor([False]))
    assert terms.clean.item() == terms.ssim.item() == 0.0
    assert terms.total.item() == pytest.approx(0.1 * 0.25 / 4)


def test_coarser_images_are_compared_with_the_clean_one_averaged_down() -> None:
    coarse = torch.full((1, 1, 1, 1), 5.0)  # the clean image's mean is 2
    terms = loss(norm="l1")(IMAGE, OBSERVED, HALF, clean=CLEAN, coarser=[coarse])
    assert terms.clean.item() == pytest.approx((2 * 0.5 + 1 * 3.0) / 3)


def test_coarser_images_meet_the_measurement_on_the_full_grid() -> None:
    coarse = torch.full((1, 1, 1, 1), 5.0)
    terms = loss()(IMAGE, OBSERVED, HALF, coarser=[coarse])
    of_coarse = (3.5**2 + 3.0**2) / 4
    assert terms.data.item() == pytest.approx((2 * 0.25 / 4 + of_coarse) / 3)


def test_every_resolution_learns_without_any_clean_image() -> None:
    coarse = torch.zeros(1, 1, 1, 1, requires_grad=True)
    loss()(IMAGE, OBSERVED, HALF, coarser=[coarse]).total.backward()
    assert coarse.grad is not None
    assert coarse.grad.item() < 0


@pytest.mark.parametrize("shape", [(2, 2, 8, 12), (2, 1, 8, 8, 10)], ids=["2d", "3d"])
def test_the_clean_image_itself_costs_nothing(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    clean = torch.randn(shape)
    coarse = torch.nn.functional.interpolate(clean, scale_factor=0.5, mode="area")
    terms = loss(ssim_weight=1.0, ssim_window=5)(clean, clean, EVERYTHING, clean=clean, coarser=[coarse])
    assert terms.clean.item() == 0.0
    assert terms.ssim.item() == pytest.approx(0.0, abs=1e-5)


def test_the_structural_term_rises_with_noise_and_ignores_units() -> None:
    torch.manual_seed(0)
    clean = torch.randn(2, 1, 16, 16).cumsum(2).cumsum(3)
    noisy = clean + 0.2 * clean.std() * torch.randn_like(clean)
    worse = clean + 0.6 * clean.std() * torch.randn_like(clean)
    module = loss(ssim_weight=1.0)
    values = [module(x, clean, EVERYTHING, clean=clean).ssim.item() for x in (noisy, worse)]
    assert 0.0 < values[0] < values[1]
    scaled = module(1000 * noisy - 7, clean, EVERYTHING, clean=1000 * clean - 7).ssim.item()
    assert scaled == pytest.approx(values[0], rel=1e-3)
    torch.testing.assert_close(
        module(noisy, clean, EVERYTHING, clean=clean).total.item(),
        (0.1 * (noisy - clean).square().mean() + (noisy - clean).abs().mean() + values[0]).item(),
    )


def test_a_constant_clean_image_gives_a_finite_structural_term() -> None:
    image = torch.randn(1, 1, 8, 8, requires_grad=True)
    flat = torch.zeros(1, 1, 8, 8)
    loss(ssim_weight=1.0)(image, flat, EVERYTHING, clean=flat).total.backward()
    assert image.grad is not None
    assert torch.isfinite(image.grad).all()


def test_gradients_agree_with_finite_differences() -> None:
    torch.manual_seed(0)
    image, observed, clean = torch.randn(3, 2, 1, 4, 4, dtype=torch.float64)
    coarse = torch.randn(2, 1, 2, 2, dtype=torch.float64)

    def total(x: Tensor, y: Tensor) -> Tensor:
        return loss(norm="l2")(x, observed, EVERYTHING, clean=clean, coarser=[y]).total

    assert torch.autograd.gradcheck(total, (image.requires_grad_(), coarse.requires_grad_()))


def test_half_precision_images_give_a_float32_loss() -> None:
    terms = loss()(IMAGE.bfloat16(), OBSERVED, HALF, clean=CLEAN)
    assert terms.total.dtype == torch.float32


@pytest.mark.parametrize("name", ["observed", "clean"])
def test_images_of_another_shape_are_refused(name: str) -> None:
    images = {"observed": OBSERVED, "clean": CLEAN, name: torch.zeros(1, 2, 2, 2)}
    with pytest.raises(ValueError, match=rf"expected {name} images of .*\(1, 1, 2, 2\), got \(1, 2, 2, 2\)"):
        loss()(IMAGE, images["observed"], HALF, clean=images["clean"])
