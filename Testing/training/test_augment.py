# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from Testing.training.tiny import config
from training.augment import PatchStream, available, blank_surroundings
from training.config import AugmentConfig
from training.datasets import PreparedCase

ALWAYS = dict.fromkeys(
    ["affine_probability", "noise", "smooth", "brightness", "contrast", "gamma", "inverted_gamma"], 1.0
) | {"low_resolution": 1.0, "bias_field": 1.0}


def stream(cases: list[PreparedCase], *, seed: int = 1, first: int = 0, count: int = 6, **changes: Any):
    augment = AugmentConfig(**{**config().augment.model_dump(), **changes})
    return PatchStream(cases, (12, 16, 16), augment, seed=seed, first=first, count=count)


def test_a_patch_depends_on_seed_and_number_alone(cases: list[PreparedCase]):
    whole, later = stream(cases), stream(cases, first=4, count=2)
    ahead = stream(cases)
    assert len(later) == 2
    _ = ahead[5]  # asking for another one first changes nothing

    for one, other in ((whole[4], later[0]), (whole[5], later[1]), (whole[0], ahead[0])):
        torch.testing.assert_close(one["image"], other["image"], rtol=0, atol=0)
        torch.testing.assert_close(one["labels"], other["labels"], rtol=0, atol=0)
    assert not torch.equal(whole[0]["image"], stream(cases, seed=2)[0]["image"])


def test_worker_processes_give_the_same_patches(cases: list[PreparedCase]):
    alone = list(DataLoader(stream(cases, count=4), batch_size=2))
    shared = list(DataLoader(stream(cases, count=4), batch_size=2, num_workers=2))

    for one, other in zip(alone, shared, strict=True):
        torch.testing.assert_close(one["image"], other["image"], rtol=0, atol=0)
        torch.testing.assert_close(one["labels"], other["labels"], rtol=0, atol=0)


def test_an_epoch_takes_every_case_once(cases: list[PreparedCase]):
    plain = stream(cases, count=2 * len(cases), **dict.fromkeys(ALWAYS, 0.0), mirror_axes=())
    brightest = [float(plain[number]["image"].max()) for number in range(2 * len(cases))]
    known = sorted(float(case.image.max()) for case in cases)

    # Patches are wide enough to hold every case's brightest voxel in the middle of the ball.
    assert np.allclose(sorted(brightest[: len(cases)]), known)
    assert np.allclose(sorted(brightest[len(cases) :]), known)


@pytest.mark.parametrize("number", range(4))
def test_augmentation_keeps_label_values_and_finite_intensities(cases: list[PreparedCase], number: int):
    patch = stream(cases, **ALWAYS)[number]

    assert patch["image"].shape == (1, 12, 16, 16)
    assert patch["image"].dtype == torch.float32
    assert patch["labels"].shape == (12, 16, 16)
    assert patch["labels"].dtype == torch.int64
    assert set(patch["labels"].unique().tolist()) <= {0, 1, 2}
    assert torch.isfinite(patch["image"]).all()


def test_without_augmentation_a_patch_is_the_case_with_zeros_around(cases: list[PreparedCase]):
    plain = stream(cases, **dict.fromkeys(ALWAYS, 0.0), mirror_axes=(), foreground_crops=0.0)
    patch = plain[0]
    order = np.random.default_rng([1, 0]).permutation(len(cases))
    case = cases[int(order[0])]

    # Cases are 12 x 16 x 14 (k, j, i): two columns of the patch are padding.
    columns = (patch["image"][0] != 0).any(0).any(0)
    start = int(columns.nonzero()[0])
    assert int(columns.sum()) == 14
    np.testing.assert_array_equal(patch["image"][0, :, :, start : start + 14], case.image[0])
    np.testing.assert_array_equal(patch["labels"][:, :, start : start + 14], case.labels)


def test_image_and_labels_are_moved_together(cases: list[PreparedCase]):
    only_moves = stream(cases, **dict.fromkeys(ALWAYS, 0.0) | {"affine_probability": 1.0})

    for number in range(3):
        patch = only_moves[number]
        inside, outside = (patch["image"][0][patch["labels"] == value].mean() for value in (1, 0))
        assert inside > outside + 1.0  # class 1 is the bright half of the ball


