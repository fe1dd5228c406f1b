# SPDX-License-Identifier: Apache-2.0
"""Classes, reconstructions and several modalities through the command line: fit, evaluate, pool, export."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from DIANetLib.bundle import load_bundle
from Testing.training.tiny import settings, write_config
from Testing.training.trials import (
    MODALITIES,
    classes,
    slices,
    write_pictures,
    write_two_modalities,
)
from training.__main__ import main

QUICK = {"optimiser__steps": 4, "validate_every": 4, "about": {"attribution": "Made up by nobody."}}
PAIRS = {
    "data__format": "modality-files",
    "data__modalities": MODALITIES,
    "data__regions": [{"key": "ball", "name": "Ball", "structures": ["front", "back"]}],
    "network__modalities": 2,
    "augment": {"modality_dropout": 0.3},
    "objective": {"spatial_prior": 0.1},
}


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def fit(folder: Path, data: Path, *more: object, output: str = "out") -> list[object]:
    """Fit the configuration of a folder; returns what evaluate and export need."""
    common = [folder / "c.yaml", "--data", data, "--output", folder / output, "--device", "cpu"]
    assert run("fit", *common, *more) == 0
    return common


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "evaluation" / "summary.json").read_text(encoding="utf-8"))


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def classified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an evaluated and exported classification out/ and a baseline peer/; not to be changed."""
    folder = tmp_path_factory.mktemp("classified")
    data = write_pictures(folder / "data")
    write_config(folder / "c.yaml", **classes(**QUICK))
    common = fit(folder, data)
    assert run("evaluate", *common, "--samples", 2, "--pictures", folder / "pictures") == 0
    assert run("export", *common) == 0
    return folder


def test_a_classification_is_evaluated_case_by_case(classified: Path):
    summary = summary_of(classified / "out")
    rows = rows_of(classified / "out" / "evaluation" / "classification.csv")

    assert [row["case"] for row in rows] == summary["held_out"]
    assert len(rows) == 8
    assert float(rows[0]["p_dark"]) + float(rows[0]["p_bright"]) == pytest.approx(1.0, abs=1e-5)
    part = summary["classification"]
    assert part["classes"] == ["dark", "bright"]
    assert sum(map(sum, part["confusion"])) == 8
    assert 0 <= part["figures"]["auroc"]["value"] <= 1
    assert summary["latent"]["dice_own"] is None
    assert "figures" not in summary


def test_pictures_of_each_class_are_written(classified: Path):
    with Image.open(classified / "pictures" / "classification.png") as picture:
        width, height = picture.size
        colours = np.asarray(picture.convert("RGB"))

    assert width == 3 * (168 + 2)  # the picture, CAM and Grad-CAM
    assert height == 8 * (168 + 14 + 2)
    assert colours[20:180, :168].std() > 10
    assert (colours[..., 0] != colours[..., 2]).any()  # the maps have colours


def test_a_bundle_of_a_classification_has_its_classes_and_a_card(classified: Path):
    model = load_bundle(classified / "out" / "models" / "two-balls")
    temperature = summary_of(classified / "out")["classification"]["temperature"]

    assert [(part.key, part.name) for part in model.classes] == [("dark", "Dark"), ("bright", "Bright")]
    assert model.classes[0].temperature == pytest.approx(temperature)
    assert model.structures == ()
    figures = model.metadata.dianet.figures
    assert figures["classification"]["cases"] == 8
    assert figures["float16"]["largest_difference_of_a_probability"] < 1e-2
    assert model.metadata.task == "Classification of two-balls into Dark, Bright"
    card = (classified / "out" / "models" / "two-balls" / "docs" / "README.md").read_text()
    assert "calibrated probabilities of Dark, Bright" in card
    assert "| AUROC |" in card
    assert "| true class | taken for dark | taken for bright |" in card
    assert "None" not in card
    assert "nan" not in card


