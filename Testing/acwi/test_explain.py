# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import gc
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from DIANetLib.acwi.explain import explain, gradcam
from DIANetLib.errors import Cancelled, InputError
from DIANetLib.labelling import labels_of_logits
from DIANetLib.network import DIANet, NetworkConfig
from DIANetLib.preprocess import Box, Prepared, PreprocessConfig, prepare
from DIANetLib.structures import ANATOMICAL_STRUCTURE, Code, Structure
from DIANetLib.volume import Geometry, Volume

CONFIG = NetworkConfig(classes=3, widths=(6, 10, 12), blocks=(0, 0, 0), strides=(2, 2), deep_supervision=0)
AS_IT_IS = PreprocessConfig(spacing_mm=(None, None, None))


def case(generator: torch.Generator, size: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """Noise with a bright cube (class 1) and a dark one (class 2): image, labels, bright corner."""
    x = 0.3 * torch.randn(1, 1, size, size, size, generator=generator)
    y = torch.zeros(1, size, size, size, dtype=torch.long)
    a, b = torch.randint(0, size // 2 - 5, (2, 3), generator=generator) + torch.tensor(
        [[0] * 3, [size // 2] * 3]
    )
    for corner, value in ((a, 1), (b, 2)):
        where = tuple(slice(int(c), int(c) + 5) for c in corner)
        x[0, 0][where] += 3.0 if value == 1 else -3.0
        y[0][where] = value
    return x, y, a


@pytest.fixture(scope="module")
def fitted() -> DIANet:
    torch.manual_seed(13)
    model = DIANet(CONFIG).train()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        x, y, _ = case(generator)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(
            model(x).segmented.mean, y, weight=torch.tensor([1.0, 5.0, 5.0])
        ).backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


@pytest.fixture
def image() -> Tensor:
    return case(torch.Generator().manual_seed(7))[0]


def by_hand(model: DIANet, x: Tensor, channel: int) -> Tensor:
    """Equation 30 written out: features times the mean gradient of the structure's mean logit."""
    encoded = model.encode(x)
    mask = labels_of_logits(model.decode(encoded).segmented.mean[0]) == channel
    leaf = encoded.features.clone().requires_grad_()
    kept: list[Tensor] = []
    handle = model.bottleneck.register_forward_hook(lambda _m, _i, output: kept.append(output))
    try:
        score = model.decode(replace(encoded, features=leaf)).segmented.mean[0, channel][mask].mean()
    finally:
        handle.remove()
    (gradient,) = torch.autograd.grad(score, kept[0])
    raw = (gradient.mean((2, 3, 4), keepdim=True) * kept[0]).sum(1, keepdim=True).relu().detach()
    full = torch.nn.functional.interpolate(raw, size=x.shape[2:], mode="trilinear")[0, 0]
    return full / full.max()


def test_the_map_of_mean_gradients_equals_equation_30_written_out(fitted: DIANet, image: Tensor) -> None:
    for channel in (1, 2):
        expected = by_hand(fitted, image, channel)
        found = gradcam(fitted, image, channel, layer="bottleneck", weighting="mean")
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(gradcam(fitted, image, channel), expected, atol=0.1)  # not the default


def test_the_map_of_a_fitted_network_peaks_at_its_structure(fitted: DIANet) -> None:
    generator = torch.Generator().manual_seed(3)
    hits = 0
    for _ in range(8):
        x, y, _ = case(generator)
        found = gradcam(fitted, x, 1)
        assert found.shape == (16, 16, 16)
        assert found.dtype == torch.float32
        assert found.min() >= 0
        assert float(found.max()) == 1.0
        peak = torch.tensor(np.unravel_index(int(found.argmax()), found.shape))
        nearest = (y[0] == 1).nonzero().sub(peak).abs().amax(1).min()
        hits += int(nearest <= 4)  # one voxel of the bottleneck
    assert hits >= 7


@pytest.mark.parametrize(("layer", "fixed"), [(None, False), ("bottleneck", True)])
def test_other_weights_give_another_map(
    fitted: DIANet, image: Tensor, layer: str | None, fixed: bool
) -> None:
    """What a network explains of its own segmentation, and at the bottleneck of the same voxels.

    Of the same voxels the decoder's scales are alike whatever the weights are, bound to these voxels as they
    are. How much is measured by `training explanations`.
    """
    before = gradcam(fitted, image, 1, layer=layer)
    mask = case(torch.Generator().manual_seed(7))[1][0] == 1 if fixed else None
    likeness = []
    for seed in range(5, 9):
        torch.manual_seed(seed)
        other = gradcam(DIANet(CONFIG).eval(), image, 1, layer=layer, mask=mask)
        likeness.append(np.corrcoef(before.flatten(), other.flatten())[0, 1])
    assert np.mean(likeness) < 0.75
    torch.testing.assert_close(gradcam(fitted, image, 1, layer=layer), before)


def test_structures_and_regions_have_maps_of_their_own(fitted: DIANet, image: Tensor) -> None:
    whole = gradcam(fitted, image, 1)
    assert not torch.allclose(whole, gradcam(fitted, image, 2))
    region = torch.zeros(16, 16, 16, dtype=torch.bool)
    region[12:, 12:, 12:] = True
    assert not torch.allclose(whole, gradcam(fitted, image, 1, mask=region))


@pytest.mark.parametrize("layer", DIANet(CONFIG).explainable_layers())
def test_every_explainable_layer_gives_a_map(fitted: DIANet, image: Tensor, layer: str) -> None:
    found = gradcam(fitted, image, 1, layer=layer)
    assert found.shape == (16, 16, 16)
    assert bool(found.isfinite().all())
    assert found.max() <= 1


def state(model: DIANet) -> list[object]:
    return [
        (len(m._forward_hooks), len(m._backward_hooks), len(m._forward_pre_hooks), m.training)
        for m in model.modules()
    ] + [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()]


@pytest.mark.parametrize("layer", ["bottleneck", "encoder.stages.1", "segmentation.scales.0"])
def test_hooks_gradients_and_modes_are_as_before(fitted: DIANet, image: Tensor, layer: str) -> None:
    model = copy.deepcopy(fitted).requires_grad_(True)
    model.train()
    model.encoder.eval()
    first = next(model.parameters())
    first.grad = torch.full_like(first, 2.0)
    seen: list[int] = []
    handle = model.bottleneck.register_forward_hook(lambda *_: seen.append(1))
    before = state(model)
    gradcam(model, image, 1, layer=layer)
    gradcam(model, image, 2, layer=layer)
    for one, other in zip(before, state(model), strict=True):
        assert str(one) == str(other)
    assert seen  # a hook of somebody else stays and works
    handle.remove()
    assert not model.bottleneck._forward_hooks


def test_hooks_are_gone_after_an_error_too(
    fitted: DIANet, image: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = copy.deepcopy(fitted)
    before = str(state(model))

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model.segmentation, "forward", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        gradcam(model, image, 1)
    assert str(state(model)) == before


def test_nothing_of_a_pass_stays_in_memory(fitted: DIANet, image: Tensor) -> None:
    def tensors() -> int:
        gc.collect()
        return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())

    gradcam(fitted, image, 1)
    before = tensors()
    for _ in range(3):
        gradcam(fitted, image, 1)
    assert tensors() == before


def test_callers_may_have_switched_gradients_off(fitted: DIANet, image: Tensor) -> None:
    expected = gradcam(fitted, image, 1)
    with torch.no_grad():
        torch.testing.assert_close(gradcam(fitted, image, 1), expected)
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        torch.testing.assert_close(gradcam(fitted, image * 1.0, 1), expected)


def test_an_absent_structure_is_explained_by_its_probabilities(fitted: DIANet) -> None:
    model = copy.deepcopy(fitted)
    assert model.segmentation.logits.bias is not None
    model.segmentation.logits.bias[1] -= 100
    x = case(torch.Generator().manual_seed(7))[0]
    assert not bool((model(x).segmented.mean[0].argmax(0) == 1).any())
    found = gradcam(model, x, 1)
    assert bool(found.isfinite().all())
    assert 0 <= found.min() <= found.max() <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": "head"}, r"no layer 'head' to explain; there are bottleneck, encoder\.stages\.0"),
        ({"structure_value": 0}, "no structure 0; expected 1 to 2"),
        ({"structure_value": 3}, "no structure 3"),
        ({"mask": torch.zeros(16, 16, 16, dtype=torch.bool)}, "must hold a voxel"),
        (
            {"mask": torch.ones(8, 16, 16, dtype=torch.bool)},
            r"have the window's shape \(16, 16, 16\), got 2048",
        ),
    ],
)
def test_what_cannot_be_explained_gets_a_sentence(
    fitted: DIANet, image: Tensor, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        gradcam(fitted, image, **{"structure_value": 1, **arguments})  # type: ignore[arg-type]


def volumes(
    direction: np.ndarray, spacing: float = 1.0, shape: tuple[int, int, int] = (16, 16, 16)
) -> Volume:
    x = case(torch.Generator().manual_seed(7))[0][0, 0].numpy()
    array = np.zeros(shape, np.float32) + 0.01
    array[:16, :16, :16] = x
    geometry = Geometry(shape[::-1], (spacing,) * 3, (3.0, -4.0, 5.0), direction)
    return Volume(array, geometry, name="image")


def labelled(model: DIANet, image: Volume) -> Volume:
    _, y, _ = case(torch.Generator().manual_seed(7))
    labels = np.zeros(image.array.shape, np.uint8)
    labels[:16, :16, :16] = y[0].numpy()
    return image.with_array(labels, name="labels")


def structure(value: int, key: str) -> Structure:
    return Structure(value, key, key, (9, 9, 9), ANATOMICAL_STRUCTURE, Code("SCT", "123037004", "Cube"))


@dataclass(frozen=True)
class Region:
    prepared: Prepared
    structures: tuple[Structure, ...] = (structure(1, "bright"), structure(2, "dark"))
    available: tuple[bool, ...] = (True,)


BOTH = ("bright", "dark")
RAS = np.diag([-1.0, -1.0, 1.0])


def seen(image: Volume, config: PreprocessConfig = AS_IT_IS, region: Box | None = None) -> Region:
    return Region(prepare([image], config, region=region))


def columns(image: Volume, first: int, last: int) -> Box:
    """The part of an image between two columns i, the last one left out."""
    _, j, k = image.geometry.size
    corners = image.geometry.index_to_world([(first - 0.5, -0.5, -0.5), (last - 0.5, j - 0.5, k - 0.5)])
    return Box(tuple(corners.min(0)), tuple(corners.max(0)))


def test_maps_lie_on_the_inputs_grid_whatever_its_axes(fitted: DIANet) -> None:
    image = volumes(RAS)
    labels = labelled(fitted, image)
    expected = explain(fitted, [seen(image, PreprocessConfig())], labels, BOTH, window=(16, 16, 16))
    assert sorted(expected) == ["bright", "dark"]
    for volume in expected.values():
        assert volume.geometry == image.geometry
        assert volume.array.dtype == np.float32
        assert volume.array.max() == 1.0
    # The same head stored with other axes: i to the back, j to the top, k to the left.
    moved = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])

    def turn(volume: Volume) -> Volume:
        i, j, k = volume.geometry.size
        array = volume.array.transpose(2, 0, 1)[::-1, :, ::-1]
        first = volume.geometry.index_to_world((i - 1, j - 1, 0))
        return Volume(array, Geometry((j, k, i), (1.0,) * 3, tuple(first), moved))

    turned = turn(image)
    found = explain(fitted, [seen(turned, PreprocessConfig())], turn(labels), BOTH, window=(16, 16, 16))
    for key, volume in found.items():
        assert volume.geometry == turned.geometry
        np.testing.assert_allclose(volume.array, turn(expected[key]).array, atol=1e-4)


