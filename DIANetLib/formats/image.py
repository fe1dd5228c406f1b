# SPDX-License-Identifier: Apache-2.0
"""Image files to volumes and back (NIfTI, NRRD, MetaImage and what else SimpleITK reads), and resampling.

Precision of the grid: MetaImage and NRRD keep all digits of a float64. NIfTI-1 keeps float32: positions of a
grid that came from elsewhere move by up to about 5e-5 mm at 300 voxels from the origin, a grid that came from
NIfTI is given back bit for bit, because its sform is read as it is written.
"""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 (the name that its own documentation uses)

from DIANetLib.errors import InputError, OutputError
from DIANetLib.formats.atomic import atomic_file
from DIANetLib.formats.headers import Header, check_axes, check_header, read_header
from DIANetLib.formats.itk import Interpolation, from_sitk, quiet_itk, resample_to, to_sitk
from DIANetLib.formats.nifti import write_nifti
from DIANetLib.volume import FloatArray, Geometry, Volume

__all__ = [
    "Interpolation",
    "check_voxels",
    "from_sitk",
    "read_labels",
    "read_volume",
    "resample_to",
    "to_sitk",
    "write_volume",
]

_READABLE = (
    "Expected NIfTI (.nii, .nii.gz), NRRD (.nrrd), MetaImage (.mha, .mhd) or a folder of DICOM images."
)
# Levels by which the channels of a grey picture may differ: JPEG rounds each of them.
_GREY_WITHIN = 2
_WRITABLE = (".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".mha")


def read_volume(
    path: str | os.PathLike[str], *, modality: str | None = None, series: str | None = None
) -> Volume:
    """Read a medical image.

    Args:
        path: A NIfTI, NRRD or MetaImage file, a grey picture (PNG, JPEG), or a folder with a DICOM series.
        modality: Name of the modality, such as `"T1"`, to note in the volume.
        series: UID (or description) of the series to read from a DICOM folder that has several.

    Returns:
        The voxels in the file's own type, with their grid. Trailing axes of one sample are dropped.

    Raises:
        InputError: The path does not exist or is not an image; the file is truncated; the image is 4-D, in
            colour, constant, or has NaN or infinite voxels; its spacing or orientation makes no grid.
    """
    path = Path(path)
    if path.is_dir():
        from DIANetLib.formats.dicom import read_series  # it needs this module

        volume = read_series(path, series)
    else:
        volume = _read_file(path)
    check_voxels(volume, str(path))
    return replace(volume, modality=modality, source=str(path))


def read_labels(path: str | os.PathLike[str]) -> Volume:
    """Read a labelmap: whole numbers, all background allowed.

    Args:
        path: A NIfTI, NRRD or MetaImage file. Of a `.seg.nrrd` with several layers, use
            `DIANetLib.formats.segmentation.read_segmentation`.

    Returns:
        A volume of uint8, or of the smallest type that holds the values.

    Raises:
        InputError: As for `read_volume`, except that constant images are allowed; or a value is not a whole
            number of at least 0.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder, expected a labelmap file (.nii.gz, .nrrd, .mha).")
    volume = _read_file(path)
    array = volume.array
    if array.dtype.kind == "f":
        _check_finite(array, str(path))
        if not np.array_equal(array, np.rint(array)):
            raise InputError(
                f"The labels of {path} are not whole numbers.",
                remedy="Give a labelmap, or one that was resampled with nearest-neighbour interpolation.",
            )
    if array.min() < 0:
        raise InputError(
            f"The labels of {path} go down to {array.min():g}, expected 0 (background) and above."
        )
    return volume.with_array(array.astype(np.min_scalar_type(int(array.max())), copy=False))


def write_volume(volume: Volume, path: str | os.PathLike[str], *, compress: bool = True) -> None:
    """Write a volume; the file appears under its name only when it is complete.

    Args:
        volume: What to write; booleans become uint8.
        path: File ending in `.nii.gz`, `.nii`, `.nrrd` or `.mha`.
        compress: Compress NRRD and MetaImage. For NIfTI the file's ending decides.

    Raises:
        OutputError: The ending is unknown, the folder does not exist or is not writable, or the disk is full.
    """
    path = Path(path)
    ending = next((e for e in _WRITABLE if path.name.lower().endswith(e)), None)
    if ending is None:
        raise OutputError(f"Cannot write {path}: expected a name that ends in {', '.join(_WRITABLE)}.")
    with atomic_file(path, ending) as temporary:
        if ending.startswith(".nii"):
            write_nifti(volume, temporary, compress=ending.endswith(".gz"))
        else:
            write_image(to_sitk(volume), temporary, compress=compress)


def write_image(image: sitk.Image, path: Path, *, compress: bool) -> None:
    """Write a SimpleITK image with its metadata to exactly this path.

    Raises:
        OSError: SimpleITK could not write it; the text is the last line that it gave.
    """
    try:
        with quiet_itk():
            sitk.WriteImage(image, str(path), useCompression=compress)
    except RuntimeError as error:
        raise OSError(str(error).strip().splitlines()[-1]) from error


def check_voxels(volume: Volume, what: str) -> None:
    """Raise unless a volume's voxels are finite and not all the same.

    Args:
        volume: What to check.
        what: How the sentence names it, usually the path.

    Raises:
        InputError: A voxel is NaN or infinite, or all have one value.
    """
    _check_finite(volume.array, what)
    least, greatest = volume.array.min(), volume.array.max()
    if least == greatest:
        raise InputError(
            f"The image {what} is constant: every voxel has the value {least:g}.",
            remedy="Check that it was exported completely.",
        )


def inspect(path: Path) -> Header | None:
    """Check that a file exists and that its header makes sense.

    Returns:
        The header as it is written in the file; None for formats other than NIfTI, NRRD and MetaImage.

    Raises:
        InputError: There is no such file, it is truncated or damaged, or its header is unusable.
    """
    if not path.exists():
        raise InputError(f"There is no file or folder {path}.", remedy="Check the path.")
    header = read_header(path)
    if header is not None:
        check_header(path, header)
    return header


def load(path: Path, header: Header | None) -> sitk.Image:
    """Read a file that was inspected with SimpleITK.

    Raises:
        InputError: It is not an image, or its voxels cannot be read.
    """
    try:
        with quiet_itk():
            return sitk.ReadImage(str(path))
    except RuntimeError as error:
        if header is None:
            raise InputError(
                f"The file {path} is not an image that can be read.", remedy=_READABLE
            ) from error
        reason = str(error).strip().splitlines()[-1].strip()
        raise InputError(
            f"The image {path} cannot be read: its header is in order but its voxels are not ({reason}).",
            remedy="Copy or download it again.",
        ) from error


def _read_file(path: Path) -> Volume:
    header = inspect(path)
    if header is not None:  # before the voxels are read: a 4-D image may be large
        check_axes(str(path), header.sizes, header.components, color=header.color)
        if header.not_finite:
            raise _not_finite(str(path), header.not_finite, math.prod(header.sizes))
    name = path.name.removesuffix(".gz").removesuffix(path.suffix).removesuffix(".nii").removesuffix(".seg")
    image = load(path, header)
    volume = from_sitk(_grey(image) if header is None else image, name=name, source=str(path))
    if header is not None and header.affine is not None:
        volume = replace(volume, geometry=_exact_grid(volume.geometry, header.affine))
    return volume


def _grey(picture: sitk.Image) -> sitk.Image:
    """One channel of a picture that is grey although it has channels for colours; others as they are."""
    if picture.GetNumberOfComponentsPerPixel() not in (3, 4):
        return picture
    red, green, blue = (sitk.VectorIndexSelectionCast(picture, channel) for channel in range(3))
    values = sitk.GetArrayViewFromImage(red).astype(np.int64)
    apart = max(int(np.abs(values - sitk.GetArrayViewFromImage(other)).max()) for other in (green, blue))
    return green if apart <= _GREY_WITHIN else picture


def _exact_grid(geometry: Geometry, sform: FloatArray) -> Geometry:
    """Return the grid of the sform where it is the one that ITK chose, to all digits of the file.

    ITK decides between sform and qform, and everything else that opens the file with ITK (3D Slicer among
    them) shows it there, so the choice stays ITK's; only its roundings are undone.
    """
    try:
        exact = Geometry.from_affine(sform, geometry.size)
    except InputError:
        return geometry
    return exact if exact.same_grid(geometry, tolerance=0.01 * min(geometry.spacing)) else geometry


def _check_finite(array: npt.NDArray[Any], what: str) -> None:
    if array.dtype.kind != "f":
        return
    bad = sum(int(plane.size - np.isfinite(plane).sum()) for plane in array)
    if bad:
        raise _not_finite(what, bad, array.size)


def _not_finite(what: str, bad: int, voxels: int) -> InputError:
    return InputError(
        f"The image {what} has {bad} of {voxels} voxels NaN or infinite.",
        remedy="Replace them, for example by 0, before segmenting.",
    )
