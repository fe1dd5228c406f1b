# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from DIANetLib.acwi.metrics import aurc, dice, dilated_mask, ece, error_auroc, hd95, normalised_aurc, nsd
from DIANetLib.errors import InputError


def box(shape: tuple[int, ...], *ranges: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(*r) for r in ranges)] = True
    return mask


CUBE = box((12, 12, 12), (4, 8), (4, 8), (4, 8))
EMPTY = np.zeros_like(CUBE)


def test_dice_worked_by_hand() -> None:
    # 64 voxels each, 48 shared.
    shifted = np.roll(CUBE, 1, axis=0)
    assert dice(CUBE, shifted) == pytest.approx(2 * 48 / 128)
    assert dice(CUBE, CUBE) == 1.0
    assert dice(CUBE, np.roll(CUBE, 4, axis=0)) == 0.0


def test_two_empty_masks_agree() -> None:
    assert dice(EMPTY, EMPTY) == 1.0
    assert nsd(EMPTY, EMPTY, (1, 1, 1)) == 1.0
    assert hd95(EMPTY, EMPTY, (1, 1, 1)) == 0.0


@pytest.mark.parametrize(("prediction", "reference"), [(CUBE, EMPTY), (EMPTY, CUBE)])
def test_one_empty_mask_is_a_complete_miss(prediction: np.ndarray, reference: np.ndarray) -> None:
    assert dice(prediction, reference) == 0.0
    assert nsd(prediction, reference, (1, 2, 3)) == 0.0
    # The grid's diagonal: 12 voxels of 1, 2 and 3 mm.
    assert hd95(prediction, reference, (1, 2, 3)) == pytest.approx(12 * math.sqrt(14))


def test_hd95_of_two_voxels_is_their_distance_with_the_spacing_in_the_order_i_j_k() -> None:
    a, b = (box((9, 9, 9), (k, k + 1), (j, j + 1), (i, i + 1)) for k, j, i in [(2, 2, 2), (4, 3, 5)])
    # 3 voxels of 0.5 mm along i, 1 of 2 mm along j, 2 of 3 mm along k.
    assert hd95(a, b, (0.5, 2.0, 3.0)) == pytest.approx(math.hypot(1.5, 2.0, 6.0))


@pytest.mark.parametrize(("axis", "spacing"), [(0, 3.0), (1, 2.0), (2, 0.5)])
def test_hd95_of_a_shifted_plate_is_the_shift_in_mm(axis: int, spacing: float) -> None:
    ranges = [(0, 10)] * 3
    ranges[axis] = (3, 4)
    plate = box((10, 10, 10), *ranges)
    assert hd95(plate, np.roll(plate, 2, axis=axis), (0.5, 2.0, 3.0)) == pytest.approx(2 * spacing)


def test_hd95_takes_the_worse_direction_and_forgives_five_percent() -> None:
    line = box((1, 1, 200), (0, 1), (0, 1), (0, 100))
    stray = line.copy()
    stray[0, 0, 150] = True
    assert hd95(line, stray, (1, 1, 1)) == 0.0
    # From the longer line to the shorter one: 0 for 100 voxels, then 1 to 20.
    longer = box((1, 1, 200), (0, 1), (0, 1), (0, 120))
    expected = np.percentile([0] * 100 + list(range(1, 21)), 95)
    assert hd95(line, longer, (1, 1, 1)) == pytest.approx(expected)
    assert hd95(longer, line, (1, 1, 1)) == pytest.approx(expected)


@pytest.mark.parametrize(("axis", "spacing"), [(0, 3.0), (1, 2.0), (2, 0.5)])
def test_nsd_of_a_shifted_cube_is_whole_when_the_tolerance_reaches_the_shift(
    axis: int, spacing: float
) -> None:
    shifted = np.roll(CUBE, 1, axis=axis)
    assert nsd(CUBE, shifted, (0.5, 2.0, 3.0), tolerance_mm=spacing) == pytest.approx(1.0)
    assert nsd(CUBE, shifted, (0.5, 2.0, 3.0), tolerance_mm=0.4) < 1.0


