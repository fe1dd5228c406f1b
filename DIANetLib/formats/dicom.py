# SPDX-License-Identifier: Apache-2.0
"""Folders of DICOM images to volumes.

Slices are put in order by their position along the slice normal (DICOM PS3.3 section C.7.6.2.1.1, Image
Position and Image Orientation), never by file name or instance number, and make a volume only if they are
evenly spaced.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 (the name that its own documentation uses)

from DIANetLib.errors import InputError
from DIANetLib.formats.headers import make_grid
from DIANetLib.formats.itk import from_sitk, quiet_itk
from DIANetLib.volume import FloatArray, Volume

_ANGLE_TOLERANCE = 1e-3  # of direction cosines; scanners write about six digits
_GAP_TOLERANCE = 0.02  # of the spacing between slices
_GAP_TOLERANCE_MM = 0.01


@dataclass(frozen=True)
class SeriesInfo:
    """A series of a DICOM folder.

    Args:
        uid: Series Instance UID.
        description: Series Description, empty if there is none.
        modality: DICOM modality, such as `"MR"`.
        files: The images' files, in order of their path.
        frame_of_reference: Frame of Reference UID, or None.
    """

    uid: str
    description: str
    modality: str
    files: tuple[Path, ...]
    frame_of_reference: str | None


@dataclass(frozen=True)
class _Slice:
    """The geometry of one DICOM image; the third of the axes is the normal of the slice."""

    path: Path
    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: FloatArray
    axes: FloatArray

    @property
    def normal(self) -> FloatArray:
        return self.axes[:, 2]


def list_series(folder: str | os.PathLike[str]) -> tuple[SeriesInfo, ...]:
    """List the series of images in a folder and its sub-folders.

    Args:
        folder: A folder; files in it that are not DICOM images are passed over.

    Returns:
        The series in order of their UID; empty if there are none.

    Raises:
        InputError: There is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}.", remedy="Check the path.")
    grouped: dict[str, list[tuple[Path, dict[str, str]]]] = defaultdict(list)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        tags = _tags(path)
        if tags is not None:
            grouped[tags["0020|000e"]].append((path, tags))
    return tuple(
        SeriesInfo(
            uid=uid,
            description=images[0][1].get("0008|103e", ""),
            modality=images[0][1].get("0008|0060", ""),
            files=tuple(path for path, _ in images),
            frame_of_reference=images[0][1].get("0020|0052") or None,
        )
        for uid, images in sorted(grouped.items())
    )


def read_series(folder: str | os.PathLike[str], series: str | None = None) -> Volume:
    """Read one series of a folder as a volume, with the stored values rescaled as the images say.

    Args:
        folder: A folder with DICOM images, in sub-folders or not.
        series: UID or description of the series; may be left out if the folder has one.

    Raises:
        InputError: The folder has no images, or several series and none was chosen; or the series' images do
            not make one volume: they differ in size or orientation, share a position, or are unevenly spaced.
    """
    folder = Path(folder)
    chosen = _choose(folder, list_series(folder), series)
    what = f"the series {_describe(chosen)} in {folder}"
    slices = [_slice(path) for path in chosen.files]
    if len(slices) > 1:
        slices = _in_order(what, slices)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(s.path) for s in slices])
    try:
        with quiet_itk():
            image = reader.Execute() if len(slices) > 1 else sitk.ReadImage(str(slices[0].path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"Cannot read {what}: {reason}.", remedy="Copy or export it again.") from error
    volume = from_sitk(image, source=what)
    geometry = volume.geometry
    if len(slices) > 1:
        # ITK takes the spacing between slices from the first two; the mean over the stack is what positions
        # agree on.
        step = float(slices[0].normal @ (slices[-1].origin - slices[0].origin)) / (len(slices) - 1)
        spacing = (slices[0].spacing[0], slices[0].spacing[1], step)
        geometry = make_grid(what, geometry.size, spacing, tuple(slices[0].origin), slices[0].axes)
    return Volume(
        volume.array,
        geometry,
        name=chosen.description or folder.name,
        frame_of_reference=chosen.frame_of_reference,
        source=str(folder),
    )


def _tags(path: Path) -> dict[str, str] | None:
    """Return the tags of a DICOM image, or None if the file is not one."""
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror or error}.") from error
    # Files without the preamble exist; GDCM reads them, but only .dcm files and such without an ending are
    # tried.
    if start[128:] != b"DICM" and path.suffix.lower() not in ("", ".dcm", ".ima"):
        return None
    reader = _reader(path)
    try:
        with quiet_itk():
            reader.ReadImageInformation()
    except RuntimeError:
        return None
    tags = {}
    for key in ("0020|000e", "0008|103e", "0008|0060", "0020|0052"):
        if reader.HasMetaDataKey(key):
            tags[key] = reader.GetMetaData(key).strip(" \0")
    return tags if tags.get("0020|000e") else None