def test_maps_of_an_interpolated_image_lie_on_its_own_grid(fitted: DIANet) -> None:
    image = volumes(RAS, spacing=2.0)
    region = seen(image, PreprocessConfig())
    assert region.prepared.interpolated
    found = explain(fitted, [region], labelled(fitted, image), BOTH, window=(32, 32, 32))
    assert found["bright"].geometry == image.geometry
    assert found["bright"].array.max() == 1.0


def test_a_structure_larger_than_the_window_is_covered_by_several(fitted: DIANet) -> None:
    image = volumes(RAS, shape=(16, 16, 40))
    labels = labelled(fitted, image)
    labels.array[4:12, 4:12, 1:39] = 1
    found = explain(fitted, [seen(image)], labels, ["bright"], window=(16, 16, 16))["bright"].array
    assert found.max() == 1.0
    assert found.shape == (16, 16, 40)
    assert found[:, :, :16].any()
    assert found[:, :, 24:].any()


def test_a_region_is_explained_by_itself_and_the_rest_is_zero(fitted: DIANet) -> None:
    image = volumes(RAS, shape=(16, 16, 40))
    labels = labelled(fitted, image)
    region = seen(image, region=columns(image, 0, 16))
    found = explain(fitted, [region], labels, BOTH, window=(16, 16, 16))
    part = image.geometry.crop((0, 0, 0), (16, 16, 16))
    alone = replace(image, array=image.array[:, :, :16], geometry=part)
    cut = alone.with_array(labels.array[:, :, :16])
    expected = explain(fitted, [seen(alone)], cut, BOTH, window=(16, 16, 16))
    for key, volume in found.items():
        np.testing.assert_allclose(volume.array[:, :, :16], expected[key].array, atol=1e-5)
        assert not volume.array[:, :, 16:].any()


