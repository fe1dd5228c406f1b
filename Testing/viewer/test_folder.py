# SPDX-License-Identifier: Apache-2.0
"""What the viewer finds in an output folder, whole or broken."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from DIANetLib.errors import InputError
from DIANetLib.formats.image import write_volume
from DIANetLib.viewer.folder import box_of, read_folder, read_image, read_labels, read_layer
from DIANetLib.volume import Volume
from Testing.viewer.made import CENTRES, GEOMETRY, RADIUS, STRUCTURES, error_probability, image_array


def change(folder, edit) -> None:
    file = folder / "result.json"
    record = json.loads(file.read_text())
    edit(record)
    file.write_text(json.dumps(record))


def test_numbers_names_and_layers_are_those_that_were_written(result):
    folder = read_folder(result)

    assert folder.geometry.same_grid(GEOMETRY)
    assert [entry.structure.key for entry in folder.structures] == [s.key for s in STRUCTURES]
    assert [entry.structure.color for entry in folder.structures] == [s.color for s in STRUCTURES]
    assert [entry.dice.value for entry in folder.structures] == [0.91, 0.62]
    assert folder.inputs[0].title == "image (T1)"
    assert folder.model == "tiny 1.0.0"
    assert folder.warnings == ("The image has <b>thick</b> slices & is noisy.",)
    assert folder.familiarity.startswith("Image: unusual (right region)")
    assert folder.problems == ()
    assert [layer.id for layer in folder.layers] == [
        "error",
        "total",
        "aleatoric",
        "epistemic",
        "variance:head_left",
        "variance:head_right",
        "gradcam:head_left",
        "gradcam:head_right",
        "attention",
        "saliency",
        "path",
    ]


def test_a_layer_has_the_values_that_were_written(result):
    folder = read_folder(result)

    volume = read_layer(folder, folder.layers[0])

    np.testing.assert_allclose(volume.array, error_probability(), atol=1e-6)


def test_a_map_that_is_zero_everywhere_can_be_shown(result):
    write_volume(
        Volume(np.zeros(GEOMETRY.shape, np.float32), GEOMETRY), result / "uncertainty_epistemic.nrrd"
    )
    folder = read_folder(result)

    assert not read_layer(folder, folder.layers[3]).array.any()


def test_the_box_reaches_around_both_structures(result):
    box = box_of(read_labels(read_folder(result)))

    centres = np.array(list(CENTRES.values()))
    expected = np.stack([centres.min(axis=0) - RADIUS, centres.max(axis=0) + RADIUS])
    np.testing.assert_allclose(box, expected, atol=2.5)  # a voxel


class TestTheImage:
    def test_is_read_from_where_it_was(self, result):
        volume = read_image(read_folder(result), 0)

        np.testing.assert_array_equal(volume.array, image_array())
        assert volume.modality == "T1"

    def test_is_found_beside_the_folder_when_its_path_was_relative(self, result):
        change(result, lambda record: record["inputs"][0].update(source="image.nii.gz"))

        assert read_image(read_folder(result), 0).array.shape == GEOMETRY.shape

    def test_that_was_moved_can_be_named(self, result, tmp_path):
        shutil.move(result.parent / "image.nii.gz", tmp_path / "elsewhere.nii.gz")
        folder = read_folder(result)

        with pytest.raises(InputError, match=r"no longer at .*image\.nii\.gz.*--image"):
            read_image(folder, 0)
        assert read_image(folder, 0, tmp_path / "elsewhere.nii.gz").name == "image"

    def test_that_has_changed_since_is_refused(self, result):
        array = image_array()
        array[0, 0, 0] += 1
        write_volume(Volume(array, GEOMETRY), result.parent / "image.nii.gz")

        with pytest.raises(InputError, match="not the one that was segmented"):
            read_image(read_folder(result), 0)

    def test_that_nobody_noted_the_place_of_is_asked_for(self, result):
        change(result, lambda record: record["inputs"][0].update(source=None))

        with pytest.raises(InputError, match="was not noted"):
            read_image(read_folder(result), 0)


class TestWhatIsBroken:
    def test_a_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(InputError, match="does not exist"):
            read_folder(tmp_path / "nowhere")

    def test_a_file_in_place_of_a_folder(self, result):
        with pytest.raises(InputError, match="is a file"):
            read_folder(result / "result.json")

    def test_a_folder_of_something_else(self, tmp_path):
        with pytest.raises(InputError, match=r"no output folder: result\.json is missing"):
            read_folder(tmp_path)

    @pytest.mark.parametrize("text", ["{", "[]", '{"format": "other"}', '"text"'])
    def test_a_result_that_is_none(self, result, text):
        (result / "result.json").write_text(text)

        with pytest.raises(InputError, match=r"result\.json"):
            read_folder(result)

    @pytest.mark.parametrize("entry", ["geometry", "structures", "inputs", "model", "files"])
    def test_a_result_without_an_entry(self, result, entry):
        change(result, lambda record: record.pop(entry))

        with pytest.raises(InputError, match="lacks an entry"):
            read_folder(result)

    def test_numbers_that_make_no_grid(self, result):
        change(result, lambda record: record["geometry"].update(spacing_mm=[1, -1, 1]))

        with pytest.raises(InputError, match="spacing"):
            read_folder(result)

    def test_a_result_of_a_newer_version(self, result):
        change(result, lambda record: record.update(format_version=99))

        with pytest.raises(InputError, match="Update DIANet"):
            read_folder(result)

    def test_a_result_of_another_task(self, result):
        change(result, lambda record: record.update(task="classification"))

        with pytest.raises(InputError, match=r"holds a classification.*report\.html"):
            read_folder(result)

    def test_missing_maps_are_named_and_the_others_stay(self, result):
        (result / "uncertainty_total.nrrd").unlink()
        (result / "segmentation.seg.nrrd").unlink()

        folder = read_folder(result)

        assert "total" not in [layer.id for layer in folder.layers]
        assert folder.segmentation is None
        assert folder.problems == (
            "Total uncertainty cannot be shown: uncertainty_total.nrrd is missing.",
            "The segmentation cannot be shown: segmentation.seg.nrrd is missing.",
        )

    def test_a_map_on_another_grid(self, result):
        write_volume(
            Volume(np.ones((3, 3, 3), np.float32), GEOMETRY.crop((0, 0, 0), (3, 3, 3))), result / "x.nrrd"
        )
        (result / "x.nrrd").replace(result / "uncertainty_total.nrrd")
        folder = read_folder(result)

        with pytest.raises(InputError, match="another grid"):
            read_layer(folder, folder.layers[1])

    def test_a_map_with_voxels_that_are_no_numbers(self, result):
        array = np.full(GEOMETRY.shape, np.nan, np.float32)
        write_volume(Volume(array, GEOMETRY), result / "uncertainty_total.nrrd")
        folder = read_folder(result)

        with pytest.raises(InputError, match="finite"):
            read_layer(folder, folder.layers[1])

    def test_a_file_name_that_leaves_the_folder_is_no_layer(self, result):
        change(result, lambda record: record["files"].update(error_probability="../image.nii.gz"))

        assert "error" not in [layer.id for layer in read_folder(result).layers]
