# SPDX-License-Identifier: Apache-2.0
"""Masked edits of a place on real MRML, with Slicer's own Segment Editor logic making the strokes."""

from __future__ import annotations

import numpy as np
import pytest

from DIANetLib.acwi.review import Region
from DIANetLib.errors import InputError
from DIANetLib.volume import Volume
from Testing.module.bootstrap import (
    add_transform,
    all_nodes,
    geometry,
    read_bundle,
    rotation,
    save_bundle,
    segmented,
)

pytest.importorskip("slicer_core", reason="needs slicer-core")

LEFT, RIGHT, AMYGDALA = 1, 2, 5
GRID = geometry(size=(20, 16, 12))
PLACE = np.s_[4:7, 6:14, 5:11]  # reaches over the border of 1 and 2, and into 5 and the background


def anatomy(grid=GRID):
    """Two structures side by side along i, and a third behind both."""
    array = np.zeros(grid.shape, np.uint8)
    array[3:9, 4:12, 2:8] = LEFT
    array[3:9, 4:12, 8:14] = RIGHT
    array[3:9, 12:14, 2:14] = AMYGDALA
    return Volume(array, grid, name="labels")


def place(grid=GRID):
    mask = np.zeros(grid.shape, bool)
    mask[PLACE] = True
    return mask


def region(structures=("hippocampus_left", "hippocampus_right"), grid=GRID):
    k, j, i = ((part.start + part.stop - 1) / 2 for part in PLACE)
    centre = tuple(grid.index_to_world((i, j, k)).tolist())
    low, high = (tuple(float(c + d) for c in centre) for d in (-4.0, 4.0))
    return Region(1, structures, centre, low, high, 100.0, 40.0, 0.9)


class Bench:
    """A result in a scene with Slicer's Segment Editor logic, which tools of the Segment Editor work by."""

    def __init__(self, environment, grid=GRID, image=None):
        import slicer
        from DIANetGui.Nodes import nodeFromVolume
        from DIANetGui.Results import Result

        self.environment, self.grid = environment, grid
        if image is None:
            image = np.random.default_rng(0).normal(size=grid.shape).astype(np.float32)
        self.head = nodeFromVolume(environment, Volume(image, grid), "Head")
        self.labels = anatomy(grid)
        self.result = Result.create(environment, "run", [self.head], segmented(), self.labels)
        self.node = self.result.segmentationNode
        self.editor = slicer.vtkMRMLSegmentEditorNode()
        self.editor.SetSingletonTag("SegmentEditor")
        self.editor = environment.scene.AddNode(self.editor)
        self.logic = slicer.vtkSlicerSegmentEditorLogic()
        self.logic.SetMRMLScene(environment.scene)
        self.logic.SetMRMLApplicationLogic(environment.applicationLogic)
        self.logic.SetSegmentEditorNode(self.editor)
        self.modes = {
            name: getattr(slicer.vtkSlicerSegmentEditorLogic, f"ModificationMode{name}")
            for name in ("Add", "Remove", "Set", "RemoveAll")
        }

    def begin(self, structures=("hippocampus_left", "hippocampus_right")):
        from DIANetGui.Editing import beginEdit, configure

        edit = beginEdit(self.result, region(structures, self.grid), place(self.grid))
        configure(self.result, edit)
        return edit

    def stroke(self, mode, where=np.s_[:, :, :], segment=None, bypass=False):
        """What a tool does: keep a state for undo, mark voxels, and have the logic change the segment."""
        from vtk.util import numpy_support

        self.logic.SaveStateForUndo()
        assert self.logic.ResetModifierLabelmapToDefault()
        modifier = self.logic.GetModifierLabelmap()
        voxels = numpy_support.vtk_to_numpy(modifier.GetPointData().GetScalars()).reshape(self.grid.shape)
        voxels[where] = 1
        modifier.Modified()
        segment = segment or self.editor.GetSelectedSegmentID()
        self.logic.ModifySegmentByLabelmap(self.node, segment, modifier, self.modes[mode], True, bypass)

    @property
    def now(self):
        return self.result.labels(self.grid).array


@pytest.fixture
def bench(environment):
    return Bench(environment)


