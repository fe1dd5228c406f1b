# SPDX-License-Identifier: Apache-2.0
"""Corrections as cases: which voxel says what, whose counts, which image and structures are meant."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from DIANetLib.acwi.corrections import Correction, read_correction
from DIANetLib.bundle import LoadedModel, load_bundle
from DIANetLib.bundle_schema import LocaliserSpec
from DIANetLib.errors import InputError
from DIANetLib.formats.image import write_volume
from DIANetLib.inference.cascade import sided
from DIANetLib.volume import Volume
from Testing.training.corrected import STRUCTURES, labelled_case, region, write_model, write_package, wrong
from training.config import TrainingConfig
from training.finetune_cases import (
    Level,
    class_values,
    load_case_of,
    region_box,
    voxel_levels,
)
from training.finetune_config import FinetuneConfig
from training.finetune_model import config_of
from training.finetune_reviewers import Chosen, choose


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_bundle(write_model(tmp_path_factory.mktemp("models")))


@pytest.fixture(scope="module")
def config(model: LoadedModel) -> TrainingConfig:
    return config_of(model, FinetuneConfig())


def made(folder: Path, seed: int = 50, **changes: Any) -> Correction:
    return read_correction(write_package(folder / "packages", seed, **changes))


class TestLevels:
    def test_a_region_holds_the_voxels_whose_centres_lie_in_its_box(self):
        _, labels = labelled_case(1)
        place = region(1, labels, (2, 3, 4), (5, 6, 7), "open")
        assert region_box(place, labels.geometry) == (slice(4, 8), slice(3, 7), slice(2, 6))
        beyond = replace(place, lo=(-999.0,) * 3, hi=(999.0,) * 3)
        assert region_box(beyond, labels.geometry)[0].start == 0
        assert labels.array[region_box(beyond, labels.geometry)].shape == labels.array.shape

    def test_what_was_changed_outweighs_regions_and_what_was_judged_those_that_are_open(self, tmp_path: Path):
        _, labels = labelled_case(50)
        regions = (
            region(1, labels, (0, 0, 0), (13, 15, 3), "corrected"),
            region(2, labels, (0, 0, 2), (13, 15, 5), "skipped"),
            region(3, labels, (0, 0, 6), (13, 15, 6), "accepted"),
        )
        correction = made(tmp_path, regions=regions)
        levels = voxel_levels(correction)
        assert (levels[correction.changed] == Level.CHANGED).all()
        rest = ~correction.changed
        for planes, level in (
            (slice(0, 4), Level.JUDGED),
            (slice(4, 6), Level.OPEN),
            (slice(6, 7), Level.JUDGED),
            (slice(7, None), Level.ELSEWHERE),
        ):
            assert (levels[planes][rest[planes]] == level).all()

    def test_a_case_without_regions_was_reviewed_in_whole(
        self, tmp_path: Path, model: LoadedModel, config: TrainingConfig
    ):
        (whole,) = load_case_of(Chosen(made(tmp_path)), model, config)
        assert whole.reviewed.all()
        _, labels = labelled_case(51)
        one = (region(1, labels, (0, 0, 0), (13, 15, 2), "accepted"),)
        (part,) = load_case_of(Chosen(made(tmp_path, 51, regions=one)), model, config)
        assert part.reviewed.any()
        assert not part.reviewed.all()

    def test_class_and_level_are_moved_as_one_and_come_apart_again(
        self, tmp_path: Path, model: LoadedModel, config: TrainingConfig
    ):
        (case,) = load_case_of(Chosen(made(tmp_path)), model, config)
        encoded = case.encoded(3).labels
        assert encoded is not None
        assert case.case.labels is not None
        assert np.array_equal(encoded % 3, case.case.labels)
        assert np.array_equal(encoded // 3, case.levels)
        _, labels = labelled_case(50)
        sizes = [(case.case.labels == value).sum() for value in (1, 2)]
        assert sizes == [(labels.array == value).sum() for value in (1, 2)]


class TestImages:
    def test_an_image_is_found_where_it_was_or_where_it_is_said_to_be(
        self, tmp_path: Path, model: LoadedModel, config: TrainingConfig
    ):
        correction = made(tmp_path)
        assert load_case_of(Chosen(correction), model, config)[0].case.name == "new_50"
        (tmp_path / "moved" / "deep").mkdir(parents=True)
        (tmp_path / "images" / "new_50.nrrd").rename(tmp_path / "moved" / "deep" / "new_50.nrrd")
        with pytest.raises(InputError, match=r"new_50 of the correction .* is not found .*--images"):
            load_case_of(Chosen(correction), model, config)
        assert len(load_case_of(Chosen(correction), model, config, tmp_path / "moved")) == 1

    def test_a_copy_in_the_package_needs_no_file_elsewhere(
        self, tmp_path: Path, model: LoadedModel, config: TrainingConfig
    ):
        correction = made(tmp_path, copy_images=True)
        (tmp_path / "images" / "new_50.nrrd").unlink()
        assert len(load_case_of(Chosen(correction), model, config)) == 1

    def test_another_image_under_the_same_name_is_refused(
        self, tmp_path: Path, model: LoadedModel, config: TrainingConfig
    ):
        correction = made(tmp_path)
        other, _ = labelled_case(7)
        write_volume(other, tmp_path / "images" / "new_50.nrrd")
        with pytest.raises(InputError, match="not the one that was corrected: its hash"):
            load_case_of(Chosen(correction), model, config)


class TestStructures:
    def test_keys_decide_and_not_values(self, tmp_path: Path, model: LoadedModel):
        front, back = STRUCTURES
        image, labels = labelled_case(50)
        turned = labels.with_array(np.array([0, 2, 1], np.uint8)[labels.array])
        names = (replace(back, value=1), replace(front, value=2))
        correction = made(tmp_path, before=wrong(turned), after=turned, structures=names)
        assert class_values(correction, model) == {1: 2, 2: 1}
        assert image.name == correction.images[0].name

    def test_a_model_of_other_structures_is_refused(self, tmp_path: Path, model: LoadedModel):
        liver = (replace(STRUCTURES[0], key="liver"), STRUCTURES[1])
        with pytest.raises(
            InputError, match=r"other structures \(liver, back; .* model 'two-balls' \(front, back\)"
        ):
            class_values(made(tmp_path, structures=liver), model)
        few = made(
            tmp_path,
            structures=STRUCTURES[1:],
            before=wrong(labelled_case(50)[1]),
            after=wrong(labelled_case(50)[1]),
        )
        with pytest.raises(InputError, match="other structures"):
            class_values(few, model)

    def test_both_sides_of_a_head_become_cases_that_stay_together(
        self, tmp_path: Path, model: LoadedModel, config: TrainingConfig
    ):
        image, labels = labelled_case(50)
        both = np.concatenate([labels.array, np.where(labels.array > 0, labels.array + 2, 0)], axis=2)
        pixels = np.concatenate([image.array, image.array], axis=2)
        i, j, k = image.geometry.size
        grid = replace(image.geometry, size=(2 * i, j, k))
        head = Volume(pixels, grid, "head", "T1", source=str(tmp_path / "head.nrrd"))
        write_volume(head, tmp_path / "head.nrrd")
        after = Volume(both.astype(np.uint8), grid)
        correction = made(
            tmp_path,
            images=[head],
            before=after.with_array(np.where(both == 1, 0, both).astype(np.uint8)),
            after=after,
            structures=(*sided(STRUCTURES, "left"), *sided(STRUCTURES, "right")),
        )
        section = model.metadata.dianet.model_copy(
            update={"localiser": LocaliserSpec(model="where", structures=("x",), margin_mm=2.0)}
        )
        found_by = replace(model, metadata=model.metadata.model_copy(update={"dianet": section}))
        left, right = load_case_of(Chosen(correction), found_by, config)
        assert (left.case.name, right.case.name) == ("head_left", "head_right")
        assert left.group == right.group
        assert max(left.case.image.shape[1:]) < 2 * i  # cropped around each
        assert left.case.labels is not None
        assert right.case.labels is not None
        assert set(np.unique(left.case.labels)) == set(np.unique(right.case.labels)) == {0, 1, 2}
        assert (left.levels == Level.CHANGED).sum() == (labels.array == 1).sum()
        assert not (right.levels == Level.CHANGED).any()


class TestReviewers:
    def both(self, folder: Path) -> list[Correction]:
        _, labels = labelled_case(50)
        first = made(folder, reviewer="Ada")
        second = made(
            folder, reviewer="Ben", after=wrong(labels), finished="2026-01-31T10:00:00+01:00"
        )  # changed nothing
        return [second, first]

    def test_two_reviewers_of_one_image_are_refused_until_somebody_says_who_counts(self, tmp_path: Path):
        two = self.both(tmp_path)
        with pytest.raises(InputError, match=r"several reviewers \(Ada, Ben\).*--reviewers latest"):
            choose(two, None)
        assert [c.correction.reviewer for c in choose(two, "latest")] == ["Ben"]
        assert [c.correction.reviewer for c in choose(two, "Ada")] == ["Ada"]
        with pytest.raises(InputError, match="No correction is by 'Eve'; reviewers are Ada, Ben"):
            choose(two, "Eve")

    def test_a_consensus_takes_what_they_dispute_for_open(self, tmp_path: Path):
        (agreed,) = choose(self.both(tmp_path), "consensus")
        _, labels = labelled_case(50)
        assert agreed.correction.reviewer == "Ada and Ben"
        assert agreed.disputed is not None
        assert np.array_equal(agreed.disputed, labels.array == 1)
        assert np.array_equal(agreed.correction.after.array, wrong(labels).array)
        levels = voxel_levels(agreed.correction, agreed.disputed)
        assert (levels[agreed.disputed] == Level.OPEN).all()

    def test_of_one_reviewer_the_last_counts(self, tmp_path: Path):
        first = made(tmp_path)
        last = made(tmp_path, comment="again", finished="2026-01-31T12:00:00+01:00")
        assert [c.correction.comment for c in choose([last, first], None)] == ["again"]

    def test_other_images_stay_apart(self, tmp_path: Path):
        assert len(choose([made(tmp_path), made(tmp_path, 51)], None)) == 2
