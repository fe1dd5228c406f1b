# SPDX-License-Identifier: Apache-2.0
"""From volumes to a prediction."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from DIANetLib.acwi.error_calibration import ErrorCalibration
from DIANetLib.acwi.explain import explain, gradcam
from DIANetLib.acwi.familiarity import Familiarity
from DIANetLib.acwi.metrics import dice
from DIANetLib.acwi.quality import QualityCurve, QualityModel
from DIANetLib.bundle_schema import LocaliserSpec, ModalitySpec
from DIANetLib.errors import BundleError, Cancelled, DeviceError, InputError
from DIANetLib.inference import memory
from DIANetLib.inference.engine import Segmenter
from DIANetLib.inference.grid import GridRun
from DIANetLib.inference.meter import Meter
from DIANetLib.inference.prediction import Box
from DIANetLib.inference.sampling import sample_generators
from DIANetLib.inference.sliding_window import gaussian_weights, plan_windows
from DIANetLib.network import FusionConfig
from DIANetLib.preprocess import PreprocessConfig, normalise
from DIANetLib.volume import Geometry, Volume
from Testing.inference.fakes import (
    RAS,
    FakeModel,
    ThresholdNetwork,
    structures,
    tiny_config,
    tiny_network,
    volume,
)

T1 = ModalitySpec(name="T1", aliases=("T1w",))
FLAIR = ModalitySpec(name="FLAIR")


def _naive(network, array, window, samples, seed, temperature):
    """Full forward passes, all kept, blended in float64: mean p, total, aleatoric, variance."""
    windows = plan_windows(array.shape, window, (2, 2, 2))
    weight = np.zeros(array.shape)
    sums = [np.zeros((3, *array.shape)), np.zeros((3, *array.shape)), np.zeros(array.shape)]
    for w in windows:
        x = w.cut(torch.from_numpy(array)[None])[None]
        with torch.no_grad():
            passes = [
                network(x, generators=sample_generators(seed, w.index, [t])).segmented.probabilities(
                    temperature
                )
                for t in range(samples)
            ]
        p = torch.cat(passes).double().numpy()[(slice(None), slice(None), *w.valid)]
        g = gaussian_weights(w.size).double().numpy() if len(windows) > 1 else np.ones(w.size)
        weight[w.slices] += g
        sums[0][(slice(None), *w.slices)] += g * p.mean(0)
        sums[1][(slice(None), *w.slices)] += g * (p**2).mean(0)
        sums[2][w.slices] += g * (-(p * np.log(p)).sum(1)).mean(0)
    mean, square, aleatoric = (s / weight for s in sums)
    return mean, -(mean * np.log(mean)).sum(0), aleatoric, square - mean**2


@pytest.mark.parametrize("shape", [(19, 22, 24), (30, 17, 41)], ids=["one window", "several windows"])
def test_the_engine_equals_a_naive_loop_of_full_forward_passes(shape):
    model = FakeModel(temperature=1.4)
    image = volume(shape)
    prediction = Segmenter(model, "cpu").segment([image], samples=4, seed=9, keep_probabilities=True)
    plan = memory.make_plan(
        model.net.config, shape, (16, 16, 16), torch.device("cpu"), samples=4, free_bytes=None
    )
    assert (len(plan_windows(shape, plan.window, (2, 2, 2))) == 1) == (shape == (19, 22, 24))
    mean, total, aleatoric, variance = _naive(model.net, normalise(image.array), plan.window, 4, 9, 1.4)

    close = {"atol": 1e-5, "rtol": 0}
    for n, key in enumerate(("head", "tail"), start=1):
        np.testing.assert_allclose(prediction.probabilities[key].array, mean[n], **close)
        np.testing.assert_allclose(prediction.variance[key].array, variance[n], **close)
    np.testing.assert_allclose(prediction.uncertainty["total"].array, total, **close)
    np.testing.assert_allclose(prediction.uncertainty["aleatoric"].array, aleatoric, **close)
    np.testing.assert_allclose(prediction.uncertainty["epistemic"].array, total - aleatoric, **close)
    labels = np.where(mean[0] >= 0.5, 0, 1 + mean[1:].argmax(0))
    chosen = np.take_along_axis(mean, labels[None], 0)[0]
    np.testing.assert_array_equal(prediction.labels.array, labels)
    np.testing.assert_allclose(prediction.error_probability.array, 1 - chosen, **close)
    assert prediction.uncertainty["heteroscedastic"].array.min() > 0
    assert prediction.warnings == ()


@pytest.mark.parametrize("shape", [(19, 22, 24), (30, 17, 41)], ids=["one window", "several windows"])
def test_agreement_is_the_mean_dice_between_whole_segmentations_of_the_samples(shape):
    model, image, count = FakeModel(tiny_network(seed=1)), volume(shape), 4
    prediction = Segmenter(model, "cpu").segment([image], samples=count, seed=9)
    plan = memory.make_plan(
        model.net.config, shape, (16, 16, 16), torch.device("cpu"), samples=count, free_bytes=None
    )
    windows = plan_windows(shape, plan.window, (2, 2, 2))
    array = torch.from_numpy(normalise(image.array))
    # Along each axis a voxel is of the window whose middle is nearest to it, the later one of two.
    middles = [{w.start[n]: w.start[n] + (w.size[n] - 1) / 2 for w in windows} for n in range(3)]
    owner = [
        np.array([min(reversed(at), key=lambda s: abs(at[s] - x)) for x in range(shape[n])])
        for n, at in enumerate(middles)
    ]
    segmented = np.full((count, *shape), 99, np.uint8)
    for w in windows:
        with torch.no_grad():
            passes = [
                model.net(w.cut(array[None])[None], generators=sample_generators(9, w.index, [t]))
                for t in range(count)
            ]
        labels = torch.cat([p.segmented.probabilities(1.0) for p in passes]).argmax(1)
        labels = labels.numpy()[(slice(None), *w.valid)]
        k, j, i = (owner[n][part] == w.start[n] for n, part in enumerate(w.slices))
        own = k[:, None, None] & j[:, None] & i
        segmented[(slice(None), *w.slices)][:, own] = labels[:, own]
    assert {1, 2} <= set(np.unique(segmented)) <= {0, 1, 2}
    for n, key in enumerate(("head", "tail"), start=1):
        pairs = itertools.combinations(segmented == n, 2)
        expected = np.mean([dice(a, b) for a, b in pairs])
        assert prediction.quality[key].agreement == pytest.approx(expected, abs=1e-6)
        told, own = prediction.quality[key], prediction.labels.array == n
        assert told.closed_form == prediction.expected_dice[key]
        assert told.confidence == prediction.confidence[key]
        assert told.volume_ml == pytest.approx(prediction.volumes_ml[key])
        variance = prediction.variance[key].array.astype(float)
        assert told.variation == pytest.approx(variance.sum() / own.sum())


def test_a_models_quality_turns_agreement_into_expected_dice_with_an_interval():
    curve = QualityCurve(0.0, (1.0,), (0.0, 0.0), (-0.1, 0.2))
    plain, fitted = (
        Segmenter(FakeModel(tiny_network(seed=1), quality=quality), "cpu").segment([volume()], samples=3)
        for quality in (None, QualityModel(("agreement",), {"head": curve}))
    )
    agreement = plain.quality["head"].agreement
    assert fitted.expected_dice["head"] == pytest.approx(agreement)
    assert fitted.dice_interval["head"] == pytest.approx((agreement - 0.1, agreement + 0.2))
    # No curve, no interval: the closed form stays.
    assert fitted.expected_dice["tail"] == plain.expected_dice["tail"]
    assert "tail" not in fitted.dice_interval
    assert dict(plain.dice_interval) == {}


def test_a_models_error_calibration_corrects_the_error_probability_by_class():
    correction = ErrorCalibration((-1.0, 0.5, 2.0), (1.0, 1.0, 0.5))
    plain, corrected = (
        Segmenter(FakeModel(tiny_network(seed=1), error_calibration=c), "cpu").segment([volume()], samples=3)
        for c in (None, correction)
    )
    np.testing.assert_array_equal(corrected.labels.array, plain.labels.array)
    np.testing.assert_allclose(
        corrected.error_probability.array,
        correction.apply(plain.error_probability.array, plain.labels.array),
        atol=1e-6,
    )


class _Judge:
    """Unfamiliar on the right; keeps what it judged."""

    def __init__(self) -> None:
        self.seen = []

    def judge(self, features, region=""):
        self.seen.append(features)
        return Familiarity(9.0, "unfamiliar" if region != "left" else "familiar", region, "T1")


@pytest.mark.parametrize("shape", [(16, 16, 16), (20, 22, 40)], ids=["one window", "several windows"])
def test_familiarity_is_judged_by_what_the_encoder_saw_whatever_the_samples(shape):
    judges = [_Judge(), _Judge()]
    for judge, samples in zip(judges, (0, 3), strict=True):
        model = FakeModel(tiny_network(seed=1), familiarity=judge)
        prediction = Segmenter(model, "cpu").segment([volume(shape)], samples=samples)
        assert [one.grade for one in prediction.familiarity] == ["unfamiliar"]
        assert [text for text in prediction.warnings if "does not look like" in text] == [
            "The image does not look like what this model was fitted on (T1): do not trust the result without"
            " checking."
        ]
    (plain,), (sampled,) = (judge.seen for judge in judges)
    assert plain.size == 2 * (6 + 4)  # means and deviations of the coarsest features and of one skip
    np.testing.assert_allclose(plain, sampled, rtol=1e-5, atol=1e-6)


def test_each_region_of_a_cascade_is_judged_and_the_localiser_is_not():
    model, judge = _cascade(), _Judge()
    model.net, model.familiarity = tiny_network(tiny_config(classes=2)), judge
    prediction = Segmenter(model, "cpu").segment([_head()], samples=0)
    assert [(one.region, one.grade) for one in prediction.familiarity] == [
        ("left", "familiar"),
        ("right", "unfamiliar"),
    ]
    assert len(judge.seen) == 2
    assert any(text.startswith("The right region does not look like") for text in prediction.warnings)


def test_a_model_that_cannot_tell_says_nothing_of_familiarity():
    assert Segmenter(FakeModel(), "cpu").segment([volume()], samples=0).familiarity == ()


@pytest.mark.parametrize("samples", [0, 1])
def test_fewer_than_two_samples_agree_about_nothing_and_the_closed_form_stays(samples):
    quality = QualityModel(("agreement",), {"head": QualityCurve(0.0, (1.0,), (0.0, 0.0), (-1.0, 2.0))})
    found = [
        Segmenter(FakeModel(tiny_network(seed=1), quality=q), "cpu").segment([volume()], samples=samples)
        for q in (None, quality)
    ]
    assert found[0].expected_dice == found[1].expected_dice
    assert [(dict(p.quality), dict(p.dice_interval)) for p in found] == [({}, {})] * 2


def test_confidence_expected_dice_and_volumes_follow_their_formulas():
    model = FakeModel(ThresholdNetwork(0.5), structures=structures("one"))
    image = volume(spacing=(1.0, 1.02, 0.98))
    prediction = Segmenter(model, "cpu").segment([image], samples=3, keep_probabilities=True)
    mask = prediction.labels.array == 1
    p = prediction.probabilities["one"].array.astype(float)
    assert 0 < mask.sum() < mask.size
    assert prediction.confidence["one"] == pytest.approx(p[mask].mean(), abs=1e-6)
    dice = 2 * p[mask].sum() / (mask.sum() + p.sum())
    assert prediction.expected_dice["one"] == pytest.approx(dice, abs=1e-6)
    assert prediction.volumes_ml["one"] == pytest.approx(mask.sum() * 1.02 * 0.98 / 1000)


def test_equal_seeds_give_equal_results_and_others_differ():
    segmenter, image = Segmenter(FakeModel(), "cpu"), volume()
    maps = [segmenter.segment([image], samples=3, seed=s).uncertainty["epistemic"].array for s in (1, 1, 2)]
    np.testing.assert_array_equal(maps[0], maps[1])
    assert np.abs(maps[0] - maps[2]).max() > 1e-4


def test_results_lie_on_the_inputs_grid_however_it_is_turned():
    direction = Rotation.from_euler("xyz", [40, 10, -70], degrees=True).as_matrix() @ RAS
    grid = Geometry((30, 24, 12), (1.0, 1.3, 2.5), (12.0, -3.0, 40.0), direction)
    k, j, i = np.indices(grid.shape)
    points = grid.index_to_world(np.stack([i, j, k], axis=-1))
    centre = grid.index_to_world((14.5, 11.5, 5.5))
    ball = (np.linalg.norm(points - centre, axis=-1) < 10).astype(np.float32)
    model = FakeModel(ThresholdNetwork(), structures=structures("ball"))
    prediction = Segmenter(model, "cpu").segment([Volume(ball, grid)], samples=0)
    assert prediction.labels.geometry.same_grid(grid, tolerance=1e-6)
    found = prediction.labels.array == 1
    assert 2 * (found & (ball > 0)).sum() / (found.sum() + ball.sum()) > 0.9
    assert any("tilted" in warning for warning in prediction.warnings)
    for maps in (prediction.uncertainty, prediction.variance):
        assert all(m.array.shape == grid.shape and m.array.dtype == np.float32 for m in maps.values())


def test_a_region_of_interest_is_all_that_is_read():
    image = volume()
    box = Box((-12.0, -20.0, 12.0), (0.0, -10.0, 22.0))
    segmenter = Segmenter(FakeModel(), "cpu")
    prediction = segmenter.segment([image], samples=2, roi=box, keep_features=True)
    assert prediction.regions_of_interest == (box,)
    k, j, i = np.indices(image.geometry.shape)
    far = ~box.expanded(0.6).contains(image.geometry.index_to_world(np.stack([i, j, k], axis=-1)))
    for result in (prediction.labels, prediction.uncertainty["total"], prediction.error_probability):
        assert not result.array[far].any()
    assert prediction.error_probability.array.any()
    (kept,) = segmenter.kept
    assert kept.box == box
    assert kept.prepared.geometry.size == kept.prepared.size


def test_a_region_outside_of_the_image_gets_a_sentence():
    with pytest.raises(InputError, match="lies outside of the image"):
        Segmenter(FakeModel(), "cpu").segment([volume()], roi=Box((900, 900, 900), (910, 910, 910)))


def test_progress_is_monotone_and_complete_in_every_stage():
    steps = []
    Segmenter(FakeModel(), "cpu").segment([volume((30, 17, 41))], samples=3, progress=steps.append)
    stages = list(dict.fromkeys(step.stage for step in steps))
    assert stages == ["prepare", "segment", "restore"]
    for stage in stages:
        own = [step for step in steps if step.stage == stage]
        assert own[0].done == 0
        assert own[-1].done == own[-1].total
        assert all(a.done <= b.done and a.fraction <= b.fraction for a, b in itertools.pairwise(own))
    windows = len(plan_windows((30, 17, 41), (16, 16, 16), (2, 2, 2)))
    assert next(s.total for s in steps if s.stage == "segment") == 3 * windows


@pytest.mark.parametrize("after", [0, 1, 7, 40, 90])
def test_a_cancelled_run_ends_at_once_and_leaves_nothing_behind(after):
    model, asked = FakeModel(), []

    def cancel():
        asked.append(1)
        return len(asked) > after

    segmenter = Segmenter(model, "cpu")
    with pytest.raises(Cancelled):
        segmenter.segment([volume((30, 17, 41))], samples=3, cancel=cancel, keep_features=True)
    assert len(asked) == after + 1
    assert segmenter.kept == ()
    assert not any(module._forward_pre_hooks for module in model.net.modules())
    segmenter.segment([volume()], samples=1)


class _Hungry(ThresholdNetwork):
    """Runs out of memory above so many voxels times rows."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def decode(self, encoded, generators=None, heads=None):
        rows = len(generators) if generators is not None else 1
        if encoded[0, 0].numel() * rows > self.limit:
            raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 99 bytes.")
        return super().decode(encoded, generators)