def names_in_segmentation(bench):
    segmentation = bench.node.GetSegmentation()
    return [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]


class TestBegin:
    def test_the_segment_editor_is_set_to_the_place(self, bench):
        import slicer

        edit = bench.begin()

        assert bench.editor.GetSegmentationNode() is bench.node
        assert bench.editor.GetSelectedSegmentID() == edit.structure == "hippocampus_left"
        assert bench.editor.GetSourceVolumeIntensityMask()
        assert bench.editor.GetMaskMode() == slicer.vtkMRMLSegmentationNode.EditAllowedEverywhere
        assert bench.editor.GetOverwriteMode() == slicer.vtkMRMLSegmentEditorNode.OverwriteAllSegments

    def test_the_segment_that_fills_more_of_the_place_is_chosen(self, bench):
        wide = place()
        wide[4:7, 6:11, 8:14] = True
        from DIANetGui.Editing import beginEdit

        assert beginEdit(bench.result, region(), wide).structure == "hippocampus_right"

    def test_what_can_be_edited_is_the_place_without_third_structures(self, bench):
        edit = bench.begin()

        assert np.array_equal(edit.editable, place() & (bench.labels.array != AMYGDALA))

    def test_no_segment_is_added_so_that_nothing_shows_up_in_exports_and_volumes(self, bench):
        before = names_in_segmentation(bench)
        bench.begin()

        assert names_in_segmentation(bench) == before

    def test_the_copy_of_the_image_lies_beside_the_segmentation_and_keeps_its_values(self, bench):
        from DIANetGui.Nodes import volumeFromNode
        from DIANetGui.Scene import parentItemOf

        edit = bench.begin()
        source = bench.editor.GetSourceVolumeNode()
        copied, image = volumeFromNode(source).array, volumeFromNode(bench.head).array
        low, high = edit.range

        assert parentItemOf(source) == bench.result.folderItem
        assert np.array_equal(copied[edit.editable], image[edit.editable])
        assert ((copied >= low) & (copied <= high)).sum() == edit.editable.sum()

    def test_the_place_is_outlined_by_a_segmentation_that_no_list_shows_and_no_scene_keeps(self, bench):
        import slicer
        from vtk.util import numpy_support

        edit = bench.begin()
        outline = bench.node.GetNodeReference("DIANet.EditPlace")
        image = slicer.vtkOrientedImageData()
        outline.GetBinaryLabelmapRepresentation("place", image)
        voxels = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())

        assert outline.GetHideFromEditors()
        assert not outline.GetSaveWithScene()
        assert not outline.GetDisplayNode().GetVisibility3D()
        assert voxels.sum() == edit.editable.sum()

    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
    def test_images_of_every_type_can_be_masked(self, environment, dtype):
        image = np.random.default_rng(0).uniform(0, 255, GRID.shape).astype(dtype)
        image[0, 0, 0], image[-1, -1, -1] = 0, 255
        bench = Bench(environment, image=image)
        edit = bench.begin()
        bench.stroke("Add")

        assert np.array_equal(bench.now != bench.labels.array, edit.editable & (bench.labels.array != LEFT))

    def test_voxels_without_a_number_can_be_edited_too(self, environment):
        image = np.ones(GRID.shape, np.float32)
        image[5, 7, 9], image[0, 0, 0] = np.nan, np.inf
        bench = Bench(environment, image=image)
        bench.begin()
        bench.stroke("Add")

        assert bench.now[5, 7, 9] == LEFT

    def test_without_the_image_the_place_can_be_edited_all_the_same(self, bench):
        bench.environment.scene.RemoveNode(bench.head)
        edit = bench.begin()
        bench.stroke("Add")

        assert (bench.now[edit.editable] == LEFT).all()
        assert np.array_equal(bench.now[~edit.editable], bench.labels.array[~edit.editable])

    def test_a_place_without_structures_may_get_any(self, bench):
        edit = bench.begin(())

        assert np.array_equal(edit.editable, place())

    def test_a_segment_that_is_gone_gets_a_sentence_and_nothing_is_left(self, bench):
        nodes = all_nodes(bench.environment)
        bench.node.GetSegmentation().RemoveSegment("amygdala")

        with pytest.raises(InputError, match=r"no longer has the segment of this place: Amygdala"):
            bench.begin(("amygdala",))
        assert all_nodes(bench.environment) == nodes

    def test_of_two_segments_one_may_be_gone(self, bench):
        bench.node.GetSegmentation().RemoveSegment("hippocampus_left")

        assert bench.begin().structure == "hippocampus_right"


