# SPDX-License-Identifier: Apache-2.0
"""The numbers of an evaluation: temperature, error detection, statistics, use of the latent."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from DIANetLib.acwi.calibration import fit_temperature
from DIANetLib.errors import InputError
from DIANetLib.network import DIANet
from Testing.training.tiny import config, deterministic
from training.datasets import PreparedCase
from training.latent_use import latent_use
from training.scoring import error_figures
from training.summary import bootstrap_interval, statistic, write_json
from training.temperature import fit_sampled_temperature
from training.trial import PlainDIANet, sampled_logits


def drawn(seed: int, voxels: int = 4000, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated logits (V, K) and classes drawn from their softmax."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(voxels, classes))
    noise = rng.gumbel(size=logits.shape)
    return logits, (logits + noise).argmax(1)


class TestTemperature:
    def test_of_one_sample_is_that_of_the_library(self):
        logits, labels = drawn(0)
        library = fit_temperature([3 * logits.T], [labels])

        assert fit_sampled_temperature([3 * logits[None]], [labels]) == pytest.approx(library, rel=1e-3)
        assert library == pytest.approx(3.0, rel=0.1)

    def test_of_equal_samples_is_that_of_one(self):
        logits, labels = drawn(1)
        once = fit_sampled_temperature([logits[None]], [labels])

        assert fit_sampled_temperature([np.stack([logits] * 4)], [labels]) == pytest.approx(once, rel=1e-3)

    def test_is_lower_where_samples_disagree_since_averaging_softens_by_itself(self):
        logits, labels = drawn(2)
        noise = 2 * np.random.default_rng(3).normal(size=(8, *logits.shape))
        samples = 2 * (logits + noise)

        of_the_mean = fit_sampled_temperature([samples.mean(0)[None]], [labels])
        assert fit_sampled_temperature([samples], [labels]) < of_the_mean

    def test_needs_a_voxel(self):
        with pytest.raises(InputError, match="no labelled voxel to fit a temperature on"):
            fit_sampled_temperature([np.zeros((1, 0, 3))], [np.zeros(0, int)])


def test_sampled_logits_are_log_probabilities_of_voxels_near_structures(cases: list[PreparedCase]):
    torch.manual_seed(0)
    network = DIANet(config().network).eval()
    found = list(sampled_logits(network, cases[0], (12, 16, 16), samples=3, seed=0, voxels=50))
    again = list(sampled_logits(network, cases[0], (12, 16, 16), samples=3, seed=0, voxels=50))

    ((values, labels),) = found
    assert values.shape == (3, 50, 3)
    np.testing.assert_allclose(np.exp(values).sum(-1), 1.0, rtol=1e-5)
    assert set(labels.tolist()) == {0, 1, 2}
    assert not np.array_equal(values[0], values[1])
    np.testing.assert_array_equal(values, again[0][0])
    # Windows smaller than the case share the voxels.
    parts = list(sampled_logits(network, cases[0], (8, 8, 8), samples=0, seed=0, voxels=80))
    assert len(parts) > 1
    assert sum(len(labels) for _, labels in parts) <= 80


def test_error_figures_follow_the_hand_worked_example():
    wrong = np.array([False, False, True, True])
    probability = np.array([0.1, 0.3, 0.2, 0.4], np.float32)
    voxels = {
        "total": probability,
        "epistemic": np.array([0.0, 0.0, 0.0, 0.0], np.float32),
        "error_probability": probability,
        "error_probability_before": np.zeros(4, np.float32),
        "plain_entropy": probability[::-1].copy(),
        "wrong": wrong,
        "wrong_before": wrong,
        "plain_wrong": np.array([True, False, False, False]),
    }

    figures = error_figures(voxels)

    assert figures["error_auroc_total"] == 0.75  # of four pairs one is the wrong way round
    assert figures["error_auroc_epistemic"] == 0.5
    assert figures["error_auroc_plain"] == 1.0  # judged on the plain pass's own error
    assert figures["error_auroc_plain_same_errors"] == 0.25
    assert figures["ece_before"] == 0.5  # certain, and wrong in half of the voxels
    assert figures["error_rate"] == 0.5
    assert figures["normalised_aurc_plain"] == pytest.approx(0.0)


def test_a_statistic_leaves_undefined_cases_out():
    found = statistic([1.0, 3.0, math.nan, 5.0], interval=True)

    assert (found.mean, found.median, found.sd, found.n) == (3.0, 3.0, 2.0, 3)
    assert found.interval_95 is not None
    assert 1.0 <= found.interval_95[0] < 3.0 < found.interval_95[1] <= 5.0
    assert statistic([math.nan]).n == 0
    assert statistic([2.0]).interval_95 is None
    assert statistic([2.0], interval=True).interval_95 is None  # one case says nothing about others


def test_the_bootstrap_interval_is_that_of_the_normal_distribution_for_many_cases():
    values = np.random.default_rng(0).normal(10.0, 2.0, 400)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / 20

    assert (low, high) == bootstrap_interval(values)
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)


def test_numbers_that_are_not_finite_are_null_in_json(tmp_path: Path):
    write_json(tmp_path / "a.json", {"x": math.nan, "y": [1.0, math.inf], "z": {"n": (2,)}})

    assert json.loads((tmp_path / "a.json").read_text()) == {"x": None, "y": [1.0, None], "z": {"n": [2]}}


class TestUseOfTheLatent:
    def test_a_latent_that_nothing_reads_is_found_decorative(self, cases: list[PreparedCase]):
        torch.manual_seed(0)
        use = latent_use(
            DIANet(config().network).eval(), cases[:3], (12, 16, 16)
        )  # projection starts at zero

        assert use is not None
        assert use.dice_own == use.dice_shuffled == use.dice_prior
        assert len(use.kl_per_dimension) == 2
        assert use.kl == pytest.approx(sum(use.kl_per_dimension), abs=1e-4)
        assert use.cases == 3

    def test_a_latent_that_is_read_changes_the_dice(self, cases: list[PreparedCase]):
        torch.manual_seed(0)
        network = DIANet(config().network).eval()
        assert network.latent is not None
        torch.nn.init.normal_(network.latent.mean.weight, std=3.0)
        torch.nn.init.normal_(network.latent.project.weight, std=3.0)

        use = latent_use(network, cases[:3], (12, 16, 16))

        assert use is not None
        assert use.dice_change_when_shuffled == use.dice_shuffled - use.dice_own != 0
        assert use.active_dimensions == 2

    def test_there_is_none_without_a_latent_or_a_second_case(self, cases: list[PreparedCase]):
        assert latent_use(DIANet(deterministic().network).eval(), cases[:2], (12, 16, 16)) is None
        assert latent_use(DIANet(config().network).eval(), cases[:1], (12, 16, 16)) is None


def test_the_peer_is_one_mean_pass_without_logit_noise():
    torch.manual_seed(0)
    network, peer = DIANet(config().network).eval(), PlainDIANet(config().network).eval()
    peer.load_state_dict(network.state_dict())
    x = torch.randn(1, 1, 8, 8, 8)

    with torch.inference_mode():
        output = peer.decode(peer.encode(x), [torch.Generator()]).segmented
        expected = network(x).segmented.mean
        assert output.log_variance is None
        torch.testing.assert_close(output.mean, expected)
        torch.testing.assert_close(output.probabilities(), torch.softmax(expected, 1))