def test_nsd_weighs_surfaces_by_their_area_in_mm2() -> None:
    # A wide plate, moved by 1 mm through its thickness of 8: its two large faces are off and, of the side
    # walls, the last of 8 mm.
    plate = box((12, 60, 60), (2, 10), (0, 60), (0, 60))
    moved = np.roll(plate, 1, axis=0)
    faces, walls = 2 * 60 * 60, 4 * 60 * 8
    agreed = nsd(plate, moved, (1, 1, 1), tolerance_mm=0.5)
    assert agreed == pytest.approx(walls * 7 / 8 / (faces + walls), abs=0.03)
    # With slices of 4 mm the walls are four times as large, the faces as before.
    agreed = nsd(plate, moved, (1, 1, 4), tolerance_mm=0.5)
    assert agreed == pytest.approx(4 * walls * 7 / 8 / (faces + 4 * walls), abs=0.05)


def test_masks_at_the_border_of_the_grid_and_of_one_slice_work() -> None:
    full = np.ones((4, 5, 6), dtype=bool)
    assert hd95(full, full, (1, 1, 1)) == 0.0
    assert nsd(full, full, (1, 1, 1)) == 1.0
    slice_ = box((1, 9, 9), (0, 1), (3, 6), (3, 6))
    assert hd95(slice_, np.roll(slice_, 2, axis=1), (1, 1.5, 5)) == pytest.approx(3.0)
    assert nsd(slice_, slice_, (1, 1.5, 5)) == 1.0


def test_two_dimensional_masks_take_two_spacings() -> None:
    square = box((9, 9), (3, 6), (3, 6))
    moved = np.roll(square, 2, axis=0)
    assert dice(square, moved) == pytest.approx(1 / 3)
    assert hd95(square, moved, (1.0, 1.5)) == pytest.approx(3.0)
    assert nsd(square, moved, (1.0, 1.5), tolerance_mm=3.0) == pytest.approx(1.0)


def test_surface_metrics_do_not_change_with_the_grid_around_the_masks() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 5, 6, 7)) < 0.4
    bigger = [np.pad(m, ((3, 9), (4, 2), (1, 5))) for m in (a, b)]
    assert hd95(*bigger, (1, 2, 3)) == pytest.approx(hd95(a, b, (1, 2, 3)))
    assert nsd(*bigger, (1, 2, 3)) == pytest.approx(nsd(a, b, (1, 2, 3)))


def test_dilated_mask_holds_what_is_within_three_voxels() -> None:
    labels = np.zeros((9, 9, 9), dtype=np.uint8)
    labels[4, 4, 4] = 2
    mask = dilated_mask(labels)
    z, y, x = np.indices(labels.shape) - 4
    np.testing.assert_array_equal(mask, z**2 + y**2 + x**2 <= 9)
    np.testing.assert_array_equal(dilated_mask(labels, 0), labels > 0)


def test_dilated_mask_stops_at_the_border_and_is_empty_for_no_label() -> None:
    labels = np.zeros((3, 20), dtype=np.uint8)
    labels[0, 19] = 1
    assert dilated_mask(labels).sum() == sum(j**2 + i**2 <= 9 for j in range(3) for i in range(4))
    assert not dilated_mask(np.zeros((4, 4, 4))).any()


def test_ece_is_that_of_the_winning_class() -> None:
    # Winners 0.9 (right), 0.6 (wrong), 0.8 (right, outside the mask).
    probabilities = np.array([[0.9, 0.4, 0.2], [0.1, 0.6, 0.8]])
    labels, mask = np.array([0, 0, 1]), np.array([True, True, False])
    assert ece(probabilities, labels, mask) == pytest.approx((0.1 + 0.6) / 2)
    assert ece(probabilities, labels) == pytest.approx((0.1 + 0.6 + 0.2) / 3)
    assert math.isnan(ece(probabilities, labels, np.zeros(3, dtype=bool)))


def test_error_auroc_worked_by_hand_with_a_tie() -> None:
    # Pairs wrong over right: 0.9 > 0.5, 0.9 > 0.1, 0.5 = 0.5, 0.5 > 0.1.
    assert error_auroc([0.9, 0.5, 0.5, 0.1], [True, True, False, False]) == pytest.approx(3.5 / 4)


def test_error_auroc_equals_scikit_learn_with_many_ties() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for levels in (3, 50, 10**9):
        uncertainty = rng.integers(0, levels, (20, 30)) / levels
        error = rng.random((20, 30)) < 0.1 + 0.5 * uncertainty
        mask = rng.random((20, 30)) < 0.8
        expected = metrics.roc_auc_score(error[mask], uncertainty[mask])
        assert error_auroc(uncertainty, error, mask) == pytest.approx(expected, abs=1e-12)


