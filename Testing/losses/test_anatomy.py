# SPDX-License-Identifier: Apache-2.0
"""The atlas, its place in a batch, and the priors that compare with it (11, 14, O3)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from DIANetLib.errors import InputError
from DIANetLib.losses.anatomy import (
    MINIMUM,
    Atlas,
    centre_of_mass,
    domain_regulariser,
    learn_atlas,
    spatial_prior_kl,
)

SHAPES = pytest.mark.parametrize("shape", [(12, 16), (8, 12, 16)], ids=["2d", "3d"])


def box(shape: tuple[int, ...], start: tuple[int, ...], size: tuple[int, ...]) -> np.ndarray:
    """A box of class 2 whose first half along the last axis is class 1."""
    mask = np.zeros(shape, np.uint8)
    where = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
    mask[where] = 2
    mask[(*where[:-1], slice(start[-1], start[-1] + size[-1] // 2))] = 1
    return mask


Prior = Callable[[Tensor, Tensor, Tensor], Tensor]


def rows(*masks: np.ndarray) -> Tensor:
    return torch.from_numpy(np.stack(masks)).long()


def random_atlas(*size: int, classes: int = 3) -> Atlas:
    torch.manual_seed(0)
    return Atlas(torch.softmax(torch.randn(classes, *size), 0))


def test_the_atlas_is_the_average_of_the_aligned_masks_and_one_case_spread_evenly() -> None:
    # two rows of three voxels, of classes 1 2 2 and 1 1 2, at different places
    masks = [np.array([[0, 0, 1, 2, 2, 0]]), np.array([[1, 1, 2, 0]])]
    atlas = learn_atlas(masks, 3, (1, 5), smoothing=0.0)
    mean = np.array([[1, 0, 0, 0, 1], [0, 1, 0.5, 0, 0], [0, 0, 0.5, 1, 0]])
    expected = (2 * mean + mean.mean(1, keepdims=True)) / 3
    np.testing.assert_allclose(atlas.probabilities[:, 0].numpy(), expected, atol=1e-6)


def test_masks_of_one_shape_at_different_places_are_aligned_exactly() -> None:
    masks = [box((9, 11), start, (3, 4)) for start in ((0, 0), (5, 6), (2, 7))]
    atlas = learn_atlas(masks, 3, (7, 8), smoothing=0.0)
    expected = np.eye(3)[box((7, 8), (2, 2), (3, 4))].transpose(2, 0, 1)
    anywhere = expected.mean((1, 2), keepdims=True)
    np.testing.assert_allclose(atlas.probabilities.numpy(), (3 * expected + anywhere) / 4, atol=1e-6)


@SHAPES
def test_no_probability_is_zero_and_all_sum_to_one(shape: tuple[int, ...]) -> None:
    mask = box(shape, (2,) * len(shape), (4,) * len(shape))
    atlas = learn_atlas([mask], 4)  # class 3 occurs nowhere
    assert atlas.classes == 4
    assert atlas.probabilities.dtype == torch.float32
    assert atlas.probabilities.min() >= 0.99 * MINIMUM
    torch.testing.assert_close(atlas.probabilities.sum(0), torch.ones(atlas.probabilities.shape[1:]))


def test_without_a_size_every_foreground_fits_with_a_margin() -> None:
    masks = [box((20, 20), (1, 2), (3, 4)), box((30, 20), (5, 5), (12, 2))]
    atlas = learn_atlas(masks, 3, smoothing=0.0)
    # half extents 5.5 and 1.5 around the centre, rounded up, and a margin of two
    assert atlas.probabilities.shape == (3, 17, 9)
    foreground = 3 * atlas.probabilities[1:].sum(0)
    inside = foreground > foreground.min() + 0.01
    assert not inside[:2].any()
    assert not inside[-2:].any()
    assert inside[8, 4]


def test_smoothing_is_a_gaussian_of_the_average() -> None:
    mask = box((9, 9), (3, 3), (3, 4))
    sharp, smooth = (learn_atlas([mask], 3, (13, 13), smoothing=s).probabilities.numpy() for s in (0.0, 1.5))
    expected = np.stack([ndimage.gaussian_filter(channel, 1.5, mode="nearest") for channel in sharp])
    np.testing.assert_allclose(smooth, expected, atol=2e-3)
    assert smooth[1].max() < sharp[1].max()


def test_mirrored_training_gets_a_symmetric_atlas() -> None:
    mask = box((6, 8), (1, 1), (3, 4))
    plain, mirrored = (learn_atlas([mask], 3, mirror_axes=axes).probabilities for axes in ((), (1,)))
    torch.testing.assert_close(mirrored, (plain + plain.flip(2)) / 2)
    assert (plain - plain.flip(2)).abs().max() > 0.1


def test_cases_without_foreground_teach_nothing() -> None:
    mask, nothing = box((6, 8), (1, 1), (3, 4)), np.zeros((6, 8), np.uint8)
    both, alone = learn_atlas([mask, nothing], 3), learn_atlas(iter([mask]), 3)
    assert torch.equal(both.probabilities, alone.probabilities)
    with pytest.raises(InputError, match="no case has any foreground"):
        learn_atlas([nothing], 3)


def test_a_class_number_beyond_the_classes_is_refused() -> None:
    with pytest.raises(InputError, match="expected class numbers below 2, got 2"):
        learn_atlas([box((6, 8), (1, 1), (3, 4))], 2)


def test_the_atlas_survives_being_stored_in_half_precision() -> None:
    atlas = learn_atlas([box((20, 30), (1, 1), (3, 4))], 5)
    assert atlas.stored().dtype == torch.float16
    restored = Atlas.restored(atlas.stored())
    assert restored.probabilities.min() >= 0.9 * MINIMUM
    torch.testing.assert_close(restored.probabilities, atlas.probabilities, rtol=0.04, atol=1e-3)


@SHAPES
def test_centres_of_mass_are_scipy_s(shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    masks = generator.random((3, *shape)) > 0.7
    masks[1] = False
    centres, there = centre_of_mass(torch.from_numpy(masks))
    assert there.tolist() == [True, False, True]
    for row in (0, 2):
        np.testing.assert_allclose(centres[row].numpy(), ndimage.center_of_mass(masks[row]), rtol=1e-5)


@SHAPES
def test_on_the_row_it_was_learned_from_the_atlas_shows_that_row(shape: tuple[int, ...]) -> None:
    size = (4,) * len(shape)
    mask = box(shape, (1,) * len(shape), size)
    elsewhere = box(shape, tuple(n - 5 for n in shape), size)
    atlas = learn_atlas([mask], 3, (8,) * len(shape), smoothing=0.0)
    placed = atlas.at(rows(mask, elsewhere), shape)
    assert placed.valid.tolist() == [True, True]
    assert placed.target.shape == (2, 3, *shape)
    assert torch.equal(placed.target.argmax(1), rows(mask, elsewhere))


@SHAPES
def test_placing_the_atlas_shifts_it_by_the_centre_of_mass(shape: tuple[int, ...]) -> None:
    """Against scipy's shift, for centres between voxels and an atlas that ends within the patch."""
    axes = len(shape)
    atlas = random_atlas(*(5, 6, 7)[:axes])
    mask = np.zeros(shape, np.uint8)
    mask[(2,) * axes] = mask[(3,) * axes] = 1
    mask[(5,) + (4,) * (axes - 1)] = 2
    placed = atlas.at(rows(mask), shape).target[0].numpy()
    centre = np.array(ndimage.center_of_mass(mask > 0))
    middle = (np.array(atlas.probabilities.shape[1:]) - 1) / 2
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    places = places - (centre - middle).reshape(-1, *[1] * axes)
    for channel, values in zip(placed, atlas.probabilities.numpy(), strict=True):
        expected = ndimage.map_coordinates(values, places, order=1, mode="nearest")
        np.testing.assert_allclose(channel, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "strides"), [((12, 16), (4, 2)), ((8, 12, 16), (2, 4, 1)), ((8, 12, 16), (8, 4, 4))]
)
def test_a_coarser_cell_gets_the_mean_over_its_voxels(
    shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    atlas = random_atlas(*(7, 4, 6)[: len(shape)])
    generator = np.random.default_rng(1)
    labels = torch.from_numpy((generator.random((3, *shape)) > 0.95).astype(np.int64))
    grid = tuple(n // s for n, s in zip(shape, strides, strict=True))
    fine, coarse = atlas.at(labels, shape).target, atlas.at(labels, grid).target
    torch.testing.assert_close(coarse, F.interpolate(fine, size=grid, mode="area"))
    torch.testing.assert_close(coarse.sum(1), torch.ones(3, *grid))


def test_rows_without_foreground_or_labels_have_no_place() -> None:
    mask = box((6, 8), (1, 1), (3, 4))
    atlas = learn_atlas([mask], 3)
    labels = rows(mask, np.zeros_like(mask), mask)
    placed = atlas.at(labels, (3, 4), torch.tensor([True, True, False]))
    assert placed.valid.tolist() == [True, False, False]
    assert torch.isfinite(placed.target).all()


def test_rows_of_a_batch_do_not_meddle() -> None:
    masks = [box((6, 8), start, (3, 4)) for start in ((0, 0), (2, 3), (3, 4))]
    atlas = learn_atlas(masks, 3)
    together = atlas.at(rows(*masks), (6, 8)).target
    for row, mask in enumerate(masks):
        torch.testing.assert_close(atlas.at(rows(mask), (6, 8)).target[0], together[row])


def test_grids_that_do_not_fit_are_refused() -> None:
    atlas = random_atlas(3, 3)
    with pytest.raises(ValueError, match=r"divides the labels' \(6, 8\) evenly, got \(4, 4\)"):
        atlas.at(torch.zeros(1, 6, 8, dtype=torch.long), (4, 4))
    with pytest.raises(ValueError, match="expected labels of 2 axes, as the atlas has, got 3"):
        atlas.at(torch.zeros(1, 4, 4, 4, dtype=torch.long), (4, 4, 4))


PREDICTED = torch.tensor([[0.5, 1.0], [0.5, 0.0]])[None]  # two positions, two classes
TARGET = torch.tensor([[0.8, 0.6], [0.2, 0.4]])[None]


@pytest.mark.parametrize(("order", "expected"), [(2, (2 * 0.09 + 2 * 0.16) / 2), (1, (0.6 + 0.8) / 2)])
def test_the_regulariser_sums_over_classes_and_averages_over_positions(order: int, expected: float) -> None:
    value = domain_regulariser(PREDICTED, TARGET, torch.tensor([True]), order)  # type: ignore[arg-type]
    assert value.item() == pytest.approx(expected)


def test_the_regulariser_is_zero_at_the_atlas_and_two_at_most() -> None:
    valid = torch.tensor([True])
    worst = torch.tensor([[1.0, 0.0], [0.0, 1.0]])[None]
    for order in (1, 2):
        assert domain_regulariser(TARGET, TARGET, valid, order).item() == 0.0  # type: ignore[arg-type]
        value = domain_regulariser(worst, worst.flip(1), valid, order)  # type: ignore[arg-type]
        assert value.item() == pytest.approx(2.0)


def test_the_spatial_divergence_as_worked_by_hand() -> None:
    predicted = torch.tensor([[[0.2, 0.9, 0.7], [0.6, 0.0, 0.2], [0.2, 0.1, 0.1]]])
    target = torch.tensor([[[0.3, 0.2, 0.4], [0.2, 0.4, 0.4], [0.5, 0.4, 0.2]]])
    first = 0.75 * math.log(0.75 / 0.2) + 0.25 * math.log(0.25 / 0.4)
    q, a = (0.5, 0.25, 0.25), (5 / 11, 4 / 11, 2 / 11)
    second = sum(x * math.log(x / y) for x, y in zip(q, a, strict=True))
    value = spatial_prior_kl(predicted, target, torch.tensor([True]))
    assert value.item() == pytest.approx((first + second) / 2, abs=1e-4)


def test_the_spatial_divergence_minds_the_place_not_the_volume() -> None:
    target = random_atlas(6, 7).probabilities[None]
    half = target.clone()
    half[:, 1:] *= 0.5
    half[:, :1] = 1 - half[:, 1:].sum(1, keepdim=True)
    valid = torch.tensor([True])
    assert spatial_prior_kl(half, target, valid).item() == pytest.approx(0.0, abs=1e-5)
    assert spatial_prior_kl(target.flip(3), target, valid).item() > 0.1


def test_probability_where_the_atlas_has_nearly_none_costs_most() -> None:
    masks = [box((10, 12), (3, 3), (3, 4))]
    atlas = learn_atlas(masks, 3)
    placed = atlas.at(rows(*masks), (10, 12))
    there = F.one_hot(rows(*masks), 3).movedim(-1, 1).float()
    near, far = (there.roll(shift, 2) for shift in (1, 5))
    values = [spatial_prior_kl(p, placed.target, placed.valid).item() for p in (there, near, far)]
    assert values[0] < values[1] < values[2]


def test_a_structure_that_is_not_predicted_at_all_costs_a_finite_amount() -> None:
    predicted = torch.zeros(1, 3, 6, 7)
    predicted[:, 0] = 1.0
    predicted.requires_grad_()
    target = random_atlas(6, 7).probabilities[None]
    value = spatial_prior_kl(predicted, target, torch.tensor([True]))
    value.backward()
    assert torch.isfinite(value)
    assert predicted.grad is not None
    assert torch.isfinite(predicted.grad).all()


@pytest.mark.parametrize("prior", [domain_regulariser, spatial_prior_kl])
def test_rows_that_are_not_valid_have_no_share(prior: Prior) -> None:
    torch.manual_seed(0)
    target = torch.softmax(torch.randn(3, 3, 4, 5), 1)
    predicted = torch.softmax(torch.randn(3, 3, 4, 5), 1).requires_grad_()
    value = prior(predicted, target, torch.tensor([True, False, True]))
    every = torch.tensor([True, True])
    torch.testing.assert_close(value, prior(predicted[[0, 2]], target[[0, 2]], every))
    value.backward()
    assert predicted.grad is not None
    assert not predicted.grad[1].any()
    assert predicted.grad[0].any()


@pytest.mark.parametrize("prior", [domain_regulariser, spatial_prior_kl])
def test_without_a_valid_row_the_prior_is_zero_and_still_on_the_graph(prior: Prior) -> None:
    predicted = torch.full((2, 3, 4), 1 / 3, requires_grad=True)
    value = prior(predicted, torch.full((2, 3, 4), 1 / 3), torch.tensor([False, False]))
    value.backward()
    assert value.item() == 0.0
    assert predicted.grad is not None
    assert not predicted.grad.any()


@pytest.mark.parametrize("prior", [domain_regulariser, spatial_prior_kl])
def test_gradients_agree_with_finite_differences(prior: Prior) -> None:
    torch.manual_seed(0)
    target = torch.softmax(torch.randn(2, 3, 3, 2, dtype=torch.float64), 1)
    logits = torch.randn(2, 3, 3, 2, dtype=torch.float64, requires_grad=True)
    valid = torch.tensor([True, True])
    assert torch.autograd.gradcheck(lambda x: prior(torch.softmax(x, 1), target, valid), logits)


@pytest.mark.parametrize("prior", [domain_regulariser, spatial_prior_kl])
def test_half_precision_is_taken_in_single(prior: Prior) -> None:
    predicted = torch.full((1, 3, 4), 1 / 3).bfloat16()
    assert prior(predicted, torch.full((1, 3, 4), 1 / 3), torch.tensor([True])).dtype == torch.float32