def test_memory_running_out_leads_to_smaller_windows_and_a_warning():
    steps, model = [], FakeModel(_Hungry(16 * 16 * 8), structures=structures("one"))
    image = volume((30, 17, 41))
    prediction = Segmenter(model, "cpu").segment([image], samples=2, progress=steps.append)
    plain = FakeModel(ThresholdNetwork(), structures=structures("one"))
    expected = Segmenter(plain, "cpu").segment([image], samples=2)
    np.testing.assert_array_equal(prediction.labels.array, expected.labels.array)
    assert any("went on with windows of" in warning for warning in prediction.warnings)
    own = [step for step in steps if step.stage == "segment"]
    assert all(a.done <= b.done for a, b in itertools.pairwise(own))
    assert own[-1].done == own[-1].total


def test_memory_running_out_leads_to_fewer_samples_at_a_time_first():
    image = normalise(volume((8, 8, 8)).array)[None]
    run = GridRun(FakeModel(_Hungry(512 * 3)), image, torch.device("cpu"), samples=10)
    run.plan = replace(run.plan, batch=8)
    maps = run.maps(Meter())
    assert maps.samples == 10
    assert run.plan.batch == 2
    assert run.warnings == [
        "Memory ran out on cpu; went on with 4 samples at a time.",
        "Memory ran out on cpu; went on with 2 samples at a time.",
    ]