class TestStrokes:
    @pytest.fixture
    def edit(self, bench):
        return bench.begin()

    def test_painting_moves_the_border_and_stays_in_the_place(self, bench, edit):
        bench.stroke("Add")
        beyond = ~edit.editable

        assert (bench.now[edit.editable] == LEFT).all()
        assert np.array_equal(bench.now[beyond], bench.labels.array[beyond])

    @pytest.mark.parametrize("mode", ["Add", "Remove", "Set", "RemoveAll"])
    @pytest.mark.parametrize("bypass", [False, True], ids=["masked", "masks bypassed"])
    def test_no_kind_of_change_reaches_beyond_the_place(self, bench, edit, mode, bypass):
        bench.stroke(mode, bypass=bypass)

        changed = bench.now != bench.labels.array
        assert changed.any()
        assert not changed[~edit.editable].any()

    def test_the_third_structure_stays_as_it_is(self, bench, edit):
        bench.stroke("Add")
        bench.stroke("Remove")

        assert np.array_equal(bench.now == AMYGDALA, bench.labels.array == AMYGDALA)

    def test_painting_the_other_structure_takes_the_border_back(self, bench, edit):
        bench.stroke("Add")
        bench.stroke("Add", segment="hippocampus_right")

        assert (bench.now[edit.editable] == RIGHT).all()

    def test_segments_do_not_come_to_overlap(self, bench, edit):
        import slicer
        from vtk.util import numpy_support

        bench.stroke("Add")
        total = np.zeros(GRID.shape, int)
        for key in names_in_segmentation(bench):
            image = slicer.vtkOrientedImageData()
            bench.node.GetBinaryLabelmapRepresentation(key, image)
            extent = image.GetExtent()
            part = tuple(slice(extent[2 * axis], extent[2 * axis + 1] + 1) for axis in (2, 1, 0))
            total[part] += numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(
                total[part].shape
            )

        assert total.max() == 1

    def test_the_segmentation_stays_in_its_folder(self, bench, edit):
        from DIANetGui.Scene import parentItemOf

        folder = bench.result.folderItem
        bench.stroke("Add")

        assert parentItemOf(bench.node) == folder != 0

    def test_of_an_oblique_volume_exactly_the_place_is_edited(self, environment):
        bench = Bench(environment, geometry(size=(20, 16, 12), direction=rotation(12, -20, 33)))
        edit = bench.begin()
        bench.stroke("Add")

        assert np.array_equal(bench.now != bench.labels.array, edit.editable & (bench.labels.array != LEFT))

    def test_of_a_segmentation_that_was_moved_exactly_the_place_is_edited(self, bench):
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = rotation(5, 6, 7), (3, 4, 5)
        transform = add_transform(bench.environment, matrix)
        bench.node.SetAndObserveTransformNodeID(transform.GetID())
        edit = bench.begin()
        bench.stroke("Add")

        assert np.array_equal(bench.now != bench.labels.array, edit.editable & (bench.labels.array != LEFT))

    def test_masking_inside_a_segment_would_not_hold_back_erasing(self, bench):
        """Why an edit masks by intensity: Slicer erases beyond the mask segment."""
        import slicer
        from DIANetGui.Nodes import imageFromArray, matrixFromGeometry

        image = slicer.vtkOrientedImageData()
        image.ShallowCopy(imageFromArray(place().astype(np.uint8)))
        image.SetImageToWorldMatrix(matrixFromGeometry(GRID))
        segment = slicer.vtkSegment()
        segment.AddRepresentation("Binary labelmap", image)
        bench.node.GetSegmentation().AddSegment(segment, "mask")
        bench.node.GetDisplayNode().SetSegmentVisibility("mask", False)
        bench.editor.SetAndObserveSegmentationNode(bench.node)
        bench.editor.SetAndObserveSourceVolumeNode(bench.head)
        bench.editor.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedInsideSingleSegment)
        bench.editor.SetMaskSegmentID("mask")
        bench.editor.SetOverwriteMode(slicer.vtkMRMLSegmentEditorNode.OverwriteVisibleSegments)
        bench.stroke("Remove", segment="hippocampus_left")

        assert (bench.now != bench.labels.array)[~place()].any()


