# SPDX-License-Identifier: Apache-2.0
"""The task loss (1, 2) against values worked by hand and against quadrature."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from DIANetLib.losses.task import (
    DiceCrossEntropy,
    deep_supervision_weights,
    downsample_labels,
    expected_probabilities,
    rarity_weights,
)

# two voxels, two classes: p(foreground) is 0.8 where it is foreground and 0.4 where it is background
FOREGROUND = torch.tensor([[[0.8, 0.4]]])
PROBABILITIES = torch.stack([1.0 - FOREGROUND[:, 0], FOREGROUND[:, 0]], 1)[:, :, None]
LABELS = torch.tensor([[[1, 0]]])


def dice_loss(overlap: float, total: float) -> float:
    return 1.0 - 2.0 * overlap / total


def test_dice_and_cross_entropy_add_up_as_worked_by_hand() -> None:
    dice = dice_loss(0.8, 1.2 + 1.0)
    cross_entropy = -(math.log(0.8) + math.log(0.6)) / 2
    loss = DiceCrossEntropy()(PROBABILITIES, LABELS)
    assert loss.item() == pytest.approx(dice + cross_entropy, abs=1e-4)


def test_a_perfect_prediction_costs_nothing() -> None:
    labels = torch.tensor([[[0, 1], [2, 1]]])
    probabilities = torch.nn.functional.one_hot(labels).movedim(-1, 1).float()
    assert DiceCrossEntropy()(probabilities, labels).item() == pytest.approx(0.0, abs=1e-4)


def test_the_background_has_no_share_in_dice() -> None:
    labels = torch.zeros(1, 2, 50, dtype=torch.long)
    labels[0, 0, 0] = 1
    probabilities = torch.nn.functional.one_hot(1 - labels).movedim(-1, 1).float()  # all wrong
    dice_alone = DiceCrossEntropy()(probabilities, labels) + math.log(1e-7)
    assert dice_alone.item() == pytest.approx(1.0, abs=1e-3)


def test_batch_dice_pools_the_cases_before_dividing() -> None:
    """A case without the structure costs its share of the pool, not a whole Dice of its own."""
    probabilities = PROBABILITIES.repeat(2, 1, 1, 1)
    labels = torch.tensor([[[1, 0]], [[0, 0]]])
    cross_entropy = -(2 * math.log(0.6) + math.log(0.8) + math.log(0.2)) / 4
    pooled = dice_loss(0.8, 2 * 1.2 + 1.0)
    single = (dice_loss(0.8, 2.2) + 1.0) / 2
    loss = DiceCrossEntropy(batch_dice=True)(probabilities, labels)
    assert loss.item() == pytest.approx(pooled + cross_entropy, abs=1e-4)
    loss = DiceCrossEntropy(batch_dice=False)(probabilities, labels)
    assert loss.item() == pytest.approx(single + cross_entropy, abs=1e-4)


def test_a_probability_of_zero_costs_a_finite_amount() -> None:
    probabilities = torch.tensor([[[[1.0]], [[0.0]]]]).requires_grad_()
    loss = DiceCrossEntropy()(probabilities, torch.ones(1, 1, 1, dtype=torch.long))
    loss.backward()
    assert torch.isfinite(loss)
    assert probabilities.grad is not None
    assert torch.isfinite(probabilities.grad).all()


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 5)], ids=["2d", "3d"])
def test_images_and_volumes_are_read_alike(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    probabilities = torch.softmax(torch.randn(2, 3, *shape), 1)
    labels = torch.randint(3, (2, *shape))
    flat = DiceCrossEntropy()(probabilities.flatten(2), labels.flatten(1))
    torch.testing.assert_close(DiceCrossEntropy()(probabilities, labels), flat)


def test_without_variance_the_expected_probability_is_the_softmax() -> None:
    mean = torch.randn(2, 3, 4)
    torch.testing.assert_close(expected_probabilities(mean, None, 4), torch.softmax(mean, 1))
    none = torch.full_like(mean, -math.inf)
    torch.testing.assert_close(expected_probabilities(mean, none, 4), torch.softmax(mean, 1))


@pytest.mark.parametrize("draws", [1, 2, 5])
def test_antithetic_draws_keep_two_equal_classes_equal(draws: int) -> None:
    probabilities = expected_probabilities(torch.zeros(1, 2, 50), torch.ones(1, 2, 50), draws)
    torch.testing.assert_close(probabilities, torch.full((1, 2, 50), 0.5))


@pytest.mark.parametrize(("difference", "log_variance"), [(1.0, 0.0), (-2.0, 1.0), (0.5, 2.0)])
def test_the_expected_probability_is_the_integral_over_the_logit_s_noise(
    difference: float, log_variance: float
) -> None:
    """For two classes it is a one-dimensional integral, here by Gauss-Hermite quadrature."""
    torch.manual_seed(0)
    shape = (1, 2, 20_000)
    mean = torch.zeros(shape)
    mean[:, 1] = difference
    probabilities = expected_probabilities(mean, torch.full(shape, log_variance), 8)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    logit = difference + math.sqrt(2.0 * math.exp(log_variance)) * nodes
    exact = float(np.sum(weights / (1.0 + np.exp(-logit))) / math.sqrt(2.0 * math.pi))
    assert probabilities[:, 1].mean().item() == pytest.approx(exact, abs=0.005)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(1, 20_000))


def test_the_noise_is_learned_from_the_loss() -> None:
    """Where the label contradicts a sure logit, more variance costs less."""
    torch.manual_seed(0)
    mean = torch.tensor([4.0, -4.0]).view(1, 2, 1).expand(1, 2, 500)
    log_variance = torch.zeros(1, 2, 500, requires_grad=True)
    probabilities = expected_probabilities(mean, log_variance, 8)
    DiceCrossEntropy()(probabilities, torch.ones(1, 500, dtype=torch.long)).backward()
    assert log_variance.grad is not None
    assert log_variance.grad.sum() < 0


def test_half_precision_logits_give_float32_probabilities() -> None:
    logits = torch.randn(1, 2, 3).bfloat16()
    assert expected_probabilities(logits, logits, 2).dtype == torch.float32


def test_deep_supervision_halves_the_weight_per_scale() -> None:
    assert deep_supervision_weights(1) == [1.0]
    assert deep_supervision_weights(3) == pytest.approx([4 / 7, 2 / 7, 1 / 7])
    assert sum(deep_supervision_weights(5)) == pytest.approx(1.0)


def test_labels_on_a_coarser_grid_are_the_nearest_ones() -> None:
    labels = torch.arange(16).reshape(1, 4, 4)
    assert downsample_labels(labels, (2, 2)).tolist() == [[[0, 2], [8, 10]]]
    volume = torch.randint(200, (2, 4, 6, 8))
    coarse = downsample_labels(volume, (2, 3, 4))
    assert coarse.dtype == torch.long
    assert torch.equal(coarse, volume[:, ::2, ::2, ::2])


def test_labels_on_the_same_grid_stay() -> None:
    labels = torch.randint(5, (1, 3, 4, 5))
    assert torch.equal(downsample_labels(labels, (3, 4, 5)), labels)


def test_rarity_weights_rise_with_rarity_and_average_to_one_over_voxels() -> None:
    # frequencies 0.9 and 0.1; power 0.5: 1/sqrt(0.9) and 1/sqrt(0.1), divided by sqrt(0.9) + sqrt(0.1)
    weights = rarity_weights([900, 100], 0.5)
    norm = 0.9**0.5 + 0.1**0.5
    assert weights.tolist() == pytest.approx([0.9**-0.5 / norm, 0.1**-0.5 / norm])
    assert float(weights @ torch.tensor([0.9, 0.1])) == pytest.approx(1.0)
    assert rarity_weights([5, 0, 7], 0.0).tolist() == pytest.approx([1.0, 1.0, 1.0])


def test_class_weights_weigh_the_cross_entropy_alone() -> None:
    probabilities = torch.tensor([[[[0.8, 0.4]], [[0.2, 0.6]]]])
    labels = torch.tensor([[[0, 1]]])
    plain = DiceCrossEntropy()(probabilities, labels)
    weighted = DiceCrossEntropy(class_weights=torch.tensor([1.0, 3.0]))(probabilities, labels)
    logs = [-math.log(0.8), -math.log(0.6)]
    assert float(weighted - plain) == pytest.approx((logs[0] + 3 * logs[1]) / 4 - sum(logs) / 2, abs=1e-6)


@pytest.mark.parametrize("batch_dice", [True, False])
def test_rows_without_labels_have_no_share(batch_dice: bool) -> None:
    torch.manual_seed(0)
    probabilities = torch.softmax(torch.randn(3, 3, 4, 5), 1).requires_grad_()
    labels = torch.randint(3, (3, 4, 5))
    labels[1] = -1  # nothing that a class could be
    labelled = torch.tensor([True, False, True])
    task = DiceCrossEntropy(batch_dice=batch_dice)
    loss = task(probabilities, labels, labelled)
    torch.testing.assert_close(loss, task(probabilities[[0, 2]], labels[[0, 2]]))
    loss.backward()
    assert probabilities.grad is not None
    assert not probabilities.grad[1].any()
    assert probabilities.grad[0].any()


def test_where_every_row_is_labelled_the_mask_changes_nothing() -> None:
    loss = DiceCrossEntropy()(PROBABILITIES, LABELS)
    assert torch.equal(DiceCrossEntropy()(PROBABILITIES, LABELS, torch.tensor([True])), loss)


def test_without_any_labelled_row_the_loss_is_zero_and_still_on_the_graph() -> None:
    probabilities = PROBABILITIES.clone().requires_grad_()
    loss = DiceCrossEntropy()(probabilities, LABELS, torch.tensor([False]))
    loss.backward()
    assert loss.item() == 0.0
    assert probabilities.grad is not None
    assert not probabilities.grad.any()
