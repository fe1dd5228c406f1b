# SPDX-License-Identifier: Apache-2.0
"""Fit, evaluate and export through the command line."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from DIANetLib.bundle import load_bundle
from DIANetLib.formats.image import read_volume
from DIANetLib.inference.engine import Segmenter
from Testing.training.tiny import write_config
from training.__main__ import main
from training.checkpoint import load_checkpoint

QUICK = {"optimiser__steps": 60, "validate_every": 20, "about": {"attribution": "Balls by nobody."}}


@pytest.fixture(scope="session")
def fitted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with c.yaml and the evaluated fit out/; not to be changed."""
    folder = tmp_path_factory.mktemp("fitted")
    write_config(folder / "c.yaml", **QUICK)
    assert main(["fit", *_common(folder, data)]) == 0
    assert main(["evaluate", *_common(folder, data), "--samples", "3"]) == 0
    return folder


def _common(folder: Path, data: Path) -> list[str]:
    return [str(folder / "c.yaml"), "--data", str(data), "--output", str(folder / "out"), "--device", "cpu"]


@pytest.fixture
def own(fitted: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(fitted, tmp_path / "fitted"))


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "out" / "evaluation" / "summary.json").read_text(encoding="utf-8"))


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


class TestEvaluating:
    def test_tables_hold_each_held_out_case_and_structure(self, fitted: Path):
        cases = rows_of(fitted / "out" / "evaluation" / "cases.csv")
        structures = rows_of(fitted / "out" / "evaluation" / "structures.csv")
        split = json.loads((fitted / "out" / "split.json").read_text())

        assert [row["case"] for row in cases] == split["held_out"] == summary_of(fitted)["held_out"]
        assert [row["structure"] for row in structures] == ["front", "back"] * len(cases)
        for row in cases:
            parts = [float(part["dice"]) for part in structures if part["case"] == row["case"]]
            assert float(row["dice"]) == pytest.approx(np.mean(parts), rel=1e-4)
        assert {"hd95_mm", "nsd_1mm", "ece_before", "ece", "error_auroc_plain"} <= set(cases[0])

    def test_the_summary_says_what_was_done_and_how_good_it_is(self, fitted: Path):
        summary = summary_of(fitted)

        assert summary["cases"] == summary["figures"]["dice"]["n"] == 2
        assert summary["figures"]["dice"]["mean"] > 0.6
        assert summary["samples"] == 3
        assert 0.2 <= summary["temperature"] <= 5
        assert summary["step"] == 60
        assert len(summary["weights_sha256"]) == 64
        assert summary["command"].startswith("python -m training evaluate")
        assert summary["versions"]["torch"] == torch.__version__
        assert len(summary["latent"]["kl_per_dimension"]) == 2
        assert 0.5 < summary["pooled"]["error_auroc_total"] <= 1
        low, high = summary["figures"]["dice"]["interval_95"]
        assert low <= summary["figures"]["dice"]["mean"] <= high

    def test_cases_are_not_done_again_unless_settings_change(self, own: Path, data: Path):
        files = sorted((own / "out" / "evaluation" / "cases").iterdir())
        files[1].write_bytes(files[1].read_bytes()[:100])  # cut off: done again
        before, figures = [file.stat().st_mtime_ns for file in files], summary_of(own)["figures"]

        assert main(["evaluate", *_common(own, data), "--samples", "3"]) == 0
        kept = [file.stat().st_mtime_ns == time for file, time in zip(files, before, strict=True)]
        assert kept == [True, False]
        assert summary_of(own)["figures"] == figures

        mirrored = [*_common(own, data), "--samples", "3", "--set", "mirror_samples=true"]
        assert main(["evaluate", *mirrored]) == 0  # the fit is the same, what is done with it is not
        assert summary_of(own)["figures"]["dice_plain"] == figures["dice_plain"]
        assert summary_of(own)["figures"]["error_auroc_total"] != figures["error_auroc_total"]

        assert main(["evaluate", *_common(own, data), "--samples", "2", "--limit", "1"]) == 0
        assert files[0].stat().st_mtime_ns != before[0]
        assert summary_of(own)["limited"]

    def test_other_data_than_the_fit_had_is_refused(self, own: Path, data: Path, capsys):
        split = json.loads((own / "out" / "split.json").read_text())
        split["held_out"][0] = "another"
        (own / "out" / "split.json").write_text(json.dumps(split))

        assert main(["evaluate", *_common(own, data)]) == 2
        assert "are not those that" in capsys.readouterr().err

    def test_weights_of_another_model_or_fold_are_refused(self, own: Path, data: Path, capsys):
        assert main(["evaluate", *_common(own, data), "--fold", "1"]) == 2
        assert "fold (0, not 1) differ" in capsys.readouterr().err
        assert main(["evaluate", *_common(own, data), "--set", "network.dropout=0.3"]) == 2
        assert "network differ" in capsys.readouterr().err

    def test_a_folder_without_a_fit_is_told_in_a_sentence(
        self, fitted: Path, data: Path, tmp_path: Path, capsys
    ):
        shutil.copy(fitted / "c.yaml", tmp_path / "c.yaml")

        assert main(["evaluate", *_common(tmp_path, data)]) == 2
        assert capsys.readouterr().err.startswith("training: error: ")