def _reader(path: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    return reader


def _slice(path: Path) -> _Slice:
    reader = _reader(path)
    with quiet_itk():
        reader.ReadImageInformation()
    # GDCM puts 1 mm in the place of a spacing that is zero, so the tag itself is looked at.
    for key in ("0028|0030", "0018|1164"):
        if reader.HasMetaDataKey(key):
            values = [float(v) for v in reader.GetMetaData(key).split("\\") if v.strip(" \0")]
            if any(not v > 0 for v in values):
                raise InputError(
                    f"The DICOM image {path} has a pixel spacing of {' × '.join(f'{v:g}' for v in values)}"
                    " mm, expected positive numbers.",
                    remedy="Export it again.",
                )
    return _Slice(
        path,
        tuple(reader.GetSize()),
        tuple(reader.GetSpacing()),
        np.asarray(reader.GetOrigin(), dtype=np.float64),
        np.reshape(np.asarray(reader.GetDirection(), dtype=np.float64), (3, 3)),
    )


def _choose(folder: Path, found: Sequence[SeriesInfo], wanted: str | None) -> SeriesInfo:
    if not found:
        others = sorted(p.name for p in folder.iterdir())
        content = f"it holds {len(others)} other entries, such as {others[0]}" if others else "it is empty"
        raise InputError(
            f"The folder {folder} has no DICOM images: {content}.",
            remedy="Give a folder with a DICOM series, or an image file itself.",
        )
    listing = "; ".join(_describe(info) for info in found)
    if wanted is not None:
        matching = [info for info in found if wanted in (info.uid, info.description)]
        if len(matching) == 1:
            return matching[0]
        problem = "several series" if matching else "no series"
        raise InputError(
            f"The folder {folder} has {problem} {wanted!r}, it has {listing}.",
            remedy="Choose one by its UID with --series UID.",
        )
    if len(found) > 1:
        raise InputError(
            f"The folder {folder} has {len(found)} DICOM series: {listing}.",
            remedy="Choose one with --series UID.",
        )
    return found[0]


def _describe(info: SeriesInfo) -> str:
    count = len(info.files)
    return f"{info.uid} ({info.description or 'no description'}, {count} image{'s' if count > 1 else ''})"


def _in_order(what: str, slices: Sequence[_Slice]) -> list[_Slice]:
    """Return the slices along their normal, after checking that they make one even stack."""
    first = slices[0]
    if len({s.size for s in slices}) > 1 or first.size[2:] not in ((), (1,)):
        sizes = sorted({" × ".join(str(n) for n in s.size[:2]) for s in slices})
        raise InputError(
            f"The images of {what} differ in size ({', '.join(sizes)}) or have several frames each.",
            remedy="Expected one stack of slices: export the images of one volume alone.",
        )
    if any(np.abs(s.axes - first.axes).max() > _ANGLE_TOLERANCE for s in slices) or any(
        np.abs(np.subtract(s.spacing[:2], first.spacing[:2])).max() > 1e-4 * first.spacing[0] for s in slices
    ):
        raise InputError(
            f"The images of {what} differ in orientation or pixel spacing.",
            remedy="Expected one stack of parallel slices: a localizer is not one; choose another series.",
        )
    ordered = sorted(slices, key=lambda s: float(first.normal @ s.origin))
    positions = np.array([float(first.normal @ s.origin) for s in ordered])
    gaps = np.diff(positions)
    if (gaps < _GAP_TOLERANCE_MM).any():
        raise InputError(
            f"In {what} several images share a position: {len(ordered)} images at"
            f" {1 + int((gaps >= _GAP_TOLERANCE_MM).sum())} positions.",
            remedy="It is 4-D (time points, echoes) or has duplicates: export one volume of it alone.",
        )
    typical = float(np.median(gaps))
    tolerance = max(_GAP_TOLERANCE_MM, _GAP_TOLERANCE * typical)
    uneven = np.flatnonzero(np.abs(gaps - typical) > tolerance)
    if uneven.size:
        raise InputError(
            f"The slices of {what} are unevenly spaced: {_list_gaps(gaps, uneven)} where the others have"
            f" {typical:.4g} mm; {_missing(gaps, typical)}.",
            remedy="Export the complete series again, or resample it to even slices.",
        )
    along = (ordered[-1].origin - ordered[0].origin) / (positions[-1] - positions[0])
    if np.abs(along - first.normal).max() > 5 * _ANGLE_TOLERANCE:
        raise InputError(
            f"The slices of {what} are shifted sideways one by one (a tilted gantry): they do not fill"
            " a rectangular grid.",
            remedy="Resample the series to a rectangular grid first.",
        )
    return ordered


def _list_gaps(gaps: FloatArray, where: Iterable[int]) -> str:
    entries = [f"{gaps[i]:.4g} mm after slice {i + 1}" for i in where]
    return ", ".join(entries[:3]) + (f" and {len(entries) - 3} more" if len(entries) > 3 else "")


def _missing(gaps: FloatArray, typical: float) -> str:
    steps = gaps / typical
    lost = int(np.rint(steps).sum()) - len(steps)
    if lost > 0 and np.abs(steps - np.rint(steps)).max() < 0.1:
        return f"{lost} slice{'s are' if lost > 1 else ' is'} missing"
    return "no slice seems to be missing"
