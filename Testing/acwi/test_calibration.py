# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from DIANetLib.acwi.calibration import expected_calibration_error, fit_temperature, reliability
from DIANetLib.errors import InputError


def labels_drawn_from(probabilities: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One class per column of (K, V), drawn with its probabilities."""
    return (probabilities.cumsum(0) < rng.random(probabilities.shape[1])).sum(0)


def brute_force_ece(confidence: np.ndarray, correct: np.ndarray, bins: int) -> float:
    error = 0.0
    for m in range(bins):
        low, high = m / bins, (m + 1) / bins
        inside = [i for i, c in enumerate(confidence) if low < c <= high or (m == 0 and c == 0.0)]
        if inside:
            accuracy = sum(bool(correct[i]) for i in inside) / len(inside)
            mean = sum(float(confidence[i]) for i in inside) / len(inside)
            error += len(inside) / len(confidence) * abs(accuracy - mean)
    return error


def test_calibration_error_worked_by_hand() -> None:
    # Two bins: (0.4, 0.5) with half right, (0.9, 0.7, 0.8) with all right: 2/5 * 0.05 + 3/5 * 0.2.
    error = expected_calibration_error([0.4, 0.5, 0.9, 0.7, 0.8], [True, False, True, True, True], bins=2)
    assert error == pytest.approx(0.4 * 0.05 + 0.6 * 0.2)


def test_calibration_error_equals_brute_force() -> None:
    rng = np.random.default_rng(0)
    confidence, correct = rng.random(500), rng.random(500) < 0.6
    for bins in (1, 7, 15):
        expected = brute_force_ece(confidence, correct, bins)
        assert expected_calibration_error(confidence, correct, bins) == pytest.approx(expected, abs=1e-12)


def test_a_bin_holds_its_upper_border_and_the_first_one_zero() -> None:
    table = reliability([0.0, 0.25, 0.5, 1.0], [False, True, True, True], bins=4)
    assert table.count.tolist() == [2, 1, 0, 1]
    assert math.isnan(table.confidence[2])
    assert math.isnan(table.accuracy[2])
    assert table.accuracy[[0, 1, 3]].tolist() == [0.5, 1.0, 1.0]


def test_only_voxels_of_the_mask_count() -> None:
    confidence, correct = np.array([[1.0, 1.0], [0.5, 1.0]]), np.array([[True, False], [False, True]])
    assert expected_calibration_error(confidence, correct, mask=correct) == 0.0
    assert expected_calibration_error(confidence, correct) > 0.0


def test_calibration_error_of_nothing_is_nan() -> None:
    assert math.isnan(expected_calibration_error([], []))
    assert math.isnan(expected_calibration_error([0.5], [True], mask=[False]))


def test_a_confidence_rounded_above_one_is_taken_as_one() -> None:
    assert expected_calibration_error([1.0 + 1e-7], [True]) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("confidence", "correct", "bins", "mask", "sentence"),
    [
        ([0.5, 1.5], [True, True], 15, None, "goes from 0.5 to 1.5, expected 0 to 1"),
        ([0.5, math.nan], [True, True], 15, None, "expected 0 to 1"),
        ([0.5], [True, True], 15, None, r"shape \(1,\), expected that of correct, \(2,\)"),
        ([0.5], [True], 0, None, "bins is 0, expected at least 1"),
        ([0.5], [True], 5, [True, False], r"mask has shape \(2,\), expected \(1,\)"),
    ],
)
def test_calibration_input_that_makes_no_sense_gets_a_sentence(
    confidence: list[float], correct: list[bool], bins: int, mask: list[bool] | None, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        expected_calibration_error(confidence, correct, bins, mask)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.5])
def test_the_temperature_that_was_put_in_comes_out(factor: float) -> None:
    rng = np.random.default_rng(1)
    honest = rng.normal(scale=2.0, size=(4, 20_000))
    labels = labels_drawn_from(softmax(honest, axis=0), rng)
    assert fit_temperature([honest * factor], [labels]) == pytest.approx(factor, rel=0.03)


def test_the_temperature_is_the_minimum_of_the_likelihood_that_scipy_finds() -> None:
    rng = np.random.default_rng(2)
    cases = [rng.normal(scale=4.0, size=(3, 6, 7, 8)).astype(np.float32) for _ in range(3)]
    labels = [
        labels_drawn_from(softmax(case.reshape(3, -1) / 3, axis=0), rng).reshape(6, 7, 8) for case in cases
    ]
    masks = [rng.random((6, 7, 8)) < 0.7 for _ in cases]

    def likelihood(temperature: float) -> float:
        total = 0.0
        for z, y, m in zip(cases, labels, masks, strict=True):
            log_p = log_softmax(z.astype(np.float64) / temperature, axis=0)
            total -= np.take_along_axis(log_p, y[None], axis=0)[0][m].sum()
        return total

    expected = minimize_scalar(likelihood, bounds=(0.1, 20), method="bounded", options={"xatol": 1e-8}).x
    assert fit_temperature(iter(cases), iter(labels), iter(masks)) == pytest.approx(expected, rel=1e-4)


def test_a_fitted_temperature_lowers_the_calibration_error() -> None:
    rng = np.random.default_rng(3)
    honest = rng.normal(scale=2.0, size=(3, 20_000))
    labels = labels_drawn_from(softmax(honest, axis=0), rng)
    overconfident = honest * 3

    def error(temperature: float) -> float:
        p = softmax(overconfident / temperature, axis=0)
        return expected_calibration_error(p.max(0), p.argmax(0) == labels)

    assert error(1.0) > 0.1
    assert error(fit_temperature([overconfident], [labels])) < 0.02


def test_logarithms_of_probabilities_serve_as_logits() -> None:
    rng = np.random.default_rng(4)
    logits = rng.normal(scale=3.0, size=(3, 2000))
    labels = labels_drawn_from(softmax(logits / 2, axis=0), rng)
    direct = fit_temperature([logits], [labels])
    assert fit_temperature([log_softmax(logits, axis=0)], [labels]) == pytest.approx(direct, rel=1e-5)


def test_temperature_stays_within_its_bounds_and_is_one_where_it_makes_no_difference() -> None:
    logits = np.array([[2.0, -1.0], [-2.0, 1.0]])
    assert fit_temperature([logits], [np.array([0, 1])]) == 0.05
    assert fit_temperature([logits], [np.array([1, 0])]) == 20.0
    assert fit_temperature([logits], [np.array([1, 0])], bounds=(0.5, 3.0)) == 3.0
    assert fit_temperature([np.zeros((3, 5))], [np.zeros(5, dtype=int)]) == 1.0


def test_huge_logits_do_not_overflow() -> None:
    rng = np.random.default_rng(5)
    logits = rng.normal(scale=1e4, size=(3, 500))
    temperature = fit_temperature([logits], [rng.integers(0, 3, 500)])
    assert temperature == 20.0


def test_large_cases_are_thinned_out_the_same_way_every_time() -> None:
    rng = np.random.default_rng(6)
    logits = rng.normal(scale=4.0, size=(3, 5000))
    labels = labels_drawn_from(softmax(logits / 2, axis=0), rng)
    thinned = fit_temperature([logits], [labels], voxels_per_case=1000)
    assert thinned == fit_temperature([logits], [labels], voxels_per_case=1000)
    assert thinned != fit_temperature([logits], [labels])
    assert thinned == pytest.approx(2.0, rel=0.2)


@pytest.mark.parametrize(
    ("logits", "labels", "masks", "sentence"),
    [
        ([], [], None, "no voxel to fit a temperature on"),
        ([np.zeros((2, 3))], [np.zeros(3, int)], [np.zeros(3, bool)], "no voxel to fit a temperature on"),
        ([np.zeros((2, 3))], [], None, "logits of 1 cases, labels of 0"),
        ([np.zeros((2, 3))], [np.zeros(4, int)], None, r"expected \(K, \*S\)"),
        ([np.full((2, 3), np.inf)], [np.zeros(3, int)], None, "not finite"),
        ([np.zeros((2, 3))], [np.array([0, 1, 2])], None, "go from 0 to 2, expected 0 to 1"),
    ],
)
def test_a_fit_that_cannot_be_gets_a_sentence(
    logits: list, labels: list, masks: list | None, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        fit_temperature(logits, labels, masks)