def test_memory_that_never_suffices_gets_a_sentence():
    with pytest.raises(DeviceError, match=r"does not suffice for the smallest window.*--roi"):
        Segmenter(FakeModel(_Hungry(1)), "cpu").segment([volume()], samples=1)


def test_other_errors_of_the_network_are_not_hidden():
    class Broken(ThresholdNetwork):
        def decode(self, encoded, generators=None, heads=None):
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        Segmenter(FakeModel(Broken()), "cpu").segment([volume()], samples=1)


def test_a_gpu_that_is_not_there_gets_a_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="there is no GPU to use"):
        Segmenter(FakeModel(), "cuda")


def test_a_single_slice_for_a_network_of_volumes_gets_a_sentence():
    with pytest.raises(InputError, match=r"'tiny' needs a volume, got a single slice \(24 × 22 × 1 voxels\)"):
        Segmenter(FakeModel(), "cpu").segment([volume((1, 22, 24))])


def _flat_model() -> FakeModel:
    config = PreprocessConfig(spacing_mm=(1.0, 1.0, None))
    return FakeModel(tiny_network(tiny_config(spatial_dims=2)), window=(16, 16, 1), preprocess=config)


@pytest.mark.parametrize("shape", [(1, 20, 22), (1, 40, 41)], ids=["one window", "several windows"])
def test_a_network_of_slices_reads_a_single_slice(shape):
    prediction = Segmenter(_flat_model(), "cpu").segment([volume(shape)], samples=3)
    assert prediction.labels.array.shape == shape
    assert prediction.uncertainty["epistemic"].array.max() > 0


