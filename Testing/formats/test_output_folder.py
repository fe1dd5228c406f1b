# SPDX-License-Identifier: Apache-2.0
"""The output folder: complete or absent, on the input's grid, never at the cost of what is there already."""

from __future__ import annotations

import errno
import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from DIANetLib.acwi.familiarity import Familiarity
from DIANetLib.acwi.review import find_regions, regions_from_csv, regions_from_json
from DIANetLib.acwi.worklist import load_worklist, save_worklist
from DIANetLib.errors import InputError, OutputError
from DIANetLib.formats import output_folder, staging
from DIANetLib.formats.image import read_labels, read_volume
from DIANetLib.formats.output_folder import write_output
from DIANetLib.formats.result import result_record
from DIANetLib.formats.segmentation import read_segmentation
from DIANetLib.formats.staging import check_output_directory
from DIANetLib.inference.prediction import InnerMaps, PathMap
from DIANetLib.volume import Geometry

FILES = {
    "segmentation.seg.nrrd",
    "labels.nii.gz",
    *(f"uncertainty_{kind}.nrrd" for kind in ("total", "aleatoric", "epistemic")),
    "error_probability.nrrd",
    *(f"variance_{key}.nrrd" for key in ("ball_left", "ball_right", "ghost")),
    *(f"gradcam_{key}.nrrd" for key in ("ball_left", "ball_right")),
    "regions.json",
    "regions.csv",
    "result.json",
    "report.html",
}


@pytest.fixture(autouse=True)
def _quick_report(request, monkeypatch):
    """The report has its own tests; here one line stands for it."""
    if "real_report" not in request.fixturenames:
        monkeypatch.setattr(output_folder, "render_report", lambda *arguments: "<!DOCTYPE html>\n")


@pytest.fixture
def real_report():
    """Ask for the report as it is."""


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def fail_on(monkeypatch, name: str, error: BaseException) -> None:
    """Let writing the volume `name` fail after its first bytes."""
    real = output_folder.write_volume

    def write(volume, path):
        if Path(path).name == name:
            Path(path).write_bytes(b"NRRD")
            raise error
        real(volume, path)

    for module in (output_folder, staging):
        monkeypatch.setattr(module, "write_volume", write)


def wrapped(error: OSError) -> OutputError:
    """What the volume writers raise."""
    wrapper = OutputError("Cannot write a.nrrd.", remedy="Check the disk.")
    wrapper.__cause__ = error
    return wrapper


def test_the_folder_holds_exactly_the_files_it_promises(case, tmp_path, real_report):
    paths = write_output(case.prediction, case.gradcam, [case.image], tmp_path / "out")
    assert names(paths.directory) == FILES
    assert names(tmp_path) == {"out"}
    listed = [
        paths.segmentation,
        paths.labels,
        *paths.uncertainty.values(),
        paths.error_probability,
        *paths.variance.values(),
        *paths.gradcam.values(),
        paths.regions_json,
        paths.regions_csv,
        paths.result,
        paths.report,
    ]
    assert {path.name for path in listed} == FILES
    assert all(path.is_file() for path in listed)
    assert "Ball left" in paths.report.read_text(encoding="utf-8")


def test_every_volume_is_on_the_grid_of_the_input_with_the_values_computed(
    case_on, oblique_geometry, tmp_path
):
    case = case_on(replace(oblique_geometry(5, size=(40, 30, 20)), spacing=(1.5, 1.2, 2.0)))
    prediction = case.prediction
    paths = write_output(prediction, case.gradcam, [case.image], tmp_path / "out")
    expected = {path: prediction.uncertainty[kind] for kind, path in paths.uncertainty.items()}
    expected[paths.error_probability] = prediction.error_probability
    expected |= {path: prediction.variance[key] for key, path in paths.variance.items() if key != "ghost"}
    expected |= {path: case.gradcam[key] for key, path in paths.gradcam.items()}
    for path, volume in expected.items():
        again = read_volume(path)
        assert again.geometry.same_grid(prediction.geometry, 1e-6), path.name
        assert again.array.dtype == np.float32
        np.testing.assert_allclose(again.array, volume.array, rtol=0, atol=1e-6)
    labels = read_labels(paths.labels)
    assert labels.geometry.same_grid(prediction.geometry, 1e-4)  # NIfTI keeps float32
    np.testing.assert_array_equal(labels.array, prediction.labels.array)


