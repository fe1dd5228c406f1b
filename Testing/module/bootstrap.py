# SPDX-License-Identifier: Apache-2.0
"""A MRML scene with the logics around it, as Slicer's application has them, made with slicer-core.

slicer-core holds Slicer's own MRML nodes, logics and displayable managers without Qt. What the application
does by itself, such as adding a node to the subject hierarchy, nobody does here.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from DIANetLib.volume import Geometry, Volume
from DIANetLib.worker.protocol import (
    CodeInfo,
    Segmented,
    SharedVolume,
    StructureInfo,
    StructureSummary,
)

REASON = "needs slicer-core, which has wheels for Python 3.10 to 3.13 on x86-64 and Apple processors"


def make_environment():
    """A fresh scene and its logics, as `DIANetGui.Scene.Environment`; skips where there is no slicer-core."""
    if find_spec("slicer_core") is None:
        pytest.skip(REASON)
    import slicer
    import vtk
    from DIANetGui.Scene import Environment

    vtk.vtkLogger.SetStderrVerbosity(vtk.vtkLogger.VERBOSITY_OFF)  # no share folder: logics miss their files
    scene = slicer.vtkMRMLScene()
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    application.SetSliceLogics(vtk.vtkCollection())

    def logic(module, cls):
        made = cls()
        made.SetMRMLApplicationLogic(application)
        made.SetMRMLScene(scene)
        application.SetModuleLogic(module, made)  # displayable managers ask for logics by their module's name
        return made

    held = [logic("Volumes", slicer.vtkSlicerVolumesLogic), logic("Markups", slicer.vtkSlicerMarkupsLogic)]
    segmentations = logic("Segmentations", slicer.vtkSlicerSegmentationsModuleLogic)
    environment = Environment(scene, segmentations, logic("Colors", slicer.vtkSlicerColorLogic), application)
    # Nobody else holds them: in Slicer their modules do.
    object.__setattr__(environment, "held", held)
    return environment


def geometry(
    size=(12, 10, 8), spacing=(1.0, 1.2, 2.0), origin=(-20.0, 15.0, 30.0), direction=None
) -> Geometry:
    return Geometry(size, spacing, origin, np.eye(3) if direction is None else direction)


def rotation(x_deg: float, y_deg: float, z_deg: float) -> np.ndarray:
    """Turns about x, then y, then z."""
    made = np.eye(3)
    for axis, angle in enumerate(np.radians((x_deg, y_deg, z_deg))):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[b, a], turn[a, b] = np.sin(angle), -np.sin(angle)
        made = turn @ made
    return made


def add_transform(environment, matrix, parent=None):
    """A linear transform node with the (4, 4) RAS matrix to its parent."""
    import vtk

    node = environment.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    numbers = vtk.vtkMatrix4x4()
    numbers.DeepCopy(np.asarray(matrix, float).ravel().tolist())
    node.SetMatrixTransformToParent(numbers)
    if parent is not None:
        node.SetAndObserveTransformNodeID(parent.GetID())
    return node


def add_warp(environment, shift_mm: float = 6.0):
    """A bending transform node: a smooth push along R that is greatest at the world's middle."""
    import vtk

    transform = vtk.vtkThinPlateSplineTransform()
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    for point in (
        [0, 0, 0],
        *np.array(np.meshgrid([-60, 60], [-60, 60], [-60, 60])).reshape(3, -1).T.tolist(),
    ):
        source.InsertNextPoint(point)
        moved = [point[0] + shift_mm, *point[1:]] if point == [0, 0, 0] else point
        target.InsertNextPoint(moved)
    transform.SetSourceLandmarks(source)
    transform.SetTargetLandmarks(target)
    transform.SetBasisToR()
    node = environment.scene.AddNewNodeByClass("vtkMRMLTransformNode")
    node.SetAndObserveTransformToParent(transform)
    return node


def structure(value: int, key: str, name: str, color, modifier: CodeInfo | None = None) -> StructureInfo:
    category = CodeInfo("SCT", "123037004", "Anatomical Structure")
    return StructureInfo(
        value, key, name, color, category, CodeInfo("SCT", "5366008", "Hippocampus"), modifier
    )


LEFT = CodeInfo("SCT", "7771000", "Left")
RIGHT = CodeInfo("SCT", "24028007", "Right")
STRUCTURES = (
    structure(1, "hippocampus_left", "Hippocampus left", (230, 120, 40), LEFT),
    structure(2, "hippocampus_right", "Hippocampus right", (40, 130, 220), RIGHT),
    structure(5, "amygdala", 'Amygdala <& "co"; 100 %', (90, 200, 90)),
)
REGIONS = """{
  "schema": "dianet.regions",
  "schema_version": 1,
  "coordinates": "LPS, mm",
  "regions": []
}
"""


def segmented(structures: Sequence[StructureInfo] = STRUCTURES, **changes) -> Segmented:
    """What a worker answers, without files."""
    nothing = SharedVolume("", "|u1", (1, 1, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0,) * 9)
    fields = {
        "labels": nothing,
        "structures": tuple(structures),
        "maps": (),
        "summaries": (
            *(StructureSummary(s.key, 1.5, 0.9, 0.85) for s in structures[:-1]),
            StructureSummary(structures[-1].key, 0.0, None, None),
        ),
        "regions": REGIONS,
        "warnings": ("It's 5 < 6 & 100 % “sure”; see log: ok",),
        "device": "cpu",
        "timings": {"prepare": 0.25, "segment": 1.5},
        "samples": 10,
        "seed": 3,
        "model": "hippocampus",
        "model_version": "0.1.0",
        "model_sha256": "ab" * 32,
        "layers": ("bottleneck",),
    }
    return Segmented(**{**fields, **changes})


def labels_on(grid: Geometry) -> Volume:
    """A labelmap with values 1 and 2 side by side, and no 5."""
    array = np.zeros(grid.shape, np.uint8)
    k, j, i = (n // 4 for n in grid.shape)
    array[k : 3 * k, j : 3 * j, i : 2 * i] = 1
    array[k : 3 * k, j : 3 * j, 2 * i : 3 * i] = 2
    return Volume(array, grid, name="labels")


def save_bundle(environment, path: Path) -> None:
    """Save a scene as Slicer does for `.mrb`."""
    assert environment.scene.WriteToMRB(str(path))


def read_bundle(environment, path: Path) -> None:
    """Add a saved scene, as Slicer does when a `.mrb` file is dropped on it."""
    import slicer

    manager, cache = slicer.vtkDataIOManager(), slicer.vtkCacheManager()
    cache.SetRemoteCacheDirectory(str(path.parent))
    manager.SetCacheManager(cache)
    environment.scene.SetDataIOManager(manager)
    assert environment.scene.ReadFromMRB(str(path), False)


def all_nodes(environment) -> list[str]:
    scene = environment.scene
    return sorted(scene.GetNthNode(n).GetID() for n in range(scene.GetNumberOfNodes()))


def all_items(environment) -> list[tuple[str, str]]:
    """Names of the items of the subject hierarchy, each with that of its parent."""
    from DIANetGui.Scene import childrenOf, hierarchy

    tree = hierarchy(environment.scene)
    items = childrenOf(tree, tree.GetSceneItemID(), recursive=True)
    return sorted((tree.GetItemName(item), tree.GetItemName(tree.GetItemParent(item))) for item in items)
