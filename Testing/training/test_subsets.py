# SPDX-License-Identifier: Apache-2.0
"""Dice with every subset of the modalities, from the same weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from DIANetLib.errors import InputError
from DIANetLib.inference.engine import Segmenter
from Testing.training.tiny import config
from Testing.training.trials import classifying, trial, two_modalities, write_two_modalities
from training.datasets import read_case
from training.scoring import score_structures
from training.subsets import SubsetScore, check_subsets, subset_scores, subset_table, subsets_of
from training.trial import Trial, TrialModel, named_volumes

REGIONS = [{"key": "ball", "name": "Ball", "structures": ["front", "back"]}]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_two_modalities(tmp_path_factory.mktemp("data") / "pairs")


@pytest.fixture
def on_trial(pairs: Path, tmp_path: Path) -> Trial:
    return trial(two_modalities(data__regions=REGIONS), pairs, tmp_path)


def test_every_subset_that_is_not_empty_comes_once_and_the_largest_first():
    found = list(subsets_of(["a", "b", "c"]))

    assert found == [("a", "b", "c"), ("a", "b"), ("a", "c"), ("b", "c"), ("a",), ("b",), ("c",)]


def test_each_case_is_segmented_with_each_subset_by_the_product_s_engine(on_trial: Trial):
    scores = subset_scores(on_trial, 1.5)

    assert [score.subset for score in scores] == ["T1+T2", "T1", "T2"] * 4
    assert set(scores[0].dice) == {"dice", "front", "back", "ball"}
    assert scores[0].dice["dice"] == pytest.approx((scores[0].dice["front"] + scores[0].dice["back"]) / 2)
    source = read_case(on_trial.held_out[0], on_trial.config.data)
    engine = Segmenter(TrialModel(on_trial.fitted, on_trial.network, 1.5), "cpu")
    volumes = named_volumes(source, on_trial.config)
    for score, chosen in zip(scores, (volumes, volumes[:1], volumes[1:]), strict=False):
        found = engine.segment(chosen, samples=0).labels.array
        assert source.labels is not None
        expected = score_structures(found, source.labels, engine.model.structures)
        assert score.dice["front"] == expected[0].dice
    assert len({tuple(score.dice.values()) for score in scores[:3]}) > 1


def test_modalities_that_the_bundle_requires_may_be_left_out_here(pairs: Path, tmp_path: Path):
    strict = two_modalities(augment={"modality_dropout": 0.0}, network__modality_fusion=None)
    scores = subset_scores(trial(strict, pairs, tmp_path), 1.0)

    assert [score.subset for score in scores[:3]] == ["T1+T2", "T1", "T2"]


def test_a_case_that_lacks_a_modality_counts_for_what_it_has(on_trial: Trial):
    case = on_trial.held_out[0]
    lacking = replace(on_trial, held_out=(replace(case, images=(None, case.images[1])),))

    assert [score.subset for score in subset_scores(lacking, 1.0)] == ["T2"]


def test_cases_that_are_done_are_not_done_again_for_the_same_weights(
    on_trial: Trial, monkeypatch: pytest.MonkeyPatch
):
    first = subset_scores(on_trial, 1.0)
    with monkeypatch.context() as patch:
        patch.setattr(Segmenter, "segment", None)
        assert subset_scores(on_trial, 1.0) == first
        with pytest.raises(TypeError):
            subset_scores(on_trial, 2.0)
    file = on_trial.folder / f"{on_trial.held_out[0].name}.subsets.json"
    file.write_text("{")
    assert subset_scores(on_trial, 1.0) == first
    assert json.loads(file.read_text())["scores"][0]["subset"] == "T1+T2"


def test_the_table_has_statistics_per_subset():
    scores = [
        SubsetScore(case, subset, 1 + subset.count("+"), {"dice": value})
        for case, values in {"a": (0.9, 0.5), "b": (0.7, 0.1)}.items()
        for subset, value in zip(("T2", "T1+T2"), values, strict=True)
    ]
    table = subset_table(scores)

    assert list(table) == ["T1+T2", "T2"]
    assert table["T2"]["dice"]["mean"] == pytest.approx(0.8)
    assert table["T1+T2"]["dice"]["n"] == 2
    assert np.isclose(table["T1+T2"]["dice"]["interval_95"], (0.1, 0.5)).all()


@pytest.mark.parametrize("settings", [config(), classifying()])
def test_a_model_of_one_modality_or_without_structures_has_no_subsets(settings):
    with pytest.raises(InputError, match="segmentation of two modalities or more for --subsets"):
        check_subsets(settings)
