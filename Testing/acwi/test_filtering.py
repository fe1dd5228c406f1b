# SPDX-License-Identifier: Apache-2.0
"""Precision and recall of errors, and filtering as QU-BraTS does it, against slow and plain computations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from DIANetLib.acwi.filtering import Filtering, error_auprc, filtering, mean_filtering
from DIANetLib.errors import InputError


def slow_average_precision(values: np.ndarray, wrong: np.ndarray) -> float:
    """Lower a threshold through all values; sum precision times the errors newly found."""
    found_before, total = 0, 0.0
    for threshold in sorted(set(values.tolist()), reverse=True):
        chosen = values >= threshold
        found = int((chosen & wrong).sum())
        total += (found - found_before) * found / int(chosen.sum())
        found_before = found
    return total / int(wrong.sum())


def slow_filtering(uncertainty, labels, reference, structure, steps) -> list[list[float]]:
    """Dice, share of true positives gone, share of true negatives gone, per threshold."""
    ours, true = labels == structure, reference == structure
    curves = [[], [], []]
    for step in range(steps + 1):
        left = uncertainty <= step / steps + 1e-12
        both, either = int((ours & true & left).sum()), int((ours & left).sum() + (true & left).sum())
        curves[0].append(2 * both / either if either else 1.0)
        for curve, right in ((curves[1], ours & true), (curves[2], ~ours & ~true)):
            curve.append(int((right & ~left).sum()) / max(1, int(right.sum())))
    return curves


def test_a_detector_that_ranks_all_errors_first_has_precision_one():
    assert error_auprc([0.9, 0.8, 0.1, 0.2], [True, True, False, False]) == 1.0


def test_a_hand_worked_ranking():
    # From the surest error down: wrong (1/1), right, wrong (2/3), right.
    assert error_auprc([0.9, 0.8, 0.7, 0.1], [True, False, True, False]) == pytest.approx((1 + 2 / 3) / 2)


def test_equal_uncertainties_are_found_together_whatever_their_order():
    assert error_auprc([0.5] * 4, [True, False, False, False]) == 0.25
    assert error_auprc([0.5] * 4, [False, False, False, True]) == 0.25


def test_average_precision_is_that_of_a_threshold_lowered_step_by_step():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 20, 300) / 20
    wrong = rng.random(300) < 0.2
    mask = rng.random(300) < 0.7
    assert error_auprc(values, wrong, mask) == pytest.approx(
        slow_average_precision(values[mask], wrong[mask])
    )


def test_without_errors_there_is_nothing_to_find():
    assert math.isnan(error_auprc([0.1, 0.2], [False, False]))


def test_arrays_that_do_not_belong_together_are_refused():
    with pytest.raises(InputError, match="expected that of the errors"):
        error_auprc([0.1, 0.2], [True])
    with pytest.raises(InputError, match="not numbers"):
        error_auprc([math.nan, 0.2], [True, False])
    with pytest.raises(InputError, match="expected one shape"):
        filtering([0.1, 0.2], [1, 0], [1], 1)
    with pytest.raises(InputError, match="expected 0 to 1"):
        filtering([0.1, 1.2], [1, 0], [1, 0], 1)


def test_errors_that_alone_are_uncertain_give_the_best_score():
    found = filtering([1.0, 0.0, 0.0], [1, 1, 0], [0, 1, 0], 1, steps=10)
    assert found.filtered_true_positives == found.filtered_true_negatives == 0.0
    # Dice is 1 at every threshold but the last, where the false positive is back: 2 / 3.
    assert found.dice == pytest.approx(1 - 0.1 * (1 - 2 / 3) / 2)


def test_everything_uncertain_takes_all_that_was_right_away():
    found = filtering([1.0, 1.0], [1, 0], [1, 0], 1, steps=10)
    assert found.dice == 1.0
    assert found.filtered_true_positives == found.filtered_true_negatives == pytest.approx(0.95)
    assert found.score == pytest.approx((1 + 2 * 0.05) / 3)


def test_the_curves_are_those_of_filtering_at_every_threshold():
    rng = np.random.default_rng(1)
    uncertainty = rng.integers(0, 101, (4, 5, 6)) / 100
    labels, reference = rng.integers(0, 3, (2, 4, 5, 6))
    mask = rng.random((4, 5, 6)) < 0.6
    found = filtering(uncertainty, labels, reference, 2, mask)
    curves = slow_filtering(uncertainty[mask], labels[mask], reference[mask], 2, 100)
    areas = [(np.sum(curve) - (curve[0] + curve[-1]) / 2) / 100 for curve in curves]
    assert [found.dice, found.filtered_true_positives, found.filtered_true_negatives] == pytest.approx(areas)


def test_the_mean_over_structures_is_taken_part_by_part():
    found = mean_filtering([Filtering(1.0, 0.2, 0.0), Filtering(0.8, 0.0, 0.4)])
    assert (found.dice, found.filtered_true_positives, found.filtered_true_negatives) == pytest.approx(
        (0.9, 0.1, 0.2)
    )


def test_a_mask_of_another_shape_is_refused():
    labels = np.zeros((2, 3), np.uint8)
    with pytest.raises(InputError, match=r"mask has shape \(3, 2\), expected \(2, 3\)"):
        filtering(np.zeros((2, 3)), labels, labels, 1, np.ones((3, 2), bool))
