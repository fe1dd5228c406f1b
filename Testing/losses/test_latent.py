# SPDX-License-Identifier: Apache-2.0
"""The divergence of the latent from its prior, (12, 13), against torch.distributions."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal, Normal, kl_divergence

from DIANetLib.losses.latent import free_bits_kl, gaussian_kl, total_correlation


@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (2, 4, 3, 2, 5)], ids=["2d", "3d"])
def test_the_divergence_equals_that_of_torch_s_distributions(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    mean, log_variance = torch.randn(shape), torch.randn(shape)
    expected = kl_divergence(Normal(mean, torch.exp(0.5 * log_variance)), Normal(0.0, 1.0))
    expected = expected.mean([axis for axis in range(len(shape)) if axis != 1])
    result = gaussian_kl(mean, log_variance)
    assert result.shape == (4,)
    torch.testing.assert_close(result, expected)


def test_the_prior_itself_costs_nothing() -> None:
    zero = torch.zeros(1, 3, 2, 2)
    assert gaussian_kl(zero, zero).tolist() == [0.0, 0.0, 0.0]


def test_the_divergence_as_worked_by_hand() -> None:
    mean = torch.tensor([2.0, 0.0]).view(1, 2, 1, 1)
    log_variance = torch.tensor([0.0, math.log(4.0)]).view(1, 2, 1, 1)
    assert gaussian_kl(mean, log_variance).tolist() == pytest.approx([2.0, 0.5 * (4 - 1 - math.log(4.0))])


def test_only_what_lies_above_the_free_allowance_counts() -> None:
    mean = torch.tensor([2.0, 0.4]).view(1, 2, 1, 1)  # 2 nats and 0.08 nats
    zero = torch.zeros_like(mean)
    assert free_bits_kl(mean, zero, 0.1).item() == pytest.approx(1.9)
    assert free_bits_kl(mean, zero, 0.0).item() == pytest.approx(2.08)
    assert free_bits_kl(mean, zero, 3.0).item() == 0.0


def test_dimensions_below_the_allowance_are_not_pulled() -> None:
    mean = torch.tensor([2.0, 0.4]).view(1, 2, 1, 1).requires_grad_()
    free_bits_kl(mean, torch.zeros(1, 2, 1, 1), 0.1).backward()
    assert mean.grad is not None
    assert mean.grad.flatten().tolist() == [2.0, 0.0]


def test_the_total_correlation_completes_the_divergence_of_a_low_rank_gaussian() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, log_variance = torch.randn((2, 2, 4, 3), generator=generator)  # (B, d, positions) each
    factors = torch.randn((2, 2, 4, 3), generator=generator)  # (B, r, d, positions)
    marginal = torch.log(log_variance.exp() + factors.square().sum(1))
    ours = gaussian_kl(mean, marginal).sum() + total_correlation(log_variance, factors)
    one = LowRankMultivariateNormal(
        mean.movedim(1, -1), factors.permute(0, 3, 2, 1), log_variance.exp().movedim(1, -1)
    )
    full = MultivariateNormal(one.loc, covariance_matrix=one.covariance_matrix)
    prior = MultivariateNormal(torch.zeros(4), covariance_matrix=torch.eye(4))
    torch.testing.assert_close(ours, kl_divergence(full, prior).mean(), atol=1e-5, rtol=1e-5)


def test_a_diagonal_gaussian_has_no_total_correlation_and_factors_get_a_gradient_beside_it() -> None:
    log_variance = torch.randn(1, 4, 3)
    assert abs(float(total_correlation(log_variance, torch.zeros(1, 2, 4, 3)))) < 1e-6
    factors = torch.full((1, 2, 4, 3), 0.1, requires_grad=True)
    total_correlation(log_variance, factors).backward()
    assert factors.grad is not None
    assert factors.grad.any()
