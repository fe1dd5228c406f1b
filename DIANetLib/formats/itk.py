# SPDX-License-Identifier: Apache-2.0
"""Volumes to SimpleITK images and back, and resampling with SimpleITK."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import numpy as np
import SimpleITK as sitk  # noqa: N813 (the name that its own documentation uses)

from DIANetLib.formats.headers import check_axes, make_grid
from DIANetLib.volume import Geometry, Volume

Interpolation = Literal["linear", "nearest", "bspline"]

_INTERPOLATORS = {"linear": sitk.sitkLinear, "nearest": sitk.sitkNearestNeighbor, "bspline": sitk.sitkBSpline}


def to_sitk(volume: Volume) -> sitk.Image:
    """Return a SimpleITK image of the volume, booleans as uint8. The voxels are copied."""
    array = volume.array.astype(np.uint8) if volume.array.dtype == bool else volume.array
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    image = sitk.GetImageFromArray(
        np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))
    )
    image.SetSpacing(volume.geometry.spacing)
    image.SetOrigin(volume.geometry.origin)
    image.SetDirection(volume.geometry.direction.ravel().tolist())
    return image


def from_sitk(
    image: sitk.Image,
    *,
    name: str = "",
    modality: str | None = None,
    frame_of_reference: str | None = None,
    source: str | None = None,
) -> Volume:
    """Return the volume of a scalar SimpleITK image of 2 or 3 dimensions; more may have one sample each.

    Raises:
        InputError: The image has several values per voxel, a fourth axis of more than one sample, or no valid
            grid.
    """
    what = source or name or "The image"
    components, size = image.GetNumberOfComponentsPerPixel(), image.GetSize()
    check_axes(what, size, components, color=False)
    if "complex" in image.GetPixelIDTypeAsString():
        check_axes(what, size, 2, color=False)
    rank = len(size)
    n = min(rank, 3)
    matrix = np.eye(3)
    matrix[:n, :n] = np.reshape(image.GetDirection(), (rank, rank))[:n, :n]
    sizes = (*size[:n], 1)[:3]
    spacing = (*image.GetSpacing()[:n], 1.0)[:3]
    origin = (*image.GetOrigin()[:n], 0.0)[:3]
    geometry = make_grid(what, sizes, spacing, origin, matrix)
    array = sitk.GetArrayFromImage(image).reshape(geometry.shape)
    return Volume(array, geometry, name, modality, frame_of_reference, source)


def resample_to(
    volume: Volume, geometry: Geometry, *, interpolation: Interpolation = "linear", outside: float = 0.0
) -> Volume:
    """Resample a volume onto another grid.

    Args:
        volume: What to resample; its own type is kept by `"nearest"`, the others give floating point.
        geometry: The grid wanted.
        interpolation: Between voxel centres. There is no smoothing before down-sampling.
        outside: Value beyond the volume.

    Returns:
        The volume on the grid wanted; the voxels themselves, uncopied, if it is on that grid already.
    """
    if volume.geometry.same_grid(geometry):
        return replace(volume, geometry=geometry)
    image = to_sitk(volume)
    if interpolation != "nearest" and volume.array.dtype.kind != "f":
        image = sitk.Cast(image, sitk.sitkFloat32)
    resampled = sitk.Resample(
        image,
        geometry.size,
        sitk.Transform(3, sitk.sitkIdentity),
        _INTERPOLATORS[interpolation],
        geometry.origin,
        geometry.spacing,
        geometry.direction.ravel().tolist(),
        float(outside),
        image.GetPixelID(),
    )
    array = sitk.GetArrayFromImage(resampled)
    if interpolation == "nearest":
        array = array.astype(volume.array.dtype, copy=False)
    return replace(volume, array=array, geometry=geometry)


@contextlib.contextmanager
def quiet_itk() -> Iterator[None]:
    """Keep ITK from printing warnings: what matters of them is raised as an error."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)
