# SPDX-License-Identifier: Apache-2.0
"""Blocks against PyTorch's own operations as oracles."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from DIANetLib.network.blocks import Conv3d, ConvBlock, InstanceNorm, ResidualBlock
from DIANetLib.network.heads import DecoderScale
from DIANetLib.network.noise import RandomSource
from Testing.network.tiny import generators

MEAN = RandomSource(None, stochastic=False)
SHAPES = [pytest.param((3, 5, 6, 7), id="2d"), pytest.param((3, 5, 4, 6, 5), id="3d")]


def normalisation(channels: int) -> InstanceNorm:
    norm = InstanceNorm(channels)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2.0)
        norm.bias.normal_()
    return norm


def oracle(norm: InstanceNorm, x: Tensor) -> Tensor:
    """PyTorch's layer, in double precision."""
    layer = {4: torch.nn.InstanceNorm2d, 5: torch.nn.InstanceNorm3d}[x.ndim]
    reference = layer(norm.weight.numel(), eps=norm.eps, affine=True).double()
    reference.load_state_dict(norm.state_dict())
    result: Tensor = reference(x.double())
    return result.float()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels-last"])
def test_a_single_image_goes_through_onednn_to_the_same_numbers(
    stride: int, last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small enough that PyTorch itself would not take it."""
    layer = Conv3d(5, 7, 3, stride=stride, padding=1)
    x = torch.randn(1, 5, 6, 8, 10)
    x = x.contiguous(memory_format=torch.channels_last_3d) if last else x
    expected = F.conv3d(x.double(), layer.weight.double(), layer.bias.double(), stride, 1).float()
    direct, calls = torch.mkldnn_convolution, []
    monkeypatch.setattr(torch, "mkldnn_convolution", lambda *given: calls.append(1) or direct(*given))
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    assert not calls  # PyTorch's own differentiates
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
        assert len(calls) == 1
        layer(x.repeat(2, 1, 1, 1, 1))
        assert len(calls) == 1  # PyTorch itself takes two at once to oneDNN


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels-last"])
def test_the_three_routes_of_instance_normalisation_agree(
    shape: tuple[int, ...], last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    norm, x = normalisation(shape[1]), 3.0 * torch.randn(shape) + 2.0
    if last:
        x = x.contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)
    expected = oracle(norm, x)
    torch.testing.assert_close(norm(x), expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(norm(x), expected, atol=1e-5, rtol=1e-5)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(norm(x), expected, atol=1e-5, rtol=1e-5)


def test_the_routes_of_instance_normalisation_have_equal_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    norm, weight = normalisation(4), torch.randn(2, 4, 5, 6)
    results = []
    for compiling in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda compiling=compiling: compiling)
        x = torch.arange(240.0).reshape(2, 4, 5, 6).sin().requires_grad_()
        results.append(torch.autograd.grad((norm(x) * weight).sum(), [x, norm.weight, norm.bias]))
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(eager, compiled, atol=1e-5, rtol=1e-5)


def test_the_compiled_route_keeps_the_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert InstanceNorm(2)(torch.randn(1, 2, 4, 4).bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("repeats", [1, 3])
def test_the_two_halves_equal_one_convolution_of_skip_and_upsampled_features(
    dims: int, stride: int, repeats: int
) -> None:
    torch.manual_seed(0)
    scale = DecoderScale(dims, 5, 4, stride=stride, dropout=0.5).double()
    scale.norm.load_state_dict(normalisation(4).state_dict())
    size = (3, 4, 5)[:dims]
    x = torch.randn((2 * repeats, 5, *size), dtype=torch.float64)
    skip = torch.randn((2, 4, *(stride * n for n in size)), dtype=torch.float64)

    transpose = {2: F.conv_transpose2d, 3: F.conv_transpose3d}[dims]
    convolve = {2: F.conv2d, 3: F.conv3d}[dims]
    up = transpose(x, scale.up.weight, stride=stride)
    fused = torch.cat([scale.skip_half.weight, scale.up_half.weight], dim=1)
    y = convolve(torch.cat([skip.repeat_interleave(repeats, 0), up], dim=1), fused, padding=1)
    y = F.instance_norm(y, weight=scale.norm.weight, bias=scale.norm.bias, eps=1e-5)
    expected = torch.where(y > 0, y, 0.01 * y)

    torch.testing.assert_close(scale(x, scale.skip_half(skip), MEAN), expected, atol=1e-12, rtol=1e-12)


def test_a_convolution_block_is_convolution_normalisation_leaky_relu() -> None:
    torch.manual_seed(0)
    block, x = ConvBlock(3, 2, 4, stride=2), torch.randn(2, 2, 8, 6, 4)
    y = F.instance_norm(F.conv3d(x, block.conv.weight, stride=2, padding=1))
    torch.testing.assert_close(block(x), torch.where(y > 0, y, 0.01 * y))
    assert block(x).shape == (2, 4, 4, 3, 2)


def test_a_residual_block_with_a_zero_scale_is_the_activation_of_its_input() -> None:
    torch.manual_seed(0)
    block, x = ResidualBlock(2, 3), torch.randn(2, 3, 6, 6)
    torch.nn.init.zeros_(block.norm.weight)
    before = x.clone()
    torch.testing.assert_close(block(x), torch.where(x > 0, x, 0.01 * x))
    assert torch.equal(x, before)


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("seeded", [True, False])
def test_dropout_drops_whole_channels_at_its_rate_and_keeps_the_mean(rate: float, seeded: bool) -> None:
    torch.manual_seed(0)
    channels = 10_000
    source = RandomSource(generators([1, 2]) if seeded else None, stochastic=True)
    x = torch.ones(2, channels, 2, 2)
    y = source.channel_dropout(x, rate)
    assert torch.equal(y.amin((2, 3)), y.amax((2, 3)))
    torch.testing.assert_close(y.unique(), torch.tensor([0.0, 1.0 / (1.0 - rate)]))
    deviation = (rate * (1.0 - rate) / channels) ** 0.5
    dropped = (y[:, :, 0, 0] == 0).float().mean(1)
    assert (dropped - rate).abs().max() < 4 * deviation
    assert not torch.equal(y[0], y[1])


def test_dropout_is_off_in_the_mean_pass_and_at_rate_zero() -> None:
    x = torch.ones(1, 4, 2, 2)
    assert MEAN.channel_dropout(x, 0.5) is x
    assert RandomSource(generators([1]), stochastic=True).channel_dropout(x, 0.0) is x


def test_each_row_draws_its_normal_numbers_from_its_own_generator() -> None:
    like = torch.zeros(2, 20_000)
    rows = RandomSource(generators([5, 6]), stochastic=True).normal(like)
    for row, seed in zip(rows, (5, 6), strict=True):
        alone = RandomSource(generators([seed]), stochastic=True).normal(like[:1])[0]
        assert torch.equal(row, alone)
    assert rows.mean().abs() < 4 / 40_000**0.5
    assert (rows.var() - 1.0).abs() < 4 * (2 / 40_000) ** 0.5