def test_error_auroc_is_one_half_for_a_constant_and_nan_without_a_pair() -> None:
    assert error_auroc([1.0, 1.0, 1.0], [True, False, False]) == 0.5
    assert math.isnan(error_auroc([1.0, 2.0], [True, True]))
    assert math.isnan(error_auroc([1.0, 2.0], [False, False]))
    assert math.isnan(error_auroc([1.0, 2.0], [True, False], [False, False]))


def test_aurc_worked_by_hand() -> None:
    # Sure to unsure: right, wrong, right, wrong -> risks 0, 1/2, 1/3, 1/2.
    assert aurc([0.1, 0.2, 0.3, 0.4], [False, True, False, True]) == pytest.approx(
        (0 + 1 / 2 + 1 / 3 + 1 / 2) / 4
    )
    assert aurc([0.4, 0.1, 0.3, 0.2], [True, False, False, True]) == pytest.approx(
        (0 + 1 / 2 + 1 / 3 + 1 / 2) / 4
    )


def test_aurc_of_ties_is_the_mean_over_all_their_orders() -> None:
    uncertainty, error = [0.1, 0.5, 0.5, 0.5, 0.9], [False, True, False, True, False]
    distinct = [
        aurc([0.1, *np.array([0.2, 0.3, 0.4])[list(order)], 0.9], error)
        for order in itertools.permutations(range(3))
    ]
    assert aurc(uncertainty, error) == pytest.approx(np.mean(distinct))


def test_normalised_aurc_is_zero_for_the_best_order_and_one_for_a_constant() -> None:
    error = np.array([False, False, False, True, True])
    assert normalised_aurc([1, 2, 3, 4, 5], error) == pytest.approx(0.0)
    assert normalised_aurc([7, 7, 7, 7, 7], error) == pytest.approx(1.0)
    assert normalised_aurc([5, 4, 3, 2, 1], error) > 1.0
    # Swapped about the border, by hand: risks 0, 0, 1/3, 1/4, 2/5 against the best 0, 0, 0, 1/4, 2/5.
    best, worse = (1 / 4 + 2 / 5) / 5, (1 / 3 + 1 / 4 + 2 / 5) / 5
    assert normalised_aurc([1, 2, 4, 3, 5], error) == pytest.approx((worse - best) / (2 / 5 - best))


def test_aurc_counts_only_the_mask_and_is_nan_where_nothing_can_be_told() -> None:
    uncertainty, error = np.array([0.1, 0.9, 0.5]), np.array([False, True, True])
    mask = np.array([True, True, False])
    assert aurc(uncertainty, error, mask) == pytest.approx(1 / 4)
    assert normalised_aurc(uncertainty, error, mask) == pytest.approx(0.0)
    assert math.isnan(aurc(uncertainty, error, np.zeros(3, dtype=bool)))
    assert math.isnan(normalised_aurc(uncertainty, np.ones(3, dtype=bool)))
    assert math.isnan(normalised_aurc(uncertainty, np.zeros(3, dtype=bool)))


def test_input_that_makes_no_sense_gets_a_sentence() -> None:
    with pytest.raises(InputError, match=r"prediction has shape \(2, 2\), expected the reference's \(3, 3\)"):
        dice(np.ones((2, 2)), np.ones((3, 3)))
    with pytest.raises(InputError, match="4 axes, expected 2 or 3"):
        dice(np.ones((2, 2, 2, 2)), np.ones((2, 2, 2, 2)))
    for spacing in [(1, 1), (1, 1, 0), (1, 1, math.nan)]:
        with pytest.raises(InputError, match="expected 3 positive numbers"):
            hd95(CUBE, CUBE, spacing)
    with pytest.raises(InputError, match="tolerance is -1 mm, expected 0 or more"):
        nsd(CUBE, CUBE, (1, 1, 1), -1)
    with pytest.raises(
        InputError, match=r"uncertainty has shape \(2,\), expected that of the errors, \(1,\)"
    ):
        error_auroc([1, 2], [True])
    with pytest.raises(InputError, match=r"mask has shape \(1,\), expected \(2,\)"):
        aurc([1, 2], [True, False], [True])
    with pytest.raises(InputError, match="NaN"):
        aurc([1, math.nan], [True, False])
