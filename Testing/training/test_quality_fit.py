# SPDX-License-Identifier: Apache-2.0
"""Corruptions, the regression and its judgement, on numbers that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage
from scipy.stats import spearmanr

from DIANetLib.acwi.quality import QualityCurve, QualityFeatures, QualityModel, VolumeRange, logistic
from DIANetLib.errors import InputError
from DIANetLib.volume import Geometry, Volume
from training import quality_fit
from training.quality_fit import cross_validated, fit_quality, usual_volumes
from training.quality_judge import judge, judged_rows, judgements, not_found, series_figures
from training.quality_runs import Told
from training.quality_series import LEVELS, Corruption, corrupted, series

USUAL = {"head": VolumeRange(2.0, 0.2)}


def row(case: int, dice: float, *, agreement: float = 0.9, kind: str = "none", found: bool = True) -> Told:
    told = QualityFeatures(agreement, 0.9, 0.9, 0.01, 2.0) if found else None
    return Told(f"case {case}", kind, 0.0, "head", dice, told)


def drawn(cases: int = 30, copies: int = 6, noise: float = 0.2, seed: int = 0) -> list[Told]:
    """Dice whose logit is half the agreement's, less 0.5, with noise that is the case's and the run's own."""
    rng = np.random.default_rng(seed)
    rows = []
    for case in range(cases):
        shared = rng.normal()
        for copy in range(copies):
            z = rng.normal(2.0, 1.5)
            dice = logistic(0.5 * z - 0.5 + noise * (shared + rng.normal()))
            rows.append(row(case, dice, agreement=logistic(z), kind="none" if copy == 0 else "noise"))
    return rows


def image(shape=(20, 22, 24)) -> Volume:
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=shape), 2.0)
    grid = Geometry(shape[::-1], (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3))
    return Volume((1000 * smooth).astype(np.float32), grid)


def test_the_series_holds_every_level_once_and_begins_with_the_images_as_they_are():
    assert series()[0] == Corruption("none", 0.0)
    assert len({str(one) for one in series()}) == sum(len(levels) for levels in LEVELS.values())
    middle = {str(one) for one in series(middle=True)}
    assert middle == {"none", "noise 0.2", "bias 0.6", "blur 1.5", "gamma 2", "resolution 0.4"}


@pytest.mark.parametrize("kind", [kind for kind in LEVELS if kind != "none"])
def test_a_corruption_changes_an_image_the_same_way_each_time(kind):
    corruption = Corruption(kind, LEVELS[kind][1])
    one, again = (corrupted(image(), corruption, 3) for _ in range(2))
    np.testing.assert_array_equal(one.array, again.array)
    assert one.geometry is not None
    assert one.array.dtype == np.float32
    assert np.isfinite(one.array).all()
    assert not np.allclose(one.array, image().array, atol=1.0)


@pytest.mark.parametrize("kind", ["noise", "bias"])
def test_random_corruptions_depend_on_the_seed(kind):
    one, other = (corrupted(image(), Corruption(kind, LEVELS[kind][0]), seed) for seed in (0, 1))
    assert not np.allclose(one.array, other.array, atol=1.0)


@pytest.mark.parametrize("kind", ["noise", "blur", "resolution"])
def test_higher_levels_change_an_image_more(kind):
    levels = sorted(LEVELS[kind], reverse=kind == "resolution")
    change = [np.abs(corrupted(image(), Corruption(kind, x), 0).array - image().array).mean() for x in levels]
    assert change == sorted(change)


def test_a_lower_resolution_leaves_the_image_in_its_place():
    array = np.zeros((21, 21, 21), np.float32)
    array[6:15, 6:15, 6:15] = 1
    grid = Geometry((21, 21, 21), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3))
    coarse = corrupted(Volume(array, grid), Corruption("resolution", 1 / 3), 0).array
    assert ndimage.center_of_mass(coarse) == pytest.approx((10, 10, 10), abs=0.05)


def test_noise_is_a_share_of_the_images_range():
    flat = image()
    low, high = np.percentile(flat.array, (1, 99))
    added = corrupted(flat, Corruption("noise", 0.2), 0).array - flat.array
    assert added.std() == pytest.approx(0.2 * (high - low), rel=0.03)


def test_a_line_in_logits_is_found_again(monkeypatch):
    monkeypatch.setattr(quality_fit, "_SHRINKAGE", 1e-6)
    curve = fit_quality(drawn(noise=0.01), USUAL, features=("agreement",)).structures["head"]
    assert curve.weights[0] == pytest.approx(0.5, abs=0.01)
    assert curve.intercept == pytest.approx(-0.5, abs=0.02)


def test_nine_of_ten_intervals_hold_the_dice_of_new_cases():
    model = fit_quality(drawn(60), USUAL)
    found = judge(judged_rows([(one, model) for one in drawn(400, seed=1)]))
    assert found.coverage == pytest.approx(0.9, abs=0.03)
    assert found.spearman > 0.9


