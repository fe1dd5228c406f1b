# SPDX-License-Identifier: Apache-2.0
"""Classification head (16-18) and its class activation maps (29)."""

from __future__ import annotations

import pytest
import torch

from DIANetLib.errors import InputError
from DIANetLib.network import ClassificationConfig, ClassificationOutput, DIANet, DIANetOutput
from DIANetLib.network.classification import ClassificationHead
from DIANetLib.network.noise import RandomSource
from Testing.network.tiny import config, generators, image, network

MEAN = RandomSource(None, stochastic=False)


def head(dropout: float = 0.0) -> ClassificationHead:
    torch.manual_seed(0)
    return ClassificationHead(5, ClassificationConfig(classes=3, dropout=dropout)).requires_grad_(False)


@pytest.mark.parametrize("size", [(4, 6), (2, 4, 6)])
def test_the_logits_are_w_h_plus_b_of_the_pooled_latent(size: tuple[int, ...]) -> None:
    module, h = head(), torch.randn(2, 5, *size)
    expected = h.flatten(2).mean(2) @ module.linear.weight.T + module.linear.bias
    torch.testing.assert_close(module(h, MEAN).logits, expected)


def test_activation_maps_and_the_offset_add_up_to_the_logits() -> None:
    module, h = head(), torch.randn(2, 5, 4, 6)
    maps = module.activation_map(h)
    assert maps.shape == (2, 3, 4, 6)
    torch.testing.assert_close(maps.flatten(2).mean(2) + module.linear.bias, module(h, MEAN).logits)


def test_probabilities_are_the_softmax_and_the_temperature_divides_the_logits() -> None:
    logits = torch.tensor([[1.0, -1.0, 0.5]])
    output = ClassificationOutput(logits)
    torch.testing.assert_close(output.probabilities(), torch.softmax(logits, 1))
    torch.testing.assert_close(output.probabilities(2.0), torch.softmax(logits / 2.0, 1))
    assert ClassificationOutput(logits.bfloat16()).probabilities().dtype == torch.float32


def test_samples_differ_by_dropout_and_the_mean_pass_does_not() -> None:
    module, h = head(dropout=0.5), torch.randn(1, 5, 4, 4).expand(3, 5, 4, 4)
    sampled = module(h, RandomSource(generators(range(3)), stochastic=True)).logits
    assert (sampled[0] - sampled[1]).abs().max() > 1e-3
    mean = module(h, MEAN).logits
    assert torch.equal(mean[0], mean[1])


def test_without_latent_the_bottleneck_is_classified() -> None:
    setup = config(2, latent=False, classes=0, classification=ClassificationConfig(classes=2))
    model = DIANet(setup)
    assert model.classification is not None
    assert model.classification.linear.in_features == setup.widths[-1]


def test_a_head_that_is_not_there_is_a_sentence() -> None:
    output = network(config())(image(config()))
    with pytest.raises(InputError, match="expected a network with a classification head, got one without"):
        _ = output.classified
    with pytest.raises(InputError, match="expected a network with a segmentation head"):
        _ = DIANetOutput().segmented