def inner_maps(case, names=("attention", "attention_scale_1", "saliency")) -> InnerMaps:
    labels = case.prediction.labels
    shown = {name: labels.with_array(np.ones(labels.array.shape, np.float32)) for name in names}
    chosen = np.where(labels.array == 1, 2, 1).astype(np.uint8)
    return InnerMaps(shown, PathMap(labels.with_array(chosen), ("full", "scale 1")))


def test_attention_and_reliable_path_are_written_where_they_were_asked_for(case, tmp_path):
    inner = inner_maps(case)
    paths = write_output(case.prediction, case.gradcam, [case.image], tmp_path / "out", inner=inner)
    more = {"attention.nrrd", "attention_scale_1.nrrd", "saliency.nrrd", "reliable_path.nrrd"}
    assert names(paths.directory) == FILES | more
    again = read_labels(paths.reliable_path)
    assert again.array.dtype == np.uint8
    np.testing.assert_array_equal(again.array, inner.path.chosen.array)
    assert read_labels(paths.attention["saliency"]).geometry.same_grid(case.prediction.geometry, 1e-6)
    record = json.loads(paths.result.read_text(encoding="utf-8"))
    inside = case.prediction.labels.array
    share = (inside == 1).sum() / (inside > 0).sum()
    assert record["reliable_path"]["paths"] == [
        {"value": 1, "name": "full", "share_of_structures": pytest.approx(1 - share)},
        {"value": 2, "name": "scale 1", "share_of_structures": pytest.approx(share)},
    ]
    assert record["files"]["reliable_path"] == "reliable_path.nrrd"
    check_output_directory(paths.directory, overwrite=True)


def test_the_report_shows_attention_and_how_much_each_path_decides(case, tmp_path, real_report):
    paths = write_output(case.prediction, {}, [case.image], tmp_path / "out", inner=inner_maps(case))
    page = paths.report.read_text(encoding="utf-8")
    assert "<h3>Attention</h3>" in page
    assert "scores that the network weighs its features by" in page
    assert '<th scope="row">2</th><td>scale 1</td>' in page


def test_the_segmentation_carries_names_colours_and_terms(case, tmp_path):
    paths = write_output(case.prediction, case.gradcam, [case.image], tmp_path / "out")
    labels, structures = read_segmentation(paths.segmentation)
    np.testing.assert_array_equal(labels.array, case.prediction.labels.array)
    assert [(s.value, s.name, s.color, s.type, s.modifier) for s in structures] == [
        (s.value, s.name, s.color, s.type, s.modifier) for s in case.prediction.structures
    ]


