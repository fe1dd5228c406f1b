# SPDX-License-Identifier: Apache-2.0
"""One pass read by a one-pass head: maps of a window, blended windows, a prediction."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from DIANetLib.acwi.error_calibration import ErrorCalibration
from DIANetLib.acwi.quality import QualityCurve, QualityModel
from DIANetLib.bundle_schema import OnePassSpec
from DIANetLib.errors import DIANetError
from DIANetLib.inference.engine import Segmenter, usual_samples
from DIANetLib.inference.grid import GridRun
from DIANetLib.inference.meter import Meter
from DIANetLib.inference.one_pass import one_pass_maps
from DIANetLib.inference.sampling import sample_window
from DIANetLib.inference.sliding_window import Blend, gaussian_weights, plan_windows
from DIANetLib.labelling import confidence, labels_of
from DIANetLib.network import SegmentationOutput
from DIANetLib.network.one_pass import OnePassHead
from Testing.inference.fakes import FakeModel, tiny_config, tiny_network, volume

CLOSE = {"atol": 1e-5, "rtol": 0}


def random_head(features: int = 4, classes: int = 3, *, dims: int = 3, seed: int = 5) -> OnePassHead:
    torch.manual_seed(seed)
    head = OnePassHead(dims, features, classes, channels=6, depth=1)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.4)
    return head.eval().requires_grad_(False)


def one_pass_model(**fields) -> FakeModel:
    return FakeModel(head=random_head(), one_pass=OnePassSpec(channels=6, depth=1), **fields)


def _image(shape=(8, 10, 12)):
    return torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(3))


def test_maps_of_a_window_are_what_the_head_says_of_the_mean_pass() -> None:
    network, head, x = tiny_network(), random_head(), _image()
    maps = sample_window(network, x, samples=0, temperature=1.7, head=head)
    with torch.no_grad():
        output = network.decode(network.encode(x), keep_features=True).segmented
        told = head(output.features, output.logits() / 1.7)
    p = told.probabilities[0]
    torch.testing.assert_close(maps.mean_probability, p, **CLOSE)
    total = -(p * p.clamp_min(1e-30).log()).sum(0)
    torch.testing.assert_close(maps.total, total, **CLOSE)
    torch.testing.assert_close(maps.epistemic, total * told.epistemic_share[0], **CLOSE)
    torch.testing.assert_close(maps.aleatoric + maps.epistemic, maps.total, **CLOSE)
    torch.testing.assert_close(maps.variance, told.variance[0], **CLOSE)
    torch.testing.assert_close(maps.error, told.error[0], **CLOSE)
    torch.testing.assert_close(maps.heteroscedastic, output.log_variance.exp()[0].mean(0), **CLOSE)
    assert maps.has_parts
    assert maps.samples == 1


def test_a_new_head_changes_nothing_of_the_plain_pass() -> None:
    network, x = tiny_network(), _image()
    plain = sample_window(network, x, samples=0, temperature=1.3)
    read = sample_window(network, x, samples=0, temperature=1.3, head=OnePassHead(3, 4, 3))
    torch.testing.assert_close(read.mean_probability, plain.mean_probability, **CLOSE)
    torch.testing.assert_close(read.total, plain.total, **CLOSE)
    p = plain.mean_probability
    torch.testing.assert_close(read.error, 1 - confidence(p, labels_of(p)), **CLOSE)


def test_samples_go_without_the_head() -> None:
    network, x = tiny_network(), _image()
    sampled = sample_window(network, x, samples=3)
    beside = sample_window(network, x, samples=3, head=random_head())
    assert beside.error is None
    torch.testing.assert_close(beside.mean_probability, sampled.mean_probability, rtol=0, atol=0)


def test_a_part_of_a_window_is_read_as_if_it_ended_there() -> None:
    network, head, x = tiny_network(), random_head(), _image()
    valid = (slice(1, 7), slice(0, 10), slice(2, 11))
    maps = sample_window(network, x, samples=0, head=head, valid=valid)
    with torch.no_grad():
        output = network.decode(network.encode(x), keep_features=True).segmented
        where = (slice(None), slice(None), *valid)
        told = head(output.features[where], output.logits()[where])
    torch.testing.assert_close(maps.error, told.error[0], **CLOSE)
    assert maps.mean_probability.shape == (3, 6, 10, 9)


def test_a_two_dimensional_network_has_its_head_too() -> None:
    network = tiny_network(tiny_config(spatial_dims=2))
    maps = sample_window(network, _image((8, 10)), samples=0, head=random_head(dims=2))
    assert maps.error is not None
    assert maps.error.shape == (8, 10)


def test_probabilities_that_are_not_finite_are_refused_with_a_sentence() -> None:
    logits = torch.full((1, 3, 2, 2, 2), float("nan"))
    output = SegmentationOutput(logits, features=torch.zeros(1, 4, 2, 2, 2))
    with pytest.raises(DIANetError, match="not finite numbers"):
        one_pass_maps(random_head(), output)


def test_windows_are_blended_as_means_over_samples_are() -> None:
    """By hand: weighted means of p, p^2 + variance, aleatoric and error; the rest follows from these."""
    shape, model = (8, 20, 8), one_pass_model(window=(8, 12, 8))
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    run = GridRun(model, image, torch.device("cpu"), samples=0, one_pass=True)
    windows = run.windows
    assert len(windows) > 1
    found = run.maps(Meter(None, None))
    weight, p, square = torch.zeros(shape), torch.zeros(3, *shape), torch.zeros(3, *shape)
    aleatoric, error = torch.zeros(shape), torch.zeros(shape)
    for window in windows:
        part = sample_window(model.net, window.cut(torch.from_numpy(image))[None], samples=0, head=model.head)
        w = gaussian_weights(window.size)
        weight[window.slices] += w
        p[(slice(None), *window.slices)] += w * part.mean_probability
        square[(slice(None), *window.slices)] += w * (part.variance + part.mean_probability**2)
        aleatoric[window.slices] += w * part.aleatoric
        error[window.slices] += w * part.error
    p, square, aleatoric, error = (values / weight for values in (p, square, aleatoric, error))
    total = -(p * p.clamp_min(1e-30).log()).sum(0)
    torch.testing.assert_close(found.mean_probability, p, **CLOSE)
    torch.testing.assert_close(found.variance, (square - p**2).clamp_min(0), **CLOSE)
    torch.testing.assert_close(found.total, total, **CLOSE)
    torch.testing.assert_close(found.epistemic, total - aleatoric, **CLOSE)
    torch.testing.assert_close(found.error, error, **CLOSE)
    assert bool((found.epistemic >= 0).all())


def test_a_blend_without_head_has_no_error_map() -> None:
    blend = Blend(2, (4, 4, 4), 1)
    (window,) = plan_windows((4, 4, 4), (4, 4, 4), (2, 2, 2))
    plain = sample_window(tiny_network(tiny_config(classes=2)), torch.zeros(1, 1, 4, 4, 4), samples=0)
    blend.add(window, plain)
    assert blend.finish().error is None


def test_one_pass_fills_every_map_of_a_prediction() -> None:
    model = one_pass_model()
    found = Segmenter(model, "cpu").segment([volume((14, 16, 12))], samples=0, keep_probabilities=True)
    assert found.one_pass
    assert found.uncertainty_from == "one-pass"
    assert found.samples == 0
    total, aleatoric, epistemic = (
        found.uncertainty[kind].array for kind in ("total", "aleatoric", "epistemic")
    )
    assert epistemic.max() > 1e-3
    np.testing.assert_allclose(aleatoric + epistemic, total, atol=1e-5)
    assert max(v.array.max() for v in found.variance.values()) > 1e-4
    plain = Segmenter(FakeModel(net=model.net), "cpu").segment([volume((14, 16, 12))], samples=0)
    assert not plain.one_pass
    assert plain.uncertainty_from == "plain"
    assert plain.uncertainty["epistemic"].array.max() == 0
    assert np.abs(found.error_probability.array - plain.error_probability.array).max() > 1e-3


def test_the_error_probability_has_a_correction_of_its_own() -> None:
    model = one_pass_model(error_calibration=ErrorCalibration((9.0, 9.0, 9.0), (1.0, 1.0, 1.0)))
    image = [volume((14, 16, 12))]
    found = Segmenter(model, "cpu").segment(image, samples=0)
    correction = ErrorCalibration((0.0, 1.0, -1.0), (1.0, 0.5, 2.0))
    model.one_pass = OnePassSpec(channels=6, depth=1, error_calibration=correction)
    corrected = Segmenter(model, "cpu").segment(image, samples=0)
    expected = correction.apply(found.error_probability.array, found.labels.array)
    np.testing.assert_allclose(corrected.error_probability.array, expected, atol=1e-6)


def test_one_pass_expects_a_dice_from_its_own_estimate() -> None:
    curve = QualityCurve(0.0, (1.0,), (1.0, 0.5), (-0.3, 0.2))
    quality = QualityModel(("trust",), {"head": curve, "tail": curve}, samples=0)
    model = one_pass_model()
    model.one_pass = OnePassSpec(channels=6, depth=1, quality=quality)
    found = Segmenter(model, "cpu").segment([volume((14, 16, 12))], samples=0, keep_probabilities=True)
    assert found.probabilities is not None
    wrong, labels = found.error_probability.array.astype(float), found.labels.array
    background = 1 - sum(v.array.astype(float) for v in found.probabilities.values())
    answer = np.choose(labels, [background, *(v.array for v in found.probabilities.values())])
    seen = 0
    for structure in found.structures:
        own, told = labels == structure.value, found.quality[structure.key]
        if told is None:
            continue
        seen += 1
        share = np.clip(found.probabilities[structure.key].array / (1 - answer), 0, 1)
        right, false, missed = (1 - wrong[own]).sum(), wrong[own].sum(), (wrong * share)[~own].sum()
        assert told.trust == pytest.approx(2 * right / (2 * right + false + missed), rel=1e-4)
        assert told.agreement is None
        estimate = quality.estimate(structure.key, told)
        assert estimate is not None
        assert found.expected_dice[structure.key] == estimate.value
        assert found.dice_interval[structure.key] == estimate.interval
    assert seen


def test_without_a_number_of_samples_a_model_with_a_head_reads_one_pass_and_others_draw_ten() -> None:
    assert usual_samples(FakeModel()) == 10
    assert usual_samples(one_pass_model()) == 0
    image = [volume((14, 16, 12))]
    assert Segmenter(one_pass_model(), "cpu").segment(image, samples=None).uncertainty_from == "one-pass"
    assert Segmenter(FakeModel(), "cpu").segment(image, samples=None).samples == 10


def test_samples_refine_a_model_with_a_head() -> None:
    image = [volume((14, 16, 12))]
    model = one_pass_model()
    found = Segmenter(model, "cpu").segment(image, samples=3)
    without = Segmenter(FakeModel(net=model.net), "cpu").segment(image, samples=3)
    assert found.uncertainty_from == "samples"
    np.testing.assert_array_equal(
        found.uncertainty["epistemic"].array, without.uncertainty["epistemic"].array
    )