class TestUndo:
    def test_a_stroke_is_undone_and_redone(self, bench):
        bench.begin()
        bench.stroke("Add")
        painted = bench.now
        bench.logic.Undo()
        assert np.array_equal(bench.now, bench.labels.array)

        bench.logic.Redo()
        assert np.array_equal(bench.now, painted)

    def test_strokes_from_before_the_edit_can_be_undone_during_it(self, bench):
        bench.editor.SetAndObserveSegmentationNode(bench.node)
        bench.editor.SetAndObserveSourceVolumeNode(bench.head)
        bench.stroke("Add", np.s_[0:2, 0:2, 0:2], "hippocampus_left")
        earlier = bench.now
        bench.begin()
        bench.stroke("Add")
        bench.logic.Undo()
        assert np.array_equal(bench.now, earlier)

        bench.logic.Undo()
        assert np.array_equal(bench.now, bench.labels.array)

    def test_strokes_of_an_edit_can_be_undone_after_its_end(self, bench):
        from DIANetGui.Editing import endEdit

        bench.begin()
        bench.stroke("Add")
        endEdit(bench.result)
        assert bench.logic.CanUndo()
        bench.logic.Undo()

        assert np.array_equal(bench.now, bench.labels.array)
        assert names_in_segmentation(bench) == [s.key for s in bench.result.record.structures]


class TestEnd:
    def test_what_was_changed_is_counted(self, bench):
        from DIANetGui.Editing import endEdit

        bench.begin()
        bench.stroke("Add", np.s_[5, 7, 8:10])
        outcome = endEdit(bench.result)

        assert (outcome.rank, outcome.inside, outcome.outside, outcome.changed) == (1, 2, 0, True)

    def test_nothing_changed_where_the_strokes_were_undone(self, bench):
        from DIANetGui.Editing import endEdit

        bench.begin()
        bench.stroke("Add")
        bench.logic.Undo()

        assert not endEdit(bench.result).changed

    def test_changes_beyond_the_place_are_noticed_with_the_structures(self, bench):
        from DIANetGui.Editing import endEdit

        bench.begin()
        bench.editor.SetSourceVolumeIntensityMask(False)  # the key I in the Segment Editor
        bench.stroke("Add", np.s_[3, 12, 2:6])
        outcome = endEdit(bench.result)

        assert (outcome.inside, outcome.outside) == (0, 4)
        assert outcome.structuresOutside == ("Hippocampus left", bench.result.record.structures[2].name)

    def test_the_scene_is_as_before_but_for_the_labels(self, bench):
        from DIANetGui.Editing import edits, endEdit

        nodes = all_nodes(bench.environment)
        bench.begin()
        assert edits(bench.environment) == [bench.result]
        bench.stroke("Add")
        endEdit(bench.result)

        assert all_nodes(bench.environment) == nodes
        assert edits(bench.environment) == []
        assert bench.node.GetAttribute("DIANet.Edit") is None

    def test_the_segment_editor_gets_its_settings_back(self, bench):
        import slicer
        from DIANetGui.Editing import endEdit

        editor, cls = bench.editor, slicer.vtkMRMLSegmentationNode
        editor.SetAndObserveSegmentationNode(bench.node)
        editor.SetAndObserveSourceVolumeNode(bench.head)
        editor.SetMaskMode(cls.EditAllowedOutsideAllSegments)
        editor.SetOverwriteMode(slicer.vtkMRMLSegmentEditorNode.OverwriteNone)
        editor.SetSourceVolumeIntensityMaskRange(0.25, 0.5)
        bench.begin()
        endEdit(bench.result)

        assert editor.GetSegmentationNode() is bench.node  # another one would cost the undo states
        assert editor.GetSourceVolumeNode() is bench.head
        assert editor.GetMaskMode() == cls.EditAllowedOutsideAllSegments
        assert editor.GetOverwriteMode() == slicer.vtkMRMLSegmentEditorNode.OverwriteNone
        assert editor.GetSourceVolumeIntensityMaskRange() == (0.25, 0.5)
        assert not editor.GetSourceVolumeIntensityMask()

    def test_settings_for_another_segmentation_are_not_put_on_this_one(self, bench):
        import slicer
        from DIANetGui.Editing import endEdit

        other = bench.environment.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Other")
        bench.editor.SetAndObserveSegmentationNode(other)
        bench.editor.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedInsideSingleSegment)
        bench.editor.SetMaskSegmentID("of the other")
        bench.begin()
        endEdit(bench.result)

        assert bench.editor.GetMaskMode() == slicer.vtkMRMLSegmentationNode.EditAllowedEverywhere
        assert bench.editor.GetSourceVolumeNode() is bench.head

    def test_an_editor_that_was_turned_to_another_segmentation_is_left_alone(self, bench):
        from DIANetGui.Editing import endEdit

        bench.begin()
        other = bench.environment.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Other")
        bench.editor.SetAndObserveSegmentationNode(other)
        bench.editor.SetAndObserveSourceVolumeNode(bench.head)
        bench.editor.SetSourceVolumeIntensityMaskRange(1.0, 2.0)
        endEdit(bench.result)

        assert bench.editor.GetSourceVolumeIntensityMaskRange() == (1.0, 2.0)

    def test_without_an_edit_there_is_nothing_to_end(self, bench):
        from DIANetGui.Editing import endEdit

        assert endEdit(bench.result) is None

    def test_removing_the_result_takes_the_copy_of_the_image_with_it(self, bench):
        nodes = {node for node in all_nodes(bench.environment) if "Editor" in node or "Scalar" in node}
        bench.begin()
        bench.result.remove()

        left = {node for node in all_nodes(bench.environment) if "Editor" in node or "Scalar" in node}
        assert left == nodes

    def test_what_an_edit_began_with_that_cannot_be_read_is_no_edit(self, bench):
        from DIANetGui.Editing import editOf, endEdit

        bench.begin()
        bench.node.SetAttribute("DIANet.Edit", '{"rank": 1}')

        assert editOf(bench.result) is None
        assert endEdit(bench.result) is None
        assert bench.editor.GetSourceVolumeNode() is bench.head


