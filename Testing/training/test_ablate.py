# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
import json
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from DIANetLib.errors import ConfigError, InputError
from DIANetLib.losses.cut import CutPrior
from DIANetLib.network import DIANet, DIANetOutput, SegmentationOutput
from Testing.training.tiny import config, write_config
from training.__main__ import main
from training.ablate_arms import arm_config, arms_of, chosen_arms
from training.ablate_measure import measure_blocks, measure_cases
from training.ablate_report import collect, write_report
from training.checkpoint import load_checkpoint
from training.datasets import PreparedCase

DEEP = {"network__deep_supervision": 1, "network__widths": [6, 8, 8], "network__blocks": [0, 0, 0]}
SETTINGS = {**DEEP, "network__latent": {"channels": 4}, "network__strides": [2, 2], "patch": [16, 16, 12]}


class TestArms:
    def test_each_part_has_an_arm_and_all_of_them_one(self):
        arms = arms_of(config(**SETTINGS))

        assert next(iter(arms)) == "n1"
        assert list(arms)[-1] == "all"
        assert {"latent", "codebook", "pyramid", "reliable-path", "cut", "reconstruction"} <= set(arms)
        assert "fusion" not in arms  # there is one modality
        everything = arm_config(config(**SETTINGS), arms["all"], seed=1, steps=3)
        for arm in arms.values():
            made = arm_config(config(**SETTINGS), arm, seed=1, steps=3)
            assert made.optimiser.steps == 3
            for name in arm.network:
                assert getattr(everything.network, name) is not None
        assert everything.network.latent is not None
        assert (everything.network.latent.rank, everything.network.latent.anatomy) == (4, True)

    def test_settings_are_those_of_the_configuration_where_it_has_the_part(self):
        given = config(**SETTINGS, network__pyramid={"channels": 5}, objective={"spatial_prior": 0.7})
        arms = arms_of(given)

        assert arm_config(given, arms["n1"], seed=1, steps=None).network.pyramid is None
        pyramid = arm_config(given, arms["pyramid"], seed=1, steps=None)
        assert pyramid.network.pyramid is not None
        assert pyramid.network.pyramid.channels == 5
        assert pyramid.objective.spatial_prior == 0.0
        assert arm_config(given, arms["spatial-prior"], seed=1, steps=None).objective.spatial_prior == 0.7
        assert arm_config(given, arms["latent"], seed=1, steps=None).network.latent.channels == 4

    def test_every_arm_starts_as_the_same_function_from_the_weights_of_the_plain_network(self):
        from training.start import Start, take_over

        given = config(**SETTINGS)
        arms = arms_of(given)
        plain = DIANet(arm_config(given, arms["n1"], seed=1, steps=1).network).eval()
        start = Start(Path("n1"), 1, plain.state_dict())
        x = torch.randn(1, 1, 16, 16, 16)
        with torch.no_grad():
            wanted = plain(x).segmented.mean
            for arm in arms.values():
                network = DIANet(arm_config(given, arm, seed=1, steps=1).network).eval()
                taken = take_over(network, start)
                assert not taken.unused
                torch.testing.assert_close(network(x).segmented.mean, wanted, atol=1e-5, rtol=1e-5)

    def test_wrong_names_and_models_without_segmentation_are_told_in_a_sentence(self):
        with pytest.raises(ConfigError, match=r"arms: expected some of n1, latent, .*, all, got piramid"):
            chosen_arms(arms_of(config(**SETTINGS)), ["n1", "piramid"])
        classifies = config(
            network__classes=0,
            network__classification={"classes": 2},
            data__structures=[],
            data__targets=[
                {"key": "a", "name": "A", "source_values": ["0"]},
                {"key": "b", "name": "B", "source_values": ["1"]},
            ],
        )
        with pytest.raises(ConfigError, match=r"expected network\.classes above 0, got 0"):
            arms_of(classifies)


def test_paths_are_measured_one_by_one(cases: list[PreparedCase]):
    given = config(**SETTINGS, network__reliable_path={})
    torch.manual_seed(0)
    network = DIANet(given.network).eval()

    figures = measure_blocks(
        network, given, cases[:2], {"discriminator_accuracy": {10: 0.9, 28: 0.6, 30: 0.5}}
    )

    full = np.mean([row["dice"] for row in measure_cases(network, given, cases[:2], None).values()])
    assert set(figures["paths"]) == {"fused", "full", "scale 1"}
    assert figures["paths"]["fused"] == pytest.approx(figures["paths"]["full"])  # the gain starts at zero
    assert figures["paths"]["fused"] == pytest.approx(full)
    assert figures["discriminator_accuracy"] == pytest.approx(0.55)


