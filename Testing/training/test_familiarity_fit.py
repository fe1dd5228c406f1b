# SPDX-License-Identifier: Apache-2.0
"""Fitting what is usual: covariance, left-out distances, limits."""

from __future__ import annotations

import numpy as np
import pytest

from DIANetLib.errors import InputError
from training.familiarity_fit import even_odds, fit_familiarity, ledoit_wolf, left_out_distances


@pytest.mark.parametrize("shape", [(30, 12), (12, 40)])
def test_the_covariance_is_that_of_scikit_learn(shape):
    covariance = pytest.importorskip("sklearn.covariance")
    rng = np.random.default_rng(1)
    x = rng.normal(size=shape) @ np.diag(np.linspace(0.2, 3, shape[1]))
    x -= x.mean(0)
    axes, values, other = ledoit_wolf(x)
    size = shape[1]
    ours = axes.T @ np.diag(values - other) @ axes + other * np.eye(size)
    np.testing.assert_allclose(
        ours, covariance.LedoitWolf(assume_centered=True).fit(x).covariance_, atol=1e-10
    )


def correlated(n: int, size: int = 60, seed: int = 0) -> np.ndarray:
    """Cases that vary along five directions and a little along all others."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(5, size))
    return rng.normal(size=(n, 5)) @ mixing + 0.1 * rng.normal(size=(n, size)) + 3.0


def test_new_cases_are_as_far_as_those_left_out_and_those_fitted_are_nearer():
    x = correlated(100)
    model = fit_familiarity(x)
    own = np.mean([model.distance(row) for row in x])
    new = np.mean([model.distance(row) for row in correlated(300, seed=1)])
    left_out = left_out_distances(x).mean()
    assert own < 0.95 * new
    assert left_out == pytest.approx(new, rel=0.06)


def test_false_alarms_on_new_cases_are_as_few_as_expected():
    model = fit_familiarity(correlated(200))
    grades = [model.judge(row).grade for row in correlated(1000, seed=2)]
    assert 0.002 < np.mean([grade != "familiar" for grade in grades]) < 0.05


def test_a_case_off_the_usual_directions_is_noticed_though_each_feature_is_usual():
    x = correlated(150)
    model = fit_familiarity(x)
    rng = np.random.default_rng(3)
    shuffled = np.array([rng.permutation(x[:, n])[0] for n in range(x.shape[1])])
    assert model.judge(shuffled).score > model.levels.unusual


@pytest.mark.parametrize("rank", [2, 30, 60])
def test_all_variance_is_kept_however_few_axes_there_are(rank):
    model = fit_familiarity(correlated(100), rank=rank)
    variance = (1 / model.precisions).sum() + (60 - rank) / model.rest
    assert variance == pytest.approx(60, rel=1e-4)  # standardised features: one each


def test_unfamiliar_begins_where_bad_segmentations_are_as_likely_as_good_ones():
    rng = np.random.default_rng(5)
    scores = rng.uniform(0, 8, 4000)
    bad = rng.uniform(size=4000) < 1 / (1 + np.exp(-2 * (scores - 5.0)))
    assert even_odds(list(zip(scores, np.where(bad, 0.5, 0.9), strict=True))) == pytest.approx(5.0, abs=0.2)


@pytest.mark.parametrize(
    "scored", [[], [(1.0, 0.9), (2.0, 0.9), (3.0, 0.2)], [(1, 0.1), (2, 0.1), (8, 0.9), (9, 0.9)]]
)
def test_copies_that_say_nothing_set_no_limit(scored):
    assert even_odds(scored) is None


def test_unfamiliar_is_never_nearer_than_unusual():
    x = correlated(60)
    copies = [(row, 0.1 if n % 3 else 0.9) for n, row in enumerate(correlated(60, seed=6))]
    levels = fit_familiarity(x, copies=copies).levels
    assert levels.unfamiliar >= levels.unusual


def test_too_few_cases_get_a_sentence():
    with pytest.raises(InputError, match="expected 20 cases or more to learn what is usual from, got 5"):
        fit_familiarity(np.zeros((5, 3)))
