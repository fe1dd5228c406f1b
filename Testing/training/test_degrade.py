# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from DIANetLib.errors import ConfigError
from DIANetLib.operators import Denoising
from Testing.training.tiny import config
from training.augment import PatchStream
from training.batch import Reader, known_rows
from training.config_tasks import ReconstructionTask
from training.datasets import PreparedCase
from training.degrade import RealUndersampling, check_masks, degrade, operator_of

CPU = torch.device("cpu")
KSPACE = ReconstructionTask(operator="kspace", accelerations=(2.0, 4.0), centre_fraction=0.1, complex=True)


def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def test_noise_has_the_strength_that_was_asked_for():
    image = 5.0 * torch.randn(1, 40, 40, generator=torch.Generator().manual_seed(0))

    made = degrade(ReconstructionTask(sigma=(0.3, 0.3)), image, rng())

    assert made.degraded
    torch.testing.assert_close(made.clean, image)
    assert float((made.image - image).std() / image.std()) == pytest.approx(0.3, rel=0.05)


def test_a_real_image_becomes_complex_and_is_measured_where_its_mask_says():
    image = torch.randn(1, 16, 20)

    made = degrade(KSPACE, image, rng())

    assert made.clean.shape == made.image.shape == (2, 16, 20)
    assert not made.clean[1].any()
    assert float(made.mask.mean()) in (0.5, 0.25)
    operator = operator_of(KSPACE, made.mask[None])
    assert operator.exact
    torch.testing.assert_close(operator.normal(made.clean[None])[0], made.image, atol=1e-5, rtol=0)


def test_a_coil_adds_phase_fades_with_distance_and_keeps_what_was_measured_exact():
    image = torch.ones(1, 24, 30)
    task = KSPACE.model_copy(update={"coil": 1.0})

    made = degrade(task, image, rng())

    magnitude = np.hypot(*made.clean.numpy())
    assert np.percentile(magnitude, 99.5) == pytest.approx(1.0, rel=1e-4)  # as preprocessing scales it
    assert magnitude.min() < 0.7 * magnitude.max()
    assert float(made.clean[1].abs().max()) > 0.1
    operator = operator_of(task, made.mask[None])
    torch.testing.assert_close(operator.normal(made.clean[None])[0], made.image, atol=1e-5, rtol=0)
    again = degrade(task, image, rng())
    assert torch.equal(again.clean, made.clean)


def test_an_image_of_nothing_stays_nothing_or_becomes_noise_but_never_fails():
    made = degrade(KSPACE.model_copy(update={"coil": 1.0}), torch.zeros(1, 16, 20), rng())
    assert torch.isfinite(made.image).all()


def test_only_complex_images_are_seen_by_coils():
    with pytest.raises(ValueError, match="coil: expected complex images"):
        ReconstructionTask(coil=0.5)


def test_undersampling_real_channels_equals_the_real_part_of_each_by_itself():
    images = torch.randn(2, 3, 8, 10, dtype=torch.float32)
    mask = torch.ones(2, 1, 8, 10)
    mask[0, ..., 3:] = 0
    mask[1, ..., :7] = 0

    seen = RealUndersampling(mask).normal(images)

    for row in range(2):
        for channel in range(3):
            spectrum = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(images[row, channel].numpy())))
            back = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(spectrum * mask[row, 0].numpy()))).real
            np.testing.assert_allclose(seen[row, channel].numpy(), back, atol=1e-5)


def test_some_patches_are_left_alone_as_often_as_asked():
    half = ReconstructionTask(share=0.5)
    generator = rng()
    image = torch.randn(1, 4, 4)
    made = [degrade(half, image, generator) for _ in range(400)]

    assert np.mean([patch.degraded for patch in made]) == pytest.approx(0.5, abs=0.07)
    for patch in made:
        assert torch.equal(patch.image, patch.clean) is not patch.degraded


def test_a_degraded_patch_depends_on_seed_and_number_alone_and_its_labels_stay(cases: list[PreparedCase]):
    def stream(first: int, task: ReconstructionTask | None) -> PatchStream:
        return PatchStream(
            cases, (12, 16, 16), config().augment, seed=1, first=first, count=4, degradation=task
        )

    task = ReconstructionTask()
    one, other, plain = stream(0, task)[3], stream(3, task)[0], stream(0, None)[3]

    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=0)
    torch.testing.assert_close(one["clean"], plain["image"], rtol=0, atol=0)
    torch.testing.assert_close(one["labels"], plain["labels"], rtol=0, atol=0)
    assert not torch.equal(one["image"], plain["image"])


def test_a_batch_holds_what_is_known_of_its_rows(cases: list[PreparedCase]):
    bare = PreparedCase("bare", cases[0].image, None, target=1)
    patches = PatchStream(
        [cases[0], bare], (12, 16, 16), config().augment, seed=1, first=0, count=2, degradation=KSPACE
    )

    batch = Reader(CPU, labels=True, targets=True, misses=True, reconstruction=KSPACE)(
        default_collate([patches[0], patches[1]])
    )

    assert batch.images.shape == (2, 2, 12, 16, 16)
    assert known_rows(batch) == {"segmentation": 1, "classification": 1, "reconstruction": 2}
    assert batch.available is not None
    assert batch.operator is not None
    assert batch.clean is not None
    observed = batch.operator.normal(batch.clean)
    torch.testing.assert_close(observed, batch.images, atol=1e-5, rtol=0)
    plain = Reader(CPU)(default_collate([patches[0], patches[1]]))
    assert plain.available is plain.target is plain.operator is None


def test_the_operator_of_denoising_passes_the_image_on():
    operator = operator_of(ReconstructionTask(), torch.ones(1, 1, 4, 4))

    assert isinstance(operator, Denoising)
    assert not operator.exact


def test_masks_that_no_patch_has_room_for_are_refused_before_the_fit():
    task = ReconstructionTask(operator="kspace", accelerations=(16.0,), centre_fraction=0.06)

    check_masks(task, 320)
    check_masks(ReconstructionTask(), 1)
    with pytest.raises(ConfigError, match=r"tasks.reconstruction: acceleration 16 leaves 0 of 8 columns"):
        check_masks(task, 8)
