# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from DIANetLib import demo
from DIANetLib.bundle import load_bundle
from DIANetLib.bundle_schema import ModalitySpec, OnePassSpec
from DIANetLib.cli import main
from DIANetLib.errors import Cancelled, DependencyError, InputError
from DIANetLib.formats.image import read_volume, write_volume
from DIANetLib.inference.prediction import Progress
from DIANetLib.network import FusionConfig
from DIANetLib.network.config import AttentionConfig, ReliablePathConfig
from DIANetLib.network.one_pass import OnePassHead
from DIANetLib.volume import Geometry, Volume
from DIANetLib.worker import case, jobs
from DIANetLib.worker.jobs import SegmentRequest, segment
from DIANetLib.worker.reading import ImageSource, assign_modalities, box_from_ras, box_of_mask
from Testing.bundle.tiny import CONFIG, localiser, write_bundle
from training.one_pass_store import add_one_pass

GRID = Geometry((9, 13, 10), (1.0, 1.0, 1.0), (5.0, -3.0, 7.0), np.diag([-1.0, -1.0, 1.0]))


def image(seed: int = 0) -> Volume:
    return Volume(np.random.default_rng(seed).normal(size=GRID.shape).astype(np.float32), GRID)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model `tiny` and an image."""
    folder = tmp_path_factory.mktemp("place")
    write_bundle(folder)
    write_volume(image(), folder / "head.nii.gz")
    return folder


def request(place: Path, output: Path, **changes: Any) -> SegmentRequest:
    first = SegmentRequest(
        images=(ImageSource(place / "head.nii.gz"),), model=place / "tiny", output=output, samples=2
    )
    return replace(first, **changes)


@pytest.fixture
def short_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing a report's pictures takes longer than all else on an image this small."""
    monkeypatch.setattr("DIANetLib.formats.output_folder.render_report", lambda *_: "<!doctype html>")


@pytest.fixture(scope="module")
def done(place: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[jobs.SegmentResult, list[Progress]]:
    steps: list[Progress] = []
    output = tmp_path_factory.mktemp("done") / "result"
    return segment(request(place, output), progress=steps.append), steps


def test_a_segmentation_writes_everything_on_the_inputs_grid(
    done: tuple[jobs.SegmentResult, list[Progress]],
) -> None:
    folder = done[0].paths.directory
    names = {path.name for path in folder.iterdir()}
    assert {
        "segmentation.seg.nrrd",
        "labels.nii.gz",
        "uncertainty_total.nrrd",
        "uncertainty_aleatoric.nrrd",
        "uncertainty_epistemic.nrrd",
        "variance_head.nrrd",
        "variance_tail.nrrd",
        "gradcam_head.nrrd",
        "gradcam_tail.nrrd",
        "regions.json",
        "regions.csv",
        "result.json",
        "report.html",
    } <= names
    for name in ("uncertainty_total.nrrd", "variance_head.nrrd", "gradcam_head.nrrd"):
        assert read_volume(folder / name).geometry.same_grid(GRID, tolerance=1e-6)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["result"]


def test_progress_and_timings_name_every_stage(done: tuple[jobs.SegmentResult, list[Progress]]) -> None:
    result, steps = done
    stages = list(dict.fromkeys(step.stage for step in steps))
    assert stages[0] == "read"
    assert stages[-3:] == ["explain", "review", "write"]
    assert "segment" in stages
    assert all(0 <= step.done <= step.total for step in steps)
    assert {"start", "read", "segment", "explain", "review", "write"} <= set(result.prediction.timings)
    record = json.loads(result.paths.result.read_text())
    assert {"start", "read", "segment", "explain"} <= set(record["timings_s"])
    assert record["model"]["sha256"] == result.prediction.model.sha256
    assert record["inputs"][0]["modality"] == "T1"


@pytest.mark.usefixtures("short_report")
def test_the_same_seed_gives_the_same_maps_and_another_one_others(
    place: Path, tmp_path: Path, done: tuple[jobs.SegmentResult, list[Progress]]
) -> None:
    first = done[0].prediction.uncertainty["total"].array
    again = segment(request(place, tmp_path / "a", explain="none")).prediction.uncertainty["total"].array
    other = segment(request(place, tmp_path / "b", explain="none", seed=1)).prediction
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other.uncertainty["total"].array)