def test_blanking_keeps_the_structures_hull_and_makes_all_else_equal() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros((24, 24, 24), np.uint8)
    labels[8:16, 8:16, 8:16] = 1
    labels[11:13, 11:13, 8:16] = 0  # a gap inside, as a sulcus
    image = rng.normal(size=(1, 24, 24, 24)).astype(np.float32)
    case = PreparedCase("case", image, labels, None, None)  # type: ignore[arg-type]
    blanked = blank_surroundings(case)[0]
    assert np.unique(blanked[0]).size == 1
    hull = blanked != blanked[0, 0, 0]
    assert hull[8:16, 8:16, 8:16].mean() > 0.98  # voxels clipped to the lowest value look blank
    assert not hull[:6].any()
    assert abs(float(blanked.mean())) < 1e-4
    assert abs(float(blanked.std()) - 1) < 1e-3


def test_modalities_go_missing_as_often_as_asked_but_one_is_always_left():
    rng = np.random.default_rng(0)
    kept = np.array([available((True,) * 3, 0.4, rng) for _ in range(4000)])

    assert kept.any(1).all()
    # Of all draws 0.4^3 would leave none; one of the three is put back in each of those.
    assert kept.mean() == pytest.approx(0.6 + 0.4**3 / 3, abs=0.02)
    assert available((True,) * 3, 0.0, rng).all()


def test_dropping_modalities_changes_nothing_else_of_a_patch(cases: list[PreparedCase]):
    plain, dropping = stream(cases)[3], stream(cases, modality_dropout=0.9)[3]

    assert plain["available"].all()
    torch.testing.assert_close(plain["image"], dropping["image"], rtol=0, atol=0)


def test_a_modality_that_the_case_lacks_stays_blank_and_is_never_the_one_that_is_left():
    rng = np.random.default_rng(0)
    kept = np.array([available((True, False, True), 0.6, rng) for _ in range(2000)])

    assert not kept[:, 1].any()
    assert kept.any(1).all()
    assert kept[:, 0].mean() == pytest.approx(0.4 + 0.36 / 2, abs=0.04)


def test_cases_without_labels_target_or_a_modality_are_read_for_what_they_have():
    image = np.ones((2, 12, 16, 16), np.float32)
    image[1] = 0.0
    bare = PreparedCase("bare", image, None, available=(True, False))
    known = PreparedCase("known", np.ones((2, 12, 16, 16), np.float32), None, target=1)

    patches = [stream([bare], **ALWAYS)[0], stream([known])[0]]

    assert [bool(patch["labelled"]) for patch in patches] == [False, False]
    assert [int(patch["target"]) for patch in patches] == [-1, 1]
    assert patches[0]["available"].tolist() == [True, False]
    assert (patches[0]["image"][1] == 0).all()


def test_slices_of_volumes_and_small_images_are_read_in_two_dimensions(cases: list[PreparedCase]):
    flat = AugmentConfig(**{**config().augment.model_dump(), **ALWAYS, "mirror_axes": (1, 2)})
    small = PreparedCase("small", np.ones((1, 1, 10, 9), np.float32), np.ones((1, 10, 9), np.uint8))

    for number in range(4):
        patches = PatchStream([cases[0], small], (1, 16, 12), flat, seed=1, first=0, count=4, spatial_dims=2)
        assert patches[number]["image"].shape == (1, 16, 12)
        assert patches[number]["labels"].shape == (16, 12)
    still = AugmentConfig(**dict.fromkeys(ALWAYS, 0.0), mirror_axes=())
    patch = PatchStream([small], (1, 16, 12), still, seed=1, first=0, count=1, spatial_dims=2)[0]
    assert int(patch["labels"].sum()) == int(patch["image"].sum()) == 90


def test_turning_a_slice_keeps_it_in_its_plane():
    plain = dict.fromkeys(ALWAYS, 0.0) | {"affine_probability": 1.0}
    turned = AugmentConfig(**plain, mirror_axes=(), rotation_deg=20.0, scale=(1.0, 1.0), foreground_crops=0.0)
    disc = np.hypot(*np.mgrid[-16:16, -16:16] + 0.5) < 9
    case = PreparedCase("disc", disc[None, None].astype(np.float32), disc[None].astype(np.uint8))

    patch = PatchStream([case], (1, 32, 32), turned, seed=1, first=0, count=1, spatial_dims=2)[0]

    assert abs(int(patch["labels"].sum()) - int(disc.sum())) < 8
    assert (torch.from_numpy(disc) == (patch["labels"] == 1)).float().mean() > 0.98
