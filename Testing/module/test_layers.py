# SPDX-License-Identifier: Apache-2.0
"""Showing layers: which nodes the views are told to show, and how."""

from __future__ import annotations

import numpy as np
import pytest
from DIANetGui.ColorNodes import DEFAULT_COLOR_MAP, availableColorMaps, colorNode
from DIANetGui.LayerKeys import LayerKey
from DIANetGui.Layers import LayerStyle, canShowSeveral, jumpTo, outlineRegion, resultInSight, showLayers
from DIANetGui.Nodes import boxFromRoi, nodeFromVolume
from DIANetGui.Results import Result
from DIANetGui.Scene import nodesOf

from DIANetLib.formats.colormap import color_table
from DIANetLib.volume import Volume
from DIANetLib.worker.protocol import BoxLPS
from Testing.module.bootstrap import all_items, all_nodes, geometry, labels_on, segmented

TOTAL, EPISTEMIC, VARIANCE = LayerKey("total"), LayerKey("epistemic"), LayerKey("variance", "amygdala")
GRID = geometry((16, 14, 12))


def composites(environment, *names):
    made = []
    for name in names:
        node = environment.scene.AddNewNodeByClass("vtkMRMLSliceCompositeNode", name)
        node.SetLayoutName(name)
        made.append(node)
    return made


@pytest.fixture
def views(environment):
    return composites(environment, "Red", "Green", "Yellow")


@pytest.fixture
def result(environment):
    head = nodeFromVolume(environment, labels_on(GRID), "head")
    head.CreateDefaultDisplayNodes()
    made = Result.create(environment, "run", [head], segmented(), labels_on(GRID))
    for key in (TOTAL, EPISTEMIC, VARIANCE):
        values = np.linspace(0, key.scale, GRID.size[0], dtype=np.float32)
        made.addLayer(key, Volume(np.broadcast_to(values, GRID.shape).copy(), GRID))
    return made


def shown_in(composite):
    scene = composite.GetScene()
    ids = [composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID()]
    ids += [composite.GetNthLayerVolumeID(3 + n) for n in range(composite.GetNumberOfAdditionalLayers())]
    return [None if i is None else scene.GetNodeByID(i).GetName() for i in ids]


def test_a_layer_is_shown_over_the_input_in_all_views(environment, result, views):
    showLayers(environment, result, [TOTAL], LayerStyle(opacity=0.7))
    for composite in views:
        assert shown_in(composite) == ["head", "Total uncertainty (nats)"]
        assert composite.GetForegroundOpacity() == 0.7


def test_only_the_views_that_are_named_show_it(environment, result, views):
    showLayers(environment, result, [TOTAL], compositeNodes=views[:1])
    assert [shown_in(view)[1] for view in views] == ["Total uncertainty (nats)", None, None]


def test_an_empty_list_hides_the_layers_and_leaves_the_image(environment, result, views):
    showLayers(environment, result, [TOTAL, EPISTEMIC])
    showLayers(environment, result, [])
    assert shown_in(views[0]) == ["head", None]


def test_what_the_user_has_in_the_foreground_stays_when_no_layer_is_shown(environment, result, views):
    other = nodeFromVolume(environment, labels_on(GRID), "PET")
    views[0].SetForegroundVolumeID(other.GetID())
    showLayers(environment, result, [])
    assert shown_in(views[0]) == [None, "PET"]


def test_several_layers_lie_over_each_other_in_different_colours(environment, result, views):
    assert canShowSeveral(environment)
    showLayers(environment, result, [TOTAL, EPISTEMIC, VARIANCE], LayerStyle(opacity=0.5))
    names = ["head", "Total uncertainty (nats)", "Epistemic uncertainty (nats)"]
    third = "Variance of Amygdala co 100"  # without what file names and scene bundles cannot hold
    assert shown_in(views[1]) == [*names, third]
    assert views[1].GetNthLayerOpacity(3) == views[1].GetNthLayerOpacity(4) == 0.5
    colors = [result.layerNode(key).GetDisplayNode().GetColorNode().GetName() for key in (TOTAL, EPISTEMIC)]
    assert colors[0] == DEFAULT_COLOR_MAP
    assert colors[1] != DEFAULT_COLOR_MAP
    showLayers(environment, result, [EPISTEMIC])
    assert shown_in(views[1]) == ["head", "Epistemic uncertainty (nats)"]