@pytest.mark.usefixtures("short_report")
def test_only_the_structures_asked_for_are_explained(place: Path, tmp_path: Path) -> None:
    paths = segment(request(place, tmp_path / "one", explain=("TAIL",))).paths
    assert list(paths.gradcam) == ["tail"]
    assert not list(segment(request(place, tmp_path / "none", explain="none")).paths.gradcam)


def test_an_unknown_structure_to_explain_gets_the_list_before_anything_is_computed(
    place: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"no structure 'ear' to explain; it has head, tail\."):
        segment(request(place, tmp_path / "o", explain=("ear",), images=(ImageSource(Path("nowhere")),)))
    sided = load_bundle(write_bundle(tmp_path, localiser=localiser()))
    with pytest.raises(InputError, match="it has head, tail, head_left, tail_left, head_right, tail_right"):
        case.check_options(case.CaseOptions(explain=("ear",)), sided)
    case.check_options(case.CaseOptions(explain=("head_left", "Tail right")), sided)


def test_a_structure_without_its_side_stands_for_both(place: Path) -> None:
    model = load_bundle(place / "tiny")
    found = [s.on_side(side) for side in ("left", "right") for s in model.structures]
    chosen, warnings = case._structures_to_explain(("head", "tail_right"), found, model)
    assert [s.key for s in chosen] == ["head_left", "head_right", "tail_right"]
    assert warnings == ()
    chosen, warnings = case._structures_to_explain(("head_left",), model.structures, model)
    assert chosen == ()
    assert warnings == (
        "'head_left' was not explained: this image was segmented without telling sides apart.",
    )


def test_a_box_in_slicers_coordinates_becomes_lps() -> None:
    box = box_from_ras([10, -20, -5, 5, 0, 30])
    assert (box.lo, box.hi) == ((-10.0, -5.0, 0.0), (20.0, 5.0, 30.0))
    with pytest.raises(InputError, match="has 5 numbers, expected six"):
        box_from_ras([1, 2, 3, 4, 5])
    with pytest.raises(InputError, match="expected six"):
        box_from_ras([1, 2, 3, 4, 5, float("nan")])
    with pytest.raises(InputError, match="no extent along an axis"):
        box_from_ras([1, 1, 3, 4, 5, 6])


@pytest.mark.usefixtures("short_report")
def test_a_region_of_interest_may_be_a_box_or_a_mask(place: Path, tmp_path: Path) -> None:
    mask = np.zeros(GRID.shape, np.uint8)
    mask[1:9, 2:10, 1:9] = 1
    write_volume(image().with_array(mask), tmp_path / "mask.nii.gz")
    box = box_of_mask(tmp_path / "mask.nii.gz")
    np.testing.assert_allclose(box.lo, [5 - 8.5, -3 - 9.5, 7 + 0.5])
    np.testing.assert_allclose(box.hi, [5 - 0.5, -3 - 1.5, 7 + 8.5])
    found = segment(request(place, tmp_path / "o", roi=tmp_path / "mask.nii.gz", explain="none"))
    assert found.prediction.regions_of_interest == (box,)
    assert not found.prediction.labels.array[mask == 0].any()
    write_volume(image().with_array(mask * 0), tmp_path / "empty.nii.gz")
    with pytest.raises(InputError, match="is empty, expected voxels above 0"):
        segment(request(place, tmp_path / "p", roi=tmp_path / "empty.nii.gz"))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = CONFIG.model_copy(update={"modalities": 2}).model_dump(mode="json")
    modalities = (ModalitySpec(name="FLAIR"), ModalitySpec(name="T1c", aliases=("T1ce",)))
    return write_bundle(tmp_path_factory.mktemp("two"), "glioma", network=config, modalities=modalities)


def test_images_are_put_in_the_models_order(two: Path) -> None:
    model = load_bundle(two)
    a, b = ImageSource(Path("a")), ImageSource(Path("b"), "t1CE")
    placed, notes = assign_modalities([b, a], model)
    assert [(i.path.name, i.modality) for i in placed] == [("a", "FLAIR"), ("b", "T1c")]
    assert notes == ()


