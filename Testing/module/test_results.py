# SPDX-License-Identifier: Apache-2.0
"""Results in the scene, on real MRML: what is made, kept through files, replaced and removed."""

from __future__ import annotations

import json
from dataclasses import replace as changed

import numpy as np
import pytest
from DIANetGui.LayerKeys import SCALES, LayerKey, layerTitle
from DIANetGui.Nodes import nodeFromVolume, volumeFromNode
from DIANetGui.Records import ResultRecord, readRecord, recordText
from DIANetGui.Results import Result
from DIANetGui.Scene import hierarchy, itemOf

from DIANetLib.errors import InputError
from DIANetLib.formats.segmentation import read_segmentation
from DIANetLib.volume import Volume
from DIANetLib.worker.protocol import LayerKind
from Testing.conftest import make_geometry
from Testing.module.bootstrap import (
    REGIONS,
    STRUCTURES,
    add_transform,
    all_items,
    all_nodes,
    labels_on,
    make_environment,
    read_bundle,
    save_bundle,
    segmented,
)

TOTAL, VARIANCE = LayerKey("total"), LayerKey("variance", "hippocampus_left")


@pytest.fixture
def grid():
    return make_geometry(7, (14, 12, 16))


@pytest.fixture
def head(environment, grid):
    """An oblique input volume in a folder of its own."""
    volume = Volume(np.arange(np.prod(grid.shape), dtype=np.float32).reshape(grid.shape), grid)
    node = nodeFromVolume(environment, volume, "head")
    node.CreateDefaultDisplayNodes()
    tree = hierarchy(environment.scene)
    itemOf(node, tree.CreateFolderItem(tree.GetSceneItemID(), "Study"))
    return node


def make(environment, head, identifier="run-1", **options) -> Result:
    labels = labels_on(volumeFromNode(head).geometry)
    return Result.create(environment, identifier, [head], segmented(), labels, **options)


def layer(grid, value=0.5) -> Volume:
    array = np.full(grid.shape, value, np.float32)
    return Volume(array, grid, name="layer")


def loaded(path):
    """A fresh environment with a saved scene in it."""
    fresh = make_environment()
    read_bundle(fresh, path)
    return fresh


# --- what is made ---


def test_a_result_has_one_segment_per_structure_with_name_colour_and_terminology(environment, head):
    result = make(environment, head)
    segmentation = result.segmentationNode.GetSegmentation()
    assert [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())] == [
        structure.key for structure in STRUCTURES
    ]
    for structure in STRUCTURES:
        segment = segmentation.GetSegment(structure.key)
        assert segment.GetName() == structure.name
        np.testing.assert_allclose(segment.GetColor(), np.array(structure.color) / 255)
        entry = segment.GetTerminology()
        assert "SCT^5366008^Hippocampus" in entry
        assert "SCT^123037004^Anatomical Structure" in entry
        assert ("SCT^7771000^Left" in entry) == (structure.key == "hippocampus_left")


def test_the_segments_lie_on_the_voxels_of_the_labelmap(environment, head, grid):
    result = make(environment, head)
    labels = labels_on(grid)
    back = result.labels()
    np.testing.assert_array_equal(back.array, labels.array)
    assert back.geometry.same_grid(grid, 1e-9)


def test_the_input_is_the_reference_geometry_and_the_source_volume(environment, head, grid):
    import slicer

    node = make(environment, head).segmentationNode
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    assert node.GetNodeReference(role) is head
    expected = environment.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    expected.SetReferenceImageGeometryParameterFromVolumeNode(head)
    name = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()

    def numbers(segmentation_node):
        return np.array(
            segmentation_node.GetSegmentation().GetConversionParameter(name).split(";")[:-1], float
        )

    np.testing.assert_allclose(numbers(node), numbers(expected), rtol=0, atol=1e-9)


def test_a_result_of_a_transformed_volume_lies_where_the_volume_is_seen(environment, head, grid):
    shift = np.eye(4)
    shift[:3, 3] = 30, -20, 10
    head.SetAndObserveTransformNodeID(add_transform(environment, shift).GetID())
    result = make(environment, head)
    np.testing.assert_allclose(
        result.labels().geometry.origin, np.add(grid.origin, (-30, 20, 10)), rtol=0, atol=1e-9
    )
    assert result.segmentationNode.GetParentTransformNode() is None


