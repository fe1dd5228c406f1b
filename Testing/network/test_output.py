# SPDX-License-Identifier: Apache-2.0
"""Class probabilities of a Gaussian logit, (32): the mean-field softmax against what it approximates."""

from __future__ import annotations

import math

import pytest
import torch

from DIANetLib.network import DIANet, SegmentationOutput
from DIANetLib.network.latent import LOG_VARIANCE_BOUNDS
from Testing.network.tiny import config, image


def output(mean: torch.Tensor, log_variance: torch.Tensor | None) -> SegmentationOutput:
    return SegmentationOutput(
        mean[:, :, None, None], None if log_variance is None else log_variance[:, :, None, None]
    )


def test_without_variance_probabilities_are_the_softmax() -> None:
    mean = torch.randn(5, 4)
    expected = torch.softmax(mean, 1)
    torch.testing.assert_close(output(mean, None).probabilities()[..., 0, 0], expected)
    vanishing = torch.full_like(mean, -math.inf)
    torch.testing.assert_close(output(mean, vanishing).probabilities()[..., 0, 0], expected)


def test_with_unbounded_variance_probabilities_are_uniform() -> None:
    mean = torch.randn(5, 4)
    torch.testing.assert_close(
        output(mean, torch.full_like(mean, math.inf)).probabilities()[..., 0, 0], torch.full((5, 4), 0.25)
    )


def test_each_mean_is_divided_by_its_own_scale() -> None:
    mean, variance = torch.tensor([[1.0, -2.0, 0.5]]), torch.tensor([[0.0, 8.0 / math.pi, 24.0 / math.pi]])
    scaled = torch.tensor([[1.0, -2.0 / math.sqrt(2.0), 0.5 / 2.0]])
    torch.testing.assert_close(
        output(mean, variance.log()).probabilities()[..., 0, 0], torch.softmax(scaled, 1)
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_temperature_divides_the_logits(temperature: float) -> None:
    mean = torch.randn(5, 4)
    torch.testing.assert_close(
        output(mean, None).probabilities(temperature)[..., 0, 0], torch.softmax(mean / temperature, 1)
    )


def test_the_mean_field_softmax_is_near_the_average_softmax() -> None:
    """Within 0.08 for three classes and deviations up to 1.5, and nearer than the noiseless softmax.

    The approximation treats the classes one by one, so it can't be exact; its tolerance is loose.
    """
    generator = torch.Generator().manual_seed(0)
    mean = 2.0 * torch.randn((40, 3), generator=generator)
    log_variance = 2.0 * torch.log(torch.rand((40, 1), generator=generator) + 0.5).expand(40, 3)
    noise = torch.randn((20_000, 40, 3), generator=generator)
    average = torch.softmax(mean + noise * torch.exp(0.5 * log_variance), -1).mean(0)
    approximate = output(mean, log_variance).probabilities()[..., 0, 0]
    assert (approximate - average).abs().max() < 0.08
    assert (approximate - average).abs().mean() < 0.6 * (torch.softmax(mean, 1) - average).abs().mean()


def test_bfloat16_logits_give_float32_probabilities() -> None:
    mean = torch.randn(2, 3).bfloat16()
    assert output(mean, mean).probabilities().dtype == torch.float32


def test_probabilities_leave_the_moments_as_they_are() -> None:
    mean, log_variance = torch.randn(2, 3), torch.randn(2, 3)
    kept = mean.clone(), log_variance.clone()
    output(mean, log_variance).probabilities(2.0)
    assert torch.equal(mean, kept[0])
    assert torch.equal(log_variance, kept[1])


def test_the_logits_start_nearly_without_noise() -> None:
    model = DIANet(config()).eval()
    log_variance = model(image(model.config)).segmented.log_variance
    torch.testing.assert_close(log_variance, torch.full_like(log_variance, -3.0))


def test_the_logits_log_variance_is_bounded() -> None:
    model = DIANet(config()).eval()
    for bias, bound in zip((-1e4, 1e4), LOG_VARIANCE_BOUNDS, strict=True):
        with torch.no_grad():
            model.segmentation.logits.bias[model.config.classes :] = bias  # type: ignore[index]
        assert model(image(model.config)).segmented.log_variance.unique().tolist() == [bound]