def test_a_network_of_slices_reads_the_slices_of_a_volume_one_by_one():
    model, image = _flat_model(), volume((3, 20, 22), spacing=(1.0, 1.0, 5.0))
    prediction = Segmenter(model, "cpu").segment([image], samples=0, keep_probabilities=True)
    x = torch.from_numpy(normalise(image.array))[:, None]
    with torch.no_grad():
        expected = model.net(x).segmented.probabilities()[:, 1].numpy()
    np.testing.assert_allclose(prediction.probabilities["head"].array, expected, atol=1e-5)


def test_a_slice_of_another_plane_gets_a_sentence_from_a_network_of_slices():
    coronal = volume((1, 20, 22), direction=RAS[:, [0, 2, 1]])
    with pytest.raises(InputError, match="reads axial slices, got a single slice of another plane"):
        Segmenter(_flat_model(), "cpu").segment([coronal])


def _two_modalities() -> FakeModel:
    return FakeModel(
        ThresholdNetwork(0.5, tiny_config(classes=2, modalities=2, heteroscedastic=False)),
        structures=structures("one"),
        modalities=(FLAIR, T1),
    )


def test_a_wrong_number_of_modalities_gets_a_sentence():
    with pytest.raises(
        InputError, match=r"expected 2 modalities \(FLAIR, T1\) for model 'tiny', got 1 \(T1w\)"
    ):
        Segmenter(_two_modalities(), "cpu").segment([volume(modality="T1w")])