def test_everything_lands_in_a_folder_beside_the_input(environment, head, grid):
    result = make(environment, head)
    result.addLayer(TOTAL, layer(grid))
    assert all_items(environment) == [
        ("Study", "Scene"),
        ("Total uncertainty (nats)", "head — DIANet hippocampus"),
        ("head", "Study"),
        ("head hippocampus segmentation", "head — DIANet hippocampus"),
        ("head — DIANet hippocampus", "Study"),
    ]
    assert result.name == "head — DIANet hippocampus"


def test_an_input_without_an_item_gets_its_result_in_the_scene(environment, grid):
    head = nodeFromVolume(environment, labels_on(grid), "head")
    make(environment, head)
    assert ("head — DIANet hippocampus", "Scene") in all_items(environment)


def test_a_labelmap_with_an_unknown_value_leaves_nothing_behind(environment, head, grid):
    before = all_nodes(environment), all_items(environment)
    labels = labels_on(grid).with_array(np.full(grid.shape, 9, np.uint8))
    with pytest.raises(InputError, match=r"values \[9\] that none of the structures has"):
        Result.create(environment, "run", [head], segmented(), labels)
    assert (all_nodes(environment), all_items(environment)) == before
    assert not environment.scene.IsBatchProcessing()


def test_an_answer_with_broken_regions_leaves_nothing_behind(environment, head, grid):
    before = all_nodes(environment), all_items(environment)
    with pytest.raises(InputError, match="not valid JSON"):
        Result.create(environment, "run", [head], segmented(regions="{"), labels_on(grid))
    assert (all_nodes(environment), all_items(environment)) == before


def test_a_failure_leaves_the_result_that_was_to_be_replaced(environment, head, grid):
    earlier = make(environment, head)
    before = all_nodes(environment), all_items(environment)
    with pytest.raises(InputError):
        Result.create(environment, "run", [head], segmented(regions="{"), labels_on(grid), replace=earlier)
    assert (all_nodes(environment), all_items(environment)) == before
    assert earlier.exists


# --- record ---


def test_the_record_says_how_the_result_came_about(environment, head):
    record = make(environment, head).record
    assert (record.id, record.model, record.samples, record.seed) == ("run-1", "hippocampus", 10, 3)
    assert record.inputs == ("head",)
    assert record.structures == STRUCTURES
    assert record.summaries[0].expected_dice == 0.85
    assert record.summaries[2].confidence is None
    assert record.timings == {"prepare": 0.25, "segment": 1.5}
    assert record.networkLayers == ("bottleneck",)
    assert "T" in record.created


def test_a_record_is_read_as_it_was_written(environment, head):
    record = make(environment, head).record
    assert readRecord(recordText(record)) == record


def test_a_record_of_the_first_release_names_no_paths(environment, head):
    record = changed(make(environment, head).record, layers=())
    document = json.loads(recordText(record))
    del document["paths"]
    assert readRecord(json.dumps(document)) == record


def test_a_record_of_a_newer_version_is_refused_with_a_remedy(environment):
    text = recordText(ResultRecord("id", "model")).replace('"version":2', '"version":3')
    with pytest.raises(InputError, match=r"newer DIANet.*Update the DIANet extension"):
        readRecord(text)


@pytest.mark.parametrize("text", ["", "null", "{}", "[]", '{"schema":"dianet.scene-result","version":1}'])
def test_a_text_that_is_no_record_is_refused(text):
    with pytest.raises(InputError, match="cannot be read"):
        readRecord(text)


def test_segmentations_of_others_are_no_results(environment, head):
    other = environment.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "other")
    assert Result.fromNode(environment, other) is None
    assert Result.fromNode(environment, None) is None
    result = make(environment, head)
    assert Result.all(environment) == [result]
    assert Result.fromNode(environment, result.segmentationNode) == result


# --- layers ---


