# SPDX-License-Identifier: Apache-2.0
"""Figures of class probabilities, hand-worked and against scipy's ranks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from DIANetLib.errors import InputError
from training.scoring_classification import Classified, auroc, confusion, figures_at, figures_of


def binary(positive: list[float], targets: list[int]) -> Classified:
    p = np.array(positive)
    return Classified(np.stack([1 - p, p], axis=1), np.array(targets))


def test_figures_of_two_classes_follow_the_hand_worked_example():
    cases = binary([0.9, 0.8, 0.4, 0.3, 0.6, 0.1], [1, 1, 1, 0, 0, 0])
    figures = figures_of(cases)

    assert figures["auroc"] == pytest.approx(8 / 9)  # of nine pairs only 0.4 against 0.6 is wrong
    assert figures["accuracy"] == pytest.approx(4 / 6)
    assert figures["sensitivity"] == pytest.approx(2 / 3)
    assert figures["specificity"] == pytest.approx(2 / 3)
    assert figures["balanced_accuracy"] == pytest.approx(2 / 3)
    assert confusion(cases).tolist() == [[2, 1], [1, 2]]


def test_recalls_and_not_cases_are_balanced():
    cases = binary([0.9, 0.2, 0.3, 0.4, 0.7], [1, 0, 0, 0, 0])

    assert figures_of(cases)["accuracy"] == pytest.approx(4 / 5)
    assert figures_of(cases)["balanced_accuracy"] == pytest.approx((1 + 3 / 4) / 2)


def test_auroc_is_that_of_the_rank_test():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, 200)
    scores = np.clip(rng.normal(0.4 + 0.2 * targets, 0.2), 0, 1).round(2)  # with ties
    u = mannwhitneyu(scores[targets == 1], scores[targets == 0]).statistic

    assert auroc(binary(scores.tolist(), targets.tolist())) == pytest.approx(u / (100 * 100), rel=0.1)
    pairs = (targets == 1).sum() * (targets == 0).sum()
    assert auroc(binary(scores.tolist(), targets.tolist())) == pytest.approx(u / pairs)


def test_auroc_of_more_classes_is_the_mean_over_the_classes_that_are_there():
    probabilities = np.array(
        [[0.7, 0.2, 0.1, 0.0], [0.1, 0.6, 0.3, 0.0], [0.2, 0.3, 0.5, 0.0], [0.5, 0.4, 0.1, 0.0]]
    )
    cases = Classified(probabilities, np.array([0, 1, 2, 1]))
    # class 0: 0.7 above all others; class 1: 0.6 and 0.4 above 0.2 and 0.3; class 2: 0.5 above all others
    assert auroc(cases) == 1.0
    worse = Classified(probabilities, np.array([0, 2, 2, 1]))
    # class 0: 1; class 1: 0.4 against 0.2, 0.6, 0.3: 2 of 3; class 2: 0.3 and 0.5 against 0.1 and 0.1: 1
    assert auroc(worse) == pytest.approx((1 + 2 / 3 + 1) / 3)
    assert "sensitivity" not in figures_of(cases)


def test_a_calibrated_model_has_a_small_calibration_error():
    rng = np.random.default_rng(0)
    p = rng.uniform(size=5000)
    targets = (rng.uniform(size=5000) < p).astype(int)

    assert figures_of(binary(p.tolist(), targets.tolist()))["ece"] < 0.02
    assert figures_of(binary((p > 0.5).astype(float).tolist(), targets.tolist()))["ece"] > 0.2


def test_figures_of_some_cases_are_those_of_these_cases():
    cases = binary([0.9, 0.8, 0.4, 0.3], [1, 0, 1, 0])

    assert figures_at(cases)(np.array([0, 0, 3]))["accuracy"] == 1.0
    assert math.isnan(figures_at(cases)(np.array([0, 2]))["auroc"])  # one class alone


def test_arrays_that_do_not_fit_get_a_sentence():
    with pytest.raises(InputError, match=r"probabilities \(N, C\)"):
        Classified(np.zeros((3, 1)), np.zeros(3, int))
    with pytest.raises(InputError, match=r"targets from 0 to 1, got 0 to 2"):
        Classified(np.full((2, 2), 0.5), np.array([0, 2]))
