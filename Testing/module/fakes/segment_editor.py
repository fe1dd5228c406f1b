# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the Segment Editor's widget: what it does by itself when its parameter node changes.

Read from qMRMLSegmentEditorWidget.cxx: with another segmentation it chooses the volume that this was made on
and the first segment, and it lays another source volume under the views unless it was told not to.
"""

from __future__ import annotations

from typing import Any, ClassVar

from Testing.module.fakes import objects


class SegmentEditorWidget(objects.QObject):
    """The `editor` of the Segment Editor module's widget."""

    PROPERTIES: ClassVar = {"autoShowSourceVolumeNode": True}

    def __init__(self, scene: Any) -> None:
        super().__init__()
        node = scene.GetSingletonNode("SegmentEditor", "vtkMRMLSegmentEditorNode")
        if node is None:
            node = scene.CreateNodeByClass("vtkMRMLSegmentEditorNode")
            node.UnRegister(None)
            node.SetSingletonTag("SegmentEditor")
            node = scene.AddNode(node)
        for name, value in (
            ("node", node),
            ("effect", ""),
            ("shown", []),  # source volumes that were laid under the views
            ("_segmentation", None),
            ("_source", None),
        ):
            object.__setattr__(self, name, value)
        node.AddObserver("ModifiedEvent", self._onModified)

    def setActiveEffectByName(self, name: str) -> None:
        self.effect = name

    def _onModified(self, *_: Any) -> None:
        segmentation = self.node.GetSegmentationNode()
        if segmentation is not self._segmentation:
            self._segmentation = segmentation
            if segmentation is not None:
                role = segmentation.GetReferenceImageGeometryReferenceRole()
                self.node.SetAndObserveSourceVolumeNode(segmentation.GetNodeReference(role))
                self.node.SetSelectedSegmentID(segmentation.GetSegmentation().GetNthSegmentID(0))
        source = self.node.GetSourceVolumeNode()
        if source is not self._source:
            self._source = source
            if source is not None and self.autoShowSourceVolumeNode:
                self.shown.append(source)