def test_intervals_are_wider_where_dice_is_uncertain():
    model = fit_quality(drawn(60), USUAL)
    good, bad = (model.estimate("head", row(0, 0.5, agreement=a).features) for a in (0.99, 0.6))
    assert good.high - good.low < bad.high - bad.low


def test_a_feature_that_speaks_against_dice_gets_no_weight():
    rows = [row(n, 0.9 - 0.02 * n, agreement=0.5 + 0.02 * n) for n in range(20)]
    assert fit_quality(rows, USUAL, features=("agreement",)).structures["head"].weights == (0.0,)


def test_a_case_does_not_judge_the_line_that_it_was_fitted_on():
    rows = drawn(6)
    pairs = cross_validated(rows, USUAL)
    assert [one for one, _ in pairs] == rows
    without = fit_quality([one for one in rows if one.case != "case 0"], USUAL)
    assert pairs[0][1] == without
    assert cross_validated(drawn(2), USUAL) == []


def test_structures_that_were_never_found_have_no_curve():
    rows = [*drawn(4), *(Told(f"case {n}", "none", 0.0, "tail", 0.0, None) for n in range(4))]
    assert set(fit_quality(rows, USUAL).structures) == {"head"}
    assert not_found(rows) == 4


def test_one_case_is_too_few():
    with pytest.raises(InputError, match="two inner cases or more"):
        fit_quality(drawn(1), USUAL)


def test_the_usual_volume_is_the_median_and_its_spread_that_of_the_logarithms():
    found = usual_volumes({"head": [1.0, math.e, math.e**2], "tail": [1.0], "rest": [2.0, 2.0]})
    assert found["head"].median_ml == pytest.approx(math.e)
    assert found["head"].log_deviation == pytest.approx(1.0)
    assert "tail" not in found
    assert found["rest"].log_deviation > 0


def test_figures_by_hand():
    curve = QualityCurve(0.0, (1.0,), (0.0, 0.0), (-0.1, 0.1))
    model = QualityModel(("agreement",), {"head": curve})
    rows = [row(0, 0.55, agreement=0.5), row(1, 0.75, agreement=0.6), row(2, 0.65, agreement=0.7)]
    found = judge(judged_rows([(one, model) for one in [*rows, row(3, 0.0, found=False)]]))
    assert found.rows == 3
    assert found.coverage == pytest.approx(2 / 3)
    assert found.width == pytest.approx(0.2)
    assert found.error == pytest.approx((0.05 + 0.15 + 0.05) / 3)
    assert found.spearman == pytest.approx(0.5)


def test_over_a_series_cases_are_compared_with_their_own_copies():
    curve = QualityCurve(0.0, (1.0,), (0.0, 0.0), (-0.1, 0.1))
    model = QualityModel(("agreement",), {"head": curve})
    # Two cases of different quality; the copies of each are in order, and one of them is below 0.7.
    rows = [
        row(0, 0.8, agreement=0.8),
        row(0, 0.75, agreement=0.7, kind="blur"),
        row(0, 0.5, agreement=0.5, kind="noise"),
        row(1, 0.95, agreement=0.75),
        row(1, 0.9, agreement=0.65, kind="blur"),
        row(1, 0.85, agreement=0.4, kind="noise"),
        row(2, 0.1, agreement=0.99),  # no copies: left out
    ]
    found = series_figures(judged_rows([(one, model) for one in rows]))
    assert found["within_cases"] == pytest.approx(1.0)
    # Means of the levels are 0.875, 0.825 and 0.675, two rows each.
    true, means = [0.8, 0.75, 0.5, 0.95, 0.9, 0.85], [5, 3, 1, 5, 3, 1]
    assert found["known_corruption"] == pytest.approx(spearmanr(true, means).statistic)
    assert found["auroc_red"] == pytest.approx(4 / 5)  # of five good rows, one has a lower estimate


def test_a_series_of_one_quality_has_no_such_figures():
    curve = QualityCurve(0.0, (1.0,), (0.0, 0.0), (-0.1, 0.1))
    model = QualityModel(("agreement",), {"head": curve})
    rows = [row(0, 0.9), row(0, 0.9, kind="blur"), row(0, 0.9, kind="noise")]
    found = series_figures(judged_rows([(one, model) for one in rows]))
    assert found == {"within_cases": None, "known_corruption": None, "auroc_red": None}


def test_figures_tell_cases_as_they_are_from_corrupted_ones():
    model = fit_quality(drawn(), USUAL)
    found = judgements(judged_rows([(one, model) for one in drawn()]))
    assert found["in_distribution"]["all"]["rows"] == 30
    assert found["series"]["all"]["rows"] == 180
    assert set(found["kinds"]) == {"none", "noise"}
    assert judge([]) is None
