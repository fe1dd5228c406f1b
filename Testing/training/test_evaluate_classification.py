# SPDX-License-Identifier: Apache-2.0
"""Classes of held-out pictures: probabilities, temperature, figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from DIANetLib.errors import InputError
from Testing.training.trials import classifying, trial, write_pictures
from training.datasets import load_case
from training.evaluate_classification import (
    ClassifiedCase,
    class_log_probabilities,
    classification_summary,
    classification_table,
    classification_temperature,
    classified_cases,
)
from training.temperature import fit_sampled_temperature
from training.trial import Trial

WINDOW = (12, 12, 1)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture
def on_trial(pictures: Path, tmp_path: Path) -> Trial:
    return trial(classifying(), pictures, tmp_path)


def case(number: int, target: int, bright: float) -> ClassifiedCase:
    p = np.array([1 - bright, bright])
    return ClassifiedCase(f"c{number}", f"g{number // 2}", target, p, p, total=0.1 * number, epistemic=0.0)


def test_log_probabilities_are_those_of_each_sample(on_trial: Trial):
    prepared = load_case(on_trial.held_out[0], on_trial.config)
    sampled = class_log_probabilities(on_trial.network, prepared, WINDOW, samples=3)
    single = class_log_probabilities(on_trial.network, prepared, WINDOW)

    assert sampled.shape == (3, 1, 2)
    np.testing.assert_allclose(np.exp(sampled).sum(-1), 1, rtol=1e-5)
    assert not np.array_equal(sampled[0], sampled[1])
    np.testing.assert_array_equal(
        sampled, class_log_probabilities(on_trial.network, prepared, WINDOW, samples=3)
    )
    with torch.inference_mode():
        expected = on_trial.network(torch.from_numpy(prepared.image[:, 0])[None]).classified.probabilities()
    np.testing.assert_allclose(np.exp(single[0]), expected.numpy(), rtol=1e-5)


def test_what_a_case_is_taken_for_is_the_mean_over_tempered_samples(on_trial: Trial):
    temperature = 0.5
    found = classified_cases(on_trial, temperature)
    prepared = load_case(on_trial.held_out[0], on_trial.config)
    sampled = class_log_probabilities(on_trial.network, prepared, WINDOW, samples=2)[:, 0] / temperature
    each = np.exp(sampled) / np.exp(sampled).sum(-1, keepdims=True)

    assert [part.case for part in found] == [part.name for part in on_trial.held_out]
    np.testing.assert_allclose(found[0].probabilities, each.mean(0), rtol=1e-4)
    single = class_log_probabilities(on_trial.network, prepared, WINDOW)
    np.testing.assert_allclose(found[0].plain, np.exp(single[0, 0]), rtol=1e-4)
    assert 0 <= found[0].epistemic < found[0].total <= np.log(2) + 1e-6


def test_the_temperature_is_that_of_the_inner_cases(on_trial: Trial):
    logits, targets = [], []
    for inner in on_trial.inner:
        prepared = load_case(inner, on_trial.config)
        logits.append(class_log_probabilities(on_trial.network, prepared, WINDOW, samples=2))
        targets.append(np.array([inner.target]))

    expected = fit_sampled_temperature(logits, targets, bounds=(0.05, 10.0))
    assert classification_temperature(on_trial) == pytest.approx(expected)


def test_cases_without_a_class_are_left_out_and_one_has_to_have_one(on_trial: Trial):
    cases = on_trial.held_out
    some = replace(on_trial, held_out=(replace(cases[0], target=None), *cases[1:]))
    assert len(classified_cases(some, 1.0)) == 3
    none = replace(on_trial, held_out=tuple(replace(part, target=None) for part in cases))
    with pytest.raises(InputError, match="no held-out case has a class"):
        classified_cases(none, 1.0)


def test_the_summary_counts_cases_and_bootstraps_over_groups():
    cases = [case(n, n % 2, 0.2 + 0.6 * (n % 2)) for n in range(8)]
    cases[0] = case(0, 0, 0.9)
    summary = classification_summary(cases, ("dark", "bright"), 1.5, seed=1)

    assert summary["confusion"] == [[3, 1], [0, 4]]
    assert summary["cases_per_class"] == [4, 4]
    assert summary["temperature"] == 1.5
    assert summary["figures"]["accuracy"]["value"] == 7 / 8
    assert summary["figures"]["plain_accuracy"]["value"] == 7 / 8
    assert summary["figures"]["auroc"]["value"] == pytest.approx(12 / 16)
    assert summary["figures"]["error_auroc_total"]["value"] == 0.0  # the wrong case is the surest
    low, high = summary["figures"]["accuracy"]["interval_95"]
    assert low in {0.5, 0.625, 0.75}  # the wrong case goes with the right one of its group
    assert high == 1.0


def test_the_table_names_classes():
    (row,) = classification_table([case(3, 1, 0.25)], ("dark", "bright"))

    assert row["target"] == "bright"
    assert row["predicted"] == "dark"
    assert (row["p_dark"], row["p_bright"]) == (0.75, 0.25)
    assert row["group"] == "g1"


def test_a_plain_peer_is_judged_by_the_same_code(pictures: Path, tmp_path: Path):
    settings = classifying(baseline="resnet18", network__latent=None)
    found = classified_cases(trial(settings, pictures, tmp_path), 1.0)

    for part in found:
        np.testing.assert_allclose(part.probabilities, part.plain, rtol=1e-5)
        assert part.epistemic == pytest.approx(0, abs=1e-6)
