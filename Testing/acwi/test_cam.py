# SPDX-License-Identifier: Apache-2.0
"""Class activation maps and Grad-CAM of whole images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from DIANetLib.acwi.cam import cam, class_gradcam, class_layers, class_maps
from DIANetLib.errors import Cancelled, InputError
from DIANetLib.network import ClassificationConfig, DIANet
from DIANetLib.preprocess import PreprocessConfig, prepare
from DIANetLib.volume import Geometry, Volume
from Testing.inference.fakes import tiny_config, tiny_network, volume

AS_IT_IS = PreprocessConfig(spacing_mm=(None, None, None), orientation="source")


def classifier(**changes) -> DIANet:
    head = ClassificationConfig(classes=3)
    fields = {"spatial_dims": 2, "classes": 0, "classification": head}
    shape = {"widths": (4, 6, 8), "blocks": (0, 0, 0), "strides": (2, 2)}
    return tiny_network(tiny_config(**{**fields, **shape, **changes}))


def image(batch=1, size=(12, 16), seed=0):
    return torch.randn((batch, 1, *size), generator=torch.Generator().manual_seed(seed))


def test_means_of_the_activation_maps_and_the_bias_are_the_logits():
    net, x = classifier(), image()
    with torch.no_grad():
        logits = net(x).classified.logits[0]
        h = net.encode(x).latent.mean
        maps = net.classification.activation_map(h)[0]
    torch.testing.assert_close(maps.mean((1, 2)) + net.classification.linear.bias, logits)
    torch.testing.assert_close(cam(net, x), maps.clamp_min(0.0))


def test_class_grad_cam_equals_equation_30_written_out():
    net, x = classifier(), image()
    for layer in ("encoder.stages.1", "encoder.stages.2"):
        kept = []
        handle = net.get_submodule(layer).register_forward_hook(
            lambda _m, _i, output, kept=kept: kept.append(output)
        )
        logits = net(x).classified.logits
        handle.remove()
        (gradient,) = torch.autograd.grad(logits[0, 2], kept[0])
        weights = gradient.mean((2, 3), keepdim=True)
        expected = (weights * kept[0]).sum(1)[0].clamp_min(0.0).detach()
        torch.testing.assert_close(class_gradcam(net, x, 2, layer=layer), expected)


def test_grad_cam_where_the_map_is_pooled_is_the_class_activation_map():
    net, x = classifier(), image()
    raw = class_gradcam(net, x, 1, layer="classification.features")
    positions = raw.numel()
    torch.testing.assert_close(raw * positions, cam(net, x)[1])


def test_a_network_is_left_as_it_was():
    net = classifier().train()
    for parameter in net.parameters():
        parameter.requires_grad_(True)
    class_gradcam(net, image(), 0)
    assert net.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in net.modules())


def test_the_map_of_a_fitted_network_lies_where_the_class_is():
    torch.manual_seed(0)
    net = DIANet(
        tiny_config(
            spatial_dims=2,
            classes=0,
            widths=(8, 12),
            classification=ClassificationConfig(classes=2, dropout=0.0),
            dropout=0.0,
        )
    )
    optimiser = torch.optim.Adam(net.parameters(), 0.01)
    generator = torch.Generator().manual_seed(0)

    stripes = 3.0 * torch.tensor([1.0, -1.0] * 3)

    def batch():
        """Noise with a square of stripes, lying (class 0) or standing (class 1); and its corner."""
        x = 0.3 * torch.randn((16, 1, 16, 16), generator=generator)
        y = torch.arange(16) % 2
        corners = torch.randint(0, 10, (16, 2), generator=generator)
        for row, (a, b) in enumerate(corners.tolist()):
            x[row, 0, a : a + 6, b : b + 6] += stripes if y[row] else stripes[:, None]
        return x, y, corners

    net.train()
    for _ in range(30):
        x, y, _ = batch()
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(net(x).classified.logits, y).backward()
        optimiser.step()
    net.eval().requires_grad_(False)
    x, y, corners = batch()
    hits = 0
    for row in (1, 3, 5, 7, 9, 11):
        found = cam(net, x[row : row + 1])[1]
        peak = np.array(np.unravel_index(int(found.argmax()), found.shape)) * 2
        hits += bool(np.all(np.abs(peak - (corners[row].numpy() + 2)) <= 4))
    assert hits >= 5


def test_maps_lie_on_the_inputs_grid_scaled_to_their_maximum():
    net = classifier()
    grid = Geometry((13, 18, 2), (0.5, 0.5, 4.0), (1.0, 2.0, 3.0), np.diag([1.0, -1.0, 1.0]))
    array = np.random.default_rng(0).normal(size=grid.shape).astype(np.float32)
    picture = Volume(array, grid, "picture")
    prepared = prepare([picture], PreprocessConfig(spacing_mm=(None, None, None)))
    steps = []
    maps = class_maps(
        net,
        prepared,
        picture,
        ("a", "b", "c"),
        keys=("c", "a"),
        window=(16, 16, 1),
        available=(True,),
        progress=lambda done, total: steps.append((done, total)),
    )
    assert list(maps.cam) == list(maps.gradcam) == ["a", "c"]
    for volumes in (maps.cam, maps.gradcam):
        for one in volumes.values():
            assert one.geometry == grid
            assert one.array.dtype == np.float32
            assert one.array.min() >= 0.0
            assert one.array.max() in (0.0, 1.0)
    assert max(one.array.max() for one in (*maps.cam.values(), *maps.gradcam.values())) == 1.0
    assert steps == [(1, 2), (2, 2)]


def test_a_volume_has_maps_of_volumes():
    net = classifier(spatial_dims=3)
    head = volume((12, 16, 20))
    prepared = prepare([head], PreprocessConfig())
    maps = class_maps(net, prepared, head, "abc", keys="a", window=(16, 16, 16), available=(True,))
    assert maps.gradcam["a"].array.shape == (12, 16, 20)


def test_wrong_layers_and_networks_get_a_sentence():
    net = classifier()
    stages = ("encoder.stages.1", "encoder.stages.2", "encoder.stages.0")
    assert class_layers(net) == (*stages, "classification.features")
    with pytest.raises(
        InputError, match=r"no layer 'head' to explain a class at; there are encoder\.stages\.1"
    ):
        class_gradcam(net, image(), 0, layer="head")
    with pytest.raises(InputError, match="expected a network with a classification head"):
        cam(tiny_network(), torch.zeros(1, 1, 8, 8, 8))
    with pytest.raises(InputError, match="expected a network with a classification head"):
        class_layers(tiny_network())


def test_a_cancelled_map_leaves_no_hooks():
    net = classifier(spatial_dims=3)
    head = volume((12, 16, 20))
    prepared = prepare([head], PreprocessConfig())
    with pytest.raises(Cancelled):
        class_maps(
            net, prepared, head, "abc", keys="a", window=(16, 16, 16), available=(True,), cancel=lambda: True
        )
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
