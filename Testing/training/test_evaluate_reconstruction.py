# SPDX-License-Identifier: Apache-2.0
"""Held-out slices degraded and restored: the same masks for every model, figures per level."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from DIANetLib.errors import InputError
from DIANetLib.operators import KSpaceUndersampling, magnitude
from Testing.training.tiny import config
from Testing.training.trials import KSPACE, reconstructing, trial
from training.config import TrainingConfig
from training.config_tasks import ReconstructionTask
from training.datasets import PreparedCase
from training.evaluate_reconstruction import (
    Restored,
    SliceRow,
    levels,
    reconstruction_rows,
    reconstruction_summary,
    restore_case,
    restore_rows,
    task_of,
)
from training.trial import Trial


@pytest.fixture
def on_trial(data: Path, tmp_path: Path) -> Trial:
    return trial(reconstructing(), data, tmp_path)


def restored(on_trial: Trial, image: np.ndarray, name: str = "a", seed: int = 0) -> list[Restored]:
    case = PreparedCase(name, image, None)
    return list(restore_case(on_trial.network, case, on_trial.config, seed=seed))


def picture(seed: int = 0, size: tuple[int, ...] = (1, 1, 16, 14)) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1, size).astype(np.float32)


def test_each_level_measures_less_and_what_was_measured_stays(on_trial: Trial):
    two, four = restored(on_trial, picture())

    assert [two.level, four.level] == ["2x", "4x"]
    assert two.clean.shape == two.observed.shape == two.restored.shape == (2, 1, 16, 14)
    for found in (two, four):
        frequencies = KSpaceUndersampling(torch.ones(1, 1, 1, 16, 14)).forward(found.observed[None])
        measured = (frequencies.abs() > 1e-4).any(dim=-2, keepdim=True).expand(frequencies.shape)
        assert int(measured[0, 0, 0, 0].sum()) == {"2x": 7, "4x": 4}[found.level]
        operator = KSpaceUndersampling(measured.float())
        torch.testing.assert_close(
            operator.normal(found.restored[None]), found.observed[None], atol=1e-4, rtol=0
        )
        assert not torch.allclose(found.restored, found.observed, atol=1e-3)


def test_masks_depend_on_seed_and_name_and_not_on_the_model(on_trial: Trial, data: Path, tmp_path: Path):
    other = trial(reconstructing(), data, tmp_path, seed=5)
    (first, *_), (second, *_) = restored(on_trial, picture()), restored(other, picture())

    assert torch.equal(first.observed, second.observed)
    assert not torch.equal(first.restored, second.restored)
    assert not torch.equal(restored(on_trial, picture(), name="b")[0].observed, first.observed)
    assert not torch.equal(restored(on_trial, picture(), seed=1)[0].observed, first.observed)


def test_slices_larger_than_the_window_are_read_whole(on_trial: Trial):
    found = restored(on_trial, picture(size=(1, 3, 30, 22)))[0]
    with torch.inference_mode():
        rows = found.observed.transpose(0, 1)
        whole = on_trial.network(rows).reconstructed.image

    assert found.restored.shape == (2, 3, 30, 22)
    torch.testing.assert_close(
        restore_rows(on_trial.network, rows, on_trial.config), whole, atol=1e-5, rtol=1e-4
    )


def test_noise_is_judged_at_its_least_middle_and_greatest():
    task = ReconstructionTask(operator="denoising", sigma=(0.1, 0.5))

    assert levels(task) == [("sigma 0.1", 0.1), ("sigma 0.3", pytest.approx(0.3)), ("sigma 0.5", 0.5)]
    assert [level for level, _ in levels(ReconstructionTask(sigma=(0.0, 0.2)))] == ["sigma 0.1", "sigma 0.2"]
    assert [level for level, _ in levels(ReconstructionTask.model_validate(KSPACE))] == ["2x", "4x"]


def volumes(**changes: object) -> TrainingConfig:
    fields = {
        "network__reconstruction": {"resolutions": 1},
        "tasks": {"reconstruction": {"operator": "denoising", "sigma": [0.2, 0.2]}},
    }
    return config(**{**fields, **changes})


def test_volumes_are_denoised_whole(data: Path, tmp_path: Path):
    on_trial = trial(volumes(), data, tmp_path)
    (found,) = restored(on_trial, picture(size=(1, 12, 16, 16)))

    assert found.level == "sigma 0.2"
    noise = found.observed - found.clean
    assert float(noise.std()) == pytest.approx(0.2 * float(found.clean.std()), rel=0.1)
    assert found.restored.shape == (1, 12, 16, 16)


def test_rows_hold_both_figures_of_every_slice_and_its_patient(on_trial: Trial):
    rows = reconstruction_rows(on_trial)

    assert len(rows) == 4 * 2
    assert {row.group for row in rows} == {"case_06", "case_07"}
    assert set(rows[0].figures) == {"psnr_db", "ssim", "observed_psnr_db", "observed_ssim"}
    assert all(row.figures["observed_psnr_db"] > 5 for row in rows)


def test_the_summary_is_per_level_with_the_gain_over_what_was_given():
    rows = [
        SliceRow(
            f"c{n}",
            f"g{n // 2}",
            "4x",
            0,
            {"psnr_db": 30.0 + n, "ssim": 0.9, "observed_psnr_db": 28.0 + n, "observed_ssim": 0.7},
        )
        for n in range(6)
    ]
    level = reconstruction_summary(rows)["levels"]["4x"]

    assert (level["slices"], level["groups"]) == (6, 3)
    assert level["restored"]["psnr_db"]["value"] == 32.5
    assert level["observed"]["psnr_db"]["value"] == 30.5
    assert level["gain"]["psnr_db"]["value"] == pytest.approx(2.0)
    assert level["gain"]["psnr_db"]["interval_95"] == pytest.approx((2.0, 2.0))
    assert level["restored"]["psnr_db"]["interval_95"] == (
        30.5,
        34.5,
    )  # means of the first and the last group


def test_there_has_to_be_a_task():
    with pytest.raises(InputError, match="expected a reconstruction task"):
        task_of(config())


def test_what_is_shown_of_a_real_image_is_its_real_part(on_trial: Trial):
    (found, *_) = restored(on_trial, picture() - 0.5)

    assert not found.clean[1].any()
    assert (found.clean[0] < 0).any()
    assert magnitude(found.clean[None]).min() >= 0