def test_modalities_go_by_name_where_all_are_named():
    t1, flair = volume(seed=1, modality="t1W"), volume(seed=2, modality="flair")
    by_name = Segmenter(_two_modalities(), "cpu").segment([t1, flair], samples=0)
    in_order = [volume(seed=2), volume(seed=1)]
    by_order = Segmenter(_two_modalities(), "cpu").segment(in_order, samples=0)
    np.testing.assert_array_equal(by_name.labels.array, by_order.labels.array)


def test_a_modality_given_twice_gets_a_sentence():
    with pytest.raises(InputError, match=r"'T1w' was given twice; model 'tiny' reads FLAIR, T1"):
        Segmenter(_two_modalities(), "cpu").segment([volume(modality="T1"), volume(modality="T1w")])


def _optional_modalities() -> FakeModel:
    config = tiny_config(modalities=3, modality_fusion=FusionConfig(channels=2))
    specs = tuple(ModalitySpec(name=name, required=False) for name in ("T1", "T2", "FLAIR"))
    return FakeModel(tiny_network(config), modalities=specs)


@pytest.mark.parametrize("given", [(2,), (1, 2), (2, 0)], ids=["one", "two", "two in another order"])
def test_a_subset_of_optional_modalities_is_read_as_the_network_was_told(given):
    model = _optional_modalities()
    names = ("T1", "T2", "FLAIR")
    images = {n: volume((16, 16, 16), seed=n, modality=names[n]) for n in given}
    segmenter = Segmenter(model, "cpu")
    prediction = segmenter.segment(
        list(images.values()), samples=2, seed=3, keep_features=True, keep_probabilities=True
    )
    x = torch.full((1, 3, 16, 16, 16), torch.nan)  # what stands where nothing was given has no influence
    for n, image in images.items():
        x[0, n] = torch.from_numpy(normalise(image.array))
    available = torch.tensor([[n in given for n in range(3)]])
    with torch.no_grad():
        passes = [
            model.net(
                x, available=available, generators=sample_generators(3, 0, [t])
            ).segmented.probabilities()
            for t in range(2)
        ]
    expected = torch.cat(passes).mean(0)
    np.testing.assert_allclose(prediction.probabilities["head"].array, expected[1].numpy(), atol=1e-5)
    missing = tuple(name for n, name in enumerate(names) if n not in given)
    assert prediction.missing_modalities == missing
    assert prediction.warnings[0].startswith(f"{' and '.join(missing)} w")
    assert segmenter.kept[0].available == tuple(n in given for n in range(3))


