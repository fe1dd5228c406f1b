# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest

from DIANetLib.acwi.quality import (
    FEATURES,
    DiceEstimate,
    LightLimits,
    QualityCurve,
    QualityFeatures,
    QualityModel,
    VolumeRange,
    light,
    logistic,
    logit,
    sentence,
    values,
)
from DIANetLib.errors import InputError


def told(agreement=0.8, closed_form=0.9, confidence=0.95, variation=0.01, volume_ml=2.0) -> QualityFeatures:
    return QualityFeatures(agreement, closed_form, confidence, variation, volume_ml)


def curve(**changes) -> QualityCurve:
    values = {"intercept": 0.5, "weights": (1.0, 0.5), "spread": (1.0, 0.5), "quantiles": (-1.0, 0.5)}
    return QualityCurve(**(values | changes))


def model(**changes) -> QualityModel:
    return QualityModel(("agreement", "closed_form"), {"head": curve(**changes)})


def test_a_sentence_names_structure_value_and_interval():
    assert sentence("anterior left", DiceEstimate(0.9, 0.86, 0.93)) == (
        "anterior left: expected Dice 0.90 (0.86–0.93)"
    )


def test_a_sentence_says_where_there_is_no_interval_or_no_structure():
    assert sentence("tail", DiceEstimate(0.5)) == "tail: expected Dice 0.50 (no interval)"
    assert sentence("tail", None) == "tail: not found, so no Dice is expected"


@pytest.mark.parametrize(
    ("value", "colour"), [(0.85, "green"), (0.8499, "amber"), (0.7, "amber"), (0.6999, "red"), (0.0, "red")]
)
def test_a_light_changes_at_its_limits_and_judges_the_value_alone(value, colour):
    assert light(DiceEstimate(value, 0.0, 1.0), LightLimits()) == colour


def test_a_structure_that_was_not_found_is_red():
    assert light(None, LightLimits(green=0.0, amber=0.0)) == "red"


def test_a_user_may_set_the_limits_to_one_value_so_that_nothing_is_amber():
    limits = LightLimits(green=0.6, amber=0.6)
    assert [light(DiceEstimate(v), limits) for v in (0.59, 0.6)] == ["red", "green"]


@pytest.mark.parametrize(("green", "amber"), [(0.5, 0.6), (1.1, 0.5), (0.5, -0.1), (math.nan, 0.5)])
def test_limits_out_of_order_are_refused(green, amber):
    with pytest.raises(InputError, match="0 <= amber <= green <= 1"):
        LightLimits(green, amber)


@pytest.mark.parametrize("ends", [(0.95, 0.97), (0.1, 0.2), (-0.1, 0.95), (0.8, 1.2), (math.nan, 1.0)])
def test_an_estimate_outside_its_interval_is_refused(ends):
    with pytest.raises(InputError, match="low <= value <= high"):
        DiceEstimate(0.9, *ends)


def test_half_an_interval_is_refused():
    with pytest.raises(InputError, match="both of its ends"):
        DiceEstimate(0.9, low=0.8)


def test_an_estimate_follows_its_formula():
    found = model().estimate("head", told(agreement=0.8, closed_form=0.9))
    z = 0.5 + math.log(4.0) + 0.5 * math.log(9.0)
    v = 1 / (1 + math.exp(-z))
    scale = (1 - v) * math.sqrt(v)
    assert (found.value, found.low, found.high) == pytest.approx((v, v - scale, v + 0.5 * scale))


def test_features_are_turned_so_that_more_is_better():
    usual = VolumeRange(median_ml=2.0, log_deviation=0.5)
    found = values(told(variation=0.01, volume_ml=2.0 * math.e), FEATURES, usual)
    assert found == pytest.approx((math.log(4.0), math.log(9.0), math.log(19.0), -math.log(0.0101), -2.0))
    assert values(told(volume_ml=2.0 / math.e), ("typicality",), usual) == pytest.approx((-2.0,))
    assert values(told(volume_ml=1e9), ("typicality",), usual) == (-8.0,)


def test_the_interval_is_cut_off_at_nothing_and_at_everything():
    found = model(quantiles=(-100.0, 100.0)).estimate("head", told())
    assert (found.low, found.high) == (0.0, 1.0)


@pytest.mark.parametrize("name", ["agreement", "closed_form"])
def test_more_agreement_never_lowers_an_estimate(name):
    found = [model().estimate("head", told(**{name: n / 20})).value for n in range(21)]
    assert found == sorted(found)
    assert found[0] < found[-1]


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_features_at_their_ends_give_an_estimate_all_the_same(share):
    everything = QualityCurve(0.0, (1.0,) * 5, (3.0, 3.0), (-1.0, 1.0), VolumeRange(1.0, 0.1))
    found = QualityModel(FEATURES, {"head": everything}).estimate(
        "head", told(share, share, share, variation=share, volume_ml=share)
    )
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_a_structure_without_a_curve_has_no_estimate():
    assert model().estimate("foot", told()) is None


@pytest.mark.parametrize("change", [{"weights": (-0.1, 0.5)}, {"spread": (-1.0, 0.0)}])
def test_weights_that_would_reward_disagreement_are_refused(change):
    with pytest.raises(InputError, match="no negative weight"):
        curve(**change)


def test_quantiles_on_one_side_are_refused():
    with pytest.raises(InputError, match="both sides of 0"):
        curve(quantiles=(0.1, 0.5))


def test_numbers_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="not finite"):
        curve(intercept=math.inf)


@pytest.mark.parametrize("numbers", [(0.0, 1.0), (1.0, 0.0), (math.nan, 1.0)])
def test_usual_volumes_are_positive(numbers):
    with pytest.raises(InputError, match="expected positive numbers"):
        VolumeRange(*numbers)


def test_a_curve_needs_a_weight_for_every_feature():
    with pytest.raises(InputError, match="2 weights for 1 features"):
        QualityModel(("agreement",), {"head": curve()})


def test_typicality_needs_volumes_to_compare_with():
    with pytest.raises(InputError, match="usual volumes"):
        QualityModel(("typicality", "agreement"), {"head": curve()})


def test_logit_and_logistic_are_inverses():
    assert [logistic(logit(p)) for p in (0.01, 0.5, 0.97)] == pytest.approx([0.01, 0.5, 0.97])