def test_the_result_says_model_inputs_device_and_numbers_per_structure(case, tmp_path):
    prediction = case.prediction
    paths = write_output(prediction, case.gradcam, [case.image], tmp_path / "out")
    record = json.loads(paths.result.read_text(encoding="utf-8"))
    assert (record["format"], record["format_version"]) == ("dianet-result", 1)
    assert record["model"] == {"name": "balls", "version": "1.0", "sha256": "ab" * 32}
    assert record["localiser"]["name"] == "rooms"
    assert record["inputs"][0]["sha256"] == case.image.sha256()
    assert record["inputs"][0]["name"] == "head"
    assert record["inputs"][0]["modality"] == "T1"
    assert record["geometry"]["size"] == list(prediction.geometry.size)
    assert (record["device"], record["samples"]) == ("cpu", 10)
    assert record["timings_s"]["segment"] == 2.5
    assert record["timings_s"]["write"] > 0
    assert record["warnings"] == list(prediction.warnings)
    assert "research use only" in record["notice"]
    assert len(record["regions_of_interest_lps_mm"]) == 2
    left, _, ghost = record["structures"]
    assert left["volume_ml"] == pytest.approx(prediction.volumes_ml["ball_left"])
    assert left["expected_confidence"] == pytest.approx(prediction.confidence["ball_left"])
    assert left["expected_dice"]["value"] == 0.9
    assert left["expected_dice"]["interval"] is None
    assert left["expected_dice"]["level"] == 0.9
    assert left["expected_dice"]["sample_agreement"] is None
    assert "closed form" in left["expected_dice"]["method"]
    mask = prediction.labels.array == 1
    total = prediction.uncertainty["total"].array[mask].mean(dtype=float)
    assert left["mean_uncertainty_nats"]["total"] == pytest.approx(total)
    assert (ghost["volume_ml"], ghost["expected_confidence"], ghost["mean_uncertainty_nats"]["total"]) == (
        0,
        None,
        None,
    )
    flat = [
        n
        for value in record["files"].values()
        for n in (value.values() if isinstance(value, dict) else [value])
    ]
    assert set(flat) == FILES


def test_the_result_says_how_familiar_each_region_is(case, tmp_path):
    known = replace(case.prediction, familiarity=(Familiarity(2.5, "unusual", "left", "T1"),))
    for prediction, expected in (
        (case.prediction, []),
        (known, [{"region": "left", "grade": "unusual", "score": 2.5, "fitted_on": "T1"}]),
    ):
        record = result_record(prediction, [case.image], low_confidence_regions=0, files={})
        assert record["familiarity"] == expected


def test_regions_are_found_where_none_are_given_and_written_twice(case, tmp_path):
    paths = write_output(case.prediction, case.gradcam, [case.image], tmp_path / "out")
    found = find_regions(
        case.prediction.error_probability, case.prediction.labels, case.prediction.structures
    )
    assert found
    assert regions_from_json(paths.regions_json.read_text(encoding="utf-8")) == found
    assert regions_from_csv(paths.regions_csv.read_text(encoding="utf-8")) == found
    assert json.loads(paths.result.read_text(encoding="utf-8"))["low_confidence_regions"] == len(found)
    given = write_output(case.prediction, {}, [case.image], tmp_path / "given", regions=found[:1])
    assert regions_from_json(given.regions_json.read_text(encoding="utf-8")) == found[:1]


def test_states_are_kept_in_the_folder_and_do_not_stop_it_from_being_replaced(case, tmp_path):
    folder = tmp_path / "out"
    paths = write_output(case.prediction, case.gradcam, [case.image], folder)
    judged = load_worklist(folder).with_state(1, "accepted", reviewer="Ada")
    save_worklist(folder, judged)
    assert load_worklist(folder) == judged
    assert regions_from_csv(paths.regions_csv.read_text(encoding="utf-8")) == judged.regions
    write_output(case.prediction, case.gradcam, [case.image], folder, overwrite=True)
    assert load_worklist(folder).progress().judged == 0


def test_negligible_values_are_written_as_zero(case, tmp_path):
    geometry = case.prediction.geometry
    tail = np.full(geometry.shape, 9e-7, np.float32)
    tail[0, 0, 0] = 0.5
    uncertainty = {**case.prediction.uncertainty, "total": case.image.with_array(tail)}
    paths = write_output(
        replace(case.prediction, uncertainty=uncertainty), {}, [case.image], tmp_path / "out"
    )
    again = read_volume(paths.uncertainty["total"]).array
    assert again[0, 0, 0] == 0.5
    assert np.count_nonzero(again) == 1
    assert tail[1, 1, 1] > 0  # the prediction itself is left as it is


def test_missing_parents_are_made_and_the_folder_has_the_usual_permissions(case, tmp_path):
    mask = os.umask(0)
    os.umask(mask)
    paths = write_output(case.prediction, {}, [case.image], tmp_path / "a" / "b" / "out")
    assert stat.S_IMODE(paths.directory.stat().st_mode) == 0o777 & ~mask
    assert names(tmp_path / "a" / "b") == {"out"}


