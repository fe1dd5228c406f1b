# SPDX-License-Identifier: Apache-2.0
"""The Gaussian latent at the bottleneck, equations (10, 12, 13, 31)."""

from __future__ import annotations

import pytest
import torch

from DIANetLib.network import DIANet, GaussianDistribution
from DIANetLib.network.latent import LOG_VARIANCE_BOUNDS, GaussianLatent
from DIANetLib.network.noise import RandomSource
from Testing.network.tiny import config, generators, image, network


@pytest.mark.parametrize("dims", [2, 3])
def test_at_step_zero_the_network_equals_the_same_network_without_latent(dims: int) -> None:
    setup = config(dims, dropout=0.0, decoder_dropout=0.0)
    torch.manual_seed(0)
    model = DIANet(setup).eval()
    plain = DIANet(config(dims, latent=False, dropout=0.0, decoder_dropout=0.0)).eval()
    weights = {name: w for name, w in model.state_dict().items() if not name.startswith("latent.")}
    plain.load_state_dict(weights)  # strict: nothing else differs
    x = image(setup, 2)
    expected = plain(x).mean
    torch.testing.assert_close(model(x).mean, expected, atol=1e-6, rtol=0)
    sampled = model(x, generators=generators(range(2)))
    torch.testing.assert_close(sampled.mean, expected, atol=1e-6, rtol=0)


def test_h_starts_close_to_its_mean() -> None:
    distribution = GaussianLatent(2, 6, 4)(torch.randn(2, 6, 3, 3))
    torch.testing.assert_close(distribution.log_variance, torch.full((2, 4, 3, 3), -3.0))


def test_the_latent_s_log_variance_is_bounded() -> None:
    latent = GaussianLatent(2, 6, 4)
    for bias, bound in zip((-1e4, 1e4), LOG_VARIANCE_BOUNDS, strict=True):
        torch.nn.init.constant_(latent.log_variance.bias, bias)  # type: ignore[arg-type]
        assert latent(torch.randn(1, 6, 3, 3)).log_variance.unique().tolist() == [bound]


def test_the_mean_pass_reads_the_mean_of_h() -> None:
    distribution = GaussianDistribution(torch.randn(2, 3, 4, 4), torch.zeros(2, 3, 4, 4))
    assert distribution.sample(RandomSource(None, stochastic=False)) is distribution.mean


def test_samples_of_h_have_its_mean_and_variance() -> None:
    mean = torch.tensor([-1.0, 2.0]).view(1, 2, 1, 1).expand(1, 2, 150, 150)
    log_variance = torch.tensor([0.5, -2.0]).view(1, 2, 1, 1).expand(1, 2, 150, 150)
    h = GaussianDistribution(mean, log_variance).sample(RandomSource(generators([1]), stochastic=True))
    variance = torch.tensor([0.5, -2.0]).exp()
    count = 150 * 150
    assert ((h.mean((0, 2, 3)) - mean[0, :, 0, 0]).abs() < 4 * (variance / count).sqrt()).all()
    assert ((h.var((0, 2, 3)) / variance - 1).abs() < 4 * (2 / count) ** 0.5).all()


def test_rows_of_one_case_stand_side_by_side() -> None:
    mean = torch.arange(2.0).view(2, 1, 1, 1)
    repeated = GaussianDistribution(mean, -mean).repeat_rows(3)
    assert repeated.mean.flatten().tolist() == [0, 0, 0, 1, 1, 1]
    assert repeated.log_variance.flatten().tolist() == [0, 0, 0, -1, -1, -1]


def test_the_latent_s_noise_reaches_the_logits() -> None:
    model = network(config(dropout=0.0, decoder_dropout=0.0))
    output = model(image(model.config), generators=generators([1, 2]))
    assert (output.mean[0] - output.mean[1]).abs().max() > 1e-3


def test_training_draws_from_torch_s_own_stream() -> None:
    model = network(config()).train()
    x = image(model.config)
    torch.manual_seed(4)
    first = model(x).mean
    second = model(x).mean
    torch.manual_seed(4)
    assert torch.equal(model(x).mean, first)
    assert not torch.equal(first, second)
