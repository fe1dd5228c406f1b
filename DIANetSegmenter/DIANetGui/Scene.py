# SPDX-License-Identifier: Apache-2.0
"""The MRML scene and the logics beside it, and what every part of the module does with them.

Slicer's application has all of this at hand; tests and scripts without it make it themselves. Subject
hierarchy items, for one, are added by the application as soon as a node is, but by nobody outside it: the
functions here work in both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Environment",
    "batch",
    "hierarchy",
    "itemOf",
    "nodesOf",
    "parentItemOf",
    "removeNodes",
    "uniqueName",
]

#: What the subject hierarchy calls no item.
NO_ITEM = 0


@dataclass(frozen=True)
class Environment:
    """Scene and logics, as Slicer's application has them.

    Attributes:
        scene: vtkMRMLScene.
        segmentationsLogic: vtkSlicerSegmentationsModuleLogic.
        colorsLogic: vtkSlicerColorLogic (or vtkMRMLColorLogic).
        applicationLogic: vtkMRMLApplicationLogic, which holds the logics of the slice views.
    """

    scene: Any
    segmentationsLogic: Any = None
    colorsLogic: Any = None
    applicationLogic: Any = None

    @classmethod
    def fromSlicer(cls) -> Environment:
        """Those of the running application."""
        import slicer

        return cls(
            scene=slicer.mrmlScene,
            segmentationsLogic=slicer.modules.segmentations.logic(),
            colorsLogic=slicer.modules.colors.logic(),
            applicationLogic=slicer.app.applicationLogic(),
        )


@contextmanager
def batch(scene: Any) -> Iterator[None]:
    """Let views and lists wait until all changes of a `with` block are made."""
    scene.StartState(scene.BatchProcessState)
    try:
        yield
    finally:
        scene.EndState(scene.BatchProcessState)


def uniqueName(scene: Any, name: str, *, besides: Iterable[Any] = ()) -> str:
    """`name`, or `name 2`, `name 3` ... where a node or an item of the subject hierarchy has it already.

    Args:
        scene: The scene.
        name: Wanted name.
        besides: Nodes whose names count as free, as they are about to go.
    """
    leaving = list(besides)
    tree = hierarchy(scene)
    taken = set()
    for index in range(scene.GetNumberOfNodes()):
        node = scene.GetNthNode(index)
        if not any(node is other for other in leaving):
            taken.add(node.GetName())
    for item in childrenOf(tree, tree.GetSceneItemID(), recursive=True):
        if tree.GetItemDataNode(item) is None:
            taken.add(tree.GetItemName(item))
    wanted, number = name, 1
    while wanted in taken:
        number += 1
        wanted = f"{name} {number}"
    return wanted


def nodesOf(scene: Any, nodeClass: str) -> list[Any]:
    """The nodes of a class, and of those derived from it, in the order in which they came."""
    count = scene.GetNumberOfNodesByClass(nodeClass)
    return [scene.GetNthNodeByClass(index, nodeClass) for index in range(count)]


# --- subject hierarchy ---


def hierarchy(scene: Any) -> Any:
    """The scene's vtkMRMLSubjectHierarchyNode."""
    return scene.GetSubjectHierarchyNode()


def itemOf(node: Any, parent: int = NO_ITEM) -> int:
    """The item of a node, made where there is none; moved under `parent` where that is given."""
    tree = hierarchy(node.GetScene())
    item = tree.GetItemByDataNode(node)
    if item == NO_ITEM:
        return int(tree.CreateItem(parent or tree.GetSceneItemID(), node))
    if parent != NO_ITEM and tree.GetItemParent(item) != parent:
        tree.SetItemParent(item, parent)
    return int(item)


def parentItemOf(node: Any) -> int:
    """The item that a node lies under: a folder, a DICOM study, or the scene itself."""
    tree = hierarchy(node.GetScene())
    item = tree.GetItemByDataNode(node)
    return int(tree.GetSceneItemID() if item == NO_ITEM else tree.GetItemParent(item))


def childrenOf(tree: Any, item: int, *, recursive: bool = False) -> list[int]:
    """The items under an item."""
    import vtk

    children = vtk.vtkIdList()
    tree.GetItemChildren(item, children, recursive)
    return [int(children.GetId(index)) for index in range(children.GetNumberOfIds())]


# --- removal ---


def removeNodes(scene: Any, nodes: Iterable[Any]) -> None:
    """Remove nodes with their display and storage nodes, which the scene by itself would keep."""
    for node in nodes:
        if node is None or scene.GetNodeByID(node.GetID() or "") is not node:
            continue
        companions = []
        if node.IsA("vtkMRMLDisplayableNode"):
            companions += [node.GetNthDisplayNode(n) for n in range(node.GetNumberOfDisplayNodes())]
        if node.IsA("vtkMRMLStorableNode"):
            companions += [node.GetNthStorageNode(n) for n in range(node.GetNumberOfStorageNodes())]
        tree = hierarchy(scene)
        item = tree.GetItemByDataNode(node)
        scene.RemoveNode(node)
        # The application drops the item of a removed node by itself, outside of it nobody does.
        if item != NO_ITEM and tree.GetItemByDataNode(node) == item:
            tree.RemoveItem(item, False, False)
        for companion in companions:
            if companion is not None and scene.GetNodeByID(companion.GetID() or "") is companion:
                scene.RemoveNode(companion)