class TestSavedScene:
    @pytest.fixture
    def reopened(self, bench, tmp_path):
        """The result of a scene that was saved in the middle of an edit."""
        from DIANetGui.Results import Result

        from Testing.module.bootstrap import make_environment

        bench.begin()
        bench.stroke("Add")
        save_bundle(bench.environment, tmp_path / "scene.mrb")
        environment = make_environment()
        # An id that the copy of the image had may have come to another volume.
        for n in range(3):
            environment.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", f"Other {n}")
        read_bundle(environment, tmp_path / "scene.mrb")
        (result,) = Result.all(environment)
        return result

    def test_an_edit_that_was_going_on_is_ended_afterwards(self, bench, reopened):
        from DIANetGui.Editing import endEdit

        editable = place() & (bench.labels.array != AMYGDALA)
        outcome = endEdit(reopened)

        assert outcome.inside == (editable & (bench.labels.array != LEFT)).sum()
        assert outcome.outside == 0

    def test_the_copy_of_the_image_is_not_saved_and_no_other_volume_goes(self, reopened):
        from DIANetGui.Editing import endEdit

        scene = reopened.environment.scene
        names = [scene.GetNthNodeByClass(n, "vtkMRMLScalarVolumeNode").GetName() for n in range(4)]
        endEdit(reopened)

        assert names == ["Other 0", "Other 1", "Other 2", "Head"]
        assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 1
        assert scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 4

    def test_the_segment_editor_masks_nothing_any_more(self, reopened):
        from DIANetGui.Editing import endEdit

        endEdit(reopened)
        scene = reopened.environment.scene
        editor = scene.GetSingletonNode("SegmentEditor", "vtkMRMLSegmentEditorNode")

        assert editor.GetSegmentationNode() is reopened.segmentationNode
        assert not editor.GetSourceVolumeIntensityMask()
        assert editor.GetSourceVolumeNode().GetName() == "Head"
