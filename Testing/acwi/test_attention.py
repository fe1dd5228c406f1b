# SPDX-License-Identifier: Apache-2.0
"""Attention, saliency and reliable path on the input's grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from DIANetLib.acwi.attention import attention_maps, reliable_path
from DIANetLib.errors import Cancelled, InputError
from DIANetLib.inference.engine import Segmenter
from DIANetLib.inference.prediction import PathMap
from DIANetLib.network.config import AttentionConfig, ReliablePathConfig
from DIANetLib.preprocess import PreprocessConfig, normalise
from DIANetLib.volume import Geometry, Volume
from Testing.inference.fakes import FakeModel, tiny_config, tiny_network, volume

ATTENTION = AttentionConfig(channels=4, heads=2, grid=2)


def model(**changes) -> FakeModel:
    fields = {"widths": (4, 6, 6), "blocks": (0, 0, 0), "strides": (2, 2), "deep_supervision": 1}
    config = tiny_config(
        **{**fields, "attention": ATTENTION, "reliable_path": ReliablePathConfig(), **changes}
    )
    window = (16, 16, 16) if config.spatial_dims == 3 else (16, 16, 1)
    spacing = (1.0, 1.0, 1.0) if config.spatial_dims == 3 else (1.0, 1.0, None)
    return FakeModel(tiny_network(config), window=window, preprocess=PreprocessConfig(spacing_mm=spacing))


def kept(what: FakeModel, image: Volume):
    segmenter = Segmenter(what, "cpu")
    segmenter.segment([image], samples=0, keep_features=True)
    return segmenter.kept


def test_attention_is_the_softmax_of_the_networks_scores_over_the_image_by_its_maximum():
    what, image = model(), volume((16, 16, 16))
    found = attention_maps(what.net, kept(what, image), image, window=what.window)
    assert list(found) == ["attention", *(f"attention_scale_{n}" for n in (1, 2, 3)), "saliency"]
    x = torch.from_numpy(normalise(image.array))[None, None]
    scores = [
        torch.nn.functional.interpolate(torch.logit(a), (16, 16, 16), mode="trilinear")[0, 0]
        .detach()
        .double()
        for a in what.net.attention_maps(x)
    ]

    def softmax_by_its_maximum(score):
        shares = torch.softmax(score.flatten(), 0).reshape(score.shape)  # (27)
        return (shares / shares.max()).numpy()

    for n, score in enumerate(scores, start=1):
        shown = softmax_by_its_maximum(score)
        np.testing.assert_allclose(found[f"attention_scale_{n}"].array, shown, atol=1e-4)
    mask = softmax_by_its_maximum(torch.stack(scores).mean(0))
    np.testing.assert_allclose(found["attention"].array, mask, atol=1e-4)
    lifted = image.array - image.array.min()
    np.testing.assert_allclose(found["saliency"].array, mask * lifted, atol=1e-3)


def test_maps_of_several_windows_lie_on_the_inputs_grid_without_seams():
    what = model()
    grid = Geometry((40, 17, 33), (1.0, 1.0, 1.0), (3.0, 2.0, 1.0), np.diag([1.0, -1.0, 1.0]))
    array = np.random.default_rng(0).normal(size=grid.shape).astype(np.float32)
    image = Volume(array, grid)
    found = attention_maps(what.net, kept(what, image), image, window=what.window)
    for one in found.values():
        assert one.geometry == grid
        assert one.array.dtype == np.float32
    attention = found["attention"].array
    assert attention.min() > 0
    assert attention.max() == pytest.approx(1.0)
    path = reliable_path(what.net, kept(what, image), image, window=what.window)
    assert set(np.unique(path.chosen.array)) <= {1, 2}


def evenly_weighed(what: FakeModel, x: torch.Tensor) -> FakeModel:
    """The same model with offsets by which either path counts most at about half of the positions."""
    with torch.no_grad():
        what.net.segmentation.paths.offset.zero_()
        first, second = what.net.path_weights(x)[0].double().log()
        what.net.segmentation.paths.offset[1] = (first - second).median()
    return what


def test_the_reliable_path_is_the_one_that_weighs_most():
    image = volume((16, 16, 16))
    what = evenly_weighed(model(), torch.from_numpy(normalise(image.array))[None, None])
    path = reliable_path(what.net, kept(what, image), image, window=what.window)
    assert path.names == what.net.path_names() == ("full", "scale 1")
    x = torch.from_numpy(normalise(image.array))[None, None]
    first, second = what.net.path_weights(x)[0].detach().numpy()
    expected = np.where(first > second, 1, 2)
    told = np.abs(first - second) > 1e-4  # rounding may turn what is nearly a tie
    assert set(np.unique(expected[told])) == {1, 2}
    np.testing.assert_array_equal(path.chosen.array[told], expected[told])
    assert path.shares() == pytest.approx(((expected == 1).mean(), (expected == 2).mean()), abs=0.01)


def test_shares_are_those_of_the_voxels_that_count():
    grid = Geometry((4, 1, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3))
    chosen = Volume(np.array([[[0, 1, 1, 2]]], np.uint8), grid)
    path = PathMap(chosen, ("full", "scale 1"))
    assert path.shares() == pytest.approx((2 / 3, 1 / 3))
    assert path.shares(np.array([[[False, False, True, True]]])) == (0.5, 0.5)
    assert path.shares(np.zeros((1, 1, 4), bool)) == (0.0, 0.0)


def test_a_network_of_slices_shows_maps_of_a_volume():
    what, image = model(spatial_dims=2), volume((3, 18, 20))
    regions = kept(what, image)
    found = attention_maps(what.net, regions, image, window=what.window)["attention"]
    assert found.array.shape == (3, 18, 20)
    assert reliable_path(what.net, regions, image, window=what.window).chosen.array.min() >= 1


def test_outside_of_what_was_read_maps_are_zero():
    from DIANetLib.inference.prediction import Box

    what, image = model(), volume((20, 22, 24))
    segmenter = Segmenter(what, "cpu")
    box = Box((-12.0, -20.0, 12.0), (0.0, -10.0, 22.0))
    segmenter.segment([image], samples=0, roi=box, keep_features=True)
    found = attention_maps(what.net, segmenter.kept, image, window=what.window)["attention"].array
    path = reliable_path(what.net, segmenter.kept, image, window=what.window).chosen.array
    np.testing.assert_array_equal(found > 0, path > 0)
    assert 0 < (path > 0).mean() < 1


def test_a_network_without_the_blocks_gets_a_sentence():
    what, image = model(attention=None, reliable_path=None), volume((16, 16, 16))
    with pytest.raises(InputError, match="expected a network with attention per scale"):
        attention_maps(what.net, (), image, window=what.window)
    with pytest.raises(InputError, match="expected a network with reliable_path"):
        reliable_path(what.net, (), image, window=what.window)


def test_a_cancelled_map_leaves_no_hooks():
    what, image = model(), volume((16, 16, 16))
    regions = kept(what, image)
    with pytest.raises(Cancelled):
        attention_maps(what.net, regions, image, window=what.window, cancel=lambda: True)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in what.net.modules())