class TestExporting:
    def test_the_bundle_runs_and_says_how_good_it_is(self, own: Path, data: Path, capsys):
        assert main(["export", *_common(own, data), "--check-cases", "2"]) == 0
        folder = own / "out" / "models" / "two-balls"
        model = load_bundle(folder)
        summary = summary_of(own)
        section = model.metadata.dianet

        assert str(folder) in capsys.readouterr().out
        assert section.temperature == summary["temperature"]
        assert section.figures["dice"] == summary["figures"]["dice"]
        assert section.figures["float16"]["cases"] == 2
        assert section.figures["float16"]["within_tolerance"]
        assert section.training["held_out"] == summary["held_out"]
        assert section.training["weights_sha256"] == summary["weights_sha256"]
        assert (section.training["steps"], section.training["seed"]) == (60, 1)
        assert [part.key for part in model.structures] == ["front", "back"]
        licence = (folder / "LICENSE").read_text()
        assert "Creative Commons Attribution-ShareAlike 4.0" in licence
        assert "Balls by nobody." in licence
        card = (folder / "docs" / "README.md").read_text()
        assert "not a medical device" in card
        assert f"{summary['figures']['dice']['mean']:.4f}" in card
        assert "python -m training fit" in card
        assert "null" not in card
        assert "None" not in card

        image = read_volume(data / "images" / f"{summary['held_out'][0]}.nii.gz")
        prediction = Segmenter(model, "cpu").segment([image], samples=3, seed=0)
        first = rows_of(own / "out" / "evaluation" / "structures.csv")[0]
        assert prediction.volumes_ml["front"] == pytest.approx(float(first["volume_ml"]), rel=1e-4)

    def test_a_model_folder_that_is_there_is_replaced_only_on_request(self, own: Path, data: Path, capsys):
        arguments = [*_common(own, data), "--check-cases", "0", "--into", str(own / "models")]
        assert main(["export", *arguments]) == 0
        capsys.readouterr()

        assert main(["export", *arguments]) == 2
        assert "is there already" in capsys.readouterr().err
        assert main(["export", *arguments, "--replace"]) == 0

    def test_without_a_whole_evaluation_of_these_weights_nothing_is_exported(
        self, own: Path, data: Path, capsys
    ):
        file = own / "out" / "evaluation" / "summary.json"
        for change, sentence in (
            ({"weights_sha256": "0" * 64}, "is of other weights"),
            ({"limited": True}, "was limited to 2 of its 2 cases"),
            ({"model": "other"}, "is about the model 'other'"),
            ({"format": "x"}, "is no summary"),
        ):
            whole = json.loads(file.read_text())
            file.write_text(json.dumps(whole | change))
            assert main(["export", *_common(own, data)]) == 2
            assert sentence in capsys.readouterr().err
            file.write_text(json.dumps(whole))
        file.unlink()
        assert main(["export", *_common(own, data)]) == 2
        assert "has not been evaluated" in capsys.readouterr().err
        assert not (own / "out" / "models").exists()

    def test_an_unknown_licence_is_refused(self, own: Path, data: Path, capsys):
        assert main(["export", *_common(own, data), "--set", "licence=mine"]) == 2
        assert "licence: expected one of" in capsys.readouterr().err


class TestFitting:
    def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
    ):
        @contextmanager
        def third_step() -> Iterator[object]:
            asked = iter([False, False, True])
            yield lambda: next(asked)

        write_config(tmp_path / "c.yaml", **QUICK)
        arguments = ["fit", *_common(tmp_path, data), "--set", "optimiser.steps=6"]
        with monkeypatch.context() as patch:
            patch.setattr("training.fit.stop_request", third_step)
            assert main(arguments) == 130
        said = capsys.readouterr().err
        assert "stopped at step 3 of 6" in said
        assert "Go on with: python -m training fit" in said
        assert load_checkpoint(tmp_path / "out" / "checkpoint.pt").step == 3

        assert main(arguments) == 0
        assert "6 steps" in capsys.readouterr().out
        assert main([*arguments[:-1], "optimiser.steps=7"]) == 2
        assert "optimiser differ" in capsys.readouterr().err
        (tmp_path / "out" / "notes.txt").write_text("mine")
        assert main([*arguments[:-1], "optimiser.steps=2", "--restart"]) == 0
        assert load_checkpoint(tmp_path / "out" / "checkpoint.pt").step == 2
        assert (tmp_path / "out" / "notes.txt").exists()

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["--device", "tpu"], "unknown device 'tpu'"),
            (["--fold", "9"], "expected a fold from 0 to 3, got 9"),
            (["--set", "data.inner=7"], "at least 11 cases"),
            (["--set", "patch"], "not of the form"),
            (["--data", "nowhere"], "holds no data set"),
        ],
    )
    def test_bad_input_is_one_sentence(
        self, data: Path, tmp_path: Path, arguments: list[str], sentence: str, capsys
    ):
        write_config(tmp_path / "c.yaml")

        assert main(["fit", *_common(tmp_path, data), *arguments]) == 2
        said = capsys.readouterr().err
        assert said.startswith("training: error: ")
        assert sentence in said
        assert len(said.splitlines()) == 1
        assert not (tmp_path / "out").exists()

    def test_an_interruption_before_the_first_step_is_no_traceback(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
    ):
        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("training.fit.load_case", interrupt)
        write_config(tmp_path / "c.yaml")

        assert main(["fit", *_common(tmp_path, data)]) == 130
        assert capsys.readouterr().err.strip().endswith("stopped")

    def test_unknown_commands_and_missing_options_exit_with_2(self):
        for arguments in ([], ["train"], ["fit", "c.yaml"], ["evaluate", "c.yaml", "--data", "x"]):
            with pytest.raises(SystemExit) as error:
                main(arguments)
            assert error.value.code == 2