def test_each_side_is_explained_where_it_was_looked_for(fitted: DIANet) -> None:
    image = volumes(RAS, shape=(16, 16, 40))
    image.array[:, :, 24:] += case(torch.Generator().manual_seed(9))[0][0, 0].numpy()
    labels = image.with_array(np.zeros((16, 16, 40), np.uint8))  # nothing was found
    left, right = seen(image, region=columns(image, 0, 16)), seen(image, region=columns(image, 24, 40))
    regions = [
        replace(left, structures=(structure(1, "bright_left"), structure(2, "dark_left"))),
        replace(right, structures=(structure(3, "bright_right"), structure(4, "dark_right"))),
    ]
    keys = ["bright_left", "bright_right", "dark_nowhere"]
    found = explain(fitted, regions, labels, keys, window=(16, 16, 16))
    assert list(found) == keys
    assert not found["bright_left"].array[:, :, 16:].any()
    assert not found["bright_right"].array[:, :, :24].any()
    assert not found["dark_nowhere"].array.any()


def test_images_smaller_than_the_window_are_padded(fitted: DIANet) -> None:
    whole = volumes(RAS)
    image = replace(whole, array=whole.array[:7], geometry=whole.geometry.crop((0, 0, 0), (16, 16, 7)))
    labels = image.with_array(labelled(fitted, whole).array[:7])
    found = explain(fitted, [seen(image)], labels, ["bright"], window=(16, 16, 16))
    assert found["bright"].array.shape == (7, 16, 16)


def test_a_2d_network_explains_slice_by_slice() -> None:
    torch.manual_seed(0)
    model = DIANet(CONFIG.model_copy(update={"spatial_dims": 2})).eval()
    image = volumes(RAS)
    labels = image.with_array(np.zeros((16, 16, 16), np.uint8))
    labels.array[3:6, 4:9, 4:9] = 1
    found = explain(model, [seen(image)], labels, ["bright"], window=(16, 16, 1))["bright"].array
    assert not found[:3].any()
    assert not found[6:].any()
    assert gradcam(model, torch.from_numpy(image.array[None, None, 4]), 1).shape == (16, 16)


def test_cancelling_stops_between_structures(fitted: DIANet) -> None:
    image = volumes(RAS)
    steps: list[tuple[int, int]] = []
    with pytest.raises(Cancelled):
        explain(
            fitted,
            [seen(image)],
            labelled(fitted, image),
            BOTH,
            window=(16, 16, 16),
            progress=lambda done, total: steps.append((done, total)),
            cancel=lambda: bool(steps),
        )
    assert steps == [(1, 2)]