def test_file_names_that_contradict_the_order_are_followed_and_told(two: Path) -> None:
    images = [ImageSource(Path("x/t1ce.nii")), ImageSource(Path("x/flair.nii"))]
    placed, notes = assign_modalities(images, load_bundle(two))
    assert [i.path.name for i in placed] == ["flair.nii", "t1ce.nii"]
    assert notes == (
        "File names told which image is which: FLAIR is flair.nii, T1c is t1ce.nii. --modalities says it"
        " instead.",
    )


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            [ImageSource(Path("a"), "T1c")],
            r"expected 2 modalities \(FLAIR, T1c\) for model 'glioma', got 1 \(T1c\)\. Give FLAIR as well",
        ),
        ([ImageSource(Path("a"))] * 3, "got 3"),
        ([ImageSource(Path("a"), "PET"), ImageSource(Path("b"))], "no modality 'PET'; it has FLAIR, T1c"),
        ([ImageSource(Path("a"), "T1c"), ImageSource(Path("b"), "T1ce")], "'T1ce' was given twice"),
    ],
)
def test_a_wrong_set_of_modalities_gets_a_sentence(
    two: Path, images: list[ImageSource], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        assign_modalities(images, load_bundle(two))


def run(place: Path, output: Path, *more: str, head: str = "head.nii.gz", model: str = "tiny") -> int:
    arguments = [str(place / head), "--model", str(place / model), "--output", str(output), "--samples", "2"]
    return main(["segment", *arguments, "--explain", "none", *more])


@pytest.mark.usefixtures("short_report")
def test_the_command_prints_a_table_and_where_to_look(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(place, tmp_path / "o", "--roi", "-20,20,-20,20,-50,50") == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    titles = ["structure", "ml", "expected confidence", "expected Dice", "90 % interval"]
    assert lines[0].split() == " ".join(titles).split()
    assert lines[1].startswith("Head")
    assert "Head: expected Dice 0." in out
    assert "region" in out
    assert lines[-1] == "For research use only. Not a medical device."
    assert str(tmp_path / "o/report.html") in out
    assert "segmenting ..." in err.splitlines()


@pytest.mark.usefixtures("short_report")
def test_without_a_number_of_samples_a_model_with_a_one_pass_head_reads_one_pass(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = write_bundle(tmp_path / "models", "quick")
    head = OnePassHead(CONFIG.spatial_dims, CONFIG.widths[0], CONFIG.classes, channels=4, depth=1)
    spec = OnePassSpec(channels=4, depth=1)
    add_one_pass(quick, head.state_dict(), spec, figures={}, section="## One pass\n\nGood.")
    arguments = ["segment", str(place / "head.nii.gz"), "--explain", "none", "--quiet", "--output"]
    said = {}
    for model, output, more in (
        (quick, "one", []),
        (quick, "two", ["--samples", "2"]),
        (place / "tiny", "ten", []),
        (place / "tiny", "plain", ["--samples", "0"]),
    ):
        assert main([*arguments, str(tmp_path / output), "--model", str(model), *more]) == 0
        record = json.loads((tmp_path / output / "result.json").read_text(encoding="utf-8"))
        lines = capsys.readouterr().out.splitlines()
        told = next(line for line in lines if line.startswith("Uncertainty from"))
        said[output] = (record["samples"], record["uncertainty_from"], told)
    assert said == {
        "one": (0, "one-pass", "Uncertainty from one pass in place of samples."),
        "two": (2, "samples", "Uncertainty from 2 samples."),
        "ten": (10, "samples", "Uncertainty from 10 samples."),
        "plain": (0, "plain", "Uncertainty from one plain pass."),
    }
    for name in ("one", "two"):
        assert read_volume(tmp_path / name / "uncertainty_epistemic.nrrd").array.max() > 0
    with pytest.raises(InputError, match="is constant: every voxel has the value 0"):
        read_volume(tmp_path / "plain" / "uncertainty_epistemic.nrrd")


@pytest.mark.usefixtures("short_report")
def test_the_command_takes_modalities_by_name(
    two: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = place / "head.nii.gz"
    arguments = ["--model", str(two), "--output", str(tmp_path / "o"), "--explain", "none", "--quiet"]
    assert main(["segment", "--modality", f"T1c={head}", "--modality", f"FLAIR={head}", *arguments]) == 0
    assert capsys.readouterr().err == ""
    assert main(["segment", "--modality", "T1c", str(head), *arguments]) == 2
    assert "not of the form NAME=PATH" in capsys.readouterr().err


@pytest.fixture(scope="module")
def optional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that does without any of its modalities but one."""
    config = CONFIG.model_copy(update={"modalities": 3, "modality_fusion": FusionConfig(channels=2)})
    modalities = tuple(ModalitySpec(name=name, required=False) for name in ("T1", "T2", "FLAIR"))
    folder = tmp_path_factory.mktemp("optional")
    return write_bundle(folder, "wmh", network=config.model_dump(mode="json"), modalities=modalities)


def test_the_command_segments_from_the_modalities_that_are_there(
    optional: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head, output = str(place / "head.nii.gz"), tmp_path / "o"
    arguments = ["--model", str(optional), "--explain", "none", "--quiet", "--samples", "1"]
    assert main(["segment", head, "--modalities", "FLAIR", "--output", str(output), *arguments]) == 0
    sentence = "T1 and T2 were not given: model 'wmh' read FLAIR alone"
    assert f"Warning: {sentence}" in capsys.readouterr().out
    record = json.loads((output / "result.json").read_text())
    assert record["missing_modalities"] == ["T1", "T2"]
    assert [entry["modality"] for entry in record["inputs"]] == ["FLAIR"]
    page = (output / "report.html").read_text()
    assert "T1 and T2 were not given" in page
    assert page.count("not given</th>") == 2


def test_the_command_asks_which_modality_an_image_is_where_nothing_tells(
    optional: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = str(place / "head.nii.gz")
    arguments = ["--model", str(optional), "--output", str(tmp_path / "o"), "--quiet"]
    assert main(["segment", head, *arguments]) == 2
    error = capsys.readouterr().err
    assert "cannot be told which one head.nii.gz is. Name the images in their order with --modal" in error
    assert main(["segment", head, "--modalities", "T1", "T2", *arguments]) == 2
    assert "--modalities names 2 (T1, T2), expected one for each of 1 image." in capsys.readouterr().err
    assert main(["segment", head, "--modalities", "PET", *arguments]) == 2
    assert "no modality 'PET'; it has T1, T2, FLAIR" in capsys.readouterr().err


@pytest.mark.usefixtures("short_report")
def test_the_command_writes_attention_and_reliable_path_of_models_that_have_them(
    place: Path, tmp_path: Path
) -> None:
    blocks = {
        "widths": (4, 6, 6),
        "blocks": (0, 0, 0),
        "strides": (2, 2),
        "deep_supervision": 1,
        "attention": AttentionConfig(channels=4, heads=2, grid=2),
        "reliable_path": ReliablePathConfig(),
    }
    network = CONFIG.model_copy(update=blocks).model_dump(mode="json")
    write_bundle(tmp_path, "shown", network=network)
    arguments = ["--model", str(tmp_path / "shown"), "--explain", "none", "--samples", "0", "--quiet"]
    head, output = str(place / "head.nii.gz"), tmp_path / "o"
    assert main(["segment", head, "--output", str(output), "--attention", "--reliable-path", *arguments]) == 0
    assert read_volume(output / "attention.nrrd").array.max() == 1.0
    assert read_volume(output / "attention.nrrd").geometry.same_grid(GRID, tolerance=1e-6)
    assert set(np.unique(read_volume(output / "reliable_path.nrrd").array)) <= {1, 2}
    record = json.loads((output / "result.json").read_text())
    assert [path["name"] for path in record["reliable_path"]["paths"]] == ["full", "scale 1"]
    assert record["timings_s"]["inner"] > 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--attention"],
            "The model 'tiny' has no attention, so there is none to show. Leave --attention out",
        ),
        (
            ["--reliable-path"],
            "has no fusion of reliable paths, so there is none to show. Leave --reliable-p",
        ),
        (["--head", "nowhere.nii"], "nowhere.nii"),
        (["--roi", "1,2,3"], "has 3 numbers, expected six"),
        (["--roi", "left"], "is neither a file nor six numbers"),
        (["--roi", "900,990,900,990,900,990"], "outside"),
        (["--samples", "-1"], "number of samples is -1"),
        (["--seed", "-1"], "seed is -1"),
        (["--device", "toaster"], "toaster"),
        (["--device", "cuda:77"], "cuda:77"),
        (["--model", "unknown"], "known models"),
        (["--explain", "ear"], "no structure 'ear'"),
        (["--output", "/dev/null/x"], "/dev/null"),
    ],
)
def test_bad_input_gets_one_sentence_and_leaves_nothing(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    head = arguments[1] if arguments[0] == "--head" else "head.nii.gz"
    assert (
        run(place, tmp_path / "o", *([] if arguments[0] == "--head" else arguments), "--quiet", head=head)
        == 2
    )
    error = capsys.readouterr().err
    assert error.startswith("dianet: error: ")
    assert sentence in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_no_image_at_all_gets_a_sentence(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["segment", "--model", str(place / "tiny"), "--output", str(tmp_path / "o")]) == 2
    assert "No image was given" in capsys.readouterr().err


@pytest.mark.usefixtures("short_report")
def test_an_earlier_output_is_replaced_only_when_asked(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(place, tmp_path / "o") == 0
    before = (tmp_path / "o/result.json").stat().st_mtime_ns
    assert run(place, tmp_path / "o", "--quiet") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run(place, tmp_path / "o", "--overwrite") == 0
    assert (tmp_path / "o/result.json").stat().st_mtime_ns > before


@pytest.mark.parametrize("stage", ["read", "segment", "restore", "explain"])
def test_a_cancelled_job_leaves_no_output(place: Path, tmp_path: Path, stage: str) -> None:
    stages: list[str] = []
    with pytest.raises(Cancelled):
        segment(
            request(place, tmp_path / "o"),
            progress=lambda step: stages.append(step.stage),
            cancel=lambda: stage in stages,
        )
    assert stages[-1] == stage
    assert list(tmp_path.iterdir()) == []


def test_grad_cam_moves_to_the_cpu_when_the_gpu_is_full(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from DIANetLib.acwi import explain as module

    devices = []

    def full(network: torch.nn.Module, *_: object, **__: object) -> dict[str, Volume]:
        devices.append(network)
        if len(devices) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {}

    monkeypatch.setattr(module, "explain", full)
    model = load_bundle(place / "tiny")
    monkeypatch.setattr(type(model), "network", lambda _self, device: device)

    def explained(device: str) -> tuple[dict[str, Volume], tuple[str, ...]]:
        seen = case.Seen(image(), model.structures, (), device)
        return case.explain_seen(model, seen, ["head"], report=lambda _: None)

    maps, warnings = explained("cuda:0")
    assert maps == {}
    assert devices == ["cuda:0", "cpu"]
    assert warnings == ("Grad-CAM was computed on the CPU: the memory of cuda:0 was short.",)
    devices.clear()
    with pytest.raises(torch.OutOfMemoryError):
        explained("cpu")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_command_without_output(
    place: Path, tmp_path: Path, number: int, code: int
) -> None:
    arguments = [str(place / "head.nii.gz"), "--model", str(place / "tiny"), "--output", str(tmp_path / "o")]
    process = subprocess.Popen(
        [sys.executable, "-m", "DIANetLib", "segment", *arguments, "--samples", "1000000"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # A shell that starts the tests in the background lets them, and so the command, ignore SIGINT.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("segmenting"):
                break
        process.send_signal(number)
        rest = process.stderr.read()
        assert process.wait(30) == code
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()
    assert rest.splitlines()[-1].endswith("nothing was written.")
    assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []


def test_the_demo_finds_the_head_that_nilearn_carries(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nilearn")
    head = demo.mni_head()
    assert head.name.startswith("mni_icbm152_t1")
    assert head.is_file()
    monkeypatch.setattr(demo, "find_spec", lambda _: None)
    with pytest.raises(DependencyError, match="which is not installed"):
        demo.mni_head()
    monkeypatch.setattr(demo, "find_spec", lambda _: type("S", (), {"submodule_search_locations": ["/"]}))
    with pytest.raises(DependencyError, match="which has no mni_icbm152"):
        demo.mni_head()


@pytest.mark.usefixtures("short_report")
def test_the_demo_segments_and_says_where_to_look(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--image", str(place / "head.nii.gz"), "--model", str(place / "tiny"), "--samples", "1"]
    for _ in range(2):  # the second run replaces the output of the first
        assert demo.main([*arguments, "--output", str(tmp_path / "demo-output")]) == 0
    out = capsys.readouterr().out
    assert "Segmenting head.nii.gz with the model" in out
    assert "expected confidence" in out
    assert "Time: set-up" in out
    assert str(tmp_path / "demo-output/report.html") in out
    assert (tmp_path / "demo-output/gradcam_head.nrrd").is_file()
    assert demo.main([*arguments, "--output", str(tmp_path / "x"), "--device", "toaster"]) == 2