def test_a_baseline_is_compared_with_and_not_exported(classified: Path, capsys: pytest.CaptureFixture[str]):
    peer = {"baseline": "resnet18", "network__latent": None}
    write_config(classified / "c.yaml", **classes(**QUICK, **peer))
    common = fit(classified, classified / "data", output="peer")
    against = ["--against", classified / "out"]
    assert run("evaluate", *common, "--samples", 2, *against) == 0

    summary = summary_of(classified / "peer")
    assert summary["baseline"] == "resnet18"
    difference = summary["against"]["classification"]["auroc"]
    assert difference["value"] == pytest.approx(difference["ours"] - difference["theirs"])
    assert "Paired, against two-balls" in capsys.readouterr().out
    assert run("export", *common) == 2
    assert "expected a DIANet to export, got the baseline resnet18" in capsys.readouterr().err
    assert run("evaluate", *common, "--pictures", classified / "none") == 2
    assert "there are pictures of DIANet's classifications" in capsys.readouterr().err


def test_a_reconstruction_is_evaluated_pictured_and_exported(data: Path, tmp_path: Path):
    write_config(tmp_path / "c.yaml", **slices(**QUICK))
    common = fit(tmp_path, data)
    assert run("evaluate", *common, "--pictures", tmp_path / "pictures") == 0
    assert run("export", *common) == 0

    summary = summary_of(tmp_path / "out")
    assert list(summary["reconstruction"]["levels"]) == ["2x", "4x"]
    rows = rows_of(tmp_path / "out" / "evaluation" / "reconstruction.csv")
    assert len(rows) == 2 * len(summary["held_out"])
    with Image.open(tmp_path / "pictures" / "reconstruction-4x.png") as picture:
        assert picture.width > 4 * 168
    model = load_bundle(tmp_path / "out" / "models" / "two-balls")
    assert model.reconstruction is not None
    assert model.reconstruction.task == "k-space"
    assert [part.name for part in model.modalities] == ["T1 real part", "T1 imaginary part"]
    card = (tmp_path / "out" / "models" / "two-balls" / "docs" / "README.md").read_text()
    assert "undersampled k-space (2×, 4×)" in card
    assert "| 4x | PSNR, dB |" in card


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the evaluated folds f0/ and f1/ of a fit on pairs; not to be changed."""
    folder = tmp_path_factory.mktemp("folds")
    write_two_modalities(folder / "data")
    write_config(folder / "c.yaml", **PAIRS, **QUICK, licence="not-for-distribution")
    for fold in (0, 1):
        common = fit(folder, folder / "data", "--fold", fold, output=f"f{fold}")
        assert run("evaluate", *common, "--samples", 2, "--subsets") == 0
    return folder


class TestSeveralModalities:
    def test_subsets_and_regions_are_in_summary_and_tables(self, folds: Path):
        summary = summary_of(folds / "f0")

        assert list(summary["subsets"]) == ["T1+T2", "T1", "T2"]
        assert summary["subsets"]["T2"]["dice"]["n"] == 2
        assert set(summary["regions"]) == {"ball"}
        assert summary["figures"]["dice_regions"]["n"] == 2
        structures = rows_of(folds / "f0" / "evaluation" / "structures.csv")
        assert [row["structure"] for row in structures] == ["front", "back", "ball"] * 2
        assert len(rows_of(folds / "f0" / "evaluation" / "subsets.csv")) == 6

    def test_folds_are_pooled_case_by_case(self, folds: Path, tmp_path: Path):
        given = [folds / "c.yaml", folds / "f0", folds / "f1", "--output", tmp_path / "pool"]
        assert run("pool", *given, "--against", folds / "f0") == 2  # other cases
        assert run("pool", *given) == 0
        pooled, parts = summary_of(tmp_path / "pool"), [summary_of(folds / f"f{n}") for n in (0, 1)]

        assert pooled["cases"] == pooled["figures"]["dice"]["n"] == 4
        mean = np.mean([part["figures"]["dice"]["mean"] for part in parts])
        assert pooled["figures"]["dice"]["mean"] == pytest.approx(mean, abs=1e-5)
        assert pooled["regions"]["ball"]["dice"]["n"] == 4
        assert len(pooled["worst"]["cases"]) == 1
        rows = rows_of(tmp_path / "pool" / "evaluation" / "cases.csv")
        assert pooled["worst"]["dice"] == pytest.approx(min(float(row["dice"]) for row in rows), abs=1e-5)
        assert pooled["pooled"]["voxels"] == sum(part["pooled"]["voxels"] for part in parts)
        rates = [part["pooled"]["voxels"] * part["pooled"]["error_rate"] for part in parts]
        assert pooled["pooled"]["error_rate"] == pytest.approx(sum(rates) / pooled["pooled"]["voxels"])
        assert 0 < pooled["figures"]["qubrats_total"]["mean"] <= 1
        assert set(pooled["structures"]) == {"front", "back"}
        assert pooled["subsets"]["T1"]["dice"]["n"] == 4
        assert [part["fold"] for part in pooled["per_fold"]] == [0, 1]
        assert len(rows_of(tmp_path / "pool" / "evaluation" / "cases.csv")) == 4
        assert run("pool", *given, "--against", tmp_path / "pool") == 0
        against = summary_of(tmp_path / "pool")["against"]
        assert against["subsets"]["T1"]["dice"]["value"] == 0.0

    def test_a_fold_whose_voxels_are_gone_is_told_before_anything_is_written(
        self, folds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        shutil.copytree(folds / "f1", tmp_path / "f1")
        evaluation = tmp_path / "f1" / "evaluation"
        file = evaluation / "cases" / f"{rows_of(evaluation / 'cases.csv')[0]['case']}.npz"
        file.unlink()
        given = [folds / "c.yaml", folds / "f0", tmp_path / "f1", "--output", tmp_path / "pool"]
        assert run("pool", *given) == 2
        assert f"{file.name}, which holds the judged voxels" in capsys.readouterr().err
        assert not (tmp_path / "pool").exists()

    @pytest.mark.parametrize(
        ("names", "changed", "sentence"),
        [
            (["f0", "f0"], None, "expected a different fold in every folder, got 0, 0"),
            (["f0", "nowhere"], None, "holds no evaluation"),
            (["f0", "f1"], {"steps": 9}, "evaluated alike, got steps 4"),
            (["f0", "f1"], {"model": "other"}, "evaluated alike, got model two-balls"),
            (["f0", "f1"], {"format": "foreign"}, "is no summary of the evaluation of a fit"),
        ],
    )
    def test_folds_that_do_not_belong_together_are_refused(
        self,
        folds: Path,
        tmp_path: Path,
        names: list[str],
        changed: dict[str, Any] | None,
        sentence: str,
        capsys: pytest.CaptureFixture[str],
    ):
        folders = [folds / name for name in names]
        if changed:
            folders[1] = tmp_path / "changed"
            (folders[1] / "evaluation").mkdir(parents=True)
            file = folders[1] / "evaluation" / "summary.json"
            file.write_text(json.dumps({**summary_of(folds / "f1"), **changed}))
        assert run("pool", folds / "c.yaml", *folders, "--output", tmp_path / "pool") == 2
        assert sentence in " ".join(capsys.readouterr().err.split())
        assert not (tmp_path / "pool").exists()

    def test_a_bundle_says_what_may_be_missing_and_carries_the_atlas_and_the_ban(
        self, folds: Path, tmp_path: Path
    ):
        common = [folds / "c.yaml", "--data", folds / "data", "--output", folds / "f1", "--device", "cpu"]
        assert run("export", *common, "--into", tmp_path) == 0
        model = load_bundle(tmp_path / "two-balls")

        assert [part.required for part in model.modalities] == [False, False]
        assert model.atlas is not None
        assert model.atlas.shape[0] == 3
        assert model.atlas_spacing_mm == (1.0, 1.0, 1.0)
        assert model.metadata.dianet.figures["subsets"]["T1"]["dice"]["n"] == 2
        card = (tmp_path / "two-balls" / "docs" / "README.md").read_text()
        assert "T1 (may be missing), T2 (may be missing)" in card
        assert "may not be shipped with DIANet" in card
        assert "| ball |" in card
        assert "the same weights, one mean pass" in card
        assert "atlas of its classes" in card
        assert "--into models" in card
        licence = (tmp_path / "two-balls" / "LICENSE").read_text()
        assert "Not for distribution" in licence
        assert "http" not in licence

    def test_an_evaluation_without_subsets_leaves_no_old_ones(self, folds: Path, tmp_path: Path):
        write_config(tmp_path / "c.yaml", **PAIRS, **QUICK)
        common = fit(tmp_path, folds / "data")
        old = tmp_path / "out" / "evaluation" / "subsets.csv"
        old.parent.mkdir()
        old.write_text("case,subset,modalities,dice\n")
        assert run("evaluate", *common, "--samples", 0, "--limit", 1) == 0

        assert not old.exists()
        assert "subsets" not in summary_of(tmp_path / "out")


def test_cases_of_another_data_set_are_judged_as_that_one_is_read(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "own").mkdir()
    write_config(tmp_path / "own" / "c.yaml", **QUICK)
    common = fit(tmp_path / "own", data)
    pairs = write_two_modalities(tmp_path / "pairs", 3)
    fields = {"data__format": "modality-files", "data__modalities": [{"name": "T1"}], "name": "pairs"}
    other = write_config(tmp_path / "other.yaml", **fields)
    assert run("evaluate", *common, "--samples", 2, "--elsewhere", other, pairs) == 0

    written = tmp_path / "own" / "out" / "evaluation-pairs"
    assert [row["case"] for row in rows_of(written / "cases.csv")] == ["case_00", "case_01", "case_02"]
    summary = json.loads((written / "summary.json").read_text())
    assert summary["elsewhere"] == "pairs"
    assert summary["held_out"] == ["case_00", "case_01", "case_02"]
    assert len(summary["inner"]) == 2  # of the fit's own data set
    assert not (tmp_path / "own" / "out" / "evaluation").exists()
    assert "judged on pairs" in capsys.readouterr().out

    others = [{**settings()["data"]["structures"][0], "key": "front"}]
    other = write_config(tmp_path / "other.yaml", **fields, data__structures=others, network__classes=2)
    assert run("evaluate", *common, "--elsewhere", other, pairs) == 2
    assert "expected the data.structures of 'two-balls' (front, back)" in capsys.readouterr().err


def test_a_model_of_two_heads_is_judged_by_both(data: Path, tmp_path: Path):
    tasks = {"reconstruction": {"operator": "denoising", "sigma": [0.2, 0.4], "share": 0.5}}
    write_config(tmp_path / "c.yaml", **QUICK, network__reconstruction={"resolutions": 1}, tasks=tasks)
    common = fit(tmp_path, data)
    assert run("evaluate", *common, "--samples", 2) == 0
    assert run("export", *common, "--check-cases", 1) == 0

    summary = summary_of(tmp_path / "out")
    assert summary["figures"]["dice"]["n"] == 2
    assert list(summary["reconstruction"]["levels"]) == ["sigma 0.2", "sigma 0.3", "sigma 0.4"]
    model = load_bundle(tmp_path / "out" / "models" / "two-balls")
    assert [part.key for part in model.structures] == ["front", "back"]
    assert model.reconstruction is not None
    assert model.metadata.task == "Segmentation of two-balls with uncertainty; Reconstruction of two-balls"
    card = (tmp_path / "out" / "models" / "two-balls" / "docs" / "README.md").read_text()
    assert "noise (up to 0.4 standard deviations of the image)" in card


def test_subsets_of_one_modality_are_refused_before_anything_is_done(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write_config(tmp_path / "c.yaml")
    common = [tmp_path / "c.yaml", "--data", data, "--output", tmp_path / "out"]

    assert run("evaluate", *common, "--subsets") == 2
    assert "two modalities or more for --subsets, got 1" in capsys.readouterr().err