def test_a_layer_gets_a_name_a_fixed_scale_and_a_place(environment, head, grid):
    result = make(environment, head)
    node = result.addLayer(VARIANCE, layer(grid, 0.1))
    assert node.GetName() == "Variance of Hippocampus left"
    assert result.layerNode(VARIANCE) is node
    assert result.layerNode(TOTAL) is None
    assert result.record.layers == ("variance:hippocampus_left",)
    display = node.GetDisplayNode()
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (0.0, 0.1)
    assert not display.GetAutoWindowLevel()
    assert volumeFromNode(node).geometry == grid


def test_a_layer_added_again_takes_the_place_of_the_earlier_one(environment, head, grid):
    result = make(environment, head)
    result.addLayer(TOTAL, layer(grid, 0.1))
    before = all_nodes(environment)
    node = result.addLayer(TOTAL, layer(grid, 0.2))
    assert node.GetName() == "Total uncertainty (nats)"
    assert volumeFromNode(node).array.max() == np.float32(0.2)
    assert len(all_nodes(environment)) == len(before)


def test_a_layer_that_cannot_be_added_leaves_the_earlier_one(environment, head, grid, monkeypatch):
    result = make(environment, head)
    earlier = result.addLayer(TOTAL, layer(grid))
    before = all_nodes(environment), all_items(environment)

    def fail(*arguments):
        raise InputError("no")

    monkeypatch.setattr("DIANetGui.Layers.styleLayerNode", fail)
    with pytest.raises(InputError, match="no"):
        result.addLayer(TOTAL, layer(grid))
    assert (all_nodes(environment), all_items(environment)) == before
    assert result.layerNode(TOTAL) is earlier


def test_a_layer_whose_node_was_deleted_is_gone(environment, head, grid):
    result = make(environment, head)
    environment.scene.RemoveNode(result.addLayer(TOTAL, layer(grid)))
    assert result.layerNode(TOTAL) is None
    assert result.record.layers == ()


def test_every_kind_of_layer_has_a_scale_and_a_title():
    from typing import get_args

    kinds = get_args(LayerKind)
    assert set(SCALES) == set(kinds)
    titles = [layerTitle(LayerKey(kind)) for kind in kinds]
    assert len(set(titles)) == len(kinds)


def test_the_scales_are_those_of_the_report():
    from DIANetLib.formats import report_views

    for kind, scale in report_views.SCALES.items():
        assert SCALES[kind] == scale


@pytest.mark.parametrize("key", [TOTAL, VARIANCE, LayerKey("gradcam", "third_ventricle")])
def test_the_id_of_a_layer_is_read_as_it_was_written(key):
    assert LayerKey.parse(key.id) == key


def test_an_unknown_layer_is_refused():
    with pytest.raises(InputError, match=r"no layer 'entropy', expected one of total"):
        LayerKey.parse("entropy")


# --- what is asked of a result ---


def test_regions_are_kept_with_the_result(environment, head):
    result = make(environment, head)
    assert json.loads(result.regions()) == json.loads(REGIONS)
    result.setRegions('{"regions": [{"state": "accepted; 100 %"}]}')
    assert json.loads(result.regions()) == {"regions": [{"state": "accepted; 100 %"}]}


def test_the_structure_under_a_point_is_found(environment, head, grid):
    result = make(environment, head)
    labels = labels_on(grid).array
    for value, key in ((1, "hippocampus_left"), (2, "hippocampus_right")):
        k, j, i = np.argwhere(labels == value)[5]
        x, y, z = grid.index_to_world((i + 0.3, j - 0.3, k + 0.2))
        assert result.structureAt((-x, -y, z)).key == key
    x, y, z = grid.index_to_world((0, 0, 0))
    assert result.structureAt((-x, -y, z)) is None
    assert result.structureAt((1e4, 0, 0)) is None


def test_the_structure_under_a_point_is_found_after_edits_and_transforms(environment, head, grid):
    result = make(environment, head)
    node = result.segmentationNode
    k, j, i = np.argwhere(labels_on(grid).array == 2)[0]
    x, y, z = grid.index_to_world((i, j, k))
    shift = np.eye(4)
    shift[:3, 3] = 5, 6, 7
    node.SetAndObserveTransformNodeID(add_transform(environment, shift).GetID())
    assert result.structureAt((-x + 5, -y + 6, z + 7)).key == "hippocampus_right"
    node.GetSegmentation().SeparateSegmentLabelmap("hippocampus_right")
    assert result.structureAt((-x + 5, -y + 6, z + 7)).key == "hippocampus_right"
    node.GetSegmentation().RemoveSegment("hippocampus_right")
    assert result.structureAt((-x + 5, -y + 6, z + 7)) is None


