# SPDX-License-Identifier: Apache-2.0
"""Nodes that are in the scene while a place is edited: a masked copy of the image, and the place's outline.

Neither is saved with the scene; references of the result's segmentation node lead to them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from DIANetLib.errors import InputError
from DIANetLib.volume import Volume

from .Nodes import imageFromArray, matrixFromGeometry, nodeFromVolume, volumeFromNode
from .Results import EDIT_PLACE_ROLE, EDIT_SOURCE_ROLE, Result
from .Scene import batch, itemOf, parentItemOf, removeNodes, uniqueName
from .Translate import tr as _

__all__ = ["addNodes", "dropNodes", "maskedImage", "sourceNode"]

EDIT_MARK = "DIANet.EditSource"
_PLACE_COLOR = (0.47, 0.9, 1.0)  # that of a region's box


def addNodes(result: Result, source: Volume, limits: tuple[float, float], editable: np.ndarray) -> None:
    """Add both nodes.

    Args:
        result: Its segmentation is to be edited.
        source: What `maskedImage` gave.
        limits: The range that it gave.
        editable: (k, j, i) on the source's grid.

    Raises:
        DIANetError: They could not be added; the scene is as it was then.
    """
    scene, node = result.environment.scene, result.segmentationNode
    added: list[Any] = []
    with batch(scene):
        try:
            for role, add in (
                (EDIT_SOURCE_ROLE, lambda: _addSource(result, source, limits)),
                (EDIT_PLACE_ROLE, lambda: _addPlace(result, source.with_array(editable))),
            ):
                added.append(add())
                node.SetNodeReferenceID(role, added[-1].GetID())
        except BaseException:
            removeNodes(scene, added)
            raise


def sourceNode(result: Result) -> Any:
    """The copy of the image; None if it is gone."""
    return _marked(result, EDIT_SOURCE_ROLE)


def dropNodes(result: Result) -> None:
    """Remove both nodes."""
    nodes = [_marked(result, role) for role in (EDIT_SOURCE_ROLE, EDIT_PLACE_ROLE)]
    for role in (EDIT_SOURCE_ROLE, EDIT_PLACE_ROLE):
        result.segmentationNode.RemoveNodeReferenceIDs(role)
    removeNodes(result.environment.scene, nodes)


def maskedImage(result: Result, labels: Volume, editable: np.ndarray) -> tuple[Volume, tuple[float, float]]:
    """The image with everything that is not editable far below its values, and the range of the rest.

    Args:
        result: The image is its first input.
        labels: Says on which grid.
        editable: (k, j, i) on that grid.
    """
    image = None
    nodes = result.inputNodes()
    if nodes:
        try:
            image = volumeFromNode(nodes[0])
        except InputError:
            image = None
    if image is None or not image.geometry.same_grid(labels.geometry, 1e-3):
        # The image is gone or was moved: tools that look at it see nothing, the others work.
        return labels.with_array(editable.astype(np.uint8) * np.uint8(2)), (1.0, 3.0)
    array = image.array
    finite = np.isfinite(array) if array.dtype.kind == "f" else None
    known = array if finite is None else array[finite]
    lo, hi = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    gap = max(1.0, hi - lo)
    outside, dtype = lo - 2 * gap, array.dtype
    if dtype.kind not in "iu" or outside < np.iinfo(dtype).min:
        dtype = np.dtype(np.float64 if dtype.itemsize > 4 else np.float32)
    masked = np.where(editable, array, outside).astype(dtype)
    if finite is not None:
        masked[editable & ~finite] = lo
    return Volume(masked, labels.geometry, name=image.name), (lo - gap, hi + gap)


# --- helpers ---


def _addSource(result: Result, volume: Volume, limits: tuple[float, float]) -> Any:
    environment, node = result.environment, result.segmentationNode
    name = _("{image} (place being edited)").format(image=volume.name or node.GetName())
    source = nodeFromVolume(environment, volume, name)
    source.SetAttribute(EDIT_MARK, "1")
    source.SetSaveWithScene(False)
    source.SetAndObserveTransformNodeID(node.GetTransformNodeID())
    # With each stroke the Segment Editor moves the segmentation to where its source volume lies.
    itemOf(source, result.folderItem or parentItemOf(node))
    display = environment.scene.AddNewNodeByClass("vtkMRMLScalarVolumeDisplayNode")
    display.SetSaveWithScene(False)
    display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(*limits)
    source.SetAndObserveDisplayNodeID(display.GetID())
    return source


def _addPlace(result: Result, place: Volume) -> Any:
    """A segmentation of its own, so that the place is outlined in all slice views and never exported."""
    import slicer

    scene = result.environment.scene
    node = scene.CreateNodeByClass("vtkMRMLSegmentationNode")
    node.UnRegister(None)
    # Before it is added: lists of nodes and the subject hierarchy look only once.
    node.SetHideFromEditors(True)
    node.SetName(uniqueName(scene, _("DIANet place being edited")))
    node.SetSaveWithScene(False)
    node.SetAttribute(EDIT_MARK, "1")
    # With its segment and display: of what comes later the subject hierarchy complains, for want of an item.
    image = slicer.vtkOrientedImageData()
    image.ShallowCopy(imageFromArray(place.array))
    image.SetImageToWorldMatrix(matrixFromGeometry(place.geometry))
    name = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    segment = slicer.vtkSegment()
    segment.SetName(node.GetName())
    segment.SetColor(*_PLACE_COLOR)
    segment.AddRepresentation(name, image)
    node.GetSegmentation().SetSourceRepresentationName(name)
    node.GetSegmentation().AddSegment(segment, "place")
    display = scene.AddNewNodeByClass("vtkMRMLSegmentationDisplayNode")
    display.SetSaveWithScene(False)
    display.SetVisibility3D(False)
    display.SetVisibility2DFill(False)
    display.SetVisibility2DOutline(True)
    node.SetAndObserveDisplayNodeID(display.GetID())
    node.SetAndObserveTransformNodeID(result.segmentationNode.GetTransformNodeID())
    return scene.AddNode(node)


def _marked(result: Result, role: str) -> Any:
    node = result.segmentationNode.GetNodeReference(role)
    # Without the mark, the id of a node that was not saved has come to another one.
    return node if node is not None and node.GetAttribute(EDIT_MARK) is not None else None
