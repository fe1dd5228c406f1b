# SPDX-License-Identifier: Apache-2.0
"""Volume nodes and regions of interest to `Volume` and boxes, and back.

MRML is in RAS, DIANet in LPS; here one becomes the other. A parent transform is hardened into what is read,
the node itself is left as it is: a result then lies where the image is seen. Where a transform shears or
bends the image, it is resampled onto a rectangular grid first, since no other can be segmented.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from DIANetLib.errors import InputError
from DIANetLib.volume import Geometry, Volume
from DIANetLib.worker.protocol import BoxLPS

from .Scene import Environment, uniqueName
from .Translate import tr as _

__all__ = ["boxFromRoi", "geometryFromNode", "nodeFromVolume", "volumeFromNode"]

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_MOST_GROWTH = 8.0  # of the number of voxels when resampled; more says that the transform is broken
_FLAT = 1e-6  # mm between voxels
_LATTICE = 13  # points along each axis at which a bending transform is looked at


def geometryFromNode(node: Any) -> Geometry:
    """The grid, in the world, that `volumeFromNode` gives a volume node.

    Raises:
        InputError: As for `volumeFromNode`.
    """
    return _gridOf(node)[0]


def volumeFromNode(node: Any, modality: str | None = None) -> Volume:
    """Read a scalar volume or labelmap node as it lies in the world.

    Args:
        node: vtkMRMLScalarVolumeNode; it is not changed. Of a sequence, the frame that its proxy node shows.
        modality: Name of the modality.

    Returns:
        Its voxels (k, j, i) in their own type on its grid, parent transform included. Where it need not be
        resampled, the array is a read-only view of the node's own memory, not a copy.

    Raises:
        InputError: No image data, several components, or a geometry that is not finite or has no extent.
    """
    geometry, straight = _gridOf(node)
    image = node.GetImageData() if straight else _resampled(node, geometry)
    array = _arrayOf(image, node)
    array.setflags(write=False)
    return Volume(array, geometry, name=node.GetName() or "", modality=modality)


def nodeFromVolume(environment: Environment, volume: Volume, name: str) -> Any:
    """Add a volume to the scene.

    Args:
        environment: Scene to add to.
        volume: Voxels and grid. The node gets a copy of the voxels, in their type; booleans become bytes and
            half floats become floats, which MRML does not have.
        name: Name of the node, numbered where another has it.

    Returns:
        vtkMRMLScalarVolumeNode without display node.

    Raises:
        InputError: 64-bit whole numbers that do not fit in 32 bits, which few file formats can hold.
    """
    node = environment.scene.CreateNodeByClass("vtkMRMLScalarVolumeNode")
    node.UnRegister(None)  # the scene hands out a reference of its own, which Python would never give back
    node.SetName(uniqueName(environment.scene, name))
    setGeometry(node, volume.geometry)
    node.SetAndObserveImageData(imageFromArray(volume.array))
    return environment.scene.AddNode(node)


def setGeometry(node: Any, geometry: Geometry) -> None:
    """Give a volume node the grid, digit by digit."""
    directions = _RAS_TO_LPS[:3, :3] @ geometry.direction
    node.SetIJKToRASDirections(*directions.ravel().tolist())
    node.SetSpacing(*geometry.spacing)
    node.SetOrigin(*rasFromLps(geometry.origin))


def imageFromArray(array: np.ndarray) -> Any:
    """A vtkImageData with a copy of an array (k, j, i), origin 0 and spacing 1 as MRML wants it.

    Raises:
        InputError: As for `nodeFromVolume`.
    """
    import vtk
    from vtk.util import numpy_support

    image = vtk.vtkImageData()
    k, j, i = array.shape
    image.SetDimensions(i, j, k)
    scalars = numpy_support.numpy_to_vtk(_forVtk(array).ravel(), deep=True)
    scalars.SetName("ImageScalars")
    image.GetPointData().SetScalars(scalars)
    return image


def rasFromLps(point: Sequence[float]) -> tuple[float, float, float]:
    """A point in the other world convention; the same function leads back."""
    x, y, z = (float(value) for value in point)
    return -x, -y, z


def matrixFromGeometry(geometry: Geometry) -> Any:
    """The vtkMatrix4x4 from index to RAS mm of a grid."""
    import vtk

    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy((_RAS_TO_LPS @ geometry.affine).ravel().tolist())
    return matrix


def boxFromRoi(roiNode: Any) -> BoxLPS | None:
    """The smallest box along the world's axes that holds a markups ROI.

    Args:
        roiNode: vtkMRMLMarkupsROINode of any type, turned and transformed in any way.

    Returns:
        None where it has no extent, as while it is being placed.
    """
    size = roiNode.GetSize()
    if not all(math.isfinite(s) and s > 0 for s in size) or roiNode.GetNumberOfControlPoints() == 0:
        return None
    matrix = _numbersOf(roiNode.GetObjectToNodeMatrix())
    # Points on the faces too: a bending transform may bulge them out beyond the corners.
    steps = np.linspace(-0.5, 0.5, _LATTICE if roiNode.GetParentTransformNode() is not None else 2)
    points = np.array(list(itertools.product(*(steps * s for s in size)))) @ matrix[:3, :3].T + matrix[:3, 3]
    lps = _toWorld(roiNode, points) * (-1.0, -1.0, 1.0)
    lo, hi = lps.min(axis=0), lps.max(axis=0)
    if not np.isfinite((lo, hi)).all() or not (lo < hi).all():
        return None
    (x0, y0, z0), (x1, y1, z1) = lo.tolist(), hi.tolist()
    return BoxLPS((x0, y0, z0), (x1, y1, z1))


# --- grids ---


def _gridOf(node: Any) -> tuple[Geometry, bool]:
    """The grid to use for a node, and whether it is the node's own."""
    name = node.GetName() or node.GetID()
    image = node.GetImageData()
    if image is None or min(image.GetDimensions()) < 1 or image.GetPointData().GetScalars() is None:
        raise InputError(
            _("The volume {name} has no image data.").format(name=name),
            remedy=_("Load it again, or choose another volume."),
        )
    components = image.GetNumberOfScalarComponents()
    if components != 1:
        raise InputError(
            _("The volume {name} has {count} values in each voxel, expected one.").format(
                name=name, count=components
            ),
            remedy=_("Choose a greyscale image, or convert it with the module Vector to Scalar Volume."),
        )
    transform = node.GetParentTransformNode()
    try:
        if transform is None:
            return _ownGrid(node), True
        if transform.IsTransformToWorldLinear():
            import vtk

            matrix = vtk.vtkMatrix4x4()
            transform.GetMatrixTransformToWorld(matrix)
            return _linearGrid(node, _numbersOf(matrix))
        return _bentGrid(node), False
    except InputError as error:
        raise InputError(
            _("The volume {name} cannot be used: {reason}").format(name=name, reason=error.message),
            remedy=error.remedy,
        ) from error


