# SPDX-License-Identifier: Apache-2.0
"""Scales exchange context and are combined with learned weights (7, 8)."""

from __future__ import annotations

import math

import pytest
import torch

from DIANetLib.network import DIANet, NetworkConfig
from DIANetLib.network.config import PyramidConfig
from DIANetLib.network.pyramid import FeaturePyramid
from Testing.network.tiny import SIZES, config, image, network

DIMS = pytest.mark.parametrize("dims", [2, 3])


def pyramid(dims: int = 2) -> FeaturePyramid:
    torch.manual_seed(0)
    return FeaturePyramid(dims, (4, 6, 8), (2, 2), PyramidConfig(channels=5))


def features(dims: int = 2, batch: int = 1) -> list[torch.Tensor]:
    sizes = [[size // 2**level for size in SIZES[dims]] for level in range(3)]
    return [torch.randn(batch, width, *size) for width, size in zip((4, 6, 8), sizes, strict=True)]


def with_blocks(dims: int = 2) -> NetworkConfig:
    return config(dims, pyramid=PyramidConfig(channels=5))


@DIMS
def test_at_step_zero_the_network_equals_the_one_without_a_pyramid(dims: int) -> None:
    networks = []
    for setup in (config(dims), with_blocks(dims)):
        torch.manual_seed(5)
        networks.append(DIANet(setup).eval())
    x = image(config(dims), 2)
    assert torch.equal(networks[0](x).segmented.mean, networks[1](x).segmented.mean)


@DIMS
def test_after_one_step_every_parameter_of_the_pyramid_has_a_gradient(dims: int) -> None:
    torch.manual_seed(0)
    model = DIANet(with_blocks(dims)).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        model(image(model.config, 2)).segmented.mean.square().mean().backward()
        optimiser.step()
    assert model.pyramid is not None
    assert [n for n, p in model.pyramid.named_parameters() if p.grad is None or not p.grad.any()] == []


@DIMS
def test_constant_maps_are_averaged_with_the_weights(dims: int) -> None:
    block = pyramid(dims)
    with torch.no_grad():  # weights 1/6, 2/6, 3/6
        block.scale_logits.copy_(torch.tensor([1.0, 2.0, 3.0]).log())
    assert block.scale_weights == pytest.approx((1 / 6, 2 / 6, 3 / 6))
    sizes = [[size // 2**level for size in SIZES[dims]] for level in range(3)]
    maps = [torch.full((1, 5, *size), value) for size, value in zip(sizes, (6.0, 12.0, 18.0), strict=True)]
    torch.testing.assert_close(block.combine(maps), torch.full((1, 5, *sizes[1]), 1.0 + 4.0 + 9.0))


def test_two_scales_are_combined_on_the_coarser_grid() -> None:
    setup = config(2, widths=(3, 4), blocks=(0, 0), strides=(2,), deep_supervision=0, pyramid=PyramidConfig())
    assert network(setup)(torch.randn(1, 1, 8, 12)).segmented.mean.shape == (1, 3, 8, 12)


def test_scales_count_alike_at_first_and_weights_sum_to_one() -> None:
    block = pyramid()
    assert block.scale_weights == pytest.approx((1 / 3,) * 3)
    with torch.no_grad():
        block.scale_logits.normal_()
    assert math.isclose(sum(block.scale_weights), 1.0, rel_tol=1e-6)


@DIMS
def test_shapes_stay_as_they_are(dims: int) -> None:
    z = features(dims, 2)
    assert [y.shape for y in pyramid(dims)(z)] == [x.shape for x in z]


@pytest.mark.parametrize("changed", [0, 2])
def test_every_scale_hears_of_every_other(changed: int) -> None:
    block, z = pyramid(), features()
    with torch.no_grad():
        for gain in block.gains:
            gain.gain.fill_(1.0)
        before = block(z)
        z[changed] = z[changed] + torch.randn_like(z[changed])
        after = block(z)
    assert all((b - a).abs().max() > 1e-3 for b, a in zip(before, after, strict=True))


def test_strides_other_than_two_work() -> None:
    setup = config(2, widths=(3, 4, 5, 6), blocks=(0,) * 4, strides=(3, 1, 2), pyramid=PyramidConfig())
    assert network(setup)(torch.randn(1, 1, 12, 18)).segmented.mean.shape == (1, 3, 12, 18)