def test_all_optional_modalities_together_are_nothing_to_warn_of():
    images = [volume(seed=n) for n in range(3)]
    prediction = Segmenter(_optional_modalities(), "cpu").segment(images, samples=0)
    assert (prediction.missing_modalities, prediction.warnings) == ((), ())


def test_grad_cam_reads_the_modalities_that_are_there():
    model, image = _optional_modalities(), volume((16, 16, 16), modality="T2")
    segmenter = Segmenter(model, "cpu")
    prediction = segmenter.segment([image], samples=0, keep_features=True)
    found = explain(model.net, segmenter.kept, prediction.labels, ["head"], window=model.window)["head"]
    x = torch.full((1, 3, 16, 16, 16), 7.0)
    x[0, 1] = torch.from_numpy(normalise(image.array))
    mask = torch.from_numpy(prediction.labels.array == 1)
    there = torch.tensor([[False, True, False]])
    expected = gradcam(model.net, x, 1, mask=mask if mask.any() else None, available=there)
    np.testing.assert_allclose(found.array, expected.numpy(), atol=1e-5)


def test_a_localiser_reads_what_is_there_of_its_own_modalities():
    locator = FakeModel(
        ThresholdNetwork(0.5, tiny_config(classes=2, heteroscedastic=False)),
        structures=structures("one"),
        modalities=(ModalitySpec(name="FLAIR"),),
    )
    model = _optional_modalities()
    model.localiser = LocaliserSpec(model="where", structures=("one",), minimum_ml=0.0)
    model.localiser_model = locator
    image = volume((80, 20, 20), modality="FLAIR")
    prediction = Segmenter(model, "cpu").segment([image], samples=0)
    assert prediction.localiser is not None
    assert prediction.missing_modalities == ("T1", "T2")