def _ownGrid(node: Any) -> Geometry:
    import vtk

    directions = vtk.vtkMatrix4x4()
    node.GetIJKToRASDirectionMatrix(directions)
    extent = node.GetImageData().GetExtent()
    geometry = Geometry(
        node.GetImageData().GetDimensions(),
        tuple(node.GetSpacing()),
        rasFromLps(node.GetOrigin()),
        _RAS_TO_LPS[:3, :3] @ _numbersOf(directions)[:3, :3],
    )
    if extent[0] == extent[2] == extent[4] == 0:
        return geometry
    first = geometry.index_to_world(extent[::2])
    return Geometry(geometry.size, geometry.spacing, (first[0], first[1], first[2]), geometry.direction)


def _linearGrid(node: Any, toWorld: np.ndarray) -> tuple[Geometry, bool]:
    if np.array_equal(toWorld, np.eye(4)):
        return _ownGrid(node), True
    own = _ownGrid(node)
    affine = _RAS_TO_LPS @ toWorld @ _RAS_TO_LPS @ own.affine
    if not np.isfinite(affine).all():
        raise InputError(
            _("its transform holds numbers that are not finite."),
            remedy=_("Correct or remove the transform."),
        )
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if spacing.min() < _FLAT or abs(np.linalg.det(affine[:3, :3] / np.where(spacing > 0, spacing, 1))) < 1e-3:
        raise InputError(_("its transform squeezes it flat."), remedy=_("Correct or remove the transform."))
    try:
        return Geometry.from_affine(affine, own.size), True
    except InputError:  # sheared, and nothing else is left
        corners = np.array(list(itertools.product(*((-0.5, n - 0.5) for n in own.size))))
        world = corners @ affine[:3, :3].T + affine[:3, 3]
        return _gridAround(world, affine[:3, :3] / spacing, spacing, own), False


def _bentGrid(node: Any) -> Geometry:
    own = _ownGrid(node)
    steps = np.linspace(-0.5, 0.5, _LATTICE)
    middle = (np.array(own.size) - 1) / 2
    lattice = middle + np.array(list(itertools.product(steps, steps, steps))) * own.size
    ras = own.index_to_world(lattice) * (-1.0, -1.0, 1.0)
    world = _toWorld(node, ras) * (-1.0, -1.0, 1.0)
    return _gridAround(world, own.direction, np.array(own.spacing), own)


