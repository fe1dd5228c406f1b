# SPDX-License-Identifier: Apache-2.0
"""Regions of a review, and how they are kept as JSON and as a table.

The JSON form is described for other programs by docs/schemas/regions.schema.json.

Runs inside Slicer's process: nothing but the standard library.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Literal, get_args

from DIANetLib.errors import InputError

State = Literal["open", "accepted", "corrected", "skipped"]
Point = tuple[float, float, float]

SCHEMA = "dianet.regions"
SCHEMA_VERSION = 2  # 2 added `changed` and `reviewer`

_LIST = "The list of regions"

_SINCE_2 = ("changed", "reviewer")


@dataclass(frozen=True)
class Region:
    """A place to look at.

    Attributes:
        rank: 1 for the largest expected wrong volume.
        structures: keys of the structures in question, at most two. Two keys: the border between them, with
            the one that most of the doubt was given to first. One key: its border with the background, or a
            missed part of it. Empty only where nothing at all was segmented.
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
    check_version(document.get("schema_version"), SCHEMA_VERSION, _LIST)
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
        check_version(int(version) if version.isdigit() else version, SCHEMA_VERSION, _LIST)
        for name in ("centre", "lo", "hi"):
            row[name] = [row.pop(f"{name}_{axis}", None) for axis in "lps"]  # type: ignore[assignment]
        row["structures"] = row.get("structures", "").split()  # type: ignore[assignment]
        regions.append(_region(row))
    return tuple(regions)


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
        if not all(math.isfinite(v) for v in (*numbers.values(), *itertools.chain(*points.values()))):
            raise ValueError("a number is not finite")
        if int(row["rank"]) < 1:
            raise ValueError(f"the rank is {row['rank']}, expected 1 or more")
        said = {n: str(row.get(n) or "") for n in _SINCE_2}
        if said["changed"] and datetime.fromisoformat(said["changed"]).tzinfo is None:
            raise ValueError(f"the time {said['changed']} has no offset from UTC")
        keys = tuple(str(key) for key in row["structures"])
        return Region(rank=int(row["rank"]), structures=keys, state=state, **said, **numbers, **points)  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"The list of regions has an entry that cannot be read: {error}.") from error


def check_version(version: Any, newest: int, what: str) -> None:
    """Raise unless a document's schema version is one that this program reads.

    Args:
        version: what the document says.
        newest: the newest version that is read.
        what: the document, as a sentence begins with it.

    Raises:
        InputError: it is no version, or a newer one.
    """
    if not isinstance(version, int) or version < 1:
        raise InputError(f"{what} has schema version {version!r}, expected a whole number.")
    if version > newest:
        raise InputError(
            f"{what} has schema version {version}, this program reads up to {newest}.",
            remedy="Update DIANet.",
        )