@pytest.mark.parametrize(("frames", "why"), [(("1.2", "1.2"), "agree"), ((None, "1.2"), "supposing")])
def test_modalities_on_different_grids_are_resampled_with_a_warning(frames, why):
    first = volume(frame_of_reference=frames[0], name="first")
    second = volume((10, 11, 12), spacing=(2.0, 2.0, 2.0), frame_of_reference=frames[1], name="second")
    prediction = Segmenter(_two_modalities(), "cpu").segment([first, second], samples=0)
    assert prediction.geometry == first.geometry
    (warning,) = prediction.warnings
    assert "'second' and 'first' are on different grids" in warning
    assert why in warning


def test_modalities_of_different_frames_of_reference_get_a_sentence():
    first = volume(frame_of_reference="1.2")
    second = volume((10, 11, 12), spacing=(2.0, 2.0, 2.0), frame_of_reference="1.3")
    with pytest.raises(InputError, match=r"frames of reference differ.*Register them first"):
        Segmenter(_two_modalities(), "cpu").segment([first, second])


def test_modalities_that_do_not_overlap_get_a_sentence():
    second = volume()
    away = replace(second.geometry, origin=(500.0, 0.0, 0.0))
    with pytest.raises(InputError, match="do not overlap"):
        Segmenter(_two_modalities(), "cpu").segment([volume(), replace(second, geometry=away)])


def test_negative_numbers_of_samples_get_a_sentence():
    with pytest.raises(InputError, match="must be 0 or more, got -1"):
        Segmenter(FakeModel(), "cpu").segment([volume()], samples=-1)


# The cascade: bright ellipsoids in a dim body, a localiser that knows brightness, a model that knows it too.


def _head(sides=("left", "right")) -> Volume:
    grid = Geometry((60, 50, 40), (2.0, 2.0, 2.0), (60.0, 50.0, -40.0), RAS)
    k, j, i = np.indices(grid.shape)
    points = grid.index_to_world(np.stack([i, j, k], axis=-1))
    array = np.random.default_rng(0).normal(0, 0.05, grid.shape)
    array += np.linalg.norm(points / (50, 45, 35), axis=-1) < 1
    for side in sides:
        centre = np.array([26.0 if side == "left" else -24.0, 5.0, 0.0])
        array += 3 * (np.linalg.norm((points - centre) / (8, 16, 8), axis=-1) < 1)
    return Volume(array.astype(np.float32), grid, name="head")


