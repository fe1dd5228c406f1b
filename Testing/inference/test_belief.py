# SPDX-License-Identifier: Apache-2.0
"""The localiser's belief beside what was segmented: by hand, within bounds, and through the engine."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from DIANetLib.acwi.uncertainty import RunningUncertainty, UncertaintyMaps
from DIANetLib.inference.belief import Localised, with_belief
from DIANetLib.inference.engine import Segmenter
from DIANetLib.preprocess import PreprocessConfig, prepare
from DIANetLib.volume import Geometry, Volume
from Testing.inference.test_engine import RAS, _cascade, _head


def maps(samples: int = 4, seed: int = 0) -> UncertaintyMaps:
    """Of random samples, (3, 4, 5, 6)."""
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.softmax(2 * torch.randn(samples, 3, 4, 5, 6, generator=generator), 1)
    running = RunningUncertainty(probabilities.shape[1:])
    running.update(probabilities)
    return running.finish()


def odds(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, (4, 5, 6))


def test_probabilities_are_pooled_as_by_hand():
    one = RunningUncertainty((3, 1))
    one.update(torch.tensor([[[0.6], [0.3], [0.1]]]))
    # Odds of 9 to 1 at half weight: the structures' probabilities times 3, and all over 0.6 + 0.9 + 0.3.
    found = with_belief(one.finish(), np.array([math.log(9.0)]), 0.5)
    torch.testing.assert_close(found.mean_probability[:, 0], torch.tensor([0.6, 0.9, 0.3]) / 1.8)
    expected = -sum(p * math.log(p) for p in (1 / 3, 1 / 2, 1 / 6))
    assert float(found.total[0]) == pytest.approx(expected, abs=1e-6)


def test_no_weight_and_no_belief_change_nothing():
    before = maps()
    assert with_belief(before, odds(), 0.0) is before
    after = with_belief(before, np.zeros((4, 5, 6)), 0.7)
    for name in ("mean_probability", "total", "aleatoric", "epistemic", "variance"):
        torch.testing.assert_close(getattr(after, name), getattr(before, name), atol=1e-5, rtol=1e-4)


def test_pooled_maps_obey_what_maps_obey():
    before = replace(maps(), error=torch.rand(4, 5, 6, generator=torch.Generator().manual_seed(2)))
    after = with_belief(before, odds(), 0.5)
    p = after.mean_probability
    torch.testing.assert_close(p.sum(0), torch.ones(4, 5, 6))
    torch.testing.assert_close(after.total, after.aleatoric + after.epistemic)
    assert float(after.aleatoric.min()) >= 0
    assert float(after.epistemic.min()) >= 0
    assert bool((after.variance <= p * (1 - p) + 1e-6).all())
    assert float(after.error.min()) >= 0
    assert float(after.error.max()) <= 1
    torch.testing.assert_close(after.epistemic / after.total, before.epistemic / before.total)


def test_belief_moves_between_structures_and_background_alone():
    before, after = maps(), with_belief(maps(), odds(), 0.5)
    ratio = [part.mean_probability[1] / part.mean_probability[2] for part in (before, after)]
    torch.testing.assert_close(*ratio)


def test_log_odds_lie_on_the_grid_of_the_region_and_are_never_certain():
    grid = Geometry((10, 10, 10), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), RAS)
    image = np.random.default_rng(0).normal(size=grid.shape).astype(np.float32)
    prepared = prepare([Volume(image, grid)], PreprocessConfig(spacing_mm=(2.0, 2.0, 2.0)))
    probability = np.zeros(grid.shape, np.float32)
    probability[:, :, 5:] = 1.0
    found = Localised(probability > 0.5, probability > 0.5, probability, prepared)
    finer = Geometry((19, 10, 10), (1.0, 2.0, 2.0), (0.0, 0.0, 0.0), RAS)
    log_odds = found.log_odds(finer)
    assert log_odds.shape == finer.shape
    assert log_odds[0, 0, 0] == pytest.approx(math.log(1e-3 / (1 - 1e-3)), rel=1e-4)
    assert log_odds[0, 0, 9] == pytest.approx(0.0, abs=1e-5)  # half-way between 0 and 1
    assert log_odds[0, 0, 18] == pytest.approx(-log_odds[0, 0, 0], rel=1e-4)


def test_the_engine_pools_where_the_model_says_so_and_only_behind_its_localiser():
    head, model = _head(), _cascade()
    model.temperature = 20.0  # else the threshold is certain of everything
    alone = Segmenter(model, "cpu").segment([head], samples=2, keep_probabilities=True)
    model.localiser = model.localiser.model_copy(update={"weight": 0.5})
    pooled = Segmenter(model, "cpu").segment([head], samples=2, keep_probabilities=True)
    before, after = (found.probabilities["blob_left"].array for found in (alone, pooled))
    inside = before > 0.6
    outside = (before > 0) & (before < 0.4)
    assert inside.any()
    assert (after[inside] >= before[inside] - 1e-6).all()
    assert (after[outside] <= before[outside] + 1e-6).all()
    assert not np.allclose(before, after)
    unweighted = _cascade()
    unweighted.temperature = model.temperature
    box = alone.regions_of_interest[0]
    asked = [Segmenter(part, "cpu").segment([head], samples=2, roi=box) for part in (model, unweighted)]
    np.testing.assert_array_equal(*(found.uncertainty["total"].array for found in asked))
