# SPDX-License-Identifier: Apache-2.0
"""`dianet classify`, `dianet reconstruct`, and models with several heads, from files to files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from DIANetLib.bundle_schema import ReconstructionSpec
from DIANetLib.cli import main
from DIANetLib.errors import Cancelled
from DIANetLib.formats.image import read_labels, read_volume, write_volume
from DIANetLib.network import NetworkConfig, ReconstructionConfig
from DIANetLib.volume import Geometry, Volume
from DIANetLib.worker.classifying import ClassifyRequest, classify
from DIANetLib.worker.reading import ImageSource
from Testing.bundle.test_heads import CLASSES, SMALL, classifier, write_classifier
from Testing.bundle.tiny import write_bundle

GRID = Geometry((9, 13, 10), (1.0, 1.0, 1.0), (5.0, -3.0, 7.0), np.diag([-1.0, -1.0, 1.0]))
SOURCE = {"spacing_mm": (None, None, None), "orientation": "source"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that classify volumes and pictures, denoise and segment; a volume and pictures."""
    folder = tmp_path_factory.mktemp("place")
    write_classifier(folder / "volumes")
    (folder / "volumes/tiny").rename(folder / "head")
    write_bundle(
        folder,
        "chest",
        network=classifier(spatial_dims=2).model_dump(mode="json"),
        window=(16, 12, 1),
        classes=CLASSES,
        structures=(),
        preprocess=SOURCE,
    )
    config = NetworkConfig(**SMALL, reconstruction=ReconstructionConfig(resolutions=1))
    write_bundle(
        folder,
        "denoiser",
        network=config.model_dump(mode="json"),
        structures=(),
        reconstruction=ReconstructionSpec(),
    )
    write_bundle(folder, "segmenter")
    both = classifier(classes=3).model_dump(mode="json")
    write_bundle(folder, "both", network=both, classes=CLASSES)
    rng = np.random.default_rng(0)
    write_volume(Volume(rng.normal(size=GRID.shape).astype(np.float32), GRID), folder / "head.nii.gz")
    grey = rng.integers(0, 255, (24, 32), np.uint8)
    Image.fromarray(grey).save(folder / "x-ray.png")
    Image.fromarray(grey).save(folder / "x-ray.jpg", quality=95)
    Image.fromarray(np.stack([grey] * 3, -1)).save(folder / "grey-in-colour.png")
    Image.fromarray(rng.integers(0, 255, (24, 32, 3), np.uint8)).save(folder / "photo.png")
    return folder


def run(place: Path, output: Path, image: str, model: str, *more: str, command: str = "classify") -> int:
    arguments = [str(place / image), "--model", str(place / model), "--output", str(output), "--samples", "2"]
    return main([command, *arguments, "--quiet", *more])