def _gridAround(points: np.ndarray, axes: np.ndarray, spacing: np.ndarray, own: Geometry) -> Geometry:
    """A rectangular grid along (nearly) `axes` (columns) that holds all `points` (N, 3)."""
    if not np.isfinite(points).all():
        raise InputError(
            _("its transform leads to places that are not finite."),
            remedy=_("Correct or remove the transform."),
        )
    left, _singular, right = np.linalg.svd(axes)
    direction = left @ right  # the nearest three perpendicular unit vectors
    along = points @ direction
    lo, hi = along.min(axis=0), along.max(axis=0)
    size = np.maximum(1, np.ceil((hi - lo) / spacing - 1e-3)).astype(int)
    if float(np.prod(size.astype(float))) > _MOST_GROWTH * max(float(np.prod(own.size)), 1e6):
        raise InputError(
            _("its transform spreads it over {size} voxels.").format(size=" × ".join(map(str, size))),
            remedy=_("Correct or remove the transform, or crop the volume."),
        )
    # Centred, so that what rounding up adds lies evenly around it.
    middle = (lo + hi) / 2
    origin = direction @ (middle - (size - 1) / 2 * spacing)
    return Geometry(
        (int(size[0]), int(size[1]), int(size[2])),
        (float(spacing[0]), float(spacing[1]), float(spacing[2])),
        (float(origin[0]), float(origin[1]), float(origin[2])),
        direction,
    )


def _resampled(node: Any, geometry: Geometry) -> Any:
    """The node's image as it lies in the world, on another grid; outside of it is the image's background."""
    import vtk

    toIndex = vtk.vtkMatrix4x4()
    node.GetRASToIJKMatrix(toIndex)
    fromWorld = vtk.vtkGeneralTransform()
    node.GetParentTransformNode().GetTransformFromWorld(fromWorld)
    outputToInput = vtk.vtkGeneralTransform()
    outputToInput.PostMultiply()
    outputToInput.Concatenate(matrixFromGeometry(geometry))
    outputToInput.Concatenate(fromWorld)
    outputToInput.Concatenate(toIndex)
    reslice = vtk.vtkImageReslice()
    reslice.SetInputData(node.GetImageData())
    reslice.SetResliceTransform(outputToInput)
    reslice.TransformInputSamplingOff()
    reslice.SetOutputOrigin(0.0, 0.0, 0.0)
    reslice.SetOutputSpacing(1.0, 1.0, 1.0)
    i, j, k = geometry.size
    reslice.SetOutputExtent(0, i - 1, 0, j - 1, 0, k - 1)
    reslice.SetOutputDimensionality(3)
    reslice.SetBackgroundLevel(node.GetImageBackgroundScalarComponentAsDouble(0))
    if node.IsA("vtkMRMLLabelMapVolumeNode"):
        reslice.SetInterpolationModeToNearestNeighbor()
    else:
        reslice.SetInterpolationModeToLinear()
    reslice.Update()
    return reslice.GetOutput()


def _toWorld(node: Any, points: np.ndarray) -> np.ndarray:
    """RAS points (N, 3) of a node's own space as they lie in the world."""
    transform = node.GetParentTransformNode()
    if transform is None:
        return points
    import vtk

    general = vtk.vtkGeneralTransform()
    transform.GetTransformToWorld(general)
    return np.array([general.TransformPoint(*point) for point in points.tolist()])


# --- arrays ---


def _arrayOf(image: Any, node: Any) -> np.ndarray:
    from vtk.util import numpy_support

    i, j, k = image.GetDimensions()
    try:
        return numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(k, j, i).view()
    except (AssertionError, TypeError, ValueError) as error:
        raise InputError(
            _("The voxels of the volume {name} are of a type that cannot be read: {type}.").format(
                name=node.GetName(), type=image.GetScalarTypeAsString()
            )
        ) from error


def _forVtk(array: np.ndarray) -> np.ndarray:
    kind, width = array.dtype.kind, array.dtype.itemsize
    wanted = array.dtype.newbyteorder("=")
    if kind == "b":
        wanted = np.dtype(np.uint8)
    elif kind == "f" and width not in (4, 8):
        wanted = np.dtype(np.float32 if width < 4 else np.float64)
    elif kind in "iu" and width == 8:
        wanted = np.dtype(np.int32 if kind == "i" else np.uint32)
        limits = np.iinfo(wanted)
        if array.size and (array.min() < limits.min or array.max() > limits.max):
            raise InputError(
                f"The voxels go from {array.min()} to {array.max()}, expected at most 32-bit whole numbers."
            )
    return np.ascontiguousarray(array, dtype=wanted)


def _numbersOf(matrix: Any) -> np.ndarray:
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])
