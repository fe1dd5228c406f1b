# SPDX-License-Identifier: Apache-2.0
"""What the blocks of a network do on held-out cases: latent, CodeBook, pyramid."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from DIANetLib.losses.latent import gaussian_kl, total_correlation
from DIANetLib.network import DIANet
from Testing.training.tiny import config, deterministic
from Testing.training.trials import random_fit
from training.block_use import block_use
from training.codebook_use import codebook_use
from training.datasets import PreparedCase
from training.latent_use import latent_use, middle_patch

WINDOW = (12, 16, 16)


def random_network(**changes: Any) -> DIANet:
    return random_fit(config(**changes)).network(torch.device("cpu"))


def test_a_latent_of_low_rank_counts_marginals_and_what_ties_them(cases: list[PreparedCase]):
    network = random_network(network__latent={"channels": 3, "rank": 2})
    use = latent_use(network, cases[:2], WINDOW)
    expected = []
    for case in cases[:2]:
        latent = network.encode(middle_patch(network, case, WINDOW).image).latent
        assert latent is not None
        assert latent.factors is not None
        marginals = gaussian_kl(latent.mean, latent.marginal_log_variance).sum()
        correlation = total_correlation(latent.log_variance, latent.factors)
        expected.append((float(marginals), float(correlation)))

    assert use is not None
    assert use.total_correlation == pytest.approx((expected[0][1] + expected[1][1]) / 2, rel=1e-4)
    assert use.total_correlation > 0
    assert use.kl == pytest.approx(sum(map(sum, expected)) / 2, rel=1e-4)


def test_a_diagonal_latent_has_no_total_correlation(cases: list[PreparedCase]):
    use = latent_use(random_network(), cases[:2], WINDOW)

    assert use is not None
    assert use.total_correlation == 0.0


def test_a_network_that_segments_nothing_has_a_divergence_and_no_dice(cases: list[PreparedCase]):
    network = random_network(
        network__classes=0,
        data__structures=[],
        data__targets=[{"key": "a", "name": "A"}, {"key": "b", "name": "B"}],
        network__classification={"classes": 2},
    )
    use = latent_use(network, cases[:2], WINDOW)

    assert use is not None
    assert use.kl > 0
    assert use.dice_own is None
    assert use.dice_change_when_shuffled is None


def test_a_network_of_slices_reads_the_slice_with_the_most_labels(cases: list[PreparedCase]):
    network = random_network(network__spatial_dims=2, patch=[16, 16, 1], augment={"mirror_axes": [2]})
    patch = middle_patch(network, cases[0], (1, 16, 16))
    assert cases[0].labels is not None
    areas = (cases[0].labels > 0).sum(axis=(1, 2))

    assert patch.image.shape == (1, 1, 16, 16)
    assert patch.labels is not None
    assert int((patch.labels > 0).sum()) == areas.max()
    use = latent_use(network, cases[:2], (1, 16, 16))
    assert use is not None
    assert use.dice_own is not None


def test_codes_that_noise_does_not_move_are_the_same_in_all_samples_of_a_case(cases: list[PreparedCase]):
    network = random_network(network__codebook={"codes": 4}, network__latent={"channels": 2})
    assert network.latent is not None
    torch.nn.init.normal_(network.latent.mean.weight, std=2.0)
    torch.nn.init.constant_(network.latent.log_variance.bias, -10.0)
    torch.nn.init.zeros_(network.latent.log_variance.weight)
    use = codebook_use(network, cases[:3], WINDOW, samples=3)

    assert use is not None
    assert use.same_case > 0.98
    assert use.other_case < use.same_case
    assert 1.0 <= use.perplexity <= 4.0
    assert (use.codes, use.cases, use.samples) == (4, 3, 3)
    assert use == codebook_use(network, cases[:3], WINDOW, samples=3)


def test_codes_that_are_all_noise_are_as_alike_within_cases_as_between_them(cases: list[PreparedCase]):
    network = random_network(network__codebook={"codes": 4}, network__latent={"channels": 2})
    assert network.latent is not None
    torch.nn.init.zeros_(network.latent.mean.weight)
    torch.nn.init.zeros_(network.latent.log_variance.weight)
    torch.nn.init.constant_(network.latent.log_variance.bias, 2.0)
    use = codebook_use(network, cases[:4], WINDOW)

    assert use is not None
    assert use.same_case == pytest.approx(use.other_case, abs=0.05)


def test_blocks_that_are_not_there_have_no_measure(cases: list[PreparedCase]):
    torch.manual_seed(0)
    plain = DIANet(deterministic().network).eval()

    assert block_use(plain, cases[:2], WINDOW) == {"latent": None, "codebook": None, "scale_weights": None}


def test_a_plain_peer_has_no_blocks(cases: list[PreparedCase]):
    sizes = {"network__widths": [2, 3, 4], "network__blocks": [0, 0, 0], "network__strides": [2, 2]}
    peer = random_network(baseline="unet", network__latent=None, **sizes)

    assert set(block_use(peer, cases[:2], WINDOW).values()) == {None}


def test_all_measures_come_together(cases: list[PreparedCase]):
    network = random_network(network__codebook={"codes": 4}, network__pyramid={"channels": 4})
    found = block_use(network, cases[:2], WINDOW)

    assert found["latent"]["dice_change_when_shuffled"] == pytest.approx(
        found["latent"]["dice_shuffled"] - found["latent"]["dice_own"]
    )
    assert found["codebook"]["codes"] == 4
    assert sum(found["scale_weights"]) == pytest.approx(1.0)
