# SPDX-License-Identifier: Apache-2.0
"""Learning from corrections, through the files that a review writes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from DIANetLib.acwi.corrections import find_corrections
from DIANetLib.bundle import load_bundle
from Testing.training.corrected import write_model, write_package
from Testing.training.tiny import write_cases, write_config
from training.__main__ import main
from training.finetune_judge import CaseJudgement, judge_corrected

QUICK = [
    *("steps=4", "rows=1", "fisher.patches=1", "checkpoint_every=2"),
    *("judging.folds=2", "judging.samples=1"),
]
TOLERANT = ["judging.tolerance_new=1", "judging.tolerance_whole=1", "judging.tolerance_old=1"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model and two packages."""
    write_model(tmp_path / "models")
    for seed in (50, 51):
        write_package(tmp_path / "packages", seed)
    return tmp_path


def command(folder: Path, *more: str, settings: list[str] = TOLERANT) -> list[str]:
    return [
        "finetune",
        *("--model", str(folder / "models" / "two-balls"), "--corrections", str(folder / "packages")),
        *("--output", str(folder / "out"), "--device", "cpu", *more, "--set", *QUICK, *settings),
    ]


class TestFinetuning:
    def test_a_new_version_names_its_parent_and_what_it_learned_from(
        self, folder: Path, data: Path, capsys: pytest.CaptureFixture[str]
    ):
        write_config(folder / "c.yaml")
        assert main(command(folder, "--rehearse", str(data), "--rehearse-as", str(folder / "c.yaml"))) == 0
        parent = load_bundle(folder / "models" / "two-balls")
        learned = load_bundle(folder / "out" / "models" / "two-balls")
        assert learned.version == "1.0.4"
        assert learned.sha256 != parent.sha256
        facts = learned.metadata.dianet.training
        assert [entry["sha256"] for entry in facts["ancestry"]] == [parent.sha256]
        assert len(facts["learned"]["corrections"]) == 2
        assert facts["learned"]["reviewers"] == ["Ada"]
        assert facts["learned"]["judged_on"] == ["case_00", "case_01", "case_02"]
        assert facts["held_out"] == ["case_00", "case_01", "case_02"]
        table = json.loads((folder / "out" / "before_after.json").read_text(encoding="utf-8"))
        assert set(table["figures"]) == {"new_reviewed", "new", "old"}
        assert len(table["corrected_cases"]) == 2
        assert learned.metadata.dianet.figures["before_after"]["figures"] == table["figures"]
        card = (learned.path / "docs" / "README.md").read_text(encoding="utf-8")
        assert "| rehearsed cases | 3 |" in card
        assert "### two-balls" in card  # the parent's card, demoted
        assert table["share"] in (0.25, 0.5, 0.75, 1.0)
        assert f"are {table['share']:g} of the way" in card
        assert "rehearsed cases" in capsys.readouterr().out

    def test_a_grandchild_keeps_the_whole_line(self, folder: Path):
        assert main(command(folder)) == 0
        shutil.move(folder / "out" / "models", folder / "second")
        shutil.rmtree(folder / "models")
        shutil.move(folder / "second", folder / "models")
        assert main(command(folder)) == 0
        facts = load_bundle(folder / "out" / "models" / "two-balls").metadata.dianet.training
        assert [entry["version"] for entry in facts["ancestry"]] == ["1.0.3", "1.0.4"]
        assert len(facts["ancestry"][1]["corrections"]) == 2


class TestJudgement:
    def test_a_candidate_that_got_worse_is_not_shipped_and_its_table_stays(
        self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ):
        def spoilt(*given: Any) -> list[CaseJudgement]:
            return [
                replace(found, reviewed_before=0.5, reviewed_after=0.3) for found in judge_corrected(*given)
            ]

        monkeypatch.setattr("training.finetune.judge_corrected", spoilt)
        assert main(command(folder, settings=["judging.tolerance_new=0.1"])) == 2
        error = capsys.readouterr().err
        assert "The candidate got worse and is not shipped" in error
        assert "tolerated is a loss of 0.1" in error
        assert not (folder / "out" / "models").exists()
        text = (folder / "out" / "before_after.md").read_text(encoding="utf-8")
        assert "Not shipped: the mean Dice where the corrected cases were reviewed" in text

    def test_what_was_not_judged_is_said(self, folder: Path):
        assert main(command(folder)) == 0
        table = json.loads((folder / "out" / "before_after.json").read_text(encoding="utf-8"))
        assert any("No data was rehearsed" in note for note in table["notes"])
        assert any("2 corrected images are few" in note for note in table["notes"])
        assert any("by other models (two-balls 1.0.3)" in note for note in table["notes"])  # another hash

    def test_one_correction_cannot_judge(self, folder: Path, capsys: pytest.CaptureFixture[str]):
        shutil.rmtree(find_corrections(folder / "packages")[1])
        assert main(command(folder)) == 2
        assert "too few to judge on: at least 2" in capsys.readouterr().err
        assert main(command(folder, "--unjudged")) == 0
        figures = load_bundle(folder / "out" / "models" / "two-balls").metadata.dianet.figures
        assert figures["before_after"]["figures"] == {}


