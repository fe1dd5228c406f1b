# SPDX-License-Identifier: Apache-2.0
"""Attention per scale (9), channel weights, local and global path."""

from __future__ import annotations

import pytest
import torch

from DIANetLib.network import DIANet, NetworkConfig
from DIANetLib.network.attention import GlobalPath, LocalPath, ScaleAttention
from DIANetLib.network.config import AttentionConfig, PyramidConfig
from Testing.network.tiny import SIZES, config, image, network

DIMS = pytest.mark.parametrize("dims", [2, 3])
SMALL = AttentionConfig(channels=6, heads=2, grid=3)


def attended(dims: int = 2) -> NetworkConfig:
    return config(dims, attention=SMALL)


@DIMS
def test_at_step_zero_the_network_equals_the_one_without_attention(dims: int) -> None:
    networks = []
    for setup in (config(dims), attended(dims)):
        torch.manual_seed(5)
        networks.append(DIANet(setup).eval())
    x = image(config(dims), 2)
    assert torch.equal(networks[0](x).segmented.mean, networks[1](x).segmented.mean)


@DIMS
def test_after_one_step_every_parameter_of_the_attention_has_a_gradient(dims: int) -> None:
    torch.manual_seed(0)
    model = DIANet(attended(dims)).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        model(image(model.config, 2)).segmented.mean.square().mean().backward()
        optimiser.step()
    assert model.attention is not None
    assert [n for n, p in model.attention.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_position_is_weighed_by_its_map_and_a_channel_by_its_weight() -> None:
    block = ScaleAttention(2, 2, SMALL)
    with torch.no_grad():  # the map is sigmoid(first channel); the weights are sigmoid(log 3) = 3/4 and 1/2
        block.spatial.score.weight.copy_(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1))
        block.spatial.score.bias.zero_()
        block.channel.excite.weight.zero_()
        block.channel.excite.bias.copy_(torch.tensor([3.0, 1.0]).log())
        # sigmoid(0) = 1/2 on the left, sigmoid(log 9) = 9/10 on the right
        left, right = 0.0, float(torch.tensor(9.0).log())
        z = torch.tensor([[[[left, right]], [[20.0, 40.0]]]])
        torch.testing.assert_close(block.spatial(z), torch.tensor([[[[0.5, 0.9]]]]))
        expected = torch.tensor([[[[0.0, right * 0.9 * 0.75]], [[20.0 * 0.5 * 0.5, 40.0 * 0.9 * 0.5]]]])
        torch.testing.assert_close(block.attend(z), expected)


@DIMS
def test_maps_can_be_had_per_scale_for_an_image(dims: int) -> None:
    model, x = network(attended(dims)), image(attended(dims), 2)
    maps = model.attention_maps(x)
    sizes = [tuple(size // 2**level for size in SIZES[dims]) for level in range(3)]
    assert [tuple(one.shape) for one in maps] == [(2, 1, *size) for size in sizes]
    assert all(one.dtype == torch.float32 and one.min() > 0 and one.max() < 1 for one in maps)
    assert all(not module._forward_hooks for module in model.modules())


def test_maps_are_what_the_listed_layers_put_out() -> None:
    model, x = network(attended()), image(attended())
    layers = model.attention_layers()
    assert layers == tuple(f"attention.scales.{level}.spatial" for level in range(3))
    seen: list[torch.Tensor] = []
    for name in layers:
        model.get_submodule(name).register_forward_hook(lambda _module, _args, output: seen.append(output))
    model(x)
    assert all(torch.equal(a, b) for a, b in zip(seen, model.attention_maps(x), strict=False))


def test_without_attention_there_are_no_maps() -> None:
    model = network(config())
    assert model.attention_layers() == ()
    assert model.attention_maps(image(model.config)) == ()


def test_the_local_path_sees_neighbours_only_and_the_global_path_everything() -> None:
    torch.manual_seed(0)
    near, far = LocalPath(2, 3), GlobalPath(2, 3, SMALL)
    x = torch.randn(1, 3, 12, 12)
    other = x.clone()
    other[:, 0, 0, 0] += 50.0
    with torch.no_grad():
        convolved = [near.surroundings.conv(near.squeeze(image)) for image in (other, x)]
        local = (convolved[0] - convolved[1]).abs().amax(1)[0]
        assert (local[:2, :2] > 0).all()
        assert (local[2:] == 0).all()
        assert (local[:, 2:] == 0).all()
        assert ((far(other) - far(x)).abs().amax(1) > 0).all()


@DIMS
def test_the_number_of_tokens_does_not_grow_with_the_image(
    dims: int,
) -> None:
    tokens = []
    path = GlobalPath(dims, 3, SMALL)
    path.norm.register_forward_hook(lambda _module, _args, output: tokens.append(output.shape[1]))
    for size in (2, 6, 24):
        assert path(torch.randn(1, 3, *[size] * dims)).shape == (1, 3, *[size] * dims)
    assert tokens == [2**dims, 3**dims, 3**dims]


def test_attention_on_the_pyramid_exports_to_a_graph_with_the_same_results() -> None:
    model = network(config(2, attention=SMALL, pyramid=PyramidConfig(channels=5)))
    x = image(model.config, 2)

    class MeanPass(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.model(x).segmented.mean

    with torch.no_grad():
        exported = torch.export.export(MeanPass(), (x,)).module()
        torch.testing.assert_close(exported(x), model(x).segmented.mean, atol=1e-5, rtol=1e-5)