def test_labels_follow_what_the_user_edits(environment, head, grid):
    result = make(environment, head)
    segmentation = result.segmentationNode.GetSegmentation()
    segmentation.SeparateSegmentLabelmap("hippocampus_left")
    segmentation.RemoveSegment("hippocampus_right")
    expected = labels_on(grid).array.copy()
    expected[expected == 2] = 0
    np.testing.assert_array_equal(result.labels().array, expected)


def test_surfaces_are_made_when_they_are_shown(environment, head):
    result = make(environment, head)
    segmentation = result.segmentationNode.GetSegmentation()
    assert not segmentation.ContainsRepresentation("Closed surface")
    result.showSurfaces()
    assert segmentation.ContainsRepresentation("Closed surface")
    assert result.segmentationNode.GetDisplayNode().GetVisibility3D()


# --- replace, add, remove ---


def test_a_second_result_is_added_with_a_number(environment, head, grid):
    results = [make(environment, head, f"run-{n}") for n in (1, 2)]
    for result in results:
        result.addLayer(TOTAL, layer(grid))
    assert [result.name for result in results] == ["head — DIANet hippocampus", "head — DIANet hippocampus 2"]
    assert results[1].layerNode(TOTAL).GetName() == "Total uncertainty (nats) 2"
    assert Result.all(environment) == results


def test_a_result_that_replaces_another_takes_over_its_names(environment, head, grid):
    earlier = make(environment, head)
    earlier.addLayer(TOTAL, layer(grid))
    before = len(all_nodes(environment)), all_items(environment)
    result = make(environment, head, "run-2", replace=earlier)
    result.addLayer(TOTAL, layer(grid))
    assert not earlier.exists
    assert (len(all_nodes(environment)), all_items(environment)) == before
    assert result.record.id == "run-2"


def test_a_result_with_layers_can_take_the_place_of_another_afterwards(environment, head, grid):
    earlier = make(environment, head)
    earlier.addLayer(TOTAL, layer(grid))
    before = len(all_nodes(environment)), all_items(environment)
    result = make(environment, head, "run-2")
    result.addLayer(TOTAL, layer(grid))
    result.takePlaceOf(earlier)
    assert (len(all_nodes(environment)), all_items(environment)) == before


def test_removing_a_result_leaves_the_scene_as_it_was(environment, head, grid):
    make(environment, head, "warm-up").addLayer(TOTAL, layer(grid))  # the colour node stays
    before = all_nodes(environment), all_items(environment)
    result = make(environment, head)
    result.addLayer(TOTAL, layer(grid))
    result.addLayer(VARIANCE, layer(grid))
    result.showSurfaces()
    result.remove()
    assert (all_nodes(environment), all_items(environment)) == before
    assert not result.exists


def test_removing_a_result_keeps_what_the_user_put_into_its_folder(environment, head, grid):
    result = make(environment, head)
    mine = nodeFromVolume(environment, layer(grid), "mine")
    itemOf(mine, result.folderItem)
    result.remove()
    assert ("mine", "head — DIANet hippocampus") in all_items(environment)


def test_a_result_is_gone_when_the_scene_is_closed(environment, head, grid):
    result = make(environment, head)
    result.addLayer(TOTAL, layer(grid))
    environment.scene.Clear(False)
    assert not result.exists
    assert Result.all(environment) == []
    again = make(environment, nodeFromVolume(environment, layer(grid), "head"))
    node = again.addLayer(TOTAL, layer(grid))
    assert node.GetDisplayNode().GetColorNode().GetNumberOfColors() == 256


# --- files ---