def test_one_layer_is_shown_where_slicer_cannot_show_several(environment, result, views, monkeypatch):
    monkeypatch.setattr("DIANetGui.Layers.canShowSeveral", lambda environment: False)
    showLayers(environment, result, [TOTAL, EPISTEMIC])
    assert shown_in(views[0]) == ["head", "Total uncertainty (nats)"]


def test_a_layer_without_a_node_is_left_out(environment, result, views):
    showLayers(environment, result, [LayerKey("gradcam", "amygdala"), TOTAL])
    assert shown_in(views[0]) == ["head", "Total uncertainty (nats)"]


def test_another_input_of_the_result_may_stay_in_the_background(environment, views):
    nodes = [nodeFromVolume(environment, labels_on(GRID), name) for name in ("T1", "FLAIR")]
    made = Result.create(environment, "run", nodes, segmented(), labels_on(GRID))
    made.addLayer(TOTAL, Volume(np.ones(GRID.shape, np.float32), GRID))
    views[0].SetBackgroundVolumeID(nodes[1].GetID())
    showLayers(environment, made, [TOTAL])
    assert [shown_in(view)[0] for view in views] == ["FLAIR", "T1", "T1"]


def test_the_threshold_is_a_share_of_the_scale_and_the_scale_stays(environment, result):
    for threshold in (0.0, 0.05, 0.5):
        showLayers(environment, result, [VARIANCE], LayerStyle(threshold=threshold))
        display = result.layerNode(VARIANCE).GetDisplayNode()
        assert display.GetLowerThreshold() == pytest.approx(0.1 * max(threshold, 1e-4))
        assert display.GetUpperThreshold() >= 0.1
        assert display.GetApplyThreshold()
        assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (0.0, 0.1)


def test_values_above_the_scale_are_not_cut_off(environment, result):
    node = result.addLayer(LayerKey("heteroscedastic"), Volume(np.full(GRID.shape, 7, np.float32), GRID))
    assert node.GetDisplayNode().GetUpperThreshold() > 7
    assert node.GetDisplayNode().GetWindowLevelMax() == 0.01


def test_numbers_of_paths_are_neither_mixed_nor_left_out_by_the_threshold(environment, result):
    array = np.full(GRID.shape, 1, np.uint8)
    node = result.addLayer(LayerKey("path"), Volume(array, GRID))
    showLayers(environment, result, [LayerKey("path")], LayerStyle(threshold=0.9))
    display = node.GetDisplayNode()
    assert not display.GetInterpolate()
    assert 0 < display.GetLowerThreshold() < 1
    assert display.GetWindowLevelMax() == 5.0


def test_the_segmentation_is_filled_only_while_no_layer_is_shown(environment, result):
    display = result.segmentationNode.GetDisplayNode()
    showLayers(environment, result, [TOTAL])
    assert (display.GetVisibility2DFill(), display.GetVisibility2DOutline()) == (0, 1)
    showLayers(environment, result, [])
    assert (display.GetVisibility2DFill(), display.GetVisibility2DOutline()) == (1, 1)


def test_only_the_legends_of_shown_layers_are_visible(environment, result):
    def visible():
        legends = nodesOf(environment.scene, "vtkMRMLColorLegendDisplayNode")
        return [" ".join(legend.GetTitleText().split()) for legend in legends if legend.GetVisibility()]

    showLayers(environment, result, [TOTAL])
    assert visible() == ["Total uncertainty (nats)"]
    showLayers(environment, result, [EPISTEMIC])
    assert visible() == ["Epistemic uncertainty (nats)"]
    showLayers(environment, result, [EPISTEMIC], LayerStyle(legend=False))
    assert visible() == []
    showLayers(environment, result, [])
    assert visible() == []


def test_a_removed_result_takes_its_legends_along(environment, result):
    showLayers(environment, result, [TOTAL])
    result.remove()
    assert nodesOf(environment.scene, "vtkMRMLColorLegendDisplayNode") == []
    assert nodesOf(environment.scene, "vtkMRMLSegmentationDisplayNode") == []


def test_moving_a_slider_adds_no_nodes(environment, result, views):
    showLayers(environment, result, [TOTAL])
    before = all_nodes(environment)
    for opacity in np.linspace(0, 1, 5):
        showLayers(environment, result, [TOTAL], LayerStyle(opacity=float(opacity), threshold=float(opacity)))
    assert all_nodes(environment) == before


# --- colours ---


def test_the_own_colour_map_is_that_of_the_report_and_there_is_one_of_it(environment):
    node = colorNode(environment)
    assert node is colorNode(environment, DEFAULT_COLOR_MAP)
    assert node.GetName() == DEFAULT_COLOR_MAP
    table = color_table(256) / 255
    color = [0.0, 0.0, 0.0, 0.0]
    for index in (0, 77, 255):
        node.GetColor(index, color)
        np.testing.assert_allclose(color[:3], table[index], atol=1e-6)
        assert color[3] == 1.0


