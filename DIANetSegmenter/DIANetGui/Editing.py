# SPDX-License-Identifier: Apache-2.0
"""Correcting one place of a result in the Segment Editor without touching anything else.

The Segment Editor has two masks. *Editable area: inside a segment* holds back painting only: erasing goes on
beyond that segment, and adds to it; and a segment made for the purpose comes and goes with undo. The
*editable intensity range* holds back everything that a tool does (`SourceVolumeIntensityMask` in
`vtkSlicerSegmentEditorLogic::ModifySegmentByLabelmap`). So an edit gives the Segment Editor a copy of the
image as source volume whose voxels outside of the editable area lie below that range.

Editable are the voxels of the place (`DIANetLib.acwi.worklist.edit_mask`) that belong to the structures in
question or to the background: a border between two can be moved, a third structure stays as it is. No segment
is added, so that the undo states of the segmentation are those that the tools save.

What an edit began with lies in an attribute of the segmentation node: an edit that was going on when a scene
was saved, or when the module was reloaded, can be ended afterwards.

Without Qt: `DIANetGui.EditorModule` opens the Segment Editor.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from DIANetLib.errors import DIANetError, InputError
from DIANetLib.volume import Volume

from .EditNodes import addNodes, dropNodes, maskedImage, sourceNode
from .PackedLabels import packed, unpacked
from .Records import attributeText
from .Results import Result
from .Scene import Environment, nodesOf
from .Translate import tr as _

if TYPE_CHECKING:
    from DIANetLib.acwi.review import Region

__all__ = ["EDIT_ATTRIBUTE", "Edit", "Outcome", "beginEdit", "configure", "editOf", "edits", "endEdit"]

EDIT_ATTRIBUTE = "DIANet.Edit"

_EDITOR_TAG = "SegmentEditor"  # the singleton of the Segment Editor module


@dataclass(frozen=True)
class Edit:
    """An edit that is going on.

    Attributes:
        rank: Of the region in the worklist.
        structure: Key of the structure whose segment is chosen first.
        started: When it began, ISO 8601 with the offset from UTC.
        before: The labels at its beginning.
        editable: (k, j, i) on their grid, where they may change.
        range: Least and greatest value of the source volume that can be edited.
        editor: What the Segment Editor was set to before.
    """

    rank: int
    structure: str
    started: str
    before: Volume
    editable: np.ndarray
    range: tuple[float, float]
    editor: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What an edit has changed.

    Attributes:
        rank: Of the region.
        inside: Voxels that changed in the editable area.
        outside: Voxels that changed beyond it.
        structuresOutside: Names of the structures that gained or lost voxels there.
    """

    rank: int
    inside: int
    outside: int
    structuresOutside: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether the place was corrected."""
        return self.inside > 0


def beginEdit(result: Result, region: Region, place: np.ndarray) -> Edit:
    """Prepare an edit of a region; `configure` then sets the Segment Editor.

    Args:
        result: Its segmentation is to be edited.
        region: The place in question.
        place: (k, j, i) on the segmentation's grid, the voxels that may be edited where they belong to the
            region's structures or to the background.

    Raises:
        InputError: A segment is gone, or the segmentation has no binary labelmaps to edit.
    """
    labels = result.labels()
    segmentation = result.segmentationNode.GetSegmentation()
    wanted = [s for s in result.record.structures if not region.structures or s.key in region.structures]
    there = [s for s in wanted if segmentation.GetSegment(s.key) is not None]
    if not there:
        names = ", ".join(s.name for s in wanted) or _("none")
        raise InputError(
            _("The segmentation {name} no longer has the segment of this place: {names}.").format(
                name=result.segmentationNode.GetName(), names=names
            ),
            remedy=_("Undo its removal in the Segment Editor, or segment again."),
        )
    editable = place & np.isin(labels.array, [0, *(s.value for s in wanted)])
    if not editable.any():
        editable = place.copy()  # edited by hand since: better too much than nothing
    counts = [int(np.count_nonzero(editable & (labels.array == s.value))) for s in there]
    order = [region.structures.index(s.key) if s.key in region.structures else 0 for s in there]
    structure = min(zip(there, counts, order, strict=True), key=lambda entry: (-entry[1], entry[2]))[0]
    source, limits = maskedImage(result, labels, editable)
    edit = Edit(
        region.rank,
        structure.key,
        datetime.now().astimezone().isoformat("T", "seconds"),
        labels,
        editable,
        limits,
        _settingsOf(_editorNode(result.environment.scene)),
    )
    addNodes(result, source, limits, editable)
    result.segmentationNode.SetAttribute(EDIT_ATTRIBUTE, _text(edit))
    return edit


def configure(result: Result, edit: Edit) -> Any:
    """Set the Segment Editor's node to an edit: segmentation, segment, source volume and masks.

    Returns:
        The vtkMRMLSegmentEditorNode, made where there is none.
    """
    import slicer

    scene = result.environment.scene
    editor = _editorNode(scene)
    if editor is None:
        editor = scene.CreateNodeByClass("vtkMRMLSegmentEditorNode")
        editor.UnRegister(None)
        editor.SetSingletonTag(_EDITOR_TAG)
        editor = scene.AddNode(editor)
    # One after the other: with another segmentation the editor chooses its source volume and first segment.
    editor.SetAndObserveSegmentationNode(result.segmentationNode)
    editor.SetAndObserveSourceVolumeNode(sourceNode(result))
    modifying = editor.StartModify()
    editor.SetSelectedSegmentID(edit.structure)
    editor.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedEverywhere)
    editor.SetOverwriteMode(slicer.vtkMRMLSegmentEditorNode.OverwriteAllSegments)
    editor.SetSourceVolumeIntensityMaskRange(*edit.range)
    editor.SetSourceVolumeIntensityMask(True)
    editor.EndModify(modifying)
    return editor


def editOf(result: Result) -> Edit | None:
    """The edit of a result that is going on; None if there is none, or one that cannot be read."""
    text = result.segmentationNode.GetAttribute(EDIT_ATTRIBUTE)
    if not text:
        return None
    try:
        document = json.loads(text)
        editable = unpacked(document.pop("editable"))
        before = unpacked(document.pop("before"), result.segmentationNode.GetName() or "")
        document["range"] = tuple(float(value) for value in document["range"])
        if not editable.geometry.same_grid(before.geometry):
            raise ValueError("its grids differ")
        return Edit(before=before, editable=editable.array > 0, **document)
    except (KeyError, TypeError, ValueError, DIANetError):
        return None


def edits(environment: Environment) -> list[Result]:
    """The results of the scene that are being edited."""
    marked = [
        n for n in nodesOf(environment.scene, "vtkMRMLSegmentationNode") if n.GetAttribute(EDIT_ATTRIBUTE)
    ]
    found = (Result.fromNode(environment, node) for node in marked)
    return [result for result in found if result is not None]


def endEdit(result: Result, *, compare: bool = True) -> Outcome | None:
    """End the edit of a result: set the Segment Editor back and see what has changed.

    The segmentation and its undo states stay as they are.

    Args:
        result: The result.
        compare: Whether to see what has changed; pointless for a result that is being removed.

    Returns:
        What was changed; None where no edit was going on, or what it began with cannot be read.
    """
    node, scene = result.segmentationNode, result.environment.scene
    if not node.GetAttribute(EDIT_ATTRIBUTE):
        return None
    edit = editOf(result)
    source = sourceNode(result)
    for editor in nodesOf(scene, "vtkMRMLSegmentEditorNode"):
        _setBack(editor, result, source, edit)
    node.RemoveAttribute(EDIT_ATTRIBUTE)
    dropNodes(result)
    return _compare(result, edit) if compare and edit is not None else None


# --- helpers ---


def _compare(result: Result, edit: Edit) -> Outcome:
    before = edit.before.array
    after = result.labels(edit.before.geometry).array
    changed = before != after
    beyond = changed & ~edit.editable
    values = {int(value) for value in np.unique(np.concatenate([before[beyond], after[beyond]]))}
    names = tuple(s.name for s in result.record.structures if s.value in values)
    inside = int(np.count_nonzero(changed & edit.editable))
    return Outcome(edit.rank, inside, int(np.count_nonzero(beyond)), names)


def _editorNode(scene: Any) -> Any:
    return scene.GetSingletonNode(_EDITOR_TAG, "vtkMRMLSegmentEditorNode")


def _settingsOf(editor: Any) -> dict[str, Any]:
    if editor is None:
        return {}
    lowest, highest = editor.GetSourceVolumeIntensityMaskRange()
    source, segmentation = editor.GetSourceVolumeNode(), editor.GetSegmentationNode()
    return {
        "segmentation": None if segmentation is None else segmentation.GetID(),
        "source": None if source is None else source.GetID(),
        "maskMode": editor.GetMaskMode(),
        "maskSegment": editor.GetMaskSegmentID(),
        "overwrite": editor.GetOverwriteMode(),
        "intensityMask": bool(editor.GetSourceVolumeIntensityMask()),
        "intensityRange": [lowest, highest],
    }


def _setBack(editor: Any, result: Result, source: Any, edit: Edit | None) -> None:
    """Give a Segment Editor that works on a result, or on its copy of the image, its settings back."""
    mine = editor.GetSegmentationNode() is result.segmentationNode
    usesSource = source is not None and editor.GetSourceVolumeNode() is source
    if not (mine or usesSource):
        return
    settings = {} if edit is None else edit.editor
    same = settings.get("segmentation") == result.segmentationNode.GetID()  # else its settings fit another
    if usesSource or editor.GetSourceVolumeNode() is None:
        inputs = result.inputNodes()
        earlier = result.environment.scene.GetNodeByID(settings.get("source") or "") if same else None
        if earlier is None or not earlier.IsA("vtkMRMLScalarVolumeNode"):
            earlier = inputs[0] if inputs else None
        editor.SetAndObserveSourceVolumeNode(earlier)
    editor.SetSourceVolumeIntensityMask(same and settings["intensityMask"])
    if same:
        editor.SetSourceVolumeIntensityMaskRange(*settings["intensityRange"])
        editor.SetMaskSegmentID(settings["maskSegment"])
        editor.SetMaskMode(settings["maskMode"])
    if settings:
        editor.SetOverwriteMode(settings["overwrite"])


def _text(edit: Edit) -> str:
    mask = edit.before.with_array(edit.editable)
    document = {
        "rank": edit.rank,
        "structure": edit.structure,
        "started": edit.started,
        "range": list(edit.range),
        "editor": edit.editor,
        "before": packed(edit.before),
        "editable": packed(mask),
    }
    return attributeText(document)
