# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the Segment Editor's widget, on Slicer's own logic of the Segment Editor.

What it does by itself when its parameter node changes was read from qMRMLSegmentEditorWidget.cxx: with
another segmentation it chooses the volume that this was made on and the first segment, and it lays another
source volume under the views unless it was told not to. Undo, masks and what a tool does are the logic's.
"""

from __future__ import annotations

from typing import Any, ClassVar

from Testing.module.fakes import objects


class Effect:
    """A tool, as far as a test uses it by hand."""

    def __init__(self, name: str, logic: Any) -> None:
        self.name = name
        self._logic = logic

    def saveStateForUndo(self) -> None:
        self._logic.SaveStateForUndo()

    def defaultModifierLabelmap(self) -> Any:
        assert self._logic.ResetModifierLabelmapToDefault()
        return self._logic.GetModifierLabelmap()

    def modifySelectedSegmentByLabelmap(self, modifier: Any, mode: int, bypassMasking: bool = False) -> None:
        node = self._logic.GetSegmentEditorNode()
        self._logic.ModifySegmentByLabelmap(
            node.GetSegmentationNode(), node.GetSelectedSegmentID(), modifier, mode, True, bypassMasking
        )


class SegmentEditorWidget(objects.QObject):
    """The `editor` of the Segment Editor module's widget."""

    PROPERTIES: ClassVar = {"autoShowSourceVolumeNode": True}

    def __init__(self, environment: Any) -> None:
        import slicer

        super().__init__()
        scene = environment.scene
        node = scene.GetSingletonNode("SegmentEditor", "vtkMRMLSegmentEditorNode")
        if node is None:
            node = scene.CreateNodeByClass("vtkMRMLSegmentEditorNode")
            node.UnRegister(None)
            node.SetSingletonTag("SegmentEditor")
            node = scene.AddNode(node)
        logic = slicer.vtkSlicerSegmentEditorLogic()
        logic.SetMRMLScene(scene)
        logic.SetMRMLApplicationLogic(environment.applicationLogic)
        logic.SetSegmentEditorNode(node)
        for name, value in (
            ("node", node),
            ("shown", []),  # source volumes that were laid under the views
            ("_logic", logic),
            ("_segmentation", None),
            ("_source", None),
        ):
            object.__setattr__(self, name, value)
        node.AddObserver("ModifiedEvent", self._onModified)
        self._onModified()

    def setActiveEffectByName(self, name: str) -> None:
        self.node.SetActiveEffectName(name)

    def setActiveEffect(self, effect: Any) -> None:
        self.node.SetActiveEffectName(effect.name if effect is not None else "")

    def activeEffect(self) -> Effect | None:
        name = self.node.GetActiveEffectName()
        return Effect(name, self._logic) if name else None

    def currentSegmentID(self) -> str:
        return str(self.node.GetSelectedSegmentID())

    def sourceVolumeNode(self) -> Any:
        return self.node.GetSourceVolumeNode()

    def undo(self) -> None:
        self._logic.Undo()

    def redo(self) -> None:
        self._logic.Redo()

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
                scene = source.GetScene()
                for index in range(scene.GetNumberOfNodesByClass("vtkMRMLSliceCompositeNode")):
                    composite = scene.GetNthNodeByClass(index, "vtkMRMLSliceCompositeNode")
                    shown = (composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID())
                    if source.GetID() not in shown:
                        composite.SetBackgroundVolumeID(source.GetID())
                        composite.SetForegroundVolumeID(None)
