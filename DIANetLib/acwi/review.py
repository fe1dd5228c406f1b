# SPDX-License-Identifier: Apache-2.0
"""Review: a worklist of the places where a segmentation is most likely wrong (paper section 3.4, Figure 5).

A voxel counts where its calibrated error probability reaches a threshold. What counts is cut into regions
that a person can look at (`DIANetLib.acwi.places`), ranked by expected wrong volume: the sum of the error
probability over a region's voxels times the volume of a voxel.

Runs inside Slicer's process: numpy and scipy only.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from DIANetLib.acwi.places import TOUCHING, FloatArray, cut
from DIANetLib.errors import InputError
from DIANetLib.structures import Structure
from DIANetLib.volume import Geometry, Volume

State = Literal["open", "accepted", "corrected", "skipped"]
Point = tuple[float, float, float]

SCHEMA = "dianet.regions"
SCHEMA_VERSION = 2  # 2 added `changed` and `reviewer`

_SINCE_2 = ("changed", "reviewer")
_PLACES_PER_REGION = 10  # places come in falling order of error: later ones could not reach the list


@dataclass(frozen=True)
class Region:
    """A place to look at.

    Attributes:
        rank: 1 for the largest expected wrong volume.
        structures: keys of the structures in question, at most two, the commoner one first; empty only where
            nothing at all was segmented. One key: its border with the background, or a missed part of it.
        centre: LPS mm of the region's voxel that is nearest to its centre of error.
        lo: LPS mm, lower corner of the bounding box, voxels included as boxes.
        hi: LPS mm, upper corner of the bounding box.
        volume_mm3: volume of its voxels.
        expected_error_mm3: sum of the error probability over its voxels times the volume of a voxel.
        peak: its greatest error probability.
        state: what the reviewer said of it.
        changed: when the state was set, ISO 8601 with offset from UTC; empty while it is open.
        reviewer: who set the state; may be empty.
    """

    rank: int
    structures: tuple[str, ...]
    centre: Point
    lo: Point
    hi: Point
    volume_mm3: float
    expected_error_mm3: float
    peak: float
    state: State = "open"
    changed: str = ""
    reviewer: str = ""


def find_regions(
    error_probability: Volume,
    labels: Volume,
    structures: Sequence[Structure],
    *,
    threshold: float = 0.3,
    minimum_mm3: float = 10.0,
    maximum: int = 20,
    extent_mm: float = 15.0,
) -> tuple[Region, ...]:
    """List the places where a segmentation is most likely wrong, the largest expected wrong volume first.

    The same input gives the same list.

    Args:
        error_probability: calibrated probability, 0 to 1, that the label is wrong.
        labels: labelmap on the same grid, 0 for background.
        structures: what the labels stand for.
        threshold: error probability, above 0 and below 1, from which on a voxel counts.
        minimum_mm3: smaller regions are left out.
        maximum: most regions listed.
        extent_mm: greatest distance between the centres of two voxels of one region.

    Returns:
        At most `maximum` regions, all open; none where the error probability stays below the threshold.

    Raises:
        InputError: grids differ, an error probability is not between 0 and 1, a label has no structure, or an
            option is out of range.
    """
    _check_options(threshold, minimum_mm3, maximum, extent_mm)
    _check_volumes(error_probability, labels, structures)
    geometry = error_probability.geometry
    voxel_mm3 = geometry.voxel_volume_ml * 1000.0
    least = max(1, math.ceil(minimum_mm3 / voxel_mm3 - 1e-9))
    found = []
    counted = error_probability.array >= threshold
    for box in ndimage.find_objects(counted.astype(np.uint8)):
        error = np.where(counted[box], error_probability.array[box], 0).astype(np.float32)
        start = np.array([s.start for s in box])
        parts = cut(error, geometry.spacing[::-1], extent_mm / 2, least, _PLACES_PER_REGION * maximum)
        for voxels, values in parts:
            found.append((float(values.sum(dtype=np.float64)) * voxel_mm3, voxels + start, values))
    # Equal sums are ordered by place, for the list to be the same on every machine.
    found.sort(key=lambda item: (-item[0], item[1][0].tolist()))
    return tuple(
        _describe(rank, voxels, values, expected, geometry, labels.array, structures)
        for rank, (expected, voxels, values) in enumerate(found[:maximum], start=1)
    )


def regions_to_json(regions: Sequence[Region]) -> str:
    """Regions as JSON text with a schema name and version; millimetres in LPS."""
    document = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "coordinates": "LPS, mm",
        "regions": [asdict(region) for region in regions],
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def regions_from_json(text: str) -> tuple[Region, ...]:
    """Read what `regions_to_json` wrote.

    Raises:
        InputError: not such a text, or of a newer version.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise InputError(f"The list of regions is not valid JSON: {error}.") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise InputError(f'The JSON text is no list of regions: expected "schema": "{SCHEMA}".')
    _check_version(document.get("schema_version"))
    rows = document.get("regions")
    if not isinstance(rows, list):
        raise InputError('The list of regions lacks its entry "regions".')
    return tuple(_region(row) for row in rows)


