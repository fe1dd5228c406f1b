# SPDX-License-Identifier: Apache-2.0
"""Segmentations as 3D Slicer stores them (`.seg.nrrd`).

The fields are those that Slicer's vtkMRMLSegmentationStorageNode writes and reads: per segment its ID, name,
colour, label value, layer, extent and terminology; for the whole, the representations and the reference
geometry, so that Slicer shows the segmentation on the grid of the image it belongs to.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 (the name that its own documentation uses)

from DIANetLib.errors import InputError, OutputError
from DIANetLib.formats.atomic import atomic_file
from DIANetLib.formats.headers import check_axes
from DIANetLib.formats.image import inspect, load, write_image
from DIANetLib.formats.itk import from_sitk, to_sitk
from DIANetLib.structures import ANATOMICAL_STRUCTURE, Code, Structure, check_unique
from DIANetLib.volume import Geometry, Volume

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_TISSUE = Code("SCT", "85756007", "Tissue")  # what Slicer says of a segment that nobody named
_DEFAULT_COLOR = "0.5 0.5 0.5"  # as in Slicer


def write_segmentation(
    path: str | os.PathLike[str], labels: Volume, structures: Sequence[Structure], *, source_name: str
) -> None:
    """Write a labelmap as a segmentation of 3D Slicer, one layer, on the labelmap's whole grid.

    Args:
        path: File ending in `.seg.nrrd`; it appears only when it is complete.
        labels: Labelmap (k, j, i) of whole numbers.
        structures: What its values stand for. One that does not occur becomes an empty segment.
        source_name: Name of the image that was segmented, noted in the file.

    Raises:
        OutputError: The ending is another, the labelmap has a value that no structure has, or writing failed.
        InputError: Two structures share a value or a key.
    """
    path = Path(path)
    if not path.name.lower().endswith(".seg.nrrd"):
        raise OutputError(f"Cannot write {path}: expected a name that ends in .seg.nrrd.")
    check_unique(structures)
    known = {structure.value for structure in structures}
    unknown = sorted({int(v) for v in np.unique(labels.array)} - known - {0})
    if unknown:
        raise OutputError(f"The labelmap has values {unknown} that none of the structures has.")
    voxel_type = np.uint8 if max(known, default=0) <= 255 else np.uint16
    image = to_sitk(labels.with_array(labels.array.astype(voxel_type)))
    for key, value in _fields(labels.geometry, structures, source_name).items():
        image.SetMetaData(key, value)
    with atomic_file(path, ".seg.nrrd") as temporary:
        write_image(image, temporary, compress=True)


def read_segmentation(path: str | os.PathLike[str]) -> tuple[Volume, tuple[Structure, ...]]:
    """Read a segmentation of 3D Slicer as one labelmap and its structures.

    Args:
        path: A `.seg.nrrd` file, of one or several layers.

    Returns:
        The labelmap, and a structure per segment in the file's order. Values are those of the file; where two
        layers use the same one, segments are numbered from 1 in their order. Keys are the segments' IDs, made
        safe for file names.

    Raises:
        InputError: As for `DIANetLib.formats.image.read_volume`; or the file has no segments, or segments
            overlap.
    """
    path = Path(path)
    header = inspect(path)
    image = load(path, header)
    if header is not None:
        check_axes(str(path), header.sizes, 1, color=False)
    fields = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    count = 0
    while f"Segment{count}_ID" in fields:
        count += 1
    if not count:
        raise InputError(
            f"The file {path} has no segments.",
            remedy="Expected a segmentation saved by 3D Slicer (.seg.nrrd).",
        )
    segments = [
        {key.removeprefix(f"Segment{n}_"): v for key, v in fields.items() if key.startswith(f"Segment{n}_")}
        for n in range(count)
    ]
    layers = [
        from_sitk(
            image if image.GetNumberOfComponentsPerPixel() == 1 else sitk.VectorIndexSelectionCast(image, n)
        )
        for n in range(image.GetNumberOfComponentsPerPixel())
    ]
    stored = [(int(s.get("Layer", "0")), int(s.get("LabelValue", "1"))) for s in segments]
    values = [value for _, value in stored]
    if len(set(values)) < count:
        values = list(range(1, count + 1))
    labels = _merge(path, [layer.array for layer in layers], stored, values)
    keys: list[str] = []
    structures = []
    for segment, value in zip(segments, values, strict=True):
        keys.append(_key(segment["ID"], keys))
        structures.append(_structure(segment, value, keys[-1]))
    name = path.name.removesuffix(".nrrd").removesuffix(".seg")
    return Volume(labels, layers[0].geometry, name=name, source=str(path)), tuple(structures)


def _fields(geometry: Geometry, structures: Sequence[Structure], source_name: str) -> dict[str, str]:
    extent = " ".join(f"0 {n - 1}" for n in geometry.size)
    fields = {
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_ConversionParameters": _reference_geometry(geometry),
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
        "DIANet_Source": " ".join(source_name.split()),
    }
    for n, structure in enumerate(structures):
        segment = {
            "ID": structure.key,
            "Name": structure.name,
            "NameAutoGenerated": "0",
            "Color": " ".join(f"{channel / 255:.6g}" for channel in structure.color),
            "ColorAutoGenerated": "0",
            "LabelValue": str(structure.value),
            "Layer": "0",
            "Extent": extent,
            "Tags": f"TerminologyEntry:{structure.terminology_entry}|",
        }
        fields.update({f"Segment{n}_{key}": value for key, value in segment.items()})
    return fields


def _reference_geometry(geometry: Geometry) -> str:
    """Serialize the grid as Slicer does: index to RAS row by row, then the index range of each axis."""
    matrix = _LPS_TO_RAS @ geometry.affine
    numbers = [repr(float(number)) for number in matrix.ravel()]
    numbers += [str(bound) for n in geometry.size for bound in (0, n - 1)]
    description = "Grid of the image that was segmented."
    return f"Reference image geometry|{';'.join(numbers)};|{description}&"


def _merge(
    path: Path, layers: Sequence[npt.NDArray[Any]], stored: Sequence[tuple[int, int]], values: Sequence[int]
) -> npt.NDArray[Any]:
    labels = np.zeros(layers[0].shape, dtype=np.min_scalar_type(max(values)))
    for (layer, value), wanted in zip(stored, values, strict=True):
        if not 0 <= layer < len(layers):
            raise InputError(f"The file {path} names layer {layer}, but has {len(layers)}.")
        mask = layers[layer] == value
        if labels[mask].any():
            raise InputError(
                f"Segments of {path} overlap, expected each voxel to belong to one.",
                remedy="Remove the overlap in Slicer's Segment Editor (Logical operators, Subtract).",
            )
        labels[mask] = wanted
    return labels


def _key(identifier: str, taken: Sequence[str]) -> str:
    base = re.sub(r"[^a-z0-9]+", "_", identifier.lower()).strip("_") or "segment"
    key, n = base, 2
    while key in taken:
        key, n = f"{base}_{n}", n + 1
    return key


def _structure(segment: Mapping[str, str], value: int, key: str) -> Structure:
    rgb = segment.get("Color", _DEFAULT_COLOR).split() + ["0"] * 3
    red, green, blue = (min(255, max(0, round(255 * float(channel)))) for channel in rgb[:3])
    tags = dict(tag.split(":", 1) for tag in segment.get("Tags", "").split("|") if ":" in tag)
    codes = [_code(part) for part in tags.get("TerminologyEntry", "").split("~")[1:4]]
    codes += [None] * (3 - len(codes))
    known = codes[0] is not None and codes[1] is not None
    return Structure(
        value=value,
        key=key,
        name=re.sub(r"[~^|\r\n]+", " ", segment.get("Name", "")).strip() or key,
        color=(red, green, blue),
        category=codes[0] or ANATOMICAL_STRUCTURE,
        type=codes[1] or _TISSUE,
        modifier=codes[2] if known else None,
    )


def _code(text: str) -> Code | None:
    parts = text.split("^")
    return Code(*parts) if len(parts) == 3 and all(parts) else None
