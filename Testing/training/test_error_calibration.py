# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from DIANetLib.acwi.error_calibration import ErrorCalibration
from Testing.training.tiny import config
from Testing.training.trials import trial
from training.error_calibration import error_calibration, fit_error_calibration

TRUE = ErrorCalibration((-0.4, 0.8, 0.0), (1.2, 0.7, 1.0))


def cases(count: int, voxels: int = 40_000) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Answers that are wrong as often as `TRUE` says."""
    rng = np.random.default_rng(5)
    made = []
    for _ in range(count):
        error = rng.uniform(0.0, 0.6, voxels).astype(np.float32)
        classes = rng.integers(0, 3, voxels)
        made.append((error, classes, rng.random(voxels) < TRUE.apply(error, classes)))
    return made


def test_the_fit_finds_what_the_answers_were_made_with() -> None:
    found = fit_error_calibration(cases(300, 2_000), 3)
    np.testing.assert_allclose(found.offsets, TRUE.offsets, atol=0.1)
    np.testing.assert_allclose(found.slopes, TRUE.slopes, atol=0.1)


def test_the_corrected_probability_is_how_often_answers_are_wrong() -> None:
    found = fit_error_calibration(cases(300, 2_000), 3)
    error, classes, wrong = (np.concatenate(part) for part in zip(*cases(20), strict=True))
    corrected = found.apply(error, classes)
    for number in range(3):
        for low in (0.1, 0.3, 0.5):
            there = (classes == number) & (corrected >= low) & (corrected < low + 0.1)
            assert corrected[there].mean() == pytest.approx(wrong[there].mean(), abs=0.02)


def test_a_class_that_was_hardly_answered_stays_as_it_is() -> None:
    error = np.full(3000, 0.3)
    found = fit_error_calibration([(error, np.zeros(3000, int), np.ones(3000, bool))], 3)
    assert (found.offsets[1:], found.slopes[1:]) == ((0.0, 0.0), (1.0, 1.0))
    assert 0 < found.offsets[0] < 1  # a single case says little, however many voxels it has
    assert fit_error_calibration([], 2) == ErrorCalibration((0.0, 0.0), (1.0, 1.0))


def test_a_trials_inner_cases_give_one_correction_per_class(data: Path, tmp_path: Path) -> None:
    on_trial = trial(config(), data, tmp_path)
    found = error_calibration(on_trial, 1.5)
    assert found.classes == len(on_trial.config.data.structures) + 1
    assert found == error_calibration(on_trial, 1.5)
