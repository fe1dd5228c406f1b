# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from DIANetLib.bundle import LoadedModel, load_bundle
from DIANetLib.errors import ConfigError, InputError
from Testing.training.corrected import STRUCTURES, write_model
from Testing.training.tiny import config
from training.config import TrainingConfig
from training.finetune_config import FinetuneConfig, RehearsalConfig
from training.finetune_model import config_of
from training.rehearsal import load_rehearsal


@pytest.fixture
def model(tmp_path: Path) -> LoadedModel:
    return load_bundle(write_model(tmp_path))


@pytest.fixture
def own(model: LoadedModel) -> TrainingConfig:
    return config_of(model, FinetuneConfig(), config().data)


class TestDivision:
    def test_cases_that_the_model_has_not_seen_judge_and_the_others_are_rehearsed(
        self, data: Path, model: LoadedModel, own: TrainingConfig
    ):
        found = load_rehearsal(data, own, model, RehearsalConfig(), 0)
        assert [case.name for case in found.judged] == ["case_00", "case_01", "case_02"]
        assert [case.name for case in found.buffer] == [f"case_{n:02d}" for n in range(3, 8)]
        assert found.unseen

    def test_a_model_that_does_not_say_what_it_has_not_seen_gets_a_quarter_aside(
        self, data: Path, tmp_path: Path, own: TrainingConfig
    ):
        silent = load_bundle(write_model(tmp_path / "silent", training={}))
        found = load_rehearsal(data, own, silent, RehearsalConfig(), 0)
        assert (len(found.judged), len(found.buffer)) == (2, 6)
        assert not found.unseen
        assert not {case.name for case in found.judged} & {case.name for case in found.buffer}

    def test_no_more_cases_are_loaded_than_asked_for(
        self, data: Path, model: LoadedModel, own: TrainingConfig
    ):
        found = load_rehearsal(data, own, model, RehearsalConfig(cases=2, judged=2), 0)
        assert (len(found.buffer), len(found.judged)) == (2, 2)


class TestConfiguration:
    def test_the_models_own_patch_window_and_preparation_are_taken(self, model: LoadedModel):
        made = config_of(model, FinetuneConfig())
        assert (made.patch, made.window) == ((16, 16, 12), (16, 16, 12))
        assert made.preprocess == model.preprocess
        assert [structure.source_values for structure in made.data.structures] == [(1,), (2,)]
        assert config_of(model, FinetuneConfig(patch=(8, 8, 4))).patch == (8, 8, 4)

    def test_structures_with_a_side_are_never_mirrored(self, tmp_path: Path, model: LoadedModel):
        assert config_of(model, FinetuneConfig()).augment.mirror_axes == (2,)
        sides = tuple(s.on_side("left") for s in STRUCTURES)
        left = load_bundle(write_model(tmp_path / "left", structures=sides))
        assert config_of(left, FinetuneConfig()).augment.mirror_axes == ()

    def test_a_patch_that_the_network_cannot_read_is_refused(self, model: LoadedModel):
        with pytest.raises(ConfigError, match="patch: every side must be divisible by 2"):
            config_of(model, FinetuneConfig(patch=(7, 8, 8)))

    def test_a_model_that_segments_nothing_cannot_learn_from_corrections(self, model: LoadedModel):
        section = model.metadata.dianet.model_copy(update={"structures": ()})
        metadata = model.metadata.model_copy(update={"dianet": section})
        with pytest.raises(InputError, match="expected one that segments"):
            config_of(LoadedModel(metadata, model.path, model.sha256), FinetuneConfig())
