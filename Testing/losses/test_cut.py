# SPDX-License-Identifier: Apache-2.0
"""The prior on a planar border (O3), worked by hand on rods whose slices are single voxels or pairs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from DIANetLib.errors import InputError
from DIANetLib.losses.cut import (
    CutPrior,
    CutTerms,
    CutWeights,
    cut_error_mm,
    cut_loss,
    cut_position_mm,
    learn_cut_prior,
)

PRIOR = CutPrior(lower=2, upper=1, axis=1, mean=0.5, deviation=0.25)
SIDES: dict[str, Any] = {"lower": 2, "upper": 1, "axis": 1}


def rod(slices: str, height: int = 2, depth: int = 3) -> np.ndarray:
    """Labels (k, j, i), a character per slice along j: 0 to 2, or m for one whose first row is 2, else 1."""
    mask = np.zeros((height, len(slices), depth), np.uint8)
    for j, name in enumerate(slices):
        mask[:, j] = 1 if name == "m" else int(name)
        if name == "m":
            mask[:1, j] = 2
    return mask


def batch(*rods: str) -> Tensor:
    return torch.from_numpy(np.stack([rod(one) for one in rods])).long()


def sure(*rods: str) -> Tensor:
    return F.one_hot(batch(*rods), 3).movedim(-1, 1).float()


def terms(predicted: Tensor, labels: Tensor | None = None, **options: Any) -> CutTerms:
    return cut_loss(predicted, PRIOR, labels, **options)


def test_a_prediction_that_is_the_label_costs_nothing() -> None:
    for one in ("02221100", "0221m100", "02222211"):
        result = terms(sure(one), batch(one))
        assert result.shares.item() == pytest.approx(0.0, abs=2e-3)
        assert result.single.item() == pytest.approx(0.0, abs=5e-3)
        assert result.position.item() == pytest.approx(0.0, abs=5e-3)


def test_the_shares_diverge_as_worked_by_hand() -> None:
    """One slice of a pure class is predicted to hold it by three quarters."""
    predicted = sure("0221100")
    predicted[0, 1, :, 3], predicted[0, 2, :, 3] = 0.75, 0.25
    assert terms(predicted, batch("0221100")).shares.item() == pytest.approx(-math.log(0.75), abs=2e-3)
    assert terms(predicted, batch("0222100")).shares.item() == pytest.approx(-math.log(0.25), abs=2e-3)
    mixed = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert terms(predicted, batch("022m100")).shares.item() == pytest.approx(mixed, abs=2e-3)


def test_every_slice_that_the_cut_is_off_costs_about_as_much_more() -> None:
    soft = [0.9 * sure(one) + 0.1 / 3 for one in ("022221110", "022211110", "022111110")]
    label = batch("022221110")
    costs = [terms(p, label).shares.item() for p in soft]
    assert costs[1] - costs[0] == pytest.approx(costs[2] - costs[1], rel=1e-4)
    assert costs[1] - costs[0] > 2.0


def test_an_evenly_mixed_slice_counts_as_one_beyond_what_the_label_mixes() -> None:
    predicted = sure("022m1100")
    assert terms(predicted).single.item() == pytest.approx(1.0, abs=5e-3)
    assert terms(predicted, batch("02211100")).single.item() == pytest.approx(1.0, abs=5e-3)
    assert terms(predicted, batch("022m1100")).single.item() == pytest.approx(0.0, abs=5e-3)
    assert terms(sure("02m1m100"), batch("02m11100")).single.item() == pytest.approx(1.5, abs=5e-3)


def test_a_step_back_along_the_axis_counts_as_one_slice() -> None:
    assert terms(sure("02212110")).single.item() == pytest.approx(1.0, abs=5e-3)
    assert terms(sure("01212120")).single.item() == pytest.approx(3.0, abs=5e-3)
    assert terms(sure("02201110")).single.item() == pytest.approx(0.0, abs=5e-3)  # a gap is no step


def test_the_position_s_cost_is_the_gaussian_s() -> None:
    # 3 of 4 slices lie below the cut: one deviation above the mean
    assert terms(sure("022210")).position.item() == pytest.approx(0.5, abs=0.01)
    assert terms(sure("022110")).position.item() == pytest.approx(0.0, abs=0.01)


def test_a_labelled_row_pays_only_for_being_odder_than_its_label() -> None:
    odd, odder, usual = "0222210", "0222220", "0221110"
    assert terms(sure(odd), batch(odd)).position.item() == pytest.approx(0.0, abs=0.01)
    assert terms(sure(usual), batch(odd)).position.item() == 0.0
    label = 0.5 * ((4 / 5 - 0.5) / 0.25) ** 2
    expected = 0.5 * ((5 / 5 - 0.5) / 0.25) ** 2 - label
    assert terms(sure(odder), batch(odd)).position.item() == pytest.approx(expected, abs=0.02)


def test_the_position_does_not_count_where_the_structure_leaves_the_patch() -> None:
    for one in ("22221", "022221", "222210"):
        assert terms(sure(one)).position.item() == 0.0
        assert terms(sure("022110"), batch("022221")).position.item() == 0.0


def test_rows_without_both_structures_have_no_share() -> None:
    for one in ("022220", "000000", "011110"):
        result = terms(sure("022110"), batch(one))
        assert result.total.item() == 0.0
        assert terms(sure(one)).total.item() == 0.0


def test_rows_without_labels_are_held_against_a_perfect_cut_and_have_no_shares() -> None:
    predicted = sure("022m1100", "022m1100")
    labels = batch("02211100", "02211100")
    labels[1] = -1
    result = terms(predicted, labels, labelled=torch.tensor([True, False]))
    alone = [terms(predicted[:1], labels[:1]), terms(predicted[1:])]
    assert alone[1].shares.item() == 0.0
    assert result.shares.item() == pytest.approx(alone[0].shares.item())
    assert result.single.item() == pytest.approx((alone[0].single.item() + alone[1].single.item()) / 2)
    assert result.position.item() == pytest.approx((alone[0].position.item() + alone[1].position.item()) / 2)


def test_terms_add_up_with_their_weights() -> None:
    predicted, label = sure("02m12210"), batch("02221110")
    result = terms(predicted, label, weights=CutWeights(shares=2.0, single=3.0, position=5.0))
    expected = 2 * result.shares + 3 * result.single + 5 * result.position
    assert min(result.shares.item(), result.single.item()) > 0
    torch.testing.assert_close(result.total, expected)
    assert not result.shares.requires_grad


def test_the_axis_may_be_any_and_images_have_a_cut_too() -> None:
    torch.manual_seed(0)
    predicted = torch.softmax(3 * torch.randn(2, 3, 4, 6, 5), 1)
    labels = batch("02221100"[:6], "0m2110")[:, :1, :, :1].expand(2, 4, 6, 5)
    expected = terms(predicted, labels).total
    turned = CutPrior(2, 1, 2, 0.5, 0.25)
    value = cut_loss(predicted.transpose(3, 4), turned, labels.transpose(2, 3)).total
    torch.testing.assert_close(value, expected)
    flat = CutPrior(2, 1, 0, 0.5, 0.25)
    value = cut_loss(predicted.movedim(3, 2).flatten(3), flat, labels.movedim(2, 1).flatten(2)).total
    torch.testing.assert_close(value, expected)


def test_the_other_direction_swaps_the_classes() -> None:
    predicted, label = sure("0m221110"), batch("02221110")
    mirrored = CutPrior(lower=1, upper=2, axis=1, mean=0.5, deviation=0.25)
    value = cut_loss(predicted.flip(3), mirrored, label.flip(2)).total
    torch.testing.assert_close(value, terms(predicted, label).total)


def test_gradients_agree_with_finite_differences() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 1, 6, 2, dtype=torch.float64, requires_grad=True)
    labels = batch("022110", "022210")[:, :1, :, :2]
    heavy = CutWeights(1.0, 1.0, 1.0)

    def total(x: Tensor) -> Tensor:
        return cut_loss(torch.softmax(x, 1), PRIOR, labels, weights=heavy).total

    assert total(logits).item() > 0.1
    assert torch.autograd.gradcheck(total, logits)


def test_the_loss_moves_a_cut_that_is_off_to_its_place() -> None:
    """From a cut two slices too far on, by gradient steps on the logits of whole slices."""
    label = batch("022211110")
    logits = (2.0 * sure("022222110")).mean((2, 4), keepdim=True).requires_grad_()
    optimiser = torch.optim.Adam([logits], 0.2)
    for _ in range(60):
        predicted = torch.softmax(logits.expand(1, 3, 2, 9, 3), 1)
        optimiser.zero_grad()
        terms(predicted, label, weights=CutWeights(1.0, 1.0, 1.0)).total.backward()
        optimiser.step()
    found = logits.detach().expand(1, 3, 2, 9, 3)[:, 1:].argmax(1) + 1
    assert torch.equal(found[0, 0, 1:8, 0], label[0, 0, 1:8, 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sure_predictions_of_large_slices_give_finite_gradients(dtype: torch.dtype) -> None:
    labels = torch.from_numpy(rod("0221110", 200, 300))[None].long()
    predicted = F.one_hot(labels.flip(2), 3).movedim(-1, 1).to(dtype).requires_grad_()
    result = terms(predicted, labels)
    result.total.backward()
    assert result.total.dtype == torch.float32
    assert torch.isfinite(result.total)
    assert predicted.grad is not None
    assert torch.isfinite(predicted.grad).all()


def test_the_prior_is_learned_with_its_direction_mean_and_deviation() -> None:
    masks = [rod("0022110"), rod("02222111100"), rod("02211110"), rod("002222110")]
    prior = learn_cut_prior(masks, (1, 2), 1)
    shares = [1 / 2, 1 / 2, 2 / 6, 4 / 6]
    assert (prior.lower, prior.upper, prior.axis) == (2, 1, 1)
    assert prior.mean == pytest.approx(np.mean(shares))
    assert prior.deviation == pytest.approx(np.std(shares, ddof=1))
    assert learn_cut_prior(masks, (2, 1), 1) == prior
    other = learn_cut_prior([mask[:, ::-1] for mask in masks], (1, 2), 1)
    assert (other.lower, other.upper) == (1, 2)
    assert other.mean == pytest.approx(1 - prior.mean)


def test_a_mixed_slice_lies_below_the_cut_by_its_share() -> None:
    prior = learn_cut_prior([rod("022m11"), rod("022m11")], (1, 2), 1)
    assert prior.mean == pytest.approx(2.5 / 5)
    assert prior.deviation > 0  # even if all cases agree


def test_cases_that_lack_a_structure_teach_nothing() -> None:
    masks = [rod("022110"), rod("022220"), rod("000000"), rod("022210")]
    assert learn_cut_prior(masks, (1, 2), 1).mean == pytest.approx((0.5 + 0.75) / 2)
    with pytest.raises(InputError, match="at least 2 cases that hold both structures 1 and 2, got 1"):
        learn_cut_prior(masks[:3], (1, 2), 1)


@pytest.mark.parametrize(
    ("slices", "position"),
    [
        ("0221100", 3.0),
        ("0022210", 5.0),
        ("021", 2.0),
        ("022m100", 3.5),
        ("0220110", 3.5),  # a gap: the cut may lie at either of its sides
        ("2222211", 5.0),
    ],
)
def test_the_cut_s_position_counts_slices_from_the_edge(slices: str, position: float) -> None:
    assert cut_position_mm(rod(slices), 1.0, **SIDES) == pytest.approx(position)
    assert cut_position_mm(rod(slices), 0.5, **SIDES) == pytest.approx(position / 2)


def test_stray_voxels_in_empty_slices_move_the_cut_by_no_more_than_theirs() -> None:
    mask = rod("0002211000")
    mask[0, 0, 0] = 2
    mask[0, 9, 0] = 1
    assert cut_position_mm(mask, 1.0, **SIDES) == 5.0
    mask[0, 0, 0] = 1  # a stray slice of the wrong class
    assert cut_position_mm(mask, 1.0, **SIDES) == 4.0


def test_the_error_is_the_distance_of_the_cuts_in_mm() -> None:
    first, second = rod("02221100"), rod("02m11100")
    assert cut_error_mm(first, second, 0.8, **SIDES) == pytest.approx(0.8 * (4.0 - 2.5))
    assert cut_error_mm(second, first, 0.8, **SIDES) == pytest.approx(0.8 * (4.0 - 2.5))
    assert cut_error_mm(first, first, 0.8, **SIDES) == 0.0


@pytest.mark.parametrize("lacking", ["0222200", "0111110", "0000000"])
def test_without_both_classes_there_is_no_cut(lacking: str) -> None:
    assert math.isnan(cut_position_mm(rod(lacking), 1.0, **SIDES))
    assert math.isnan(cut_error_mm(rod("0221100"), rod(lacking), 1.0, **SIDES))


def test_masks_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"masks of one shape, got \(2, 3, 3\) and \(2, 4, 3\)"):
        cut_error_mm(rod("021"), rod("0221"), 1.0, **SIDES)
