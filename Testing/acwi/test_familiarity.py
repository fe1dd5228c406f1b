# SPDX-License-Identifier: Apache-2.0
"""How familiar an image is: distance, score, grade, and what is said."""

from __future__ import annotations

import math

import numpy as np
import pytest

from DIANetLib.acwi.familiarity import (
    Familiarity,
    FamiliarityModel,
    FamiliarityScale,
    familiarity_line,
    familiarity_warning,
    feature_vector,
    least_familiar,
)
from DIANetLib.errors import InputError

LEVELS = FamiliarityScale(log_mean=0.0, log_deviation=0.5, unusual=2.0, unfamiliar=4.0, about="T1")


def model(**changes) -> FamiliarityModel:
    fields = {
        "centre": np.array([1.0, -1.0, 0.0]),
        "scale": np.array([2.0, 1.0, 1.0]),
        "axes": np.array([[1.0, 0.0, 0.0], [0.0, 0.6, 0.8]]),
        "precisions": np.array([4.0, 0.25]),
        "rest": 1.0,
        "levels": LEVELS,
    }
    return FamiliarityModel(**{**fields, **changes})


def test_the_distance_is_mahalanobis_with_the_covariance_that_the_axes_describe():
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(6, 6)))[0][:2]
    precisions, rest = np.array([0.5, 3.0]), 1.7
    found = FamiliarityModel(rng.normal(size=6), rng.uniform(1, 2, 6), axes, precisions, rest, LEVELS)
    beside = np.eye(6) - axes.T @ axes
    covariance = axes.T @ np.diag(1 / precisions) @ axes + beside / rest
    x = rng.normal(size=6)
    z = (x - found.centre) / found.scale
    assert found.distance(x) == pytest.approx(math.sqrt(z @ np.linalg.inv(covariance) @ z / 6))


def test_a_distance_worked_by_hand():
    # z = (1, 0.6, 0.8): along the axes (1, 1), nothing beside; (4 * 1 + 0.25 * 1) / 3.
    assert model().distance(np.array([3.0, -0.4, 0.8])) == pytest.approx(math.sqrt(4.25 / 3))


@pytest.mark.parametrize(
    ("score", "grade"), [(1.99, "familiar"), (2.01, "unusual"), (3.99, "unusual"), (4.01, "unfamiliar")]
)
def test_grades_begin_at_their_limits(score, grade):
    found = LEVELS.judge(math.exp(0.5 * score), "left")
    assert found.score == pytest.approx(score)
    assert (found.grade, found.region, found.about) == (grade, "left", "T1")


def test_a_case_in_the_very_centre_is_familiar():
    assert model().judge(np.array([1.0, -1.0, 0.0])).grade == "familiar"


def test_features_of_another_network_are_refused():
    with pytest.raises(InputError, match="reads 3 features, got 2"):
        model().distance(np.zeros(2))


@pytest.mark.parametrize(
    "changes",
    [
        {"axes": np.eye(2)},
        {"precisions": np.array([1.0, -1.0])},
        {"scale": np.array([1.0, 0.0, 1.0])},
        {"centre": np.array([np.nan, 0.0, 0.0])},
        {"rest": 0.0},
    ],
)
def test_what_describes_no_covariance_is_refused(changes):
    with pytest.raises(InputError, match="A model of familiarity needs"):
        model(**changes)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [((0, 0, 2, 4), "positive deviation"), ((0, 1, 4, 2), "not below"), ((0, 1, math.nan, 2), "finite")],
)
def test_a_scale_out_of_order_is_refused(numbers, message):
    with pytest.raises(InputError, match=message):
        FamiliarityScale(*numbers)


def test_features_are_the_means_and_log_deviations_map_by_map():
    found = feature_vector(
        [np.array([1.0, 2.0]), np.array([3.0])], [np.array([0.999, 0.0]), np.array([9.999])]
    )
    np.testing.assert_allclose(found, [1, 2, math.log(1.0), math.log(0.001), 3, math.log(10)], atol=1e-12)


def test_the_least_familiar_region_speaks_for_the_image():
    left, right = Familiarity(1.0, "familiar", "left"), Familiarity(2.5, "unusual", "right")
    assert least_familiar((left, right)) is right
    assert familiarity_line((left, right)) == (
        "Image: unusual (right region), unlike most of what the model was fitted on, so look closely"
        " (score 2.5)"
    )
    assert familiarity_line((left,)) == "Image: familiar, like what the model was fitted on (score 1.0)"
    assert familiarity_line((Familiarity(2.4, "unusual", "left"), right)).startswith("Image: unusual, unlike")
    assert familiarity_line(()) == ""
    assert familiarity_warning((left, right)) is None


def test_a_warning_names_what_is_unfamiliar_and_what_the_model_knows():
    left = Familiarity(6.0, "unfamiliar", "left", "hippocampus in T1")
    right = Familiarity(7.0, "unfamiliar", "right", "hippocampus in T1")
    usual = Familiarity(0.0, "familiar", "right", "hippocampus in T1")
    end = "does not look like what this model was fitted on (hippocampus in T1): do not trust the result"
    assert familiarity_warning((left, right)) == f"The image {end} without checking."
    assert familiarity_warning((left, usual)) == f"The left region {end} without checking."
    assert familiarity_warning((Familiarity(6.0, "unfamiliar"),)) == (
        "The image does not look like what this model was fitted on: do not trust the result without"
        " checking."
    )
