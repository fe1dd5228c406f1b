# SPDX-License-Identifier: Apache-2.0
"""A result in the scene: a folder beside the input with the segmentation and its layers.

The segmentation node is what a result hangs on. Its attributes hold the record, the low-confidence regions
and the labels as the model gave them, its node references lead to the inputs, the layers and the outline of a
region, so that all of it is there again when the scene is saved and loaded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace as changed
from datetime import datetime
from typing import Any

from DIANetLib.errors import InputError
from DIANetLib.volume import Geometry, Volume
from DIANetLib.worker.protocol import Segmented, StructureInfo

from .LayerKeys import LayerKey, layerTitle
from .Nodes import nodeFromVolume
from .PackedLabels import packed, unpacked
from .Records import ResultRecord, attributeText, readRecord, recordText
from .Scene import (
    NO_ITEM,
    Environment,
    batch,
    childrenOf,
    hierarchy,
    itemOf,
    nodesOf,
    parentItemOf,
    removeNodes,
    uniqueName,
)
from .Segmentations import fillSegmentation, labelsOf, referenceGeometry, structureUnder
from .Translate import tr as _

__all__ = ["LayerKey", "Result", "ResultRecord"]

RECORD_ATTRIBUTE = "DIANet.Result"
REGIONS_ATTRIBUTE = "DIANet.Regions"
LAYER_ATTRIBUTE = "DIANet.Layer"
PART_ATTRIBUTE = "DIANet.Part"
INPUT_ROLE = "DIANet.Input"
LAYER_ROLE = "DIANet.Layer."
BEFORE_ATTRIBUTE = "DIANet.Before"
LATE_ATTRIBUTE = "DIANet.BeforeIsLate"
OUTLINE_ROLE = "DIANet.Outline"
EDIT_SOURCE_ROLE = "DIANet.EditSource"
EDIT_PLACE_ROLE = "DIANet.EditPlace"

_SEGMENTATION = "vtkMRMLSegmentationNode"


class Result:
    """A segmentation with its layers, as nodes of the scene.

    Args:
        environment: Scene and logics.
        segmentationNode: vtkMRMLSegmentationNode that carries the record.

    Raises:
        InputError: The node carries none, or one that cannot be read.
    """

    def __init__(self, environment: Environment, segmentationNode: Any) -> None:
        self.environment = environment
        self.segmentationNode = segmentationNode
        self._record = readRecord(segmentationNode.GetAttribute(RECORD_ATTRIBUTE) or "null")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Result) and other.segmentationNode is self.segmentationNode

    def __hash__(self) -> int:
        return hash(self.segmentationNode)

    # --- making and finding ---

    @classmethod
    def create(
        cls,
        environment: Environment,
        requestId: str,
        inputNodes: Sequence[Any],
        payload: Segmented,
        labels: Volume,
        *,
        modalities: Sequence[str] = (),
        replace: Result | None = None,
    ) -> Result:
        """Put what the worker gave into the scene; layers are added one by one with `addLayer`.

        Args:
            environment: Scene and logics.
            requestId: Id of the request, which the worker knows the result by.
            inputNodes: The volumes that were segmented, in the model's order.
            payload: The worker's answer.
            labels: Its labelmap.
            modalities: What the model takes each input for.
            replace: Earlier result to take the place of; it is removed once the new one is complete.

        Raises:
            DIANetError: It could not be made; the scene is as it was then.
        """
        scene, source = environment.scene, inputNodes[0]
        names = tuple(node.GetName() or "" for node in inputNodes)
        created = datetime.now().astimezone().isoformat("T", "seconds")
        record = ResultRecord.of(requestId, payload, names, created, tuple(modalities))
        with batch(scene):
            tree = hierarchy(scene)
            folder, node = NO_ITEM, None
            try:
                title = uniqueName(scene, _folderTitle(names[0], payload.model))
                folder = tree.CreateFolderItem(parentItemOf(source), title)
                tree.SetItemAttribute(folder, RECORD_ATTRIBUTE, requestId)
                name = uniqueName(scene, _segmentationTitle(names[0], payload.model))
                node = scene.AddNewNodeByClass(_SEGMENTATION, name)
                node.CreateDefaultDisplayNodes()
                node.GetDisplayNode().SetSliceIntersectionThickness(2)  # as seen over a layer
                fillSegmentation(node, labels, payload.structures)
                for index, inputNode in enumerate(inputNodes):
                    node.SetNthNodeReferenceID(INPUT_ROLE, index, inputNode.GetID())
                node.SetNodeReferenceID(node.GetReferenceImageGeometryReferenceRole(), source.GetID())
                itemOf(node, folder)
                node.SetAttribute(RECORD_ATTRIBUTE, recordText(record))
                result = cls(environment, node)
                result.setRegions(payload.regions)
                result.keepBefore(labels)
                if replace is not None:
                    result.takePlaceOf(replace)
                return result
            except BaseException:
                removeNodes(scene, [node])
                if folder != NO_ITEM:
                    tree.RemoveItem(folder, False, True)
                raise

    @classmethod
    def fromNode(cls, environment: Environment, segmentationNode: Any) -> Result | None:
        """The result that a segmentation node belongs to; None if it was not made by DIANet."""
        if segmentationNode is None or segmentationNode.GetAttribute(RECORD_ATTRIBUTE) is None:
            return None
        try:
            return cls(environment, segmentationNode)
        except InputError:
            return None

    @classmethod
    def all(cls, environment: Environment) -> list[Result]:
        """The results in the scene, in the order in which they came."""
        nodes = nodesOf(environment.scene, _SEGMENTATION)
        found = (cls.fromNode(environment, node) for node in nodes)
        return [result for result in found if result is not None]

    # --- what it holds ---

    @property
    def record(self) -> ResultRecord:
        """How it came about, and the layers that it has now."""
        return changed(self._record, layers=tuple(key.id for key in self.layerKeys()))

    @property
    def name(self) -> str:
        """Name of its folder, or of its segmentation where it was taken out of the folder."""
        folder = self.folderItem
        return hierarchy(self._scene).GetItemName(folder) if folder else self.segmentationNode.GetName()

    @property
    def exists(self) -> bool:
        """Whether its segmentation is still in the scene."""
        node = self.segmentationNode
        return bool(node.GetID()) and self._scene.GetNodeByID(node.GetID()) is node

    @property
    def folderItem(self) -> int:
        """Its item in the subject hierarchy; 0 where the segmentation was taken out of it."""
        tree = hierarchy(self._scene)
        item = tree.GetItemByDataNode(self.segmentationNode)
        parent = tree.GetItemParent(item) if item != NO_ITEM else NO_ITEM
        if parent in (NO_ITEM, tree.GetSceneItemID()):
            return NO_ITEM
        return int(parent) if tree.HasItemAttribute(parent, RECORD_ATTRIBUTE) else NO_ITEM

    def inputNodes(self) -> tuple[Any, ...]:
        """The volumes that were segmented, as far as they are still in the scene."""
        node = self.segmentationNode
        count = node.GetNumberOfNodeReferences(INPUT_ROLE)
        found = (node.GetNthNodeReference(INPUT_ROLE, index) for index in range(count))
        return tuple(inputNode for inputNode in found if inputNode is not None)

    def inputNode(self, index: int) -> Any:
        """The volume that was segmented as the index-th of the record's inputs; None if it is gone."""
        nodes, names = self.inputNodes(), self._record.inputs
        if len(nodes) == len(names):
            return nodes[index]
        # References close ranks behind a volume that is removed.
        return next((node for node in nodes if node.GetName() == names[index]), None)

    def layerKeys(self) -> tuple[LayerKey, ...]:
        """The layers that have a node."""
        node = self.segmentationNode
        roles: list[str] = []
        for index in range(node.GetNumberOfNodeReferenceRoles()):
            role = node.GetNthNodeReferenceRole(index)
            if role.startswith(LAYER_ROLE) and node.GetNodeReference(role) is not None:
                roles.append(role)
        return tuple(_keyOf(role) for role in roles)

    def layerNode(self, key: LayerKey) -> Any:
        """The volume node of a layer; None if it has none."""
        return self.segmentationNode.GetNodeReference(_roleOf(key))

    def isPart(self, key: LayerKey) -> bool:
        """Whether a layer explains a part of its structure only."""
        node = self.layerNode(key)
        return node is not None and node.GetAttribute(PART_ATTRIBUTE) is not None

    def addLayer(self, key: LayerKey, volume: Volume, *, part: bool = False) -> Any:
        """Add a layer's volume node, in place of an earlier one of this key.

        Args:
            key: Which layer.
            volume: Its values, float32.
            part: Whether it explains a part of its structure only, which its name then says.

        Returns:
            vtkMRMLScalarVolumeNode with a fixed colour scale, not shown yet.

        Raises:
            DIANetError: It could not be added; an earlier one is still there then.
        """
        from .Layers import styleLayerNode

        scene, earlier = self._scene, self.layerNode(key)
        node = None
        with batch(scene):
            try:
                title = layerTitle(key, self._record.structures)
                if part:
                    title = _("{layer} (one place)").format(layer=title)
                title = uniqueName(scene, title, besides=() if earlier is None else (earlier,))
                node = nodeFromVolume(self.environment, volume, title)
                node.SetName(title)
                node.SetAttribute(LAYER_ATTRIBUTE, key.id)
                if part:
                    node.SetAttribute(PART_ATTRIBUTE, "1")
                styleLayerNode(self.environment, node, key)
                itemOf(node, self.folderItem or parentItemOf(self.segmentationNode))
                self.segmentationNode.SetNodeReferenceID(_roleOf(key), node.GetID())
            except BaseException:
                removeNodes(scene, [node])
                raise
            removeNodes(scene, [earlier])
        return node

    def regions(self) -> str:
        """Low-confidence regions as `DIANetLib.acwi.review.regions_to_json` writes them; or nothing."""
        return self.segmentationNode.GetAttribute(REGIONS_ATTRIBUTE) or ""

    def setRegions(self, text: str) -> None:
        """Keep a list of low-confidence regions with the result.

        Raises:
            InputError: The text is no JSON.
        """
        try:
            compact = attributeText(json.loads(text)) if text else ""
        except ValueError as error:
            raise InputError(f"The list of regions is not valid JSON: {error}.") from error
        self.segmentationNode.SetAttribute(REGIONS_ATTRIBUTE, compact)

    def structureAt(self, ras: Sequence[float]) -> StructureInfo | None:
        """The structure that now lies under a point of the world (RAS, mm); None if there is none."""
        return structureUnder(self.segmentationNode, self._record.structures, ras)

    def labels(self, geometry: Geometry | None = None) -> Volume:
        """The segmentation as it is now, as one labelmap.

        Segments that a user added are left out; where segments overlap, the one added since `before` counts.

        Args:
            geometry: The grid wanted; by default the one that it came on.

        Raises:
            InputError: The segmentation has lost its reference geometry.
        """
        return labelsOf(self.segmentationNode, self._record.structures, geometry, self.before)

    @property
    def geometry(self) -> Geometry:
        """The grid that it came on.

        Raises:
            InputError: The segmentation has lost its reference geometry.
        """
        return referenceGeometry(self.segmentationNode)

    def before(self) -> Volume | None:
        """The labels as the model gave them; None where an earlier version of DIANet kept none.

        Raises:
            InputError: What the scene holds of them cannot be read.
        """
        text = self.segmentationNode.GetAttribute(BEFORE_ATTRIBUTE)
        return unpacked(text, self.segmentationNode.GetName() or "") if text else None

    @property
    def beforeIsLate(self) -> bool:
        """Whether the labels of `before` may have been edited already when they were kept."""
        return self.segmentationNode.GetAttribute(LATE_ATTRIBUTE) is not None

    def keepBefore(self, labels: Volume | None = None) -> None:
        """Keep labels as those before any edit, unless there are some already.

        Args:
            labels: As the model gave them. None takes them as they are now, for a result that an earlier
                version of DIANet made.
        """
        if self.segmentationNode.GetAttribute(BEFORE_ATTRIBUTE):
            return
        if labels is None:
            labels = self.labels()
            self.segmentationNode.SetAttribute(LATE_ATTRIBUTE, "1")
        self.segmentationNode.SetAttribute(BEFORE_ATTRIBUTE, packed(labels))

    def showSurfaces(self, visible: bool = True) -> None:
        """Show the structures in 3-D views, or no longer; their surfaces are made the first time."""
        node = self.segmentationNode
        if visible:
            node.CreateClosedSurfaceRepresentation()
        node.GetDisplayNode().SetVisibility3D(visible)

    # --- its end ---

    def nodes(self) -> tuple[Any, ...]:
        """All nodes that are its own: segmentation, layers, outline, and what an edit needs."""
        node = self.segmentationNode
        own = [node, *(self.layerNode(key) for key in self.layerKeys())]
        own += [node.GetNodeReference(role) for role in (OUTLINE_ROLE, EDIT_SOURCE_ROLE, EDIT_PLACE_ROLE)]
        return tuple(entry for entry in own if entry is not None)

    def takePlaceOf(self, earlier: Result) -> None:
        """Remove an earlier result, and take over the names that become free."""
        with batch(self._scene):
            earlier.remove()
            tree, folder = hierarchy(self._scene), self.folderItem
            title = self._title()
            if folder != NO_ITEM and tree.GetItemName(folder) != title:
                title = uniqueName(self._scene, title)
                tree.SetItemName(folder, title)
            self._rename(
                self.segmentationNode, _segmentationTitle(self._record.inputs[0], self._record.model)
            )
            for key in self.layerKeys():
                self._rename(self.layerNode(key), layerTitle(key, self._record.structures))

    def remove(self) -> None:
        """Remove its nodes, and its folder unless something else was put there."""
        scene = self._scene
        with batch(scene):
            folder, tree = self.folderItem, hierarchy(scene)
            removeNodes(scene, reversed(self.nodes()))
            if folder != NO_ITEM and not childrenOf(tree, folder):
                tree.RemoveItem(folder, False, False)

    # --- helpers ---

    @property
    def _scene(self) -> Any:
        return self.environment.scene

    def _title(self) -> str:
        return _folderTitle(self._record.inputs[0], self._record.model)

    def _rename(self, node: Any, title: str) -> None:
        if node.GetName() != title:
            node.SetName(uniqueName(self._scene, title, besides=(node,)))


def _folderTitle(inputName: str, model: str) -> str:
    return str(_("{input} — DIANet {model}").format(input=inputName, model=model))


# A node's name becomes the name of its file, so it is kept to characters that every file system knows.
def _segmentationTitle(inputName: str, model: str) -> str:
    return str(_("{input} {model} segmentation").format(input=inputName, model=model))


def _roleOf(key: LayerKey) -> str:
    # MRML's files separate role and node with a colon.
    return LAYER_ROLE + key.id.replace(":", "/")


def _keyOf(role: str) -> LayerKey:
    return LayerKey.parse(role.removeprefix(LAYER_ROLE).replace("/", ":"))
