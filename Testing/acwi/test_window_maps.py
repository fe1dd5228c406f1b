# SPDX-License-Identifier: Apache-2.0
"""Maps of one window against MONAI, captum and sums written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam, LayerGradientXActivation
from monai.visualize.class_activation_maps import GradCAM
from scipy import ndimage
from torch import Tensor, nn

from DIANetLib.acwi.camera import layers_and_scores, untouched, upsampled, weighted
from DIANetLib.acwi.window_maps import SMOOTHING_VOXELS, WindowMaps, default_layers
from DIANetLib.errors import InputError
from DIANetLib.inference.grid import segmentation_layers
from DIANetLib.network import DIANet, NetworkConfig
from Testing.training.tiny import config
from training.baselines import build_model

LAYERS = ("bottleneck", "encoder.stages.1", "segmentation.scales.0")
CHANNEL = 1


@pytest.fixture(scope="module")
def model() -> DIANet:
    torch.manual_seed(4)
    sizes = {"widths": (6, 8, 10), "blocks": (0, 0, 0), "strides": (2, 2)}
    network = NetworkConfig(classes=3, deep_supervision=0, latent={"channels": 4}, **sizes)
    return DIANet(network).eval().requires_grad_(False)


@pytest.fixture
def image() -> Tensor:
    return torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def mask() -> Tensor:
    where = torch.zeros(16, 16, 16, dtype=torch.bool)
    where[4:9, 5:12, 6:10] = True
    return where


class Score(nn.Module):
    """(1, 1): the mean logit of a class over a mask, as captum and MONAI want scores."""

    def __init__(self, model: DIANet, mask: Tensor) -> None:
        super().__init__()
        self.model, self.mask = model, mask

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).segmented.mean[:, CHANNEL][:, self.mask].mean(1, keepdim=True)


@pytest.mark.parametrize("layer", LAYERS)
def test_mean_gradients_give_the_grad_cam_of_captum(
    model: DIANet, image: Tensor, mask: Tensor, layer: str
) -> None:
    found, voxels = WindowMaps(model, image).map(CHANNEL, layer, "mean", mask)
    theirs = LayerGradCam(Score(model, mask), model.get_submodule(layer))
    raw = theirs.attribute(image.clone().requires_grad_(), target=0, relu_attributions=True)
    assert float(found.max()) > 0
    assert voxels == 5 * 7 * 4
    torch.testing.assert_close(found, upsampled(raw.detach()[0, 0], (16, 16, 16)), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("layer", LAYERS)
def test_gradients_place_by_place_give_captums_gradient_times_activation(
    model: DIANet, image: Tensor, mask: Tensor, layer: str
) -> None:
    found, _ = WindowMaps(model, image).map(CHANNEL, layer, "place", mask)
    theirs = LayerGradientXActivation(Score(model, mask), model.get_submodule(layer))
    raw = theirs.attribute(image.clone().requires_grad_(), target=0).detach()[0].sum(0).relu()
    assert float(found.max()) > 0
    torch.testing.assert_close(found, upsampled(raw, (16, 16, 16)), rtol=1e-4, atol=1e-8)


def test_mean_gradients_give_the_grad_cam_of_monai(model: DIANet, image: Tensor, mask: Tensor) -> None:
    found, _ = WindowMaps(model, image).map(CHANNEL, "bottleneck", "mean", mask)
    with untouched(model):
        camera = GradCAM(nn_module=Score(model, mask), target_layers="model.bottleneck")
        raw = camera.compute_map(image.clone().requires_grad_(), class_idx=0).detach()[0, 0]
    torch.testing.assert_close(found, upsampled(raw, (16, 16, 16)), rtol=1e-4, atol=1e-8)


def test_features_are_weighed_in_three_ways() -> None:
    features = torch.tensor([[[1.0, 2.0]], [[3.0, -1.0]]])  # two channels, two places
    gradients = torch.tensor([[[1.0, -3.0]], [[2.0, 4.0]]])
    # means are -1 and 3: 1*-1 + 3*3 and 2*-1 + -1*3
    assert weighted(features, gradients, "mean").tolist() == [[8.0, 0.0]]
    # 1*1 + 3*2 and 2*-3 + -1*4
    assert weighted(features, gradients, "place").tolist() == [[7.0, 0.0]]
    # 1*1 + 3*2 and 2*0 + -1*4
    assert weighted(features, gradients, "positive").tolist() == [[7.0, 0.0]]
    # The negative gradient of the first channel no longer counts against the second one.
    assert weighted(features.abs(), gradients, "place").tolist() == [[7.0, 0.0]]
    assert weighted(features.abs(), gradients, "positive").tolist() == [[7.0, 4.0]]


def test_layers_together_are_the_smoothed_mean_of_their_maps_each_to_its_maximum(
    model: DIANet, image: Tensor, mask: Tensor
) -> None:
    layers = default_layers(model)
    assert layers == ("encoder.stages.0", "segmentation.scales.1")
    window = WindowMaps(model, image)
    together, _ = window.map(CHANNEL, None, "positive", mask)
    alone = [WindowMaps(model, image).map(CHANNEL, layer, "positive", mask)[0] for layer in layers]
    mean = sum(found / found.max() for found in alone) / 2
    expected = ndimage.gaussian_filter(mean.numpy(), SMOOTHING_VOXELS, mode="constant")
    # MONAI integrates the Gaussian over each voxel, SciPy takes its middle.
    np.testing.assert_allclose(together.numpy(), expected, rtol=0.02)


def test_what_a_pass_gave_is_used_for_all_structures_and_layers_of_it(
    model: DIANet, image: Tensor, mask: Tensor
) -> None:
    passes: list[int] = []
    handle = model.encoder.register_forward_hook(lambda *_: passes.append(1))
    try:
        window = WindowMaps(model, image)
        for channel in (1, 2):
            window.map(channel, None, "positive", mask)
        window.map(1, "encoder.stages.0", "mean", mask)
        assert len(passes) == 1
        deep, _ = window.map(1, "bottleneck", "positive", mask)
        assert len(passes) == 2
    finally:
        handle.remove()
    again, _ = WindowMaps(model, image).map(1, "bottleneck", "positive", mask)
    torch.testing.assert_close(deep, again)


def test_a_region_is_told_from_another_by_place_but_not_by_means() -> None:
    """A network of one convolution: each place of the feature map acts on the logits around it alone."""
    torch.manual_seed(0)
    first = nn.Conv3d(1, 4, 1)
    net = nn.Sequential(first, nn.Conv3d(4, 2, 3, padding=1))
    x = torch.rand(1, 1, 12, 12, 12)
    maps = {}
    for name, start in (("one", 1), ("other", 8)):
        with torch.enable_grad():
            (features,), logits = layers_and_scores(net, ["0"], lambda: net(x))
            part = logits[0, 1, start : start + 3, 4:7, 4:7]
            (gradients,) = torch.autograd.grad(part.sum(), [features])
        for weighting in ("mean", "place", "positive"):
            maps[name, weighting] = weighted(features.detach()[0], gradients[0], weighting).numpy()
    for weighting in ("place", "positive"):
        one, other = maps["one", weighting], maps["other", weighting]
        assert one[6:].max() == 0  # three voxels and their neighbours
        assert other[:6].max() == 0
    np.testing.assert_allclose(maps["one", "mean"], maps["other", "mean"], rtol=1e-4)


def test_a_network_that_names_no_layers_is_told_so() -> None:
    sizes = {"network__widths": [4, 8, 8], "network__blocks": [0, 0, 0], "network__strides": [2, 2]}
    peer = build_model(config(baseline="unet", network__latent=None, **sizes))
    assert segmentation_layers(peer) == ()
    with pytest.raises(InputError, match="got one that names none"):
        default_layers(peer)
