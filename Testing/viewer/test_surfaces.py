# SPDX-License-Identifier: Apache-2.0
"""Surfaces lie around what was segmented, in its colours."""

from __future__ import annotations

import numpy as np
import pytest

from DIANetLib.viewer.surfaces import COLORS, surface
from DIANetLib.volume import Volume
from Testing.viewer.conftest import need_viewer
from Testing.viewer.made import CENTRES, GEOMETRY, RADIUS, STRUCTURES, prediction


@pytest.fixture(autouse=True)
def _viewer():
    need_viewer()


def triangles(made) -> tuple[np.ndarray, np.ndarray]:
    """Middles (n, 3) in LPS mm and colours (n, 3)."""
    from vtk.util.numpy_support import vtk_to_numpy

    points = vtk_to_numpy(made.GetPoints().GetData()).astype(float) * (-1, -1, 1)
    corners = vtk_to_numpy(made.GetPolys().GetConnectivityArray()).reshape(-1, 3)
    return points[corners].mean(axis=1), vtk_to_numpy(made.GetCellData().GetArray(COLORS))


def test_each_ball_has_a_surface_of_its_radius_around_its_middle_in_its_colour():
    middles, colors = triangles(surface(prediction().labels, STRUCTURES))

    for structure in STRUCTURES:
        mine = (colors == structure.color).all(axis=1)
        radii = np.linalg.norm(middles[mine] - CENTRES[structure.value], axis=1)
        assert radii.mean() == pytest.approx(RADIUS, abs=0.6)
        assert radii.max() < RADIUS + 2.5  # a voxel


def test_a_structure_at_the_edge_of_the_image_is_closed():
    import vtk

    labels = np.zeros(GEOMETRY.shape, np.uint8)
    labels[:5, :5, :5] = 1
    edges = vtk.vtkFeatureEdges()
    edges.SetInputData(surface(Volume(labels, GEOMETRY), STRUCTURES))
    edges.FeatureEdgesOff()
    edges.Update()

    assert edges.GetOutput().GetNumberOfCells() == 0


def test_nothing_segmented_is_no_surface():
    made = surface(Volume(np.zeros(GEOMETRY.shape, np.uint8), GEOMETRY), STRUCTURES)

    assert made.GetNumberOfCells() == 0