def _cascade(instances="left-right", minimum_ml=0.5, keys=("bright",)) -> FakeModel:
    localiser = FakeModel(
        ThresholdNetwork(2.5),
        name="where",
        structures=structures("bright"),
        preprocess=PreprocessConfig(spacing_mm=(2.0, 2.0, 2.0), clip_percentiles=(0, 100)),
        window=(64, 64, 64),
    )
    spec = LocaliserSpec(
        model="where", structures=keys, instances=instances, margin_mm=6.0, minimum_ml=minimum_ml
    )
    return FakeModel(
        ThresholdNetwork(1.0),
        structures=structures("blob"),
        preprocess=PreprocessConfig(spacing_mm=(2.0, 2.0, 2.0)),
        localiser=spec,
        localiser_model=localiser,
    )


def test_sides_of_a_cascade_take_the_curve_of_the_models_own_structure():
    model = _cascade()
    curve = QualityCurve(-1.0, (1.0,), (0.0, 0.0), (-1.0, 2.0))
    model.quality = QualityModel(("closed_form",), {"blob": curve})
    prediction = Segmenter(model, "cpu").segment([_head()], samples=2)
    assert set(prediction.dice_interval) == {"blob_left", "blob_right"}
    for key, told in prediction.quality.items():
        assert prediction.expected_dice[key] == model.quality.estimate("blob", told).value


def test_a_cascade_segments_both_sides_as_structures_of_their_own():
    head, steps = _head(), []
    prediction = Segmenter(_cascade(), "cpu").segment([head], samples=2, progress=steps.append)
    assert [(s.value, s.key) for s in prediction.structures] == [(1, "blob_left"), (2, "blob_right")]
    assert prediction.localiser.name == "where"
    left, right = prediction.regions_of_interest
    assert left.center[0] == pytest.approx(26, abs=2)
    assert right.center[0] == pytest.approx(-24, abs=2)
    bright = head.array > 2
    x = head.geometry.index_to_world(np.argwhere(bright)[:, ::-1])[:, 0]
    np.testing.assert_array_equal(prediction.labels.array[bright], np.where(x > 0, 1, 2))
    assert (prediction.labels.array > 0).sum() == bright.sum()
    assert list(dict.fromkeys(step.stage for step in steps)) == ["prepare", "localise", "segment", "restore"]
    assert set(prediction.timings) == {"prepare", "localise", "segment", "restore"}


def test_a_side_that_is_not_there_is_listed_as_empty_with_a_warning():
    prediction = Segmenter(_cascade(), "cpu").segment([_head(("right",))], samples=0)
    assert prediction.volumes_ml["blob_left"] == 0
    assert prediction.confidence["blob_left"] is None
    assert prediction.expected_dice["blob_left"] is None
    assert prediction.volumes_ml["blob_right"] > 1
    assert any("left side" in warning for warning in prediction.warnings)


def test_nothing_found_by_the_localiser_gets_a_sentence():
    with pytest.raises(InputError, match=r"Blob was not found in the image.*--roi"):
        Segmenter(_cascade(minimum_ml=500.0), "cpu").segment([_head()])


def test_a_single_structure_keeps_its_name():
    prediction = Segmenter(_cascade("single"), "cpu").segment([_head(("left",))], samples=0)
    assert [s.key for s in prediction.structures] == ["blob"]
    assert len(prediction.regions_of_interest) == 1


def test_a_region_of_interest_or_a_crop_skips_the_localiser():
    model = _cascade()
    box = Box((10.0, -15.0, -15.0), (42.0, 25.0, 15.0))
    prediction = Segmenter(model, "cpu").segment([_head()], samples=0, roi=box)
    assert [s.key for s in prediction.structures] == ["blob"]
    crop = _head().array[10:30, 10:35, 5:30]
    grid = Geometry((25, 25, 20), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), RAS)
    prediction = Segmenter(model, "cpu").segment([Volume(crop, grid)], samples=0)
    assert [s.key for s in prediction.structures] == ["blob"]
    assert model.localiser_model.net.encoded == 0
    assert prediction.localiser is None


def test_a_localiser_that_does_not_know_the_structure_gets_a_sentence():
    with pytest.raises(BundleError, match=r"looks for dark, which its localiser 'where' does not know"):
        Segmenter(_cascade(keys=("dark",)), "cpu").segment([_head()])
