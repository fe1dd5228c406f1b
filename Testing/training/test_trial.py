# SPDX-License-Identifier: Apache-2.0
"""Networks on trial: slices of volumes, missing modalities, regions, rounding, licences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from DIANetLib.errors import ConfigError, InputError
from DIANetLib.volume import Geometry, Volume
from Testing.training.tiny import config
from Testing.training.trials import (
    classifying,
    random_fit,
    reconstructing,
    trial,
    two_modalities,
    write_pictures,
    write_two_modalities,
)
from training.config import RegionConfig, TrainingConfig
from training.datasets import find_cases, load_case, read_case
from training.evaluate_segmentation import segmentation_scores, segmentation_temperature
from training.licences import LICENCES, licence_notice, licence_of, shipping_note
from training.rounding import rounding_check
from training.scoring import score_regions
from training.trial import modalities_of, named_volumes, sampled_logits, structures_of

CPU = torch.device("cpu")


def of_slices() -> TrainingConfig:
    return config(network__spatial_dims=2, patch=[16, 16, 1], augment={"mirror_axes": [2]})


def test_a_network_of_slices_is_judged_on_whole_volumes(data: Path, tmp_path: Path):
    on_trial = trial(of_slices(), data, tmp_path)
    temperature = segmentation_temperature(on_trial)
    scores = segmentation_scores(on_trial, temperature)

    assert 0.2 <= temperature <= 5.0
    assert [score.case for score in scores] == [case.name for case in on_trial.held_out]
    assert all(0 <= score.figures["dice"] <= 1 for score in scores)
    again = segmentation_scores(on_trial, temperature)  # read from what was kept
    assert [score.figures["dice"] for score in again] == [score.figures["dice"] for score in scores]


def test_logits_of_slices_are_those_of_the_network_and_of_slices_with_labels_alone(data: Path):
    settings = of_slices()
    network = random_fit(settings).network(CPU)
    case = load_case(find_cases(data, settings.data)[0], settings)
    assert case.labels is not None
    found = list(sampled_logits(network, case, (1, 16, 16), samples=0, seed=0, voxels=10**6, margin=0))
    layers = [layer for layer in case.labels if layer.any()]

    assert 0 < len(found) == len(layers) < case.labels.shape[0]
    for (values, labels), layer in zip(found, layers, strict=True):
        np.testing.assert_array_equal(labels, layer[layer > 0])
        assert values.shape == (1, labels.size, 3)


def test_logits_need_labels(data: Path):
    case = load_case(find_cases(data, config().data)[0], config())
    with pytest.raises(InputError, match="expected a case with labels to compare with, got case_00"):
        next(
            sampled_logits(
                random_fit(config()).network(CPU),
                replace(case, labels=None),
                (12, 16, 16),
                samples=0,
                seed=0,
                voxels=5,
            )
        )


def test_what_stands_in_the_channel_of_a_missing_modality_does_not_matter(tmp_path: Path):
    settings = two_modalities()
    data = write_two_modalities(tmp_path / "pairs", 1)
    network = random_fit(settings).network(CPU)
    case = load_case(find_cases(data, settings.data)[0], settings)
    image = case.image.copy()
    image[1] = 7.0
    lacking = [replace(case, image=part, available=(True, False)) for part in (case.image, image)]
    first, second = (
        next(sampled_logits(network, part, (12, 16, 16), samples=0, seed=0, voxels=50))[0] for part in lacking
    )

    np.testing.assert_array_equal(first, second)


def test_volumes_are_named_and_those_that_are_not_there_are_left_out(tmp_path: Path):
    settings = two_modalities()
    data = write_two_modalities(tmp_path / "pairs", 1)
    case = find_cases(data, settings.data)[0]
    lacking = read_case(replace(case, images=(None, case.images[1])), settings.data)

    assert [volume.modality for volume in named_volumes(read_case(case, settings.data), settings)] == [
        "T1",
        "T2",
    ]
    assert [volume.modality for volume in named_volumes(lacking, settings)] == ["T2"]


def test_modalities_are_required_unless_the_fit_left_some_out():
    strict = two_modalities(augment={"modality_dropout": 0.0})

    assert [part.required for part in modalities_of(strict)] == [True, True]
    assert [part.required for part in modalities_of(two_modalities())] == [False, False]
    assert [part.name for part in modalities_of(reconstructing())] == ["T1 real part", "T1 imaginary part"]
    assert [part.required for part in modalities_of(config(augment={"modality_dropout": 0.3}))] == [True]


def test_a_region_is_the_union_of_its_structures():
    geometry = Geometry((4, 4, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3))
    reference, found = np.zeros((2, 4, 4, 4), np.uint8)
    reference[0, 0, :2], reference[0, 0, 2:] = 1, 2
    found[0, 0] = 1  # the wrong structure in half of the voxels, and the right region
    regions = [
        RegionConfig(key="both", name="Both", structures=("front", "back")),
        RegionConfig(key="behind", name="Behind", structures=("back",)),
    ]
    both, behind = score_regions(found, Volume(reference, geometry), structures_of(config()), regions)

    assert (both.structure, both.dice, both.volume_ml) == ("both", 1.0, 0.004)
    assert (behind.dice, behind.reference_ml) == (0.0, 0.002)


class TestRounding:
    def test_weights_that_float16_holds_change_nothing(self, data: Path):
        fitted = random_fit(config())
        fitted = replace(fitted, averages=fitted.state)
        found = rounding_check(fitted, find_cases(data)[:2], CPU)

        assert found["cases"] == 2
        assert found["difference"] == 0.0
        assert found["within_tolerance"]

    def test_weights_that_it_does_not_hold_are_refused(self, data: Path):
        fitted = random_fit(config())
        changed = {name: value + 0.3 * torch.randn_like(value) for name, value in fitted.averages.items()}
        with pytest.raises(
            InputError, match="rounding the weights to float16 changes the mean Dice of 3 cases"
        ):
            rounding_check(replace(fitted, averages=changed), find_cases(data)[:3], CPU)

    def test_probabilities_and_reconstructions_are_compared_too(self, data: Path, tmp_path: Path):
        pictures = write_pictures(tmp_path / "pictures")
        for settings, folder, name in (
            (classifying(), pictures, "largest_difference_of_a_probability"),
            (reconstructing(), data, "difference_psnr_db"),
        ):
            fitted, cases = random_fit(settings), find_cases(folder, settings.data)[:3]
            assert abs(rounding_check(fitted, cases, CPU)[name]) < 1e-2
            changed = {n: value + 0.5 * torch.randn_like(value) for n, value in fitted.averages.items()}
            with pytest.raises(InputError, match="rounding the weights to float16 changes"):
                rounding_check(replace(fitted, averages=changed), cases, CPU)


class TestLicences:
    @pytest.mark.parametrize("name", sorted(LICENCES))
    def test_every_notice_names_its_licence_and_says_no_warranty(self, name: str):
        notice = licence_notice(config(licence=name, about={"attribution": "Balls by nobody."}))

        assert LICENCES[name].name in notice
        assert "without warranty" in notice
        assert "Derived from: Balls by nobody." in notice
        assert LICENCES[name].address in notice

    def test_full_texts_of_creative_commons_are_at_their_legal_code(self):
        assert "https://creativecommons.org/licenses/by-sa/4.0/legalcode" in licence_notice(config())
        assert "LICENSE-2.0\n" in licence_notice(config(licence="Apache-2.0"))

    def test_weights_that_may_not_be_shipped_say_so(self):
        assert shipping_note(config()) == ""
        for name in ("CC-BY-NC-SA-3.0", "not-for-distribution"):
            assert "may not be shipped" in shipping_note(config(licence=name))

    def test_an_unknown_licence_is_refused(self):
        with pytest.raises(ConfigError, match=r"licence: expected one of CC-BY-SA-3\.0"):
            licence_of(config(licence="mine"))
