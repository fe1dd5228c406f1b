# SPDX-License-Identifier: Apache-2.0
"""Bootstrap intervals of figures over cases, grouped and paired."""

from __future__ import annotations

import math

import numpy as np
import pytest

from DIANetLib.errors import InputError
from training.bootstrap import differences, estimates, means_of


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution_for_many_cases():
    values = np.random.default_rng(0).normal(10, 2, 400)
    found = estimates(means_of({"x": values}), 400, seed=1)["x"]
    half = 1.96 * values.std() / 20

    assert found.value == pytest.approx(values.mean())
    assert found.n == 400
    assert found.interval_95 == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)


def test_equal_seeds_give_equal_intervals():
    figures = means_of({"x": np.arange(10.0)})

    assert estimates(figures, 10, seed=3) == estimates(figures, 10, seed=3)
    assert estimates(figures, 10, seed=3) != estimates(figures, 10, seed=4)


def test_cases_of_one_group_are_drawn_together():
    # Ten copies of each of 40 patients say no more than the 40 patients do.
    values = np.random.default_rng(0).normal(size=40)
    copies, groups = np.repeat(values, 10), np.repeat(np.arange(40), 10).tolist()
    once = estimates(means_of({"x": values}), 40)["x"].interval_95

    together = estimates(means_of({"x": copies}), 400, groups=groups)["x"].interval_95
    alone = estimates(means_of({"x": copies}), 400)["x"].interval_95
    assert together == pytest.approx(once, abs=1e-9)
    assert alone[1] - alone[0] < 0.5 * (together[1] - together[0])


def test_a_difference_is_resampled_in_pairs():
    rng = np.random.default_rng(0)
    hard, better = rng.normal(0, 5, 200), 0.5 + 0.1 * rng.normal(size=200)
    found = differences(means_of({"x": hard + better}), means_of({"x": hard}), 200)["x"]

    assert found.value == pytest.approx(better.mean())
    assert found.ours - found.theirs == pytest.approx(found.value)
    assert found.interval_95 == pytest.approx((better.mean() - 0.014, better.mean() + 0.014), abs=0.003)


def test_undefined_cases_are_left_out_and_undefined_figures_stay_so():
    found = estimates(means_of({"x": [1.0, math.nan, 3.0], "y": [math.nan] * 3}), 3)

    assert found["x"].value == 2.0
    assert found["x"].interval_95 == (1.0, 3.0)
    assert math.isnan(found["y"].value)
    assert math.isnan(found["y"].interval_95[0])


def test_a_single_group_has_no_interval():
    found = estimates(means_of({"x": [1.0, 3.0]}), 2, groups=["a", "a"])["x"]

    assert found.value == 2.0
    assert math.isnan(found.interval_95[0])
    assert math.isnan(found.interval_95[1])


def test_there_has_to_be_a_case_and_a_group_for_each():
    with pytest.raises(InputError, match="at least one case"):
        estimates(means_of({"x": []}), 0)
    with pytest.raises(InputError, match="expected the group of each of 3 cases, got 2"):
        estimates(means_of({"x": [1.0, 2.0, 3.0]}), 3, groups=["a", "b"])
