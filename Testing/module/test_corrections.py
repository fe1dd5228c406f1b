# SPDX-License-Identifier: Apache-2.0
"""Finish: packages from what a scene holds, also where something of it is gone or of an earlier version."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from DIANetLib.acwi.corrections import find_corrections, read_correction
from DIANetLib.acwi.review import Region, regions_to_json
from DIANetLib.errors import DIANetError, InputError, OutputError
from DIANetLib.volume import Volume
from Testing.module.bootstrap import (
    STRUCTURES,
    add_transform,
    geometry,
    labels_on,
    make_environment,
    read_bundle,
    rotation,
    save_bundle,
    segmented,
)

pytest.importorskip("slicer_core", reason="needs slicer-core")

GRID = geometry()
PLACE = Region(1, ("hippocampus_left",), (0.0, 0.0, 0.0), (-1.0,) * 3, (1.0,) * 3, 50.0, 20.0, 0.9)


class Reviewed:
    """A result whose only place is judged."""

    def __init__(self, environment, names=("Head",), modalities=("T1",)):
        from DIANetGui.Logic import Logic
        from DIANetGui.Nodes import nodeFromVolume
        from DIANetGui.Results import Result

        self.environment = environment
        rng = np.random.default_rng(0)
        self.images = [Volume(rng.normal(size=GRID.shape).astype(np.float32), GRID, name=n) for n in names]
        self.nodes = [nodeFromVolume(environment, image, image.name) for image in self.images]
        self.logic = Logic(environment)
        self.result = Result.create(
            environment,
            "run",
            self.nodes,
            segmented(regions=regions_to_json([PLACE])),
            labels_on(GRID),
            modalities=modalities,
        )
        self.logic.useResult(self.result)
        self.logic.review.reviewer = "Ada"

    def accept(self):
        self.logic.review.judge(1, "accepted")

    def edit(self, box=np.s_[0:2, 0:2, 0:2], segment="hippocampus_left"):
        """Add voxels to a segment, as a tool without masks does."""
        import slicer
        from DIANetGui.Nodes import imageFromArray, matrixFromGeometry

        voxels = np.zeros(GRID.shape, np.uint8)
        voxels[box] = 1
        image = slicer.vtkOrientedImageData()
        image.ShallowCopy(imageFromArray(voxels))
        image.SetImageToWorldMatrix(matrixFromGeometry(GRID))
        logic = slicer.vtkSlicerSegmentationsModuleLogic
        assert logic.SetBinaryLabelmapToSegment(
            image, self.result.segmentationNode, segment, logic.MODE_MERGE_MAX, image.GetExtent()
        )

    def write(self, folder, **options):
        from DIANetGui.Corrections import writePackage

        return writePackage(self.result, folder, "Ada", **options)


@pytest.fixture
def reviewed(environment):
    made = Reviewed(environment)
    made.accept()
    return made


def test_the_package_holds_labels_before_and_after_regions_and_hashes(reviewed, tmp_path):
    reviewed.edit()
    package = reviewed.write(tmp_path, comment=" A case ")
    read = read_correction(package.directory)

    assert np.array_equal(read.before.array, labels_on(GRID).array)
    assert read.changed.sum() == package.changed == 8
    assert (read.reviewer, read.comment, read.model.sha256) == ("Ada", "A case", "ab" * 32)
    assert [structure.key for structure in read.structures] == [info.key for info in STRUCTURES]
    assert (read.images[0].name, read.images[0].modality) == ("Head", "T1")
    assert read.images[0].sha256 == reviewed.images[0].with_array(reviewed.images[0].array).sha256()
    assert read.regions[0].state == "accepted"
    assert datetime.fromisoformat(read.started) <= datetime.fromisoformat(read.finished)


def test_several_images_come_in_the_models_order_with_their_modalities(environment, tmp_path):
    reviewed = Reviewed(environment, ("a", "b"), ("T1c", "FLAIR"))
    reviewed.accept()
    read = read_correction(reviewed.write(tmp_path).directory)

    assert [(image.name, image.modality) for image in read.images] == [("a", "T1c"), ("b", "FLAIR")]


def test_edits_without_the_worklist_are_kept_as_well(environment, tmp_path):
    reviewed = Reviewed(environment)
    reviewed.edit()

    assert read_correction(reviewed.write(tmp_path).directory).changed.sum() == 8


def test_with_nothing_done_there_is_nothing_to_finish(environment, tmp_path):
    with pytest.raises(InputError, match="nothing to finish yet"):
        Reviewed(environment).write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_was_edited_before_the_scene_was_saved_is_in_the_package(reviewed, tmp_path):
    from DIANetGui.Corrections import writePackage
    from DIANetGui.Results import Result

    reviewed.edit()
    save_bundle(reviewed.environment, tmp_path / "scene.mrb")
    environment = make_environment()
    read_bundle(environment, tmp_path / "scene.mrb")
    (result,) = Result.all(environment)
    read = read_correction(writePackage(result, tmp_path / "packages", "Ada").directory)

    assert read.changed.sum() == 8
    assert not result.beforeIsLate


class TestImages:
    def test_a_volume_that_is_gone_gets_a_sentence_and_nothing_is_written(self, reviewed, tmp_path):
        reviewed.environment.scene.RemoveNode(reviewed.nodes[0])

        with pytest.raises(InputError, match=r"volume Head, which was segmented, is no longer in the scene"):
            reviewed.write(tmp_path)
        assert list(tmp_path.iterdir()) == []
        assert reviewed.logic.regions()[0].state == "accepted"

    def test_it_can_be_loaded_again_under_its_name(self, reviewed, tmp_path):
        from DIANetGui.Nodes import nodeFromVolume

        reviewed.environment.scene.RemoveNode(reviewed.nodes[0])
        nodeFromVolume(reviewed.environment, reviewed.images[0], "Head")
        read = read_correction(reviewed.write(tmp_path).directory)

        assert read.images[0].is_of(reviewed.images[0])

    def test_of_two_the_one_that_is_gone_is_named_and_none_takes_its_place(self, environment, tmp_path):
        reviewed = Reviewed(environment, ("a", "b"), ("T1c", "FLAIR"))
        reviewed.accept()
        environment.scene.RemoveNode(reviewed.nodes[0])

        with pytest.raises(InputError, match="volume a, which"):
            reviewed.write(tmp_path)

    def test_another_volume_under_its_name_is_refused(self, reviewed, tmp_path):
        from DIANetGui.Nodes import nodeFromVolume

        reviewed.environment.scene.RemoveNode(reviewed.nodes[0])
        other = Volume(np.zeros((3, 3, 3), np.float32), geometry(size=(3, 3, 3)))
        nodeFromVolume(reviewed.environment, other, "Head")

        with pytest.raises(InputError, match="another grid"):
            reviewed.write(tmp_path)

    def test_an_image_that_was_moved_since_is_refused(self, reviewed, tmp_path):
        matrix = np.eye(4)
        matrix[:3, :3] = rotation(0, 0, 20)
        transform = add_transform(reviewed.environment, matrix)
        reviewed.nodes[0].SetAndObserveTransformNodeID(transform.GetID())

        with pytest.raises(InputError, match="another grid"):
            reviewed.write(tmp_path)

    def test_without_a_file_of_the_image_a_note_says_so_unless_it_is_copied(self, reviewed, tmp_path):
        package = reviewed.write(tmp_path)
        copied = reviewed.write(tmp_path, copyImages=True)

        assert "No file is known of the image Head" in package.notes[0]
        assert copied.notes == ()
        assert read_correction(copied.directory).copies[0].is_file()

    def test_the_file_of_an_unchanged_image_is_named(self, reviewed, tmp_path):
        node = reviewed.nodes[0]
        node.AddDefaultStorageNode()
        node.GetStorageNode().SetFileName(str(tmp_path / "head.nrrd"))
        assert node.GetStorageNode().WriteData(node)
        read = read_correction(reviewed.write(tmp_path / "packages").directory)

        assert read.images[0].source == str(tmp_path / "head.nrrd")

    def test_the_file_of_an_image_that_was_changed_since_is_not_named(self, reviewed, tmp_path):
        node = reviewed.nodes[0]
        node.AddDefaultStorageNode()
        node.GetStorageNode().SetFileName(str(tmp_path / "head.nrrd"))
        assert node.GetStorageNode().WriteData(node)
        node.SetOrigin(*node.GetOrigin())
        node.GetImageData().Modified()
        read = read_correction(reviewed.write(tmp_path / "packages").directory)

        assert read.images[0].source is None


class TestSegments:
    def test_segments_of_the_users_own_are_named_as_left_out(self, reviewed, tmp_path):
        reviewed.result.segmentationNode.GetSegmentation().AddEmptySegment("mine", "My segment")
        package = reviewed.write(tmp_path, copyImages=True)

        assert package.notes == ("Segments that the model does not know are not in the package: My segment.",)

    def test_segments_that_were_removed_count_as_empty_and_are_named(self, reviewed, tmp_path):
        reviewed.result.segmentationNode.GetSegmentation().RemoveSegment("hippocampus_left")
        package = reviewed.write(tmp_path, copyImages=True)

        assert package.notes == ("Segments that were removed count as empty: Hippocampus left.",)
        assert 1 not in read_correction(package.directory).after.array

    def test_another_geometry_of_the_segmentation_is_brought_back_to_that_of_the_labels(
        self, reviewed, tmp_path
    ):
        import slicer

        converter = slicer.vtkSegmentationConverter
        from DIANetGui.Nodes import matrixFromGeometry

        segmentation = reviewed.result.segmentationNode.GetSegmentation()
        finer = geometry(size=(24, 20, 16), spacing=(0.5, 0.6, 1.0))
        image = slicer.vtkOrientedImageData()
        image.SetExtent(0, 23, 0, 19, 0, 15)
        text = converter.SerializeImageGeometry(matrixFromGeometry(finer), image)
        segmentation.SetConversionParameter(converter.GetReferenceImageGeometryParameterName(), text)
        read = read_correction(reviewed.write(tmp_path).directory)

        assert read.after.geometry.same_grid(GRID, 1e-3)
        assert not read.changed.any()


class TestFolders:
    @pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="everything may be written to")
    def test_a_read_only_folder_gets_a_sentence(self, reviewed, tmp_path):
        tmp_path.chmod(0o500)
        try:
            with pytest.raises(DIANetError, match=str(tmp_path)):
                reviewed.write(tmp_path)
        finally:
            tmp_path.chmod(0o700)

    @pytest.mark.skipif(not os.path.isdir("/proc/1"), reason="needs a folder that even root cannot write to")
    def test_a_place_where_no_folder_can_be_made_gets_a_sentence(self, reviewed):
        with pytest.raises(OutputError, match="/proc"):
            reviewed.write(Path("/proc"))
        assert reviewed.logic.regions()[0].state == "accepted"

    def test_a_file_in_place_of_the_folder_gets_a_sentence(self, reviewed, tmp_path):
        (tmp_path / "file").write_text("")

        with pytest.raises(DIANetError, match="file"):
            reviewed.write(tmp_path / "file")

    def test_packages_lie_beside_each_other(self, reviewed, tmp_path):
        first, second = (reviewed.write(tmp_path).directory for _ in range(2))

        assert find_corrections(tmp_path) == tuple(sorted((first, second)))


class TestEarlierVersion:
    @pytest.fixture
    def old(self, environment):
        """A result as the first version left it: no labels before, no modalities, regions without times."""
        reviewed = Reviewed(environment)
        node = reviewed.result.segmentationNode
        node.RemoveAttribute("DIANet.Before")
        record = json.loads(node.GetAttribute("DIANet.Result"))
        record["version"] = 1
        del record["modalities"]
        for summary in record["summaries"]:
            del summary["dice_low"], summary["dice_high"]
        node.SetAttribute("DIANet.Result", json.dumps(record))
        regions = json.loads(node.GetAttribute("DIANet.Regions"))
        regions["schema_version"] = 1
        for region in regions["regions"]:
            del region["changed"], region["reviewer"]
        node.SetAttribute("DIANet.Regions", json.dumps(regions))
        from DIANetGui.Results import Result

        reviewed.result = Result.fromNode(environment, node)
        reviewed.logic.useResult(reviewed.result)
        return reviewed

    def test_it_can_be_reviewed_and_finished_and_the_package_says_what_is_not_known(self, old, tmp_path):
        old.logic.review.sceneLoaded()
        old.accept()
        old.edit()
        package = old.write(tmp_path, copyImages=True)
        read = read_correction(package.directory)

        assert read.changed.sum() == 8
        assert read.images[0].modality == ""
        assert "earlier DIANet made this result" in package.notes[0]

    def test_even_where_its_labels_were_never_kept(self, old, tmp_path):
        old.accept()
        package = old.write(tmp_path, copyImages=True)

        assert package.changed == 0
        assert "earlier DIANet made this result" in package.notes[0]

    def test_the_labels_are_kept_once(self, old):
        old.logic.review.sceneLoaded()
        kept = old.result.before().array
        old.edit()
        old.logic.review.sceneLoaded()

        assert np.array_equal(old.result.before().array, kept)

    def test_its_numbers_are_shown_without_intervals(self, old):
        from DIANetGui.Wording import resultText

        assert "0.85 <span" in resultText(old.result.record)


def test_labels_in_the_scene_that_cannot_be_read_are_told(reviewed, tmp_path):
    reviewed.result.segmentationNode.SetAttribute("DIANet.Before", "{}")

    with pytest.raises(InputError, match="labels kept in the scene cannot be read"):
        reviewed.write(tmp_path)