def test_an_empty_folder_that_exists_is_used(case, tmp_path):
    (tmp_path / "out").mkdir()
    write_output(case.prediction, case.gradcam, [case.image], tmp_path / "out")
    assert names(tmp_path / "out") == FILES
    assert names(tmp_path) == {"out"}


def test_an_earlier_result_is_kept_unless_it_may_be_overwritten(case, tmp_path):
    out = tmp_path / "out"
    write_output(case.prediction, case.gradcam, [case.image], out)
    before = (out / "result.json").read_bytes()
    with pytest.raises(OutputError, match=r"out exists already\. .*--overwrite"):
        write_output(case.prediction, {}, [case.image], out)
    assert (out / "result.json").read_bytes() == before
    write_output(case.prediction, {}, [case.image], out, overwrite=True)
    assert names(out) == FILES - {"gradcam_ball_left.nrrd", "gradcam_ball_right.nrrd"}
    assert names(tmp_path) == {"out"}


def test_a_folder_that_is_not_ours_is_never_replaced(case, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    (tmp_path / "photos" / "result.json").write_text('{"format": "something-else"}', encoding="utf-8")
    with pytest.raises(OutputError, match=r"not an output folder of DIANet"):
        write_output(case.prediction, {}, [case.image], tmp_path / "photos", overwrite=True)
    with pytest.raises(OutputError, match=r"photos exists already\. Choose another folder with --output\.$"):
        check_output_directory(tmp_path / "photos")
    assert names(tmp_path / "photos") == {"cat.jpg", "result.json"}


@pytest.mark.parametrize("foreign", ["notes.txt", "corrections"])
def test_a_result_with_foreign_files_in_it_is_not_replaced(case, tmp_path, foreign):
    out = tmp_path / "out"
    write_output(case.prediction, case.gradcam, [case.image], out)
    if "." in foreign:
        (out / foreign).write_text("mine", encoding="utf-8")
    else:
        (out / foreign).mkdir()
    with pytest.raises(OutputError, match=rf"files that DIANet did not write \({foreign}\)\. Move them away"):
        write_output(case.prediction, {}, [case.image], out, overwrite=True)
    assert names(out) == FILES | {foreign}


@pytest.mark.parametrize("record", ["", "[]", "{", '{"format": "dianet-result", "files": 3}'])
def test_a_broken_result_json_protects_the_folder(tmp_path, record):
    (tmp_path / "result.json").write_text(record, encoding="utf-8")
    (tmp_path / "labels.nii.gz").write_bytes(b"")
    with pytest.raises(OutputError, match="not replaced"):
        check_output_directory(tmp_path, overwrite=True)


def test_a_file_in_the_way_is_named(case, tmp_path):
    (tmp_path / "out").write_text("file", encoding="utf-8")
    with pytest.raises(OutputError, match="out cannot be made: a file has that name"):
        write_output(case.prediction, {}, [case.image], tmp_path / "out", overwrite=True)
    with pytest.raises(OutputError, match=r"out is a file"):
        check_output_directory(tmp_path / "out" / "deeper")


def test_a_place_that_may_not_be_written_to_is_named(case, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *arguments: False)  # the superuser may write anywhere
    with pytest.raises(OutputError, match="cannot be made: no permission to write to"):
        check_output_directory(tmp_path / "out")


def test_a_refused_folder_is_a_sentence(case, tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(staging.tempfile, "mkdtemp", refuse)
    with pytest.raises(
        OutputError, match=r"could not be written to .*out: it may not be written to\. Choose"
    ):
        write_output(case.prediction, {}, [case.image], tmp_path / "new" / "out")
    assert names(tmp_path) == set()


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "x"), wrapped(OSError(errno.ENOSPC, "x"))])
def test_a_full_disk_is_a_sentence_and_leaves_nothing(case, tmp_path, monkeypatch, error):
    fail_on(monkeypatch, "uncertainty_epistemic.nrrd", error)
    with pytest.raises(OutputError, match=r"could not be written to .*out: the disk is full\. Make room"):
        write_output(case.prediction, {}, [case.image], tmp_path / "new" / "out")
    assert names(tmp_path) == set()