def test_a_segmentation_is_saved_as_seg_nrrd_and_read_back_by_the_library(environment, head, grid, tmp_path):
    node = make(environment, head).segmentationNode
    path = tmp_path / "result.seg.nrrd"
    storage = environment.scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(path))
    assert storage.WriteData(node)
    labels, structures = read_segmentation(path)
    expected = labels_on(grid)
    # Slicer writes the box that holds something, or all; either way each voxel is where it was.
    offset = np.rint(grid.world_to_index(labels.geometry.origin)).astype(int)
    np.testing.assert_allclose(grid.index_to_world(offset), labels.geometry.origin, atol=1e-6)
    full = np.zeros(grid.shape, np.uint8)
    i, j, k = offset
    a, b, c = labels.array.shape
    full[k : k + a, j : j + b, i : i + c] = labels.array
    np.testing.assert_array_equal(full > 0, expected.array > 0)
    for structure, info in zip(structures, STRUCTURES, strict=True):
        assert structure.key == info.key
        assert structure.color == info.color
        assert structure.type.value == "5366008"
        assert (structure.modifier is None) == (info.modifier is None)
        np.testing.assert_array_equal(full == structure.value, expected.array == info.value)


def test_a_seg_nrrd_of_the_library_is_read_by_slicer_with_the_same_segments(
    environment, head, grid, tmp_path
):
    from DIANetGui.Messages import structureOf

    from DIANetLib.formats.segmentation import write_segmentation

    path = tmp_path / "library.seg.nrrd"
    structures = [structureOf(info) for info in STRUCTURES]
    write_segmentation(path, labels_on(grid), structures, source_name="head")
    node = environment.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = environment.scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(path))
    assert storage.ReadData(node)
    made = make(environment, head).segmentationNode.GetSegmentation()
    for info in STRUCTURES:
        read, own = node.GetSegmentation().GetSegment(info.key), made.GetSegment(info.key)
        assert (read.GetName(), read.GetLabelValue()) == (own.GetName(), own.GetLabelValue())
        np.testing.assert_allclose(read.GetColor(), own.GetColor(), atol=1e-5)


def test_a_result_comes_back_from_a_saved_scene(environment, head, grid, tmp_path):
    result = make(environment, head)
    result.addLayer(TOTAL, layer(grid, 0.3))
    result.addLayer(VARIANCE, layer(grid, 0.2))
    path = tmp_path / "scene.mrb"
    save_bundle(environment, path)
    fresh = loaded(path)
    (back,) = Result.all(fresh)
    assert back.record == result.record
    assert back.regions() == result.regions()
    assert [node.GetName() for node in back.inputNodes()] == ["head"]
    assert all_items(fresh) == all_items(environment)
    assert back.name == result.name
    np.testing.assert_array_equal(back.labels().array, result.labels().array)
    assert back.labels().geometry.same_grid(grid, 1e-4)
    for key, value in ((TOTAL, 0.3), (VARIANCE, 0.2)):
        volume = volumeFromNode(back.layerNode(key))
        assert volume.geometry.same_grid(grid, 1e-4)
        np.testing.assert_allclose(volume.array, value, rtol=1e-6)
        display = back.layerNode(key).GetDisplayNode()
        assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == pytest.approx(
            (0.0, key.scale),
            abs=1e-5,  # MRML writes six digits
        )
        assert display.GetColorNode().GetName() == "Uncertainty"
        assert display.GetColorNode().GetNumberOfColors() == 256
    for info in STRUCTURES:
        segment = back.segmentationNode.GetSegmentation().GetSegment(info.key)
        assert segment.GetName() == info.name
        np.testing.assert_allclose(segment.GetColor(), np.array(info.color) / 255, atol=1e-5)


def test_a_saved_scene_can_be_added_to_one_that_has_a_result(environment, head, grid, tmp_path):
    result = make(environment, head)
    result.addLayer(TOTAL, layer(grid, 0.3))
    path = tmp_path / "scene.mrb"
    save_bundle(environment, path)
    read_bundle(environment, path)
    first, second = Result.all(environment)
    assert first == result
    assert first.layerNode(TOTAL) is not second.layerNode(TOTAL)
    assert first.folderItem != second.folderItem
    assert second.inputNodes()[0] is not head
    second.remove()
    assert first.exists
    assert first.layerNode(TOTAL) is not None
