# SPDX-License-Identifier: Apache-2.0
"""Denoising images."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from DIANetLib.bundle_schema import ModalitySpec, ReconstructionSpec
from DIANetLib.errors import Cancelled, InputError
from DIANetLib.inference.reconstruct import Reconstructor
from DIANetLib.inference.sampling import sample_generators
from DIANetLib.network import ReconstructionConfig
from DIANetLib.preprocess import PreprocessConfig, deviation_of, normalise
from DIANetLib.volume import Geometry, Volume
from Testing.inference.fakes import FakeModel, tiny_config, tiny_network, volume


@dataclass
class ReconstructionModel(FakeModel):
    reconstruction: ReconstructionSpec | None = field(default_factory=ReconstructionSpec)


def model(*, preprocess=None, **changes) -> ReconstructionModel:
    config = tiny_config(**{"classes": 0, "reconstruction": ReconstructionConfig(resolutions=1), **changes})
    what = ReconstructionModel(
        tiny_network(config), structures=(), preprocess=preprocess or PreprocessConfig()
    )
    if config.spatial_dims == 2:
        what.window = (16, 16, 1)
    return what


def test_the_deviation_is_what_normalising_divides_by():
    array = np.random.default_rng(0).normal(5.0, 3.0, size=(6, 7, 8)).astype(np.float32)
    array[0, 0, 0] = 1e6
    scaled = normalise(array)
    inside = slice(100, 200)
    steps = np.diff(array.ravel()[inside]) / np.diff(scaled.ravel()[inside])
    assert deviation_of(array) == pytest.approx(np.median(steps), rel=1e-4)


def test_the_reconstruction_is_the_input_and_the_networks_correction_in_its_units():
    what, image = model(), volume((16, 16, 16))
    image = image.with_array(100.0 + 20.0 * image.array)
    found = Reconstructor(what, "cpu").reconstruct(image, samples=3, seed=5)
    x = torch.from_numpy(normalise(image.array))[None, None]
    with torch.no_grad():
        passes = [
            what.net(x, generators=sample_generators(5, 0, [t])).reconstructed.image[0, 0] - x[0, 0]
            for t in range(3)
        ]
    changes = torch.stack(passes).numpy() * deviation_of(image.array)
    np.testing.assert_allclose(found.image.array, image.array + changes.mean(0), rtol=1e-4)
    np.testing.assert_allclose(found.deviation.array, changes.std(0), rtol=1e-2, atol=1e-2)
    assert found.mean_deviation == pytest.approx(changes.std(0).mean(), rel=1e-3)


@pytest.mark.parametrize("shape", [(16, 16, 16), (40, 18, 21)], ids=["one window", "several windows"])
def test_a_head_that_changes_nothing_gives_the_input_back_exactly(shape):
    what = model(preprocess=PreprocessConfig(spacing_mm=(0.7, 0.7, 0.7)))
    for layer in what.net.reconstruction.images:
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    image = volume(shape, spacing=(1.0, 1.0, 1.2))
    found = Reconstructor(what, "cpu").reconstruct(image, samples=2)
    np.testing.assert_array_equal(found.image.array, image.array)
    np.testing.assert_array_equal(found.deviation.array, 0)
    assert found.image.geometry == image.geometry


def test_one_plain_pass_has_no_deviation_and_seeds_are_kept():
    reconstructor, image = Reconstructor(model(), "cpu"), volume((30, 17, 41))
    assert not reconstructor.reconstruct(image, samples=0).deviation.array.any()
    a, b, c = (reconstructor.reconstruct(image, samples=2, seed=s).image.array for s in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_a_network_of_slices_reconstructs_a_picture():
    what = model(
        spatial_dims=2, preprocess=PreprocessConfig(spacing_mm=(None, None, None), orientation="source")
    )
    array = np.random.default_rng(0).normal(size=(1, 40, 19)).astype(np.float32)
    picture = Volume(array, Geometry((19, 40, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3)))
    found = Reconstructor(what, "cpu").reconstruct(picture, samples=2)
    assert found.image.array.shape == (1, 40, 19)
    assert found.deviation.array.max() > 0


def test_models_and_images_that_do_not_fit_get_a_sentence():
    segmenter = model()
    segmenter.reconstruction = None
    with pytest.raises(InputError, match="'tiny' does not reconstruct images"):
        Reconstructor(segmenter, "cpu")
    scanner = model(modalities=2)
    scanner.reconstruction = ReconstructionSpec(task="k-space")
    scanner.modalities = (ModalitySpec(name="real"), ModalitySpec(name="imaginary"))
    with pytest.raises(InputError, match="is for k-space with 2 channels, expected one that denoises"):
        Reconstructor(scanner, "cpu")
    with pytest.raises(InputError, match="needs a volume, got a single slice"):
        Reconstructor(model(), "cpu").reconstruct(volume((1, 16, 16)))
    with pytest.raises(InputError, match="must be 0 or more"):
        Reconstructor(model(), "cpu").reconstruct(volume(), samples=-1)


def test_a_cancelled_run_leaves_no_hooks_and_progress_is_complete():
    what, steps = model(), []
    with pytest.raises(Cancelled):
        Reconstructor(what, "cpu").reconstruct(volume(), cancel=lambda: True)
    assert not any(m._forward_pre_hooks for m in what.net.modules())
    Reconstructor(what, "cpu").reconstruct(volume((16, 16, 16)), samples=2, progress=steps.append)
    own = [(s.done, s.total) for s in steps if s.stage == "reconstruct"]
    assert own[-1] == (2, 2)