def regions_to_csv(regions: Sequence[Region]) -> str:
    """Regions as CSV text, a header and one row a region; the first column is the schema's version.

    Points take three columns (`centre_l`, `centre_p`, `centre_s`, mm), structures are joined by a space.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_columns())
    for region in regions:
        cells: list[Any] = [SCHEMA_VERSION]
        for value in asdict(region).values():
            if isinstance(value, tuple) and value and isinstance(value[0], float):
                cells.extend(value)
            else:
                cells.append(" ".join(value) if isinstance(value, tuple) else value)
        writer.writerow(cells)
    return stream.getvalue()


def regions_from_csv(text: str) -> tuple[Region, ...]:
    """Read what `regions_to_csv` wrote.

    Raises:
        InputError: not such a text, or of a newer version.
    """
    lines = list(csv.reader(io.StringIO(text)))
    if not lines or lines[0] not in (_columns(), _columns()[: -len(_SINCE_2)]):
        raise InputError(f"The CSV text is no list of regions: expected the columns {', '.join(_columns())}.")
    regions = []
    for line in lines[1:]:
        row = dict(zip(lines[0], line, strict=False))
        version = row.pop("schema_version", "")
        _check_version(int(version) if version.isdigit() else version)
        for name in ("centre", "lo", "hi"):
            row[name] = [row.pop(f"{name}_{axis}", None) for axis in "lps"]  # type: ignore[assignment]
        row["structures"] = row.get("structures", "").split()  # type: ignore[assignment]
        regions.append(_region(row))
    return tuple(regions)


def _describe(
    rank: int,
    voxels: npt.NDArray[np.intp],
    values: FloatArray,
    expected: float,
    geometry: Geometry,
    labels: npt.NDArray[Any],
    structures: Sequence[Structure],
) -> Region:
    ijk = voxels[:, ::-1].astype(np.float64)
    offsets = (ijk - np.average(ijk, axis=0, weights=values)) * geometry.spacing
    middle = geometry.index_to_world(ijk[(offsets**2).sum(axis=1).argmin()])
    # A voxel's box reaches half of each of its edges beyond its centre.
    reach = np.abs(geometry.affine[:3, :3]).sum(axis=1) / 2
    world = geometry.index_to_world(ijk)
    return Region(
        rank=rank,
        structures=_structures_near(voxels, labels, structures, geometry.spacing[::-1]),
        centre=_point(middle),
        lo=_point(world.min(axis=0) - reach),
        hi=_point(world.max(axis=0) + reach),
        volume_mm3=round(len(voxels) * geometry.voxel_volume_ml * 1000.0, 6),
        expected_error_mm3=round(expected, 6),
        peak=round(float(values.max()), 6),
    )


def _structures_near(
    voxels: npt.NDArray[np.intp],
    labels: npt.NDArray[Any],
    structures: Sequence[Structure],
    spacing: Sequence[float],
) -> tuple[str, ...]:
    """The two commonest structures in the region and one voxel around it, or else the nearest structure."""
    keys = {structure.value: structure.key for structure in structures}
    lower, upper = voxels.min(axis=0), voxels.max(axis=0) + 1
    margin = 1
    while True:
        start = np.maximum(lower - margin, 0)
        box = tuple(slice(a, b) for a, b in zip(start, np.minimum(upper + margin, labels.shape), strict=True))
        around = labels[box]
        if around.any():
            break
        if around.shape == labels.shape:
            return ()
        margin *= 2
    region = np.zeros(around.shape, dtype=bool)
    region[tuple((voxels - start).T)] = True
    near = around[ndimage.binary_dilation(region, TOUCHING)]
    values, counts = np.unique(near[near > 0], return_counts=True)
    if not values.size:
        distance = ndimage.distance_transform_edt(~region, sampling=spacing)
        at = np.where(around > 0, distance, np.inf).argmin()
        return (keys[int(around.ravel()[at])],)
    order = np.lexsort((values, -counts))[:2]
    return tuple(keys[int(value)] for value in values[order])


def _point(position: npt.NDArray[np.float64]) -> Point:
    # A micrometre is far below any voxel, and its digits are the same everywhere. Adding 0 drops "-0.0".
    x, y, z = (round(float(p), 3) + 0.0 for p in position)
    return x, y, z


def _columns() -> list[str]:
    names = ["schema_version"]
    for field in fields(Region):
        points = field.name in ("centre", "lo", "hi")
        names.extend([f"{field.name}_{axis}" for axis in "lps"] if points else [field.name])
    return names


def _region(row: Any) -> Region:
    try:
        state = row.get("state", "open")
        if state not in get_args(State):
            raise ValueError(f"the state is {state!r}, expected one of {', '.join(get_args(State))}")
        numbers = {n: float(row[n]) for n in ("volume_mm3", "expected_error_mm3", "peak")}
        points = {n: tuple(float(v) for v in row[n]) for n in ("centre", "lo", "hi")}
        if any(len(point) != 3 for point in points.values()):
            raise ValueError("a point needs three coordinates")
        said = {n: str(row.get(n) or "") for n in _SINCE_2}
        if said["changed"] and datetime.fromisoformat(said["changed"]).tzinfo is None:
            raise ValueError(f"the time {said['changed']} has no offset from UTC")
        keys = tuple(str(key) for key in row["structures"])
        return Region(rank=int(row["rank"]), structures=keys, state=state, **said, **numbers, **points)  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"The list of regions has an entry that cannot be read: {error}.") from error


def _check_version(version: Any) -> None:
    if not isinstance(version, int) or version < 1:
        raise InputError(f"The list of regions has schema version {version!r}, expected a whole number.")
    if version > SCHEMA_VERSION:
        raise InputError(
            f"The list of regions has schema version {version}, this program reads up to {SCHEMA_VERSION}.",
            remedy="Update DIANet.",
        )


def _check_options(threshold: float, minimum_mm3: float, maximum: int, extent_mm: float) -> None:
    if not 0 < threshold < 1:
        raise InputError(f"The threshold is {threshold}, expected more than 0 and less than 1.")
    if not minimum_mm3 >= 0:
        raise InputError(f"The smallest volume of a region is {minimum_mm3} mm³, expected 0 or more.")
    if maximum < 1:
        raise InputError(f"The number of regions asked for is {maximum}, expected at least 1.")
    if not (math.isfinite(extent_mm) and extent_mm > 0):
        raise InputError(f"The extent of a region is {extent_mm} mm, expected a positive number.")


def _check_volumes(error_probability: Volume, labels: Volume, structures: Sequence[Structure]) -> None:
    if not error_probability.geometry.same_grid(labels.geometry, 1e-3):
        raise InputError(
            "The error probability and the labels are on different grids.",
            remedy="Resample the labels onto the grid of the error probability.",
        )
    error = error_probability.array
    if not (error.min() >= 0 and error.max() <= 1 + 1e-5):
        raise InputError(
            f"The error probability goes from {error.min():g} to {error.max():g}, expected 0 to 1 everywhere."
        )
    if labels.array.dtype.kind not in "biu":
        raise InputError(f"The labels are {labels.array.dtype}, expected whole numbers.")
    foreground = labels.array[labels.array != 0]
    unknown = sorted(set(np.unique(foreground).tolist()) - {structure.value for structure in structures})
    if unknown:
        raise InputError(f"The labels have values that no structure has: {', '.join(map(str, unknown))}.")
