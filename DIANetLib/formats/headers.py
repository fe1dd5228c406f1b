# SPDX-License-Identifier: Apache-2.0
"""What an image file's own header says, before a reader repairs it.

ITK sets a zero NIfTI spacing to 1, drops the sign of a negative one, falls back from a singular orientation
and reads NaN and infinite voxels as 0 without a word, and its NIfTI code prints to stderr when a file ends
early. Looking at the bytes first lets each of these become a sentence. Sources: the NIfTI-1 header definition
(nifti1.h), the NRRD 5 format definition, and ITK's MetaImage header documentation.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from DIANetLib.errors import InputError
from DIANetLib.volume import FloatArray, Geometry

_CHUNK = 1 << 20
_TEXT_LIMIT = 1 << 20  # bytes of a text header; Slicer's largest segmentations stay far below
_TRUNCATED = "Copy or download it again."
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_NIFTI_COLOUR = {128: 3, 2304: 4}  # datatype codes RGB24 and RGBA32
_NIFTI_COMPLEX = (32, 1792, 2048)
_NIFTI_FLOATS = {16: "f4", 64: "f8"}


@dataclass(frozen=True)
class Header:
    """What a header says, unrepaired.

    Args:
        sizes: Samples along the grid's axes, fastest first.
        spacing: Millimetres along the first three of them; empty if the header leaves it out.
        columns: (3, n) direction vectors of the grid's axes as written, or None. They carry the spacing in
            NRRD.
        affine: NIfTI's sform as (4, 4), index to LPS mm, if it is declared.
        sform_only: The sform is the only orientation that the file has.
        components: Values per voxel.
        color: The values are declared as a colour.
        length: Bytes that the file must have, uncompressed; 0 if the header does not tell.
        floats: Offset and type of a NIfTI file's floating point voxels.
        not_finite: How many of those are NaN or infinite. ITK reads them as 0.
    """

    sizes: tuple[int, ...]
    spacing: tuple[float, ...] = ()
    columns: FloatArray | None = None
    affine: FloatArray | None = None
    sform_only: bool = False
    components: int = 1
    color: bool = False
    length: int = 0
    floats: tuple[int, np.dtype[Any]] | None = None
    not_finite: int = 0


def read_header(path: Path) -> Header | None:
    """Read and check the header of a NIfTI, NRRD or MetaImage file.

    Args:
        path: An existing file.

    Returns:
        The header, or None if the file is in another format.

    Raises:
        InputError: The file is empty, cannot be read, is a damaged or truncated gzip stream, ends before its
            voxels do, or has a header that makes no sense.
    """
    try:
        with path.open("rb") as raw:
            start = raw.read(2)
            if not start:
                raise InputError(f"The file {path} is empty.", remedy=_TRUNCATED)
            raw.seek(0)
            if start == b"\x1f\x8b":
                with gzip.GzipFile(fileobj=raw) as unzipped:
                    return _scan(path, unzipped, whole=True)
            return _scan(path, raw, whole=False)
    except EOFError as error:
        raise InputError(
            f"The compressed file {path} is truncated: it ends before its data does.", remedy=_TRUNCATED
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"The compressed file {path} is damaged ({error}).", remedy=_TRUNCATED) from error
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror or error}.") from error


def _scan(path: Path, file: BinaryIO | gzip.GzipFile, *, whole: bool) -> Header | None:
    """Parse the header; read on to the end if the stream must be checked or floating point voxels counted."""
    beginning = _read_fully(file, _CHUNK)
    header = _parse(path, beginning)
    floats = None if header is None else header.floats
    if not whole and floats is None:
        length = path.stat().st_size
    else:
        offset, voxel_type = floats or (0, np.dtype(np.uint8))
        length = len(beginning)
        voxels, not_finite = beginning[offset:], 0
        while True:
            usable = len(voxels) - len(voxels) % voxel_type.itemsize
            if floats is not None:
                values = np.frombuffer(voxels[:usable], voxel_type)
                not_finite += int(values.size - np.isfinite(values).sum())
            chunk = file.read(_CHUNK)
            if not chunk:
                break
            length += len(chunk)
            voxels = voxels[usable:] + chunk
        if header is not None:
            header = replace(header, not_finite=not_finite)
    if header is not None and length < header.length:
        raise InputError(
            f"The file {path} is truncated: its header announces {header.length:,} bytes, it has {length:,}.",
            remedy=_TRUNCATED,
        )
    return header


def _read_fully(file: BinaryIO | gzip.GzipFile, count: int) -> bytes:
    parts = []
    while count > 0 and (part := file.read(count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _parse(path: Path, data: bytes) -> Header | None:
    if data.startswith(b"NRRD"):
        return _nrrd(path, data)
    if data[:4] in (struct.pack("<i", 348), struct.pack(">i", 348)):
        return _nifti(path, data)
    if data[:4] in (struct.pack("<i", 540), struct.pack(">i", 540)) and data[5:6] in (b"+", b"i"):
        raise InputError(
            f"The file {path} is in NIfTI-2 format, expected NIfTI-1, NRRD or MetaImage.",
            remedy="Convert it, for example with nib-convert or by saving it as NRRD.",
        )
    if path.suffix.lower() in (".mha", ".mhd") and b"ElementType" in data[:4096]:
        return _metaimage(path, data)
    return None


def _nifti(path: Path, data: bytes) -> Header:
    order = "<" if data[0] != 0 else ">"  # the first byte of 348 is zero only when it is big-endian
    if len(data) < 348:
        raise InputError(f"The file {path} is truncated: its header is cut off.", remedy=_TRUNCATED)

    def field(form: str, offset: int) -> tuple[float, ...]:
        return struct.unpack_from(order + form, data, offset)

    dims, pixdim = field("8h", 40), field("8f", 76)
    (datatype, bits), (offset,) = field("2h", 70), field("f", 108)
    (qform, sform), rows = field("2h", 252), field("12f", 280)
    rank = int(dims[0])
    if not 1 <= rank <= 7 or any(n < 1 for n in dims[1 : rank + 1]):
        raise InputError(
            f"The NIfTI header of {path} is damaged: its dimensions are {dims}.", remedy=_TRUNCATED
        )
    sizes = tuple(int(n) for n in dims[1 : rank + 1])
    single_file = data[344:347] == b"n+1"
    length = int(offset) + math.prod(sizes) * int(bits) // 8 if single_file else 0
    floats = _NIFTI_FLOATS.get(int(datatype)) if single_file else None
    components = _NIFTI_COLOUR.get(int(datatype), 2 if datatype in _NIFTI_COMPLEX else 1)
    if rank >= 5:  # NIfTI keeps vectors along the fifth axis
        components, sizes = components * sizes[4], (*sizes[:4], *sizes[5:])
    affine = None
    if sform > 0:
        affine = _RAS_TO_LPS @ np.vstack([np.reshape(rows, (3, 4)), [0.0, 0.0, 0.0, 1.0]])
    return Header(
        sizes=sizes,
        spacing=tuple(float(v) for v in pixdim[1 : min(rank, 3) + 1]),
        affine=affine,
        sform_only=sform > 0 and qform <= 0,
        components=components,
        color=int(datatype) in _NIFTI_COLOUR,
        length=length,
        floats=None if floats is None else (int(offset), np.dtype(order + floats)),
    )


def _nrrd(path: Path, data: bytes) -> Header:
    text = data[:_TEXT_LIMIT].split(b"\n\n", 1)[0].split(b"\r\n\r\n", 1)[0].decode("utf-8", "replace")
    fields: dict[str, str] = {}
    for line in text.splitlines()[1:]:
        key, separator, value = line.partition(": ")
        if separator and not line.startswith("#"):
            fields[key.strip().lower()] = value.strip()
    try:
        sizes = [int(n) for n in fields["sizes"].split()]
        kinds = fields.get("kinds", "").split() or ["domain"] * len(sizes)
        # An axis is part of the grid if it is a domain (or time); all others hold the values of one voxel.
        domain = [kind.lower() in ("domain", "space", "time", "none", "???") for kind in kinds]
        spacing: tuple[float, ...] = ()
        columns = None
        if "space directions" in fields:
            vectors = [_nrrd_vector(word) for word in _nrrd_words(fields["space directions"])]
            domain = [
                d and (v is not None or k.lower() == "time")
                for d, k, v in zip(domain, kinds, vectors, strict=True)
            ]
            given = [vector for vector in vectors if vector is not None]
            columns = np.array(given).T if given else None
        elif "spacings" in fields:
            values = [float(word) for word in fields["spacings"].split()]
            spacing = tuple(v for v, d in zip(values, domain, strict=True) if d and not math.isnan(v))[:3]
        if columns is not None:
            spacing = tuple(float(v) for v in np.linalg.norm(columns, axis=0))[:3]
    except (KeyError, ValueError) as error:
        raise InputError(f"The NRRD header of {path} is damaged ({error}).", remedy=_TRUNCATED) from error
    values_axes = [(n, kind) for n, kind, d in zip(sizes, kinds, domain, strict=True) if not d]
    return Header(
        sizes=tuple(n for n, d in zip(sizes, domain, strict=True) if d),
        spacing=spacing,
        columns=columns if columns is not None and columns.shape[0] == 3 else None,
        components=math.prod(n for n, _ in values_axes),
        color=any("color" in kind.lower() for _, kind in values_axes),
    )


def _nrrd_words(text: str) -> list[str]:
    """Split `none (1,0,0) (0, 1, 0)` into its vectors."""
    return text.replace(", ", ",").replace("( ", "(").replace(" )", ")").split()


def _nrrd_vector(word: str) -> list[float] | None:
    return None if word.lower() == "none" else [float(number) for number in word.strip("()").split(",")]


def _metaimage(path: Path, data: bytes) -> Header:
    fields: dict[str, str] = {}
    end = length = 0
    for line in data[:_TEXT_LIMIT].split(b"\n"):
        end += len(line) + 1
        key, _, value = line.decode("latin-1").partition("=")
        fields[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":
            break
    try:
        sizes = tuple(int(n) for n in fields["DimSize"].split())
        components = int(fields.get("ElementNumberOfChannels", "1"))
        spacing = tuple(
            float(v) for v in fields.get("ElementSpacing", fields.get("ElementSize", "")).split()
        )[:3]
        matrix = fields.get("TransformMatrix", fields.get("Rotation", fields.get("Orientation", "")))
        numbers = [float(v) for v in matrix.split()]
        # MetaImage writes one axis after the other: the rows of the written matrix are the columns here.
        columns = np.reshape(numbers, (3, 3)).T if len(numbers) == 9 and len(sizes) == 3 else None
        if fields.get("ElementDataFile", "").upper() == "LOCAL":
            if fields.get("CompressedData", "False").lower() == "true":
                expected = int(fields.get("CompressedDataSize", "0"))
            else:
                expected = math.prod(sizes) * components * _MET_BYTES.get(fields["ElementType"], 0)
            length = end + expected
    except (KeyError, ValueError) as error:
        raise InputError(
            f"The MetaImage header of {path} is damaged ({error}).", remedy=_TRUNCATED
        ) from error
    return Header(sizes=sizes, spacing=spacing, columns=columns, components=components, length=length)


_MET_BYTES = {
    "MET_CHAR": 1,
    "MET_UCHAR": 1,
    "MET_SHORT": 2,
    "MET_USHORT": 2,
    "MET_INT": 4,
    "MET_UINT": 4,
    "MET_LONG_LONG": 8,
    "MET_ULONG_LONG": 8,
    "MET_FLOAT": 4,
    "MET_DOUBLE": 8,
}


def check_header(path: Path, header: Header) -> None:
    """Raise on what ITK would repair silently or refuse in its own words.

    Raises:
        InputError: A spacing is not positive, or the orientation is singular or skewed.
    """
    if any(not (math.isfinite(s) and s > 0) for s in header.spacing):
        raise InputError(
            f"The image {path} has a voxel spacing of {_product(header.spacing)} mm, expected positive"
            " numbers.",
            remedy="Correct the spacing in its header.",
        )
    matrix = None
    if header.affine is not None:
        norms = np.linalg.norm(header.affine[:3, :3], axis=0)
        matrix = header.affine[:3, :3] / np.where(norms > 0, norms, 1.0)
    elif header.columns is not None and header.columns.shape == (3, 3):
        matrix = header.columns / np.linalg.norm(header.columns, axis=0)
    if matrix is None:
        return
    # A skewed sform beside a qform is left to ITK, which then takes the qform; a singular one is damage.
    skew_allowed = header.affine is not None and not header.sform_only
    singular = not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-3
    if singular or not skew_allowed:
        make_grid(str(path), (1, 1, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), matrix)


def check_axes(what: str, sizes: tuple[int, ...], components: int, *, color: bool) -> None:
    """Raise unless an image is scalar, with two or three axes of more than one sample.

    Args:
        what: How the sentence names the image, usually its path.
        sizes: Samples along the grid's axes.
        components: Values per voxel.
        color: The values are a colour.

    Raises:
        InputError: The image is in colour, has several values per voxel, or is 4-D.
    """
    if color or components > 1:
        kind = "a colour image" if color or components in (3, 4) else "an image"
        raise InputError(
            f"{what} is {kind} with {components} values per voxel, expected one.",
            remedy="Convert it to a scalar (grey) image, or extract one component.",
        )
    if len(sizes) < 2:
        raise InputError(f"{what} has {len(sizes)} axis, expected a 2-D or 3-D image.")
    extra = [n for n in sizes[3:] if n > 1]
    if extra:
        raise InputError(
            f"{what} is {3 + len(extra)}-D: {_product(sizes[:3])} voxels and {_product(extra)} time points or"
            " components.",
            remedy="Expected one 3-D image: extract the one to be segmented.",
        )


def make_grid(what: str, size: Any, spacing: Any, origin: Any, direction: npt.ArrayLike) -> Geometry:
    """Return the `Geometry`; its error names the image.

    Raises:
        InputError: As for `Geometry`.
    """
    try:
        return Geometry(size, spacing, origin, np.asarray(direction, dtype=np.float64))
    except InputError as error:
        raise InputError(
            f"The image {what} has no usable grid: {error.message}", remedy=error.remedy
        ) from error


def _product(values: Any) -> str:
    return " × ".join(f"{value:g}" for value in values)
