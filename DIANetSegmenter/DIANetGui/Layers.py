# SPDX-License-Identifier: Apache-2.0
"""Showing layers over the image, and places in the views.

A layer has one fixed colour scale (`LayerKeys.SCALES`), is transparent below a threshold, and lies over the
input with the segmentation as outlines on top. Slicer shows one layer at a time as the foreground; since 5.11
further ones can lie over it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .ColorNodes import COLOR_MAPS, DEFAULT_COLOR_MAP, availableColorMaps, colorNode
from .LayerKeys import NUMBERED, SCALES, LayerKey
from .Nodes import rasFromLps
from .Results import LAYER_ATTRIBUTE, OUTLINE_ROLE, Result
from .Scene import Environment, nodesOf, uniqueName
from .Translate import tr as _

__all__ = [
    "COLOR_MAPS",
    "SCALES",
    "LayerStyle",
    "availableColorMaps",
    "canShowSeveral",
    "jumpTo",
    "outlineRegion",
    "resultInSight",
    "showLayers",
    "styleLayerNode",
]

_FIRST_EXTRA = 3  # vtkMRMLSliceCompositeNode.Layer_Last: after background, foreground, label
_NEXT_MAPS = ("Viridis", "Cividis", "Iron", "Cool1", "Grey")  # of further layers, to tell them apart
# Neither in the colour map nor a usual colour of a structure, so that it is seen on any value.
_REGION_COLOR = (0.47, 0.9, 1.0)
_LEGEND_LETTERS = 22  # in a line of a legend's title
_UNBOUNDED = ("total", "aleatoric", "epistemic", "heteroscedastic")
_VISIBLE_SHARE = 0.8  # of a view's width and height: a point beyond counts as out of sight


@dataclass(frozen=True)
class LayerStyle:
    """How layers are shown.

    Attributes:
        opacity: Of the layer over the image, 0 to 1.
        threshold: Share of the scale, 0 to 1, below which the layer is transparent; zero always is.
        colorMap: One of `COLOR_MAPS`.
        legend: Whether the colour scale is shown beside the image.
    """

    opacity: float = 0.6
    threshold: float = 0.1
    colorMap: str = DEFAULT_COLOR_MAP
    legend: bool = True


def canShowSeveral(environment: Environment) -> bool:
    """Whether this version of Slicer can show more than one layer at a time."""
    composite = environment.scene.CreateNodeByClass("vtkMRMLSliceCompositeNode")
    composite.UnRegister(None)
    return hasattr(composite, "SetNthLayerVolumeID")


def showLayers(
    environment: Environment,
    result: Result,
    keys: Sequence[LayerKey],
    style: LayerStyle | None = None,
    *,
    compositeNodes: Iterable[Any] | None = None,
) -> None:
    """Show layers of a result over its input, with the segmentation as outlines; none for an empty list.

    Args:
        environment: Scene and logics.
        result: Its layers must have been added; a key without a node is left out.
        keys: Which layers, the lowest first. Where only one can be shown, the first one is.
        style: How.
        compositeNodes: vtkMRMLSliceCompositeNode of the views to show them in; all views by default.
    """
    style = style or LayerStyle()
    scene = environment.scene
    shown = [(key, result.layerNode(key)) for key in keys]
    shown = [(key, node) for key, node in shown if node is not None]
    if not canShowSeveral(environment):
        shown = shown[:1]
    composites = list(
        nodesOf(scene, "vtkMRMLSliceCompositeNode") if compositeNodes is None else compositeNodes
    )
    # No batch: sliders call this many times a second, and each end of one makes Slicer rebuild its lists.
    for (key, node), colorMap in zip(shown, _colorMaps(environment, style, len(shown)), strict=True):
        styleLayerNode(environment, node, key, style, colorMap)
    for composite in composites:
        _compose(composite, result, [node for _key, node in shown], style.opacity)
    _showLegends(environment, [node for _key, node in shown] if style.legend else [])
    display = result.segmentationNode.GetDisplayNode()
    if display is not None:
        display.SetVisibility2DOutline(True)
        display.SetVisibility2DFill(not shown)


def styleLayerNode(
    environment: Environment,
    node: Any,
    key: LayerKey,
    style: LayerStyle | None = None,
    colorMap: str | None = None,
) -> None:
    """Give a layer's volume node its fixed scale, threshold and colours.

    Args:
        environment: Scene and logics.
        node: Volume node of the layer; it gets a display node if it has none.
        key: Which layer it is.
        style: How it is shown.
        colorMap: In place of that of `style`.
    """
    style = style or LayerStyle()
    display = node.GetDisplayNode()
    fresh = display is None
    if fresh:  # not CreateDefaultDisplayNodes: that looks for a window in the histogram of all voxels
        display = node.GetScene().AddNewNodeByClass("vtkMRMLScalarVolumeDisplayNode")
    modifying = display.StartModify()
    display.SetAndObserveColorNodeID(colorNode(environment, colorMap or style.colorMap).GetID())
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(0.0, key.scale)
    display.SetAutoThreshold(False)
    # A map is 0 where nothing was looked at. No number of a thing is too low to be seen.
    lowest = 0.5 if key.kind in NUMBERED else key.scale * max(style.threshold, 1e-4)
    # Entropies and logit variances may exceed their scale; the others cannot, and looking costs time.
    greatest = key.scale
    if key.kind in _UNBOUNDED:
        greatest = max(greatest, node.GetImageData().GetScalarRange()[1])
    display.SetThreshold(lowest, greatest * (1 + 1e-6))
    display.SetApplyThreshold(True)
    display.SetInterpolate(key.kind not in NUMBERED)
    display.EndModify(modifying)
    if fresh:
        node.SetAndObserveDisplayNodeID(display.GetID())


def jumpTo(environment: Environment, pointLps: Sequence[float]) -> None:
    """Lead all slice views, and the crosshair, to a point (LPS mm).

    A view is only moved within its plane where the point would be out of sight, so that the image does not
    jump about while a list of places is walked through.
    """
    ras = rasFromLps(pointLps)
    scene = environment.scene
    for sliceNode in nodesOf(scene, "vtkMRMLSliceNode"):
        sliceNode.JumpSliceByOffsetting(*ras)
        if not _inSight(sliceNode, ras):
            sliceNode.JumpSliceByCentering(*ras)
    for crosshair in nodesOf(scene, "vtkMRMLCrosshairNode"):
        crosshair.SetCrosshairRAS(*ras)


def resultInSight(environment: Environment, result: Result) -> bool:
    """Whether every slice view cuts one of the structures that were found (its box, to be quick)."""
    from scipy import ndimage

    labels = result.labels()
    boxes = []
    for found in ndimage.find_objects(labels.array):
        if found is not None:
            ends = [(part.start, part.stop - 1) for part in reversed(found)]
            corners = np.array(np.meshgrid(*ends)).reshape(3, -1).T
            boxes.append((labels.geometry.index_to_world(corners) * (-1, -1, 1)).T)  # RAS
    for sliceNode in nodesOf(environment.scene, "vtkMRMLSliceNode"):
        toRas = sliceNode.GetSliceToRAS()
        normal = np.array([toRas.GetElement(row, 2) for row in range(3)])
        origin = np.array([toRas.GetElement(row, 3) for row in range(3)])
        heights = (normal @ (box - origin[:, None]) for box in boxes)
        if not any(height.min() <= 0 <= height.max() for height in heights):
            return False
    return True


def outlineRegion(environment: Environment, result: Result, region: Any) -> Any:
    """Draw the edges of a box in all views, in place of the one drawn before.

    Args:
        environment: Scene and logics.
        result: What the region belongs to; its outline goes with it.
        region: A region or box with corners `lo` and `hi` (LPS mm), as attributes or in a mapping; None draws
            nothing.

    Returns:
        The markups ROI node, which lists of nodes do not show and the mouse cannot move; None where nothing
        was drawn.
    """
    node = result.segmentationNode.GetNodeReference(OUTLINE_ROLE)
    if region is None:
        if node is not None and node.GetDisplayNode() is not None:
            node.GetDisplayNode().SetVisibility(False)
        return None
    if node is None:
        node = _makeOutline(environment)
        result.segmentationNode.SetNodeReferenceID(OUTLINE_ROLE, node.GetID())
    lo, hi = (np.asarray(_corner(region, name), dtype=float) for name in ("lo", "hi"))
    node.SetCenter(*rasFromLps((lo + hi) / 2))
    node.SetSize(*(hi - lo).tolist())
    node.GetDisplayNode().SetVisibility(True)
    return node


# --- helpers ---


def _colorMaps(environment: Environment, style: LayerStyle, count: int) -> list[str]:
    """The chosen map, then others, so that layers over each other can be told apart."""
    known = {node.GetName() for node in nodesOf(environment.scene, "vtkMRMLColorNode")}
    others = [name for name in _NEXT_MAPS if name in known and name != style.colorMap] or [style.colorMap]
    return [style.colorMap, *(others[n % len(others)] for n in range(count))][:count]


def _compose(composite: Any, result: Result, layers: Sequence[Any], opacity: float) -> None:
    modifying = composite.StartModify()
    scene = composite.GetScene()
    inputs = [node.GetID() for node in result.inputNodes()]
    if layers and inputs and composite.GetBackgroundVolumeID() not in inputs:
        composite.SetBackgroundVolumeID(inputs[0])
    foreground = scene.GetNodeByID(composite.GetForegroundVolumeID() or "")
    if layers:
        composite.SetForegroundVolumeID(layers[0].GetID())
        composite.SetForegroundOpacity(opacity)
    elif foreground is not None and foreground.GetAttribute(LAYER_ATTRIBUTE) is not None:
        composite.SetForegroundVolumeID(None)
    if hasattr(composite, "SetNthLayerVolumeID"):
        for index in reversed(range(composite.GetNumberOfAdditionalLayers())):
            there = composite.GetNthLayerVolume(_FIRST_EXTRA + index)
            if there is None or there.GetAttribute(LAYER_ATTRIBUTE) is not None:
                composite.SetNthLayerVolumeID(_FIRST_EXTRA + index, None)
        first = _FIRST_EXTRA + composite.GetNumberOfAdditionalLayers()
        for index, node in enumerate(layers[1:], start=first):
            composite.SetNthLayerVolumeID(index, node.GetID())
            composite.SetNthLayerOpacity(index, opacity)
    composite.EndModify(modifying)


def _showLegends(environment: Environment, layers: Sequence[Any]) -> None:
    logic = environment.colorsLogic
    if not hasattr(logic, "GetColorLegendDisplayNode"):
        return
    for node in layers:
        if logic.GetColorLegendDisplayNode(node) is None:
            legend = logic.AddDefaultColorLegendDisplayNode(node)
            greatest = LayerKey.parse(node.GetAttribute(LAYER_ATTRIBUTE)).scale
            legend.SetLabelFormat(f"%.{2 + math.ceil(-math.log10(greatest))}f")
            legend.SetNumberOfLabels(5)
            legend.SetPosition(0.98, 0.5)
            legend.SetSize(0.12, 0.45)
            for text, size in ((legend.GetTitleTextProperty(), 11), (legend.GetLabelTextProperty(), 10)):
                text.SetFontFamilyToArial()
                text.SetFontSize(size)
    for legend in nodesOf(environment.scene, "vtkMRMLColorLegendDisplayNode"):
        node = legend.GetDisplayableNode()
        if node is not None and node.GetAttribute(LAYER_ATTRIBUTE) is not None:
            legend.SetTitleText(_legendTitle(node.GetName()))
            legend.SetVisibility(any(node is layer for layer in layers))
            # A view looks at what it shows only when the legend changes.
            legend.Modified()


def _legendTitle(name: str) -> str:
    """The name in lines that fit beside an image."""
    lines = [""]
    for word in name.split():
        if lines[-1] and len(lines[-1]) + len(word) > _LEGEND_LETTERS:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def _inSight(sliceNode: Any, ras: Sequence[float]) -> bool:
    import vtk

    toView = vtk.vtkMatrix4x4()
    vtk.vtkMatrix4x4.Invert(sliceNode.GetXYToRAS(), toView)
    at = toView.MultiplyPoint((*ras, 1.0))
    sizes = sliceNode.GetDimensions()
    return all(abs(at[axis] / max(sizes[axis], 1) - 0.5) <= _VISIBLE_SHARE / 2 for axis in range(2))


def _corner(region: Any, name: str) -> Sequence[float]:
    corner: Sequence[float] = region[name] if isinstance(region, dict) else getattr(region, name)
    return corner


def _makeOutline(environment: Environment) -> Any:
    scene = environment.scene
    node = scene.CreateNodeByClass("vtkMRMLMarkupsROINode")
    node.UnRegister(None)
    # Before it is added: lists of nodes and the subject hierarchy look only once.
    node.SetHideFromEditors(True)
    node.SetName(uniqueName(scene, _("DIANet region outline")))
    node.SetLocked(True)
    node.SetSelectable(False)
    node = scene.AddNode(node)
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetColor(*_REGION_COLOR)
    display.SetSelectedColor(*_REGION_COLOR)
    display.SetActiveColor(*_REGION_COLOR)
    display.SetFillVisibility(False)
    display.SetOutlineVisibility(True)
    display.SetHandlesInteractive(False)
    display.SetPropertiesLabelVisibility(False)
    display.SetPointLabelsVisibility(False)
    display.SetGlyphScale(0.1)
    return node
