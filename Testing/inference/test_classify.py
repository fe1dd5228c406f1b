# SPDX-License-Identifier: Apache-2.0
"""Classifying whole images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import scipy.stats
import torch

from DIANetLib.bundle_schema import ClassSpec, ModalitySpec
from DIANetLib.errors import Cancelled, DeviceError, InputError
from DIANetLib.inference.classification import summarise
from DIANetLib.inference.classify import Classifier, whole_image_windows
from DIANetLib.inference.sampling import sample_generators
from DIANetLib.network import ClassificationConfig, FusionConfig
from DIANetLib.preprocess import PreprocessConfig, normalise
from DIANetLib.volume import Geometry, Volume
from Testing.inference.fakes import FakeModel, tiny_config, tiny_network, volume

CLASSES = (ClassSpec(key="normal", name="Normal"), ClassSpec(key="ill", name="Ill"))
AS_IT_IS = PreprocessConfig(spacing_mm=(None, None, None), orientation="source")


@dataclass
class ClassModel(FakeModel):
    classes: tuple[ClassSpec, ...] = CLASSES


def model(*, classes=CLASSES, preprocess=None, window=(16, 16, 16), **changes) -> ClassModel:
    head = ClassificationConfig(classes=2, dropout=0.5)
    config = tiny_config(**{"classes": 0, "classification": head, **changes})
    return ClassModel(
        tiny_network(config),
        classes=classes,
        structures=(),
        preprocess=preprocess or PreprocessConfig(),
        window=window,
    )


def picture(size=(16, 16), seed=0) -> Volume:
    array = np.random.default_rng(seed).normal(size=(1, *size[::-1])).astype(np.float32)
    return Volume(array, Geometry((*size, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3)), "x-ray")


def test_probabilities_are_the_mean_over_samples_of_the_whole_image():
    what, image = model(), volume((16, 16, 16))
    found = Classifier(what, "cpu").classify([image], samples=5, seed=3).classification
    x = torch.from_numpy(normalise(image.array))[None, None]
    with torch.no_grad():
        logits = [what.net(x, generators=sample_generators(3, 0, [t])).classified.logits for t in range(5)]
    p = torch.softmax(torch.cat(logits), 1).double().numpy()
    np.testing.assert_allclose(found.probabilities, p.mean(0), atol=1e-6)
    np.testing.assert_allclose(found.variance, p.var(0), atol=1e-6)
    assert found.total == pytest.approx(scipy.stats.entropy(p.mean(0)), abs=1e-6)
    assert found.aleatoric == pytest.approx(scipy.stats.entropy(p, axis=1).mean(), abs=1e-6)
    assert found.epistemic == pytest.approx(found.total - found.aleatoric)
    assert found.epistemic > 1e-4  # the samples do differ
    assert found.predicted == p.mean(0).argmax()
    assert found.samples == 5


def test_hand_worked_samples_give_their_entropies():
    found = summarise(np.array([[1.0, 0.0], [0.0, 1.0]]), CLASSES, stochastic=2)
    assert found.probabilities == (0.5, 0.5)
    assert found.variance == (0.25, 0.25)
    assert (found.total, found.aleatoric) == (pytest.approx(np.log(2)), 0.0)


def test_one_plain_pass_has_no_epistemic_part():
    found = Classifier(model(), "cpu").classify([volume((16, 16, 16))], samples=0).classification
    assert (found.epistemic, found.samples, found.variance) == (0.0, 0, (0.0, 0.0))


def test_equal_seeds_give_equal_results_and_others_differ():
    classifier, image = Classifier(model(), "cpu"), volume((16, 16, 16))
    a, b, c = (
        classifier.classify([image], samples=3, seed=seed).classification.probabilities for seed in (1, 1, 2)
    )
    assert a == b != c


def test_each_class_has_its_temperature_whatever_is_added_to_all_logits():
    tempered = tuple(
        entry.model_copy(update={"temperature": t}) for entry, t in zip(CLASSES, (1.5, 2.0), strict=True)
    )
    image, what = volume((16, 16, 16)), model(classes=tempered)
    first = Classifier(what, "cpu").classify([image], samples=0).classification.probabilities
    x = torch.from_numpy(normalise(image.array))[None, None]
    with torch.no_grad():
        log_p = torch.log_softmax(what.net(x).classified.logits, 1)[0]
        expected = torch.softmax(log_p / torch.tensor([1.5, 2.0]), 0)
        what.net.classification.linear.bias += 7.0
    np.testing.assert_allclose(first, expected.numpy(), atol=1e-6)
    again = Classifier(what, "cpu").classify([image], samples=0).classification.probabilities
    np.testing.assert_allclose(again, first, atol=1e-6)


def test_a_volume_is_classified_by_the_mean_over_its_slices_where_the_network_reads_slices():
    what = model(spatial_dims=2, window=(16, 16, 1), preprocess=PreprocessConfig(spacing_mm=(1.0, 1.0, None)))
    image = volume((3, 16, 16))
    found = Classifier(what, "cpu").classify([image], samples=0).classification
    x = torch.from_numpy(normalise(image.array))[:, None]
    with torch.no_grad():
        p = torch.softmax(what.net(x).classified.logits, 1).mean(0)
    np.testing.assert_allclose(found.probabilities, p.numpy(), atol=1e-6)


def test_a_small_image_is_read_in_the_middle_of_the_models_window():
    what = model(window=(16, 16, 16))
    (window,) = whole_image_windows(what.net, (10, 15, 30), what.window)
    assert window.padded == (16, 16, 30)
    assert window.size == (10, 15, 30)


def test_a_picture_of_another_size_is_brought_to_the_one_that_was_fitted_on():
    what = model(spatial_dims=2, preprocess=AS_IT_IS, window=(16, 16, 1))
    image = picture((16, 16))
    classifier = Classifier(what, "cpu")
    small = classifier.classify([image], samples=0)
    assert small.warnings == ()
    twice = Volume(
        np.kron(image.array, np.ones((1, 3, 2), np.float32)),
        Geometry((32, 48, 1), (0.1, 0.1, 1.0), (0.0, 0.0, 0.0), np.eye(3)),
        "x-ray",
    )
    large = classifier.classify([twice], samples=0)
    assert large.prepared.array.shape == (1, 1, 16, 16)
    assert large.warnings == (
        "The image of 32 × 48 pixels was resampled to 16 × 16, what the model was fitted on.",
    )


def test_missing_modalities_are_told_to_the_network():
    what = model(modalities=2, modality_fusion=FusionConfig(channels=2))
    what.modalities = (ModalitySpec(name="T1", required=False), ModalitySpec(name="T2", required=False))
    image = volume((16, 16, 16), modality="T2")
    found = Classifier(what, "cpu").classify([image], samples=0)
    x = torch.full((1, 2, 16, 16, 16), torch.nan)
    x[0, 1] = torch.from_numpy(normalise(image.array))
    with torch.no_grad():
        logits = what.net(x, available=torch.tensor([[False, True]])).classified.logits
    np.testing.assert_allclose(found.classification.probabilities, torch.softmax(logits, 1)[0], atol=1e-6)
    assert found.missing_modalities == ("T1",)
    assert found.warnings[0].startswith("T1 was not given")


def test_wrong_input_gets_a_sentence():
    with pytest.raises(InputError, match="model 'tiny' does not classify images"):
        Classifier(model(classes=()), "cpu")
    with pytest.raises(InputError, match="must be 0 or more, got -1 and 0"):
        Classifier(model(), "cpu").classify([volume()], samples=-1)
    with pytest.raises(InputError, match="'tiny' needs a volume, got a single slice"):
        Classifier(model(), "cpu").classify([volume((1, 16, 16))])


def test_memory_that_does_not_suffice_gets_a_sentence(monkeypatch):
    what = model()

    def full(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: not enough memory")

    monkeypatch.setattr(what.net, "encode", full)
    with pytest.raises(DeviceError, match=r"read the whole image at once\. .*--roi"):
        Classifier(what, "cpu").classify([volume((16, 16, 16))])


def test_a_cancelled_run_leaves_no_hooks_and_progress_is_complete():
    what, steps = model(), []
    with pytest.raises(Cancelled):
        Classifier(what, "cpu").classify([volume((16, 16, 16))], cancel=lambda: True)
    assert not any(m._forward_pre_hooks for m in what.net.modules())
    Classifier(what, "cpu").classify([volume((16, 16, 16))], samples=3, progress=steps.append)
    assert [(s.done, s.total) for s in steps if s.stage == "classify"] == [(n, 3) for n in range(4)]