class TestGoingOn:
    def test_a_stopped_fit_goes_on_and_ends_as_if_it_had_not_been_stopped(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ):
        straight = folder / "straight"
        assert main([*command(folder, "--unjudged"), "--output", str(straight)]) == 0
        asked = iter([False, False, True])
        with monkeypatch.context() as patch:
            patch.setattr("training.interrupt.StopRequest.__call__", lambda self: next(asked, False))
            assert main(command(folder, "--unjudged")) == 130
        assert "stopped at step 3 of 4" in capsys.readouterr().err
        assert main(command(folder, "--unjudged")) == 0
        ends = [load_bundle(output / "models" / "two-balls").sha256 for output in (straight, folder / "out")]
        assert ends[0] == ends[1]

    def test_a_checkpoint_of_other_settings_is_not_gone_on_with(self, folder: Path):
        assert main(command(folder, "--unjudged")) == 0
        first = load_bundle(folder / "out" / "models" / "two-balls").sha256
        assert main(command(folder, "--unjudged", "--replace", settings=["learning_rate=0.01"])) == 0
        assert load_bundle(folder / "out" / "models" / "two-balls").sha256 != first


class TestBadInput:
    def fails(self, folder: Path, capsys: pytest.CaptureFixture[str], *more: str, **given: Any) -> str:
        assert main(command(folder, *more, **given)) == 2
        assert not (folder / "out" / "models").exists()
        return capsys.readouterr().err

    def test_no_package(self, folder: Path, capsys: pytest.CaptureFixture[str]):
        shutil.rmtree(folder / "packages")
        assert "no folder of corrections" in self.fails(folder, capsys)
        (folder / "packages").mkdir()
        assert "holds no correction package" in self.fails(folder, capsys)

    def test_a_package_that_lacks_a_file(self, folder: Path, capsys: pytest.CaptureFixture[str]):
        (find_corrections(folder / "packages")[0] / "after.seg.nrrd").unlink()
        assert "after.seg.nrrd is missing" in self.fails(folder, capsys)

    def test_two_reviewers(self, folder: Path, capsys: pytest.CaptureFixture[str]):
        write_package(folder / "packages", 50, reviewer="Ben")
        assert "several reviewers (Ada, Ben)" in self.fails(folder, capsys)

    def test_an_image_that_changed(self, folder: Path, capsys: pytest.CaptureFixture[str]):
        shutil.copy(folder / "images" / "new_51.nrrd", folder / "images" / "new_50.nrrd")
        assert "not the one that was corrected" in self.fails(folder, capsys)

    def test_settings_that_there_are_not(self, folder: Path, capsys: pytest.CaptureFixture[str]):
        assert "stepz" in self.fails(folder, capsys, settings=["stepz=3"])
        assert "weights.changed" in self.fails(folder, capsys, settings=["weights.changed=-1"])
        (folder / "s.yaml").write_text("- 1", encoding="utf-8")
        assert "expected a mapping" in self.fails(folder, capsys, "--config", str(folder / "s.yaml"))

    def test_data_to_rehearse_that_is_of_other_structures_or_too_small(
        self, folder: Path, data: Path, capsys: pytest.CaptureFixture[str]
    ):
        structure = {"key": "x", "name": "X", "color": [1, 2, 3], "source_values": [5]}
        code = {"value": "1", "meaning": "x"}
        write_config(folder / "c.yaml", data__structures=[{**structure, "type": code}], network__classes=2)
        given = ("--rehearse", str(data), "--rehearse-as", str(folder / "c.yaml"))
        assert "the structures x, expected those of the model 'two-balls'" in self.fails(
            folder, capsys, *given
        )
        write_cases(folder / "few", 3)
        assert "expected at least 4" in self.fails(folder, capsys, "--rehearse", str(folder / "few"))

    def test_a_model_folder_that_is_there(self, folder: Path, capsys: pytest.CaptureFixture[str]):
        assert main(command(folder, "--unjudged")) == 0
        assert main(command(folder, "--unjudged")) == 2
        assert "is there already" in capsys.readouterr().err
