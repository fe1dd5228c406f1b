# SPDX-License-Identifier: Apache-2.0
"""Learning from corrections, through the files that a review writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from DIANetLib.bundle import load_bundle
from Testing.training.corrected import write_model, write_package
from Testing.training.tiny import write_config
from training.__main__ import main

QUICK = [
    "steps=4",
    "rows=1",
    "fisher.patches=2",
    "checkpoint_every=2",
    "judging.folds=2",
    "judging.samples=1",
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
    def test_a_new_version_names_its_parent_and_what_it_learned_from(self, folder: Path, data: Path, capsys):
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