def test_a_full_disk_is_noticed_where_the_writer_does_not_say_so(case, tmp_path, monkeypatch):
    fail_on(monkeypatch, "labels.nii.gz", wrapped(OSError("failed to write to file")))
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OutputError, match="the disk is full"):
        write_output(case.prediction, {}, [case.image], tmp_path / "out")


def test_any_other_failure_of_writing_gives_its_reason(case, tmp_path, monkeypatch):
    fail_on(monkeypatch, "labels.nii.gz", wrapped(OSError("failed to write to file")))
    with pytest.raises(
        OutputError, match=r"could not be written to .*out: Cannot write a\.nrrd\. Nothing was left"
    ):
        write_output(case.prediction, {}, [case.image], tmp_path / "out")
    assert names(tmp_path) == set()


def test_a_map_without_its_end_is_noticed(case, tmp_path, monkeypatch):
    real = output_folder.write_volume

    def truncate(volume, path):
        real(volume, path)
        if Path(path).name == "variance_ghost.nrrd":
            os.truncate(path, os.path.getsize(path) - 6)

    monkeypatch.setattr(staging, "write_volume", truncate)
    with pytest.raises(OutputError, match=r"variance_ghost\.nrrd was not written completely"):
        write_output(case.prediction, {}, [case.image], tmp_path / "out")
    assert names(tmp_path) == set()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EIO, "Input/output error")])
def test_a_failed_overwrite_leaves_the_earlier_result_as_it_was(case, tmp_path, monkeypatch, error):
    out = tmp_path / "out"
    write_output(case.prediction, case.gradcam, [case.image], out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    fail_on(monkeypatch, "uncertainty_total.nrrd", error)
    with pytest.raises((KeyboardInterrupt, OutputError)):
        write_output(case.prediction, {}, [case.image], out, overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert names(tmp_path) == {"out"}


def test_a_failed_rename_brings_the_earlier_result_back(case, tmp_path, monkeypatch):
    out = tmp_path / "out"
    write_output(case.prediction, case.gradcam, [case.image], out)
    real = Path.rename

    def rename(self, target):
        if ".partial-" in self.name:
            raise OSError(errno.EBUSY, "Device or resource busy")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OutputError, match="Device or resource busy"):
        write_output(case.prediction, {}, [case.image], out, overwrite=True)
    assert names(out) == FILES
    assert names(tmp_path) == {"out"}


def test_maps_and_inputs_that_do_not_belong_are_refused(case, case_on, tmp_path):
    other = case_on(Geometry((40, 30, 14), (1.0, 1.0, 2.0), (26.0, 15.0, -10.0), np.diag([-1.0, -1.0, 1.0])))
    left = case.gradcam["ball_left"]
    with pytest.raises(
        InputError, match="is for 'cube', expected one of the structures ball_left, ball_right, ghost"
    ):
        write_output(case.prediction, {"cube": left}, [case.image], tmp_path / "out")
    with pytest.raises(InputError, match="map of 'ball_left' is not on the grid"):
        write_output(
            case.prediction, {"ball_left": other.gradcam["ball_left"]}, [case.image], tmp_path / "out"
        )
    with pytest.raises(InputError, match=r"first input \(head\) is not on the grid"):
        write_output(case.prediction, {}, [other.image], tmp_path / "out")
    with pytest.raises(InputError, match="The map 'attention' is not on the grid"):
        write_output(case.prediction, {}, [case.image], tmp_path / "out", inner=inner_maps(other))
    with pytest.raises(InputError, match="needs at least one input image"):
        write_output(case.prediction, {}, [], tmp_path / "out")
    assert names(tmp_path) == set()
