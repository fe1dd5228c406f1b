# SPDX-License-Identifier: Apache-2.0
"""What the views show: the image, a layer over it, the segmentation as outlines and surfaces, a region's box.

Slicer's own MRML nodes, drawn by Slicer's own displayable managers through trame-slicer's views. Nothing is
drawn while rendering is blocked, so that a scene is loaded and laid out before its first picture.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from DIANetLib.acwi.review import Region
from DIANetLib.errors import InputError
from DIANetLib.formats.colormap import color_table
from DIANetLib.viewer.layers import Layer
from DIANetLib.viewer.surfaces import COLORS
from DIANetLib.volume import Geometry, Volume

if TYPE_CHECKING:
    from trame_slicer.core import SlicerApp

__all__ = ["ORIENTATIONS", "Scene"]

Orientation = Literal["Axial", "Coronal", "Sagittal"]
#: Name of each slice view in Slicer, by orientation.
ORIENTATIONS: Mapping[Orientation, str] = {"Axial": "Red", "Coronal": "Green", "Sagittal": "Yellow"}

_RAS_AXIS: Mapping[Orientation, int] = {"Axial": 2, "Coronal": 1, "Sagittal": 0}
_TO_RAS = np.array([-1.0, -1.0, 1.0])
_VISIBLE_SHARE = 0.8  # of a view's width and height: a point beyond counts as out of sight
_AROUND = 1.5  # a view's width over that of what it is fitted to
_LEAST_MM = 40.0  # a view is not fitted to less than this
# Neither in the colour map nor a usual colour of a structure, so that it is seen on any value.
_REGION_COLOR = (0.47, 0.9, 1.0)
_OUTLINE_PIXELS = 2
_CELLS = 1  # vtkAssignAttribute::CELL_DATA


class Scene:
    """A case in Slicer's views.

    Args:
        slicer_app: Scene, logics and views of trame-slicer, with the three slice views and the 3-D view made.
        geometry: The grid of the case.
    """

    def __init__(self, slicer_app: SlicerApp, geometry: Geometry) -> None:
        self._slicer = slicer_app
        self._scene = slicer_app.scene
        self._geometry = geometry
        self._image: Any = None
        self._layer: Any = None
        self._segmentation: Any = None
        self._surfaces: Any = None
        self._box: Any = None
        self._color = self._color_node()
        # Slicer blends a layer over an image only; without the image it lies over black.
        self._black = self._volume_node(Volume(np.zeros(geometry.shape, np.uint8), geometry, name="no image"))
        self._black.CreateDefaultDisplayNodes()
        self._black.GetDisplayNode().SetAutoWindowLevel(False)
        self._black.GetDisplayNode().SetWindowLevelMinMax(0, 1)
        self.show_image(None)

    @contextlib.contextmanager
    def blocked(self) -> Iterator[None]:
        """Draw nothing inside, and everything once at its end."""
        with contextlib.ExitStack() as stack:
            for view in self._slicer.view_manager.get_views():
                stack.enter_context(view.render_blocked())
            yield

    def show_image(self, volume: Volume | None, window: tuple[float, float] = (0.0, 1.0)) -> None:
        """Show an image in place of the one before; black for None.

        Args:
            volume: The image, on its own grid.
            window: Grey levels that are black and white.
        """
        before, self._image = self._image, None if volume is None else self._volume_node(volume)
        if self._image is not None:
            self._image.CreateDefaultDisplayNodes()
            self.set_window(*window)
        for view in self._slice_views():
            view.set_background_volume_id((self._image or self._black).GetID())
        if before is not None:
            self._scene.RemoveNode(before)

    def set_window(self, low: float, high: float) -> None:
        """Set the grey levels that are black and white."""
        if self._image is not None:
            display = self._image.GetDisplayNode()
            display.SetAutoWindowLevel(False)
            display.SetWindowLevelMinMax(low, high)

    def show_layer(self, layer: Layer | None, volume: Volume | None, scale: float) -> None:
        """Show a layer in place of the one before; none for None.

        Args:
            layer: Which one it is.
            volume: Its map.
            scale: Value at the upper end of the colours.
        """
        before, self._layer = self._layer, None
        if layer is not None and volume is not None:
            self._layer = self._volume_node(volume)
            display = self._scene.AddNewNodeByClass("vtkMRMLScalarVolumeDisplayNode")
            display.SetAndObserveColorNodeID(self._color.GetID())
            display.SetAutoWindowLevel(False)
            display.SetWindowLevelMinMax(0.0, scale)
            display.SetAutoThreshold(False)
            display.SetInterpolate(not layer.names)
            self._layer.SetAndObserveDisplayNodeID(display.GetID())
        for view in self._slice_views():
            view.set_foreground_volume_id(None if self._layer is None else self._layer.GetID())
        if before is not None:
            display = before.GetDisplayNode()
            self._scene.RemoveNode(before)
            self._scene.RemoveNode(display)
        self._update_fill()

    def set_threshold(self, lowest: float) -> None:
        """Make the layer transparent below a value; zero always is, as nothing was looked at there."""
        if self._layer is None:
            return
        display = self._layer.GetDisplayNode()
        greatest = max(self._layer.GetImageData().GetScalarRange()[1], lowest) * (1 + 1e-6) + 1e-9
        modifying = display.StartModify()
        display.SetThreshold(lowest, greatest)
        display.SetApplyThreshold(True)
        display.EndModify(modifying)

    def set_opacity(self, opacity: float) -> None:
        """Set the layer's opacity over the image, 0 to 1."""
        for view in self._slice_views():
            view.set_foreground_opacity(opacity)

    def load_segmentation(self, path: Path) -> None:
        """Read a segmentation as Slicer does, with its names and colours.

        Raises:
            InputError: Slicer cannot read it.
        """
        node = self._slicer.segmentations_logic.LoadSegmentationFromFile(str(path), False)
        if node is None:
            raise InputError(f"The segmentation cannot be shown: {path.name} cannot be read.")
        self._segmentation = node
        node.CreateDefaultDisplayNodes()
        display = node.GetDisplayNode()
        display.SetVisibility3D(False)  # `add_surfaces`
        display.SetVisibility2DOutline(True)
        display.SetSliceIntersectionThickness(_OUTLINE_PIXELS)
        self._update_fill()

    def add_surfaces(self, surface: Any) -> None:
        """Show surfaces in the 3-D view.

        Args:
            surface: vtkPolyData as `DIANetLib.viewer.surfaces` makes it.
        """
        self._surfaces = self._scene.AddNewNodeByClass("vtkMRMLModelNode", "surfaces")
        self._surfaces.SetAndObservePolyData(surface)
        self._surfaces.CreateDefaultDisplayNodes()
        display = self._surfaces.GetDisplayNode()
        display.SetVisibility2D(False)
        display.SetActiveScalar(COLORS, _CELLS)
        display.SetScalarRangeFlag(display.UseDirectMapping)
        display.SetScalarVisibility(True)
        for view in self._solid_views():
            view.reset_view()

    def show_segmentation(self, *, outlines: bool, surfaces: bool) -> None:
        """Show or hide the segmentation in the slice views and in 3-D."""
        if self._segmentation is not None:
            self._segmentation.GetDisplayNode().SetVisibility2D(outlines)
        if self._surfaces is not None:
            self._surfaces.GetDisplayNode().SetVisibility(surfaces)

    def fit(self, box_lps: npt.NDArray[np.float64] | None = None) -> None:
        """Show all of the image, or a box of it, in all views.

        Args:
            box_lps: (2, 3) least and greatest corner, LPS mm.
        """
        for view in self._slice_views():
            view.fit_view_to_content()
            if box_lps is not None:
                node = view.get_view_node()
                across = max(_LEAST_MM, _AROUND * float((box_lps[1] - box_lps[0]).max()))
                x, y, z = node.GetFieldOfView()
                share = across / min(x, y)
                node.SetFieldOfView(x * share, y * share, z)
                node.JumpSliceByCentering(*(_TO_RAS * box_lps.mean(axis=0)).tolist())
        for view in self._solid_views():
            view.reset_view()
            if box_lps is not None and self._surfaces is None:
                ras = np.sort(box_lps * _TO_RAS, axis=0)
                view.renderer().ResetCamera(*ras.T.ravel().tolist())

    def jump(self, point_lps: Sequence[float]) -> None:
        """Lead the slice views and the crosshair to a point (LPS mm).

        A view is moved within its plane only where the point would be out of sight, so that the image does
        not jump about while a list of places is walked through.
        """
        ras = (_TO_RAS * point_lps).tolist()
        for view in self._slice_views():
            node = view.get_view_node()
            node.JumpSliceByOffsetting(*ras)
            if not _in_sight(node, ras):
                node.JumpSliceByCentering(*ras)
        crosshair = self._scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        if crosshair is not None:
            crosshair.SetCrosshairRAS(*ras)

    def outline(self, region: Region | None) -> None:
        """Draw a region's box in all views, in place of the one before; none for None."""
        if region is None:
            if self._box is not None:
                self._box.GetDisplayNode().SetVisibility(False)
            return
        if self._box is None:
            self._box = self._box_node()
        lo, hi = np.asarray(region.lo), np.asarray(region.hi)
        self._box.SetCenter(*(_TO_RAS * (lo + hi) / 2).tolist())
        self._box.SetSize(*(hi - lo).tolist())
        self._box.GetDisplayNode().SetVisibility(True)

    def position_mm(self, orientation: Orientation) -> float:
        """Where a slice view cuts: mm along S, A or R, whichever way the view's own offset counts."""
        view = self._slice_view(orientation)
        along = view.get_view_node().GetSliceToRAS().GetElement(_RAS_AXIS[orientation], 2)
        return float(view.get_slice_value()) * (1.0 if along > 0 else -1.0)

    def _slice_views(self) -> list[Any]:
        return [self._slice_view(orientation) for orientation in ORIENTATIONS]

    def _slice_view(self, orientation: Orientation) -> Any:
        return self._slicer.view_manager.get_view(ORIENTATIONS[orientation])

    def _solid_views(self) -> list[Any]:
        return list(self._slicer.view_manager.get_threed_views())

    def _update_fill(self) -> None:
        # Filled, a segmentation hides the layer; without a layer the fill shows what belongs to what.
        if self._segmentation is not None:
            display = self._segmentation.GetDisplayNode()
            display.SetVisibility2DFill(self._layer is None)
            display.SetOpacity2DFill(0.35)

    def _volume_node(self, volume: Volume) -> Any:
        import vtk
        from vtk.util.numpy_support import numpy_to_vtk

        array = volume.array
        if array.dtype.kind == "b" or array.dtype == np.int64:
            array = array.astype(np.uint8 if array.dtype.kind == "b" else np.int32)
        image = vtk.vtkImageData()
        image.SetDimensions(*volume.geometry.size)
        image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(array).ravel(), deep=True))
        node = self._scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", volume.name or "image")
        matrix = vtk.vtkMatrix4x4()
        matrix.DeepCopy((np.diag([*_TO_RAS, 1.0]) @ volume.geometry.affine).ravel().tolist())
        node.SetIJKToRASMatrix(matrix)
        node.SetAndObserveImageData(image)
        return node

    def _color_node(self) -> Any:
        node = self._scene.AddNewNodeByClass("vtkMRMLColorTableNode", "Uncertainty")
        node.SetTypeToUser()
        table = color_table(256) / 255.0
        node.SetNumberOfColors(len(table))
        for index, (red, green, blue) in enumerate(table.tolist()):
            node.SetColor(index, str(index), red, green, blue, 1.0)
        return node

    def _box_node(self) -> Any:
        node = self._scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "region")
        node.SetLocked(True)
        node.SetSelectable(False)
        node.CreateDefaultDisplayNodes()
        display = node.GetDisplayNode()
        for set_color in (display.SetColor, display.SetSelectedColor, display.SetActiveColor):
            set_color(*_REGION_COLOR)
        display.SetFillVisibility(False)
        display.SetOutlineVisibility(True)
        display.SetHandlesInteractive(False)
        display.SetPropertiesLabelVisibility(False)
        display.SetPointLabelsVisibility(False)
        display.SetGlyphScale(0.1)
        return node


def _in_sight(node: Any, ras: Sequence[float]) -> bool:
    import vtk

    to_view = vtk.vtkMatrix4x4()
    vtk.vtkMatrix4x4.Invert(node.GetXYToRAS(), to_view)
    at = to_view.MultiplyPoint((*ras, 1.0))
    sizes = node.GetDimensions()
    return all(abs(at[axis] / max(sizes[axis], 1) - 0.5) <= _VISIBLE_SHARE / 2 for axis in range(2))
