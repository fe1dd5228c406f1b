# SPDX-License-Identifier: Apache-2.0
"""Slice and 3-D views drawn off-screen by Slicer's own displayable managers.

The application shows the blended slice through Qt; here it is put into the renderer by hand, as a picture in
the background. All else (outlines, colour scales, markups, surfaces) is drawn by the same code as in Slicer.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

SLICE_MANAGERS = (
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLCrosshairDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLColorLegendDisplayableManager",
)
THREE_D_MANAGERS = (
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLModelDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager3D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLColorLegendDisplayableManager",
)


class _View:
    """A window without a screen, with displayable managers in it."""

    def __init__(self, environment, node, factory, managers, size, first=()):
        import vtk

        self.environment, self.node = environment, node
        self.window = vtk.vtkRenderWindow()
        self.window.SetOffScreenRendering(True)
        self.window.SetMultiSamples(0)
        self.window.SetSize(*size)
        self.renderer = vtk.vtkRenderer()
        self.window.AddRenderer(self.renderer)
        for prop in first:  # what is added first is drawn below the rest
            self.renderer.AddViewProp(prop)
        self.interactor = vtk.vtkRenderWindowInteractor()
        self.interactor.SetRenderWindow(self.window)
        factory.SetMRMLApplicationLogic(environment.applicationLogic)
        for name in managers:
            if not factory.IsDisplayableManagerRegistered(name):
                factory.RegisterDisplayableManager(name)
        self.group = factory.InstantiateDisplayableManagers(self.renderer)
        self.group.SetMRMLDisplayableNode(node)

    def pixels(self) -> np.ndarray:
        """The picture (rows from the top, columns, red-green-blue), uint8."""
        import vtk
        from vtk.util import numpy_support

        self.window.Render()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self.window)
        grab.SetInputBufferTypeToRGB()
        grab.ReadFrontBufferOff()
        grab.Update()
        image = grab.GetOutput()
        width, height, _depth = image.GetDimensions()
        array = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
        return array.reshape(height, width, 3)[::-1].copy()


class SliceView(_View):
    """A slice view named as in Slicer (Red, Green, Yellow) of an orientation (Axial, Coronal, Sagittal)."""

    def __init__(self, environment, name="Red", orientation="Axial", size=(400, 400)):
        import slicer
        import vtk

        application = environment.applicationLogic
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(environment.scene)
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(application)
        self.logic.SetMRMLScene(environment.scene)
        node = self.logic.AddSliceNode(name)
        application.GetSliceLogics().AddItem(self.logic)
        node.SetOrientation(orientation)
        node.SetDimensions(*size, 1)
        self.composite = self.logic.GetSliceCompositeNode()
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        self._mapper = vtk.vtkImageMapper()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        self._actor = vtk.vtkActor2D()
        self._actor.SetMapper(self._mapper)
        self._actor.GetProperty().SetDisplayLocationToBackground()
        self._actor.SetVisibility(False)
        super().__init__(environment, node, factory, SLICE_MANAGERS, size, [self._actor])

    def pixels(self) -> np.ndarray:
        connection = self.logic.GetImageDataConnection()
        self._mapper.SetInputConnection(connection)
        self._actor.SetVisibility(connection is not None)
        return super().pixels()

    def fit(self) -> None:
        self.logic.FitSliceToAll()

    def zoom(self, width_mm: float) -> None:
        """Show this many mm across."""
        x, y, z = self.node.GetFieldOfView()
        self.node.SetFieldOfView(width_mm, width_mm * y / x, z)

    def pixel_of(self, lps) -> tuple[int, int]:
        """Row and column of a point (LPS mm)."""
        import vtk

        inverse = vtk.vtkMatrix4x4()
        vtk.vtkMatrix4x4.Invert(self.node.GetXYToRAS(), inverse)
        x, y, _z, _w = inverse.MultiplyPoint((-lps[0], -lps[1], lps[2], 1.0))
        return round(self.node.GetDimensions()[1] - 1 - y), round(x)

    def grid_lps(self) -> np.ndarray:
        """LPS mm of the middle of each pixel, shape (rows, columns, 3)."""
        width, height, _one = self.node.GetDimensions()
        matrix = self.node.GetXYToRAS()
        numbers = np.array([[matrix.GetElement(r, c) for c in range(4)] for r in range(4)])
        rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
        xy = np.stack([columns, height - 1 - rows, np.zeros_like(rows), np.ones_like(rows)], axis=-1)
        return (xy @ numbers.T)[..., :3] * (-1, -1, 1)


class ThreeDView(_View):
    """The 3-D view."""

    def __init__(self, environment, size=(400, 400)):
        import slicer

        node = environment.scene.AddNewNodeByClass("vtkMRMLViewNode", "View1")
        node.SetBoxVisible(False)
        node.SetAxisLabelsVisible(False)
        factory = slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance()
        super().__init__(environment, node, factory, THREE_D_MANAGERS, size)

    def look(self, position=(0, 1, 0.4), up=(0, 0, 1)) -> None:
        """Look from a direction (RAS) at all there is."""
        self.window.Render()
        camera = self.renderer.GetActiveCamera()
        camera.SetFocalPoint(0, 0, 0)
        camera.SetPosition(*position)
        camera.SetViewUp(*up)
        self.renderer.ResetCamera()
        self.renderer.ResetCameraClippingRange()


def save(pixels: np.ndarray, path: Path) -> None:
    """Write a picture, for people to look at."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, optimize=True)
