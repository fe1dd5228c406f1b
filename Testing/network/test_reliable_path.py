# SPDX-License-Identifier: Apache-2.0
"""Fusion of prediction paths by their entropy."""

from __future__ import annotations

import math

import pytest
import torch

from DIANetLib.errors import InputError
from DIANetLib.network import DIANet, LatentConfig, ReliablePathConfig
from DIANetLib.network.reliable_path import ReliablePath
from Testing.network.tiny import config, image, network

PATHS = {"reliable_path": ReliablePathConfig(), "latent": LatentConfig(channels=5, anatomy=True)}


def fusion(paths: int = 2, *, gain: float = 1.0, sharpness: float = 4.0) -> ReliablePath:
    module = ReliablePath([f"path {n}" for n in range(paths)], ReliablePathConfig(sharpness=sharpness))
    torch.nn.init.constant_(module.gain, gain)
    return module.requires_grad_(False)


@pytest.mark.parametrize("dims", [2, 3])
def test_at_step_zero_the_network_equals_the_one_with_the_full_path_alone(dims: int) -> None:
    model = DIANet(config(dims, **PATHS)).eval()
    plain = DIANet(config(dims, latent=LatentConfig(channels=5))).eval()
    weights = {
        n: w for n, w in model.state_dict().items() if not n.startswith(("segmentation.paths", "anatomy"))
    }
    plain.load_state_dict(weights)  # strict: nothing else differs
    x = image(model.config, 2)
    assert torch.equal(model(x).segmented.mean, plain(x).segmented.mean)


def test_the_surer_path_counts_more() -> None:
    sure, unsure = torch.tensor([4.0, 0.0, 0.0]), torch.tensor([0.0, 0.1, 0.0])
    logits = [sure.view(1, 3, 1, 1).expand(1, 3, 2, 2), unsure.view(1, 3, 1, 1).expand(1, 3, 2, 2)]
    weights = fusion().weigh(torch.stack(logits, 1))
    assert (weights[:, 0] > 0.95).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(1, 2, 2))


def test_the_weights_are_the_softmax_of_minus_the_entropies() -> None:
    p = torch.tensor([[0.5, 0.5], [0.9, 0.1]])  # path, class
    entropy = -(p * p.log()).sum(1)
    expected = torch.softmax(-3.0 * entropy, 0)
    weights = fusion(sharpness=3.0).weigh(p.log().view(1, 2, 2, 1, 1))
    torch.testing.assert_close(weights.flatten(), expected)


def test_at_gain_one_the_result_is_the_weighted_mean_of_the_logits() -> None:
    module = fusion(3)
    logits = [torch.randn(2, 4, 5, 6) for _ in range(3)]
    weights = module.weigh(torch.stack(logits, 1)).unsqueeze(2)
    torch.testing.assert_close(module(logits), (weights * torch.stack(logits, 1)).sum(1))


def test_coarser_paths_are_interpolated_to_the_finest_grid() -> None:
    module = fusion(2)
    fine, coarse = torch.zeros(1, 2, 4, 4, 4), torch.full((1, 2, 2, 2, 2), 3.0)
    torch.testing.assert_close(module([fine, coarse]), torch.full((1, 2, 4, 4, 4), 1.5))  # equal entropies


def test_paths_that_agree_leave_the_logits_as_they_are() -> None:
    logits = torch.randn(1, 3, 4, 4)
    torch.testing.assert_close(fusion(2)([logits, logits]), logits)


def test_the_paths_weights_can_be_looked_at() -> None:
    model = network(config(2, **PATHS))
    assert model.path_names() == ("full", "scale 1", "latent")
    weights = model.path_weights(image(model.config, 2))
    assert weights.shape == (2, 3, 16, 24)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights.sum(1), torch.ones(2, 16, 24))
    assert not model.get_submodule("segmentation.paths.weights")._forward_hooks


def test_a_network_of_one_path_has_no_weights_to_show() -> None:
    model = network(config())
    assert model.path_names() == ()
    with pytest.raises(InputError, match="expected a network with reliable_path, got one"):
        model.path_weights(image(model.config))


def test_the_sharpness_starts_as_configured() -> None:
    assert math.isclose(float(fusion(sharpness=2.5).log_sharpness.exp()), 2.5, rel_tol=1e-6)
