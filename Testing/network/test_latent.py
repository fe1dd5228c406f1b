# SPDX-License-Identifier: Apache-2.0
"""The Gaussian latent at the bottleneck, equations (10, 12, 13, 31)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from DIANetLib.network import DIANet, GaussianDistribution, LatentConfig
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
    expected = plain(x).segmented.mean
    torch.testing.assert_close(model(x).segmented.mean, expected, atol=1e-6, rtol=0)
    sampled = model(x, generators=generators(range(2)))
    torch.testing.assert_close(sampled.segmented.mean, expected, atol=1e-6, rtol=0)


def test_h_starts_close_to_its_mean() -> None:
    distribution = GaussianLatent(2, 6, LatentConfig(channels=4))(torch.randn(2, 6, 3, 3))
    torch.testing.assert_close(distribution.log_variance, torch.full((2, 4, 3, 3), -3.0))


def test_the_latent_s_log_variance_is_bounded() -> None:
    latent = GaussianLatent(2, 6, LatentConfig(channels=4))
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
    assert (output.segmented.mean[0] - output.segmented.mean[1]).abs().max() > 1e-3


def test_training_draws_from_torch_s_own_stream() -> None:
    model = network(config()).train()
    x = image(model.config)
    torch.manual_seed(4)
    first = model(x).segmented.mean
    second = model(x).segmented.mean
    torch.manual_seed(4)
    assert torch.equal(model(x).segmented.mean, first)
    assert not torch.equal(first, second)


def test_a_random_pass_now_and_then_reads_h_alone() -> None:
    setup = config(2, dropout=0.0, decoder_dropout=0.0)
    model = network(setup.model_copy(update={"latent": LatentConfig(channels=3, path_dropout=0.5)}))
    read: list[torch.Tensor] = []
    model.bottleneck.register_forward_hook(lambda _module, _inputs, output: read.append(output))
    model.requires_grad_(False)
    encoded = model.encode(image(setup))
    model.decode(encoded, generators(range(40)))
    model.decode(encoded)  # the mean pass reads both
    assert model.latent is not None
    assert encoded.latent is not None
    mean = encoded.features + model.latent.project(encoded.latent.mean)
    torch.testing.assert_close(read[1], mean)
    # rows that read h alone do not depend on the features: they differ from `features + h` by the features
    scale = float(encoded.features.abs().max())
    blanked = [float((row - mean[0]).abs().max()) > 0.5 * scale for row in read[0]]
    assert 10 <= sum(blanked) <= 30


def test_a_random_pass_now_and_then_goes_without_the_coarse_skips() -> None:
    setup = config(2, dropout=0.0, decoder_dropout=0.0, widths=(4, 6, 8), blocks=(1, 1, 1), strides=(2, 2))
    model = network(setup.model_copy(update={"latent": LatentConfig(channels=3, skip_dropout=0.5)}))
    assert model.segmentation is not None
    model.requires_grad_(False)
    encoded = model.encode(image(setup))
    blind = replace(
        encoded, prepared=(*(torch.zeros_like(skip) for skip in encoded.prepared[:-1]), encoded.prepared[-1])
    )
    rows = generators(range(40))
    plain = model.decode(encoded, generators(range(40)), heads=["segmentation"]).segmented.mean
    without = model.decode(blind, rows, heads=["segmentation"]).segmented.mean
    same = torch.isclose(plain, without, atol=1e-6).flatten(1).all(1)
    assert 10 <= int(same.sum()) <= 30  # those had no coarse skips in either run
    mean = model.decode(encoded).segmented.mean  # the mean pass has them all
    assert not torch.allclose(mean, model.decode(blind).segmented.mean)


def test_a_row_without_skips_is_the_same_alone_and_in_a_batch() -> None:
    setup = config(2).model_copy(update={"latent": LatentConfig(channels=3, skip_dropout=0.5)})
    model = network(setup)
    model.requires_grad_(False)
    encoded = model.encode(image(setup))
    together = model.decode(encoded, generators(range(6))).segmented.mean
    alone = [model.decode(encoded, generators([seed])).segmented.mean for seed in range(6)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_path_dropout_blanks_whole_rows_and_leaves_the_others() -> None:
    x = torch.randn(200, 3, 2, 2)
    kept = RandomSource(generators(range(200)), stochastic=True).path_dropout(x, 0.25)
    blank = (kept == 0).flatten(1).all(1)
    assert torch.equal(kept[~blank], x[~blank])
    assert 30 <= int(blank.sum()) <= 70
    assert RandomSource(None, stochastic=False).path_dropout(x, 0.25) is x


@pytest.mark.parametrize("dims", [2, 3])
def test_at_step_zero_a_low_rank_covariance_is_diagonal(dims: int) -> None:
    setup = config(dims, latent=LatentConfig(channels=5, rank=2))
    model = DIANet(setup).eval()
    latent = model.encode(image(setup)).latent
    assert latent is not None
    assert latent.factors is not None
    assert not latent.factors.any()
    torch.testing.assert_close(latent.marginal_log_variance, latent.log_variance)


def test_samples_of_a_low_rank_h_have_its_covariance() -> None:
    u = torch.tensor([[1.0, -0.5, 0.0], [0.3, 0.3, 0.8]])  # (r, d)
    log_variance = torch.tensor([0.0, -1.0, -2.0])
    count = 300 * 300
    distribution = GaussianDistribution(
        torch.zeros(1, 3, 300, 300),
        log_variance.view(1, 3, 1, 1).expand(1, 3, 300, 300),
        u.view(1, 2, 3, 1, 1).expand(1, 2, 3, 300, 300),
    )
    h = distribution.sample(RandomSource(generators([1]), stochastic=True))[0].flatten(1)  # (d, P)
    expected = torch.diag(log_variance.exp()) + u.T @ u
    assert (torch.cov(h) - expected).abs().max() < 8 * float(expected.max()) / count**0.5
    marginal = distribution.marginal_log_variance[0, :, 0, 0]
    torch.testing.assert_close(marginal.exp(), expected.diagonal())


def test_rows_of_a_low_rank_latent_are_repeated_with_their_factors() -> None:
    factors = torch.arange(2.0).view(2, 1, 1, 1, 1)
    zeros = torch.zeros(2, 1, 1, 1)
    repeated = GaussianDistribution(zeros, zeros, factors).repeat_rows(2)
    assert repeated.factors is not None
    assert repeated.factors.flatten().tolist() == [0, 0, 1, 1]


def test_p_of_h_depends_on_h_alone() -> None:
    model = network(config(2, latent=LatentConfig(channels=5, anatomy=True)))
    encoded = model.encode(image(model.config))
    other = replace(encoded, features=torch.randn_like(encoded.features))
    one, two = model.decode(encoded).anatomy, model.decode(other).anatomy
    assert one is not None
    assert two is not None
    assert torch.equal(one, two)
    assert encoded.latent is not None
    moved = replace(encoded, latent=replace(encoded.latent, mean=encoded.latent.mean + 1.0))
    changed = model.decode(moved).anatomy
    assert changed is not None
    assert not torch.equal(one, changed)
