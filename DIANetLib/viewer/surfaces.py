# SPDX-License-Identifier: Apache-2.0
"""Surfaces of a labelmap for the 3-D view, all in one pass.

Surface nets (Frisken, "SurfaceNets for Multi-Label Segmentations with Preservation of Sharp Boundaries",
JCGT 11(1), 2022), as VTK has them, instead of a closed surface per segment as Slicer computes them: the 22
structures of a brain at 1 mm take a second instead of ten, and have a fifth of the triangles, as walls
between two structures, which nobody sees, are left out. Without a GPU both decide whether the page goes on
answering.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from DIANetLib.structures import Structure
from DIANetLib.volume import Volume

__all__ = ["COLORS", "surface"]

#: Name of the surface's array of colours.
COLORS = "colors"
_SMOOTHING = 6  # iterations: a ball of 11 voxels across shrinks by 4 %; by 10 % with VTK's default, 16


def surface(labels: Volume, structures: Sequence[Structure]) -> Any:
    """The border between the structures and what is around them, in the structures' colours.

    Args:
        labels: Labelmap, 0 for background.
        structures: What its values stand for.

    Returns:
        vtkPolyData of triangles, RAS mm, with an array of red, green and blue per triangle; empty where there
        is no structure.
    """
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

    image = vtk.vtkImageData()
    image.SetDimensions(*(n + 2 for n in labels.geometry.size))
    # A rim of background closes surfaces at the image's edge.
    padded = np.pad(labels.array, 1)
    image.SetOrigin(-1, -1, -1)
    image.GetPointData().SetScalars(numpy_to_vtk(padded.ravel(), deep=True))
    nets = vtk.vtkSurfaceNets3D()
    nets.SetInputData(image)
    for n, structure in enumerate(structures):
        nets.SetValue(n, structure.value)
    nets.SetOutputStyleToBoundary()
    nets.SetOutputMeshTypeToTriangles()
    nets.SetNumberOfIterations(_SMOOTHING)
    to_ras = vtk.vtkTransform()
    to_ras.SetMatrix((np.diag([-1.0, -1.0, 1.0, 1.0]) @ labels.geometry.affine).ravel().tolist())
    placed = vtk.vtkTransformPolyDataFilter()
    placed.SetTransform(to_ras)
    placed.SetInputConnection(nets.GetOutputPort())
    normals = vtk.vtkPolyDataNormals()
    normals.SetInputConnection(placed.GetOutputPort())
    normals.SplittingOff()
    normals.ConsistencyOff()
    normals.Update()
    made = normals.GetOutput()
    sides = made.GetCellData().GetArray("BoundaryLabels")
    if sides is None or not made.GetNumberOfCells():
        return vtk.vtkPolyData()
    table = np.zeros((int(max(s.value for s in structures)) + 1, 3), np.uint8)
    for structure in structures:
        table[structure.value] = structure.color
    colors = numpy_to_vtk(table[vtk_to_numpy(sides).max(axis=1).astype(int)], deep=True)
    colors.SetName(COLORS)
    made.GetCellData().AddArray(colors)
    return made