class Echo(torch.nn.Module):
    """Segments an image that holds class numbers as that, moved by some slices along j."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.shift = shift
        self.idle = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor, *, available: torch.Tensor | None = None) -> DIANetOutput:
        labels = x[:, 0].round().long().roll(self.shift, 2)
        logits = 50.0 * torch.nn.functional.one_hot(labels, 3).movedim(-1, 1)
        return DIANetOutput(SegmentationOutput(logits.float()))


def test_dice_and_the_error_of_the_cut_follow_the_hand_worked_example():
    labels = np.zeros((4, 16, 4), np.uint8)
    labels[:, 2:6], labels[:, 6:12] = 1, 2
    case = PreparedCase("box", labels[None].astype(np.float32), labels)
    cut = CutPrior(lower=1, upper=2, axis=1, mean=0.4, deviation=0.1)

    row = measure_cases(Echo(2), config(**SETTINGS), [case], cut)["box"]

    assert row["cut_error_mm"] == pytest.approx(2.0)
    assert row["front"] == pytest.approx(0.5)  # 2 of 4 slices
    assert row["back"] == pytest.approx(4 / 6)
    assert row["dice"] == pytest.approx((0.5 + 4 / 6) / 2)
    assert "cut_error_mm" not in measure_cases(Echo(0), config(**SETTINGS), [case], None)["box"]


@pytest.fixture(scope="module")
def ablated(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ablated")
    write_config(folder / "c.yaml", **SETTINGS)
    assert main([*_command(folder, data), "--arms", "n1"]) == 0
    assert main([*_command(folder, data), "--arms", "pyramid"]) == 0
    return folder


def _command(folder: Path, data: Path) -> list[str]:
    return [
        *("ablate", str(folder / "c.yaml"), "--data", str(data), "--output", str(folder / "out")),
        *("--steps", "4", "--warm-up", "3", "--device", "cpu"),
    ]


class TestAblating:
    def test_arms_are_fitted_from_one_start_and_reported_side_by_side(self, ablated: Path):
        out = ablated / "out"
        starts = {load_checkpoint(path).start for path in out.glob("arms/*/seed-1/checkpoint.pt")}
        with (out / "ablation.csv").open(newline="") as file:
            rows = {row["arm"]: row for row in csv.DictReader(file)}

        assert len(starts) == 1
        assert starts != {""}
        assert list(rows) == ["n1", "pyramid"]
        assert float(rows["pyramid"]["dice_difference"]) == pytest.approx(
            float(rows["pyramid"]["dice"]) - float(rows["n1"]["dice"])
        )
        assert float(rows["pyramid"]["relative_time"]) > 0
        assert int(rows["pyramid"]["parameters"]) > int(rows["n1"]["parameters"])
        assert rows["pyramid"]["own_figures"].startswith("alpha 0.3")
        assert "cut_error_mm" in rows["n1"]
        text = (out / "ablation.md").read_text()
        assert "all from one fit of n1 of 3 steps" in text
        assert json.loads((out / "ablation.json").read_text())["arms"][1]["arm"] == "pyramid"

    def test_arms_that_are_done_are_not_done_again(self, ablated: Path, data: Path):
        files = [*(ablated / "out").glob("*/*/seed-1/*.pt"), *(ablated / "out").glob("*/*/seed-1/m*.json")]
        before = [file.stat().st_mtime_ns for file in files]

        assert main([*_command(ablated, data), "--arms", "n1", "pyramid"]) == 0
        assert [file.stat().st_mtime_ns for file in files] == before
        assert main([*_command(ablated, data), "--report-only"]) == 0

    def test_another_budget_in_the_same_folder_is_refused(self, ablated: Path, data: Path, capsys):
        assert main([*_command(ablated, data), "--steps", "5", "--arms", "n1"]) == 2
        assert "holds an ablation of another steps" in capsys.readouterr().err

    def test_one_folder_is_not_fitted_by_two_processes(self, ablated: Path, data: Path, capsys):
        fcntl = pytest.importorskip("fcntl")
        folder = ablated / "out" / "arms" / "attention" / "seed-1"
        folder.mkdir(parents=True)
        with (folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert main([*_command(ablated, data), "--arms", "attention"]) == 2
        assert "another process is fitting in" in capsys.readouterr().err

    def test_a_stopped_ablation_says_how_to_go_on_and_does(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
    ):
        asked = iter([False, True])

        @contextmanager
        def stops():
            yield lambda: next(asked, False)

        monkeypatch.setattr("training.ablate.stop_request", stops)
        write_config(tmp_path / "c.yaml", **SETTINGS)
        command = [*_command(tmp_path, data)[:-4], "--device", "cpu", "--arms", "n1"]

        assert main(command) == 130
        said = capsys.readouterr().err
        assert "at step 2 of 4. Go on with: python -m training ablate" in said
        assert main(command) == 0
        assert load_checkpoint(tmp_path / "out" / "arms" / "n1" / "seed-1" / "checkpoint.pt").step == 4


def _measured(folder: Path, arm: str, part: str, dice: list[float], **more: Any) -> None:
    path = folder / "arms" / arm / f"seed-{more.pop('seed', 1)}"
    path.mkdir(parents=True)
    data = {
        "arm": arm,
        "part": part,
        "seed": int(path.name.removeprefix("seed-")),
        "steps": 10,
        "parameters": 1000,
        "seconds_per_step": 0.3,
        "reference_seconds_per_step": 0.2,
        "cases": {f"case{n}": {"front": value, "dice": value} for n, value in enumerate(dice)},
        "groups": {f"case{n}": f"case{n}" for n in range(len(dice))},
        "blocks": {},
        **more,
    }
    (path / "measured.json").write_text(json.dumps(data))


class TestReport:
    def test_differences_are_paired_by_case_and_averaged_over_seeds(self, tmp_path: Path):
        _measured(tmp_path, "n1", "N1: plain", [0.5, 0.7, 0.9])
        _measured(tmp_path, "n1", "N1: plain", [0.6, 0.8, 1.0], seed=2)
        _measured(tmp_path, "cut", "O3: cut", [0.52, 0.72, 0.92])
        _measured(tmp_path, "cut", "O3: cut", [0.62, 0.82, 1.0], seed=2)
        _measured(tmp_path, "pyramid", "N3: pyramid", [0.5, 0.7, 0.9])

        n1, pyramid, cut = collect(tmp_path)

        assert (n1.arm, pyramid.arm, cut.arm) == ("n1", "pyramid", "cut")
        assert n1.dice.value == pytest.approx(0.75)
        assert n1.dice_difference is None
        assert cut.dice_difference.value == pytest.approx((0.02 + 0.02 + 0.01) / 3)
        low, high = cut.dice_difference.interval_95
        assert 0.009 < low < high < 0.021
        assert pyramid.seeds == (1,)
        assert pyramid.dice_difference.value == pytest.approx(0.0)
        assert cut.relative_time == pytest.approx(1.5)

    def test_figures_of_the_blocks_are_told_in_words(self, tmp_path: Path):
        latent = {"kl": 3.5, "kl_per_dimension": [3.5, 0.0], "active_dimensions": 1}
        blocks = {
            "latent": {**latent, "dice_change_when_shuffled": -0.012},
            "scale_weights": [0.7, 0.3],
            "discriminator_accuracy": 0.512,
            "paths": {"fused": 0.9, "full": 0.89, "scale 1": 0.8},
        }
        _measured(tmp_path, "n1", "N1: plain", [0.5, 0.7], blocks=blocks)

        text = write_report(tmp_path, "command").read_text()

        for part in (
            "KL 3.50 nats, 1 of 2 dimensions active; another case's h: -1.20 points",
            "alpha 0.70, 0.30; discriminator right in 51.2 %",
            "fused 90.00, best path alone (full) 89.00",
        ):
            assert part in text

    def test_a_report_without_the_reference_or_on_other_cases_is_refused(self, tmp_path: Path):
        _measured(tmp_path, "cut", "O3: cut", [0.5, 0.7])
        with pytest.raises(InputError, match="holds no measured arm n1"):
            write_report(tmp_path)
        _measured(tmp_path, "n1", "N1: plain", [0.5, 0.7, 0.9])
        with pytest.raises(InputError, match="measured on other cases"):
            write_report(tmp_path)