def test_only_colour_maps_that_the_scene_has_are_offered(environment):
    offered = availableColorMaps(environment)
    assert offered[0] == DEFAULT_COLOR_MAP
    assert {"Iron", "Grey"} <= set(offered)
    assert "Inferno" not in offered  # this comes with files of the application
    assert colorNode(environment, "Iron").GetName() == "Iron"
    assert colorNode(environment, "Inferno").GetName() == DEFAULT_COLOR_MAP


def test_a_chosen_colour_map_is_used(environment, result):
    showLayers(environment, result, [TOTAL], LayerStyle(colorMap="Iron"))
    assert result.layerNode(TOTAL).GetDisplayNode().GetColorNode().GetName() == "Iron"


# --- places ---


def add_slice(environment, name, orientation, size=200.0):
    import slicer

    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(environment.scene)
    node = environment.scene.AddNewNodeByClass("vtkMRMLSliceNode", name)
    node.SetOrientation(orientation)
    node.SetDimensions(400, 400, 1)
    node.SetFieldOfView(size, size, 1)
    return node


def test_all_views_and_the_crosshair_go_to_a_point(environment):
    slices = [add_slice(environment, name, name) for name in ("Axial", "Coronal", "Sagittal")]
    crosshair = environment.scene.AddNewNodeByClass("vtkMRMLCrosshairNode")
    jumpTo(environment, (12, -30, 7))  # RAS -12, 30, 7
    for node in slices:
        matrix = node.GetSliceToRAS()
        normal, middle = ([matrix.GetElement(row, column) for row in range(3)] for column in (2, 3))
        assert np.dot(normal, np.subtract((-12, 30, 7), middle)) == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(crosshair.GetCrosshairRAS(), (-12, 30, 7))


def test_a_view_moves_within_its_plane_only_when_the_point_is_out_of_sight(environment):
    near, far = (add_slice(environment, name, "Axial", size) for name, size in (("near", 200), ("far", 30)))
    jumpTo(environment, (40, 40, 10))

    def center(node):
        matrix = node.GetSliceToRAS()
        return [matrix.GetElement(row, 3) for row in range(3)]

    np.testing.assert_allclose(center(near), (0, 0, 10))
    np.testing.assert_allclose(center(far), (-40, -40, 10))


def test_a_region_is_outlined_by_one_box_that_cannot_be_moved(environment, result):
    before = all_items(environment)
    node = outlineRegion(environment, result, BoxLPS((0, 10, 20), (8, 16, 24)))
    again = outlineRegion(environment, result, {"lo": (-4, 0, 0), "hi": (4, 6, 8)})
    assert again is node
    box = boxFromRoi(node)
    np.testing.assert_allclose((box.lo, box.hi), ((-4, 0, 0), (4, 6, 8)), atol=1e-9)
    display = node.GetDisplayNode()
    assert node.GetLocked()
    assert not node.GetSelectable()
    assert node.GetHideFromEditors()
    assert not display.GetFillVisibility()
    assert not display.GetHandlesInteractive()
    assert display.GetVisibility()
    assert all_items(environment) == before  # it is a mark in the views, no data
    assert outlineRegion(environment, result, None) is None
    assert not display.GetVisibility()


def test_a_removed_result_takes_its_outline_along(environment, result):
    outlineRegion(environment, result, BoxLPS((0, 10, 20), (8, 16, 24)))
    result.remove()
    assert nodesOf(environment.scene, "vtkMRMLMarkupsROINode") == []


def test_a_result_is_in_sight_when_every_view_cuts_a_structure(environment, result):
    sagittal = environment.scene.AddNewNodeByClass("vtkMRMLSliceNode", "Yellow")
    sagittal.SetOrientationToSagittal()
    left, right = (GRID.index_to_world((n, 6, 5)) for n in (4, 12))  # structures are there from 4 to 11

    jumpTo(environment, left)
    assert resultInSight(environment, result)

    jumpTo(environment, np.add(right, (3.0, 0.0, 0.0)))
    assert not resultInSight(environment, result)


def test_a_result_without_a_voxel_is_never_in_sight(environment, result):
    environment.scene.AddNewNodeByClass("vtkMRMLSliceNode", "Red")
    result.segmentationNode.GetSegmentation().RemoveAllSegments()

    assert not resultInSight(environment, result)