def test_a_volume_is_classified_with_maps_numbers_and_a_report(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "o"
    assert run(place, output, "head.nii.gz", "head") == 0
    assert {path.name for path in output.iterdir()} == {
        "result.json",
        "report.html",
        *(f"{kind}_{key}.nrrd" for kind in ("cam", "gradcam") for key in ("normal", "pneumonia")),
    }
    record = json.loads((output / "result.json").read_text())
    assert record["task"] == "classification"
    (found,) = record["classification"]
    probabilities = [entry["probability"] for entry in found["classes"]]
    assert sum(probabilities) == pytest.approx(1.0)
    assert found["predicted"] == ("normal", "pneumonia")[int(np.argmax(probabilities))]
    assert found["classes"][1]["code"]["value"] == "233604007"
    parts = found["uncertainty_nats"]
    assert parts["total"] == pytest.approx(parts["aleatoric"] + parts["epistemic"])
    assert {"read", "start", "prepare", "classify", "explain", "write"} <= set(record["timings_s"])
    for name in ("cam_normal.nrrd", "gradcam_pneumonia.nrrd"):
        assert read_labels_or_map(output / name).geometry.same_grid(GRID, tolerance=1e-6)
    page = (output / "report.html").read_text()
    assert "Class activation map: Pneumonia" in page
    assert "SCT 233604007 Pneumonia" in page
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["class", "probability", "deviation"]
    assert "nats of at most 0.693" in out
    assert out.splitlines()[-1] == "For research use only. Not a medical device."


def read_labels_or_map(path: Path) -> Volume:
    """A map that may be 0 everywhere, which is no image."""
    try:
        return read_volume(path)
    except Exception:
        return read_labels(path)


@pytest.mark.parametrize("name", ["x-ray.png", "x-ray.jpg", "grey-in-colour.png"])
def test_a_picture_is_classified_at_the_size_that_the_model_was_fitted_on(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    output = tmp_path / "o"
    assert run(place, output, name, "chest", "--explain", "Pneumonia", "--layer", "encoder.stages.0") == 0
    assert "The image of 32 × 24 pixels was resampled to 16 × 12" in capsys.readouterr().out
    assert {p.name for p in output.iterdir()} == {
        "result.json",
        "report.html",
        "cam_pneumonia.nrrd",
        "gradcam_pneumonia.nrrd",
    }
    assert read_labels_or_map(output / "gradcam_pneumonia.nrrd").array.shape == (1, 24, 32)


def test_an_earlier_output_is_replaced_only_when_asked(place: Path, tmp_path: Path) -> None:
    assert run(place, tmp_path / "o", "x-ray.png", "chest") == 0
    assert run(place, tmp_path / "o", "x-ray.png", "chest", "--explain", "none") == 2
    assert run(place, tmp_path / "o", "x-ray.png", "chest", "--explain", "none", "--overwrite") == 0
    assert {p.name for p in (tmp_path / "o").iterdir()} == {"result.json", "report.html"}


@pytest.mark.parametrize(
    ("image", "model", "more", "sentence"),
    [
        ("photo.png", "chest", (), "is a colour image with 3 values per voxel"),
        ("head.nii.gz", "segmenter", (), "The model 'segmenter' does not classify images."),
        ("x-ray.png", "chest", ("--explain", "cold"), "no class 'cold' to explain; it has normal, pneumonia"),
        ("x-ray.png", "chest", ("--layer", "last"), "no layer 'last' to explain a class at"),
        ("x-ray.png", "chest", ("--seed", "-1"), "Samples and seed are 2 and -1"),
    ],
)
def test_bad_input_gets_one_sentence_and_leaves_nothing(
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    image: str,
    model: str,
    more: tuple[str, ...],
    sentence: str,
) -> None:
    assert run(place, tmp_path / "o", image, model, *more) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_models_that_do_not_segment_say_what_they_do(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(place, tmp_path / "o", "head.nii.gz", "head", command="segment") == 2
    error = capsys.readouterr().err
    assert "does not segment: it tells normal, pneumonia images apart. Use `dianet classify`" in error
    assert run(place, tmp_path / "o", "head.nii.gz", "denoiser", command="segment") == 2
    error = capsys.readouterr().err
    assert "does not segment: it reconstructs images (denoising). Use `dianet reconstruct`" in error


def test_a_model_with_both_heads_segments_and_says_the_class(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "o"
    assert run(place, output, "head.nii.gz", "both", "--explain", "none", command="segment") == 0
    assert "Classification: No finding 0." in capsys.readouterr().out
    record = json.loads((output / "result.json").read_text())
    (found,) = record["classification"]
    assert sum(entry["probability"] for entry in found["classes"]) == pytest.approx(1.0)
    assert found["samples"] == 2
    assert "<h2>Classification</h2>" in (output / "report.html").read_text()
    alone = tmp_path / "alone"
    assert run(place, alone, "head.nii.gz", "both", "--explain", "none") == 0
    again = json.loads((alone / "result.json").read_text())["classification"]
    assert again[0]["classes"] == found["classes"]


def test_a_noisy_image_is_reconstructed_on_its_own_grid(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "o"
    assert run(place, output, "head.nii.gz", "denoiser", command="reconstruct") == 0
    assert {p.name for p in output.iterdir()} == {
        "reconstruction.nrrd",
        "uncertainty.nrrd",
        "result.json",
        "report.html",
    }
    page = (output / "report.html").read_text()
    assert "<h2>Reconstruction</h2>" in page
    assert page.count("<img ") == 6  # a new network corrects nothing, and so has no deviation to show
    made = read_volume(output / "reconstruction.nrrd")
    assert made.geometry.same_grid(GRID, tolerance=1e-6)
    np.testing.assert_array_equal(made.array, read_volume(place / "head.nii.gz").array)
    assert json.loads((output / "result.json").read_text())["task"] == "reconstruction"
    assert "Deviation of the samples" in capsys.readouterr().out
    assert run(place, output, "head.nii.gz", "denoiser", "--overwrite", command="reconstruct") == 0
    assert run(place, tmp_path / "p", "head.nii.gz", "segmenter", command="reconstruct") == 2
    assert "'segmenter' does not reconstruct images" in capsys.readouterr().err


def test_the_list_of_models_says_what_each_does(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("DIANetLib.bundle.search_paths", lambda: (place,))
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert "  classes: normal, pneumonia" in out
    assert "  reconstructs: denoising" in out
    assert out.count("  structures: head, tail") == 2


@pytest.mark.parametrize("stage", ["read", "classify", "explain"])
def test_a_cancelled_job_leaves_no_output(place: Path, tmp_path: Path, stage: str) -> None:
    stages: list[str] = []
    request = ClassifyRequest(
        (ImageSource(place / "head.nii.gz"),), place / "head", tmp_path / "o", samples=2
    )
    with pytest.raises(Cancelled):
        classify(request, progress=lambda s: stages.append(s.stage), cancel=lambda: stage in stages)
    assert list(tmp_path.iterdir()) == []
