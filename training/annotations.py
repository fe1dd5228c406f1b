# SPDX-License-Identifier: Apache-2.0
"""Outlines of lesions on slides, as the program ASAP writes them: polygons in XML.

Points are in pixels of the finest level. Format: https://github.com/computationalpathologygroup/ASAP. Groups
of CAMELYON17 are `metastases` and `normal`, of CAMELYON16 `_0` and `_1` (or `Tumor`) and `_2` (or
`Exclusion`); the latter are holes in the former.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from DIANetLib.errors import InputError

FloatArray = npt.NDArray[np.float64]

LESION_GROUPS = {"metastases", "tumor", "_0", "_1"}
HOLE_GROUPS = {"normal", "exclusion", "_2"}
#: Pixels are drawn this many times finer along each axis, and belong to what covers half of them or more.
_FINER = 4


@dataclass(frozen=True, eq=False)
class Lesions:
    """Outlines on a slide.

    Attributes:
        outlines: polygons (P, 2) of x and y.
        holes: polygons within them that are no lesion.
    """

    outlines: tuple[FloatArray, ...]
    holes: tuple[FloatArray, ...] = ()

    def mask(
        self, corner: tuple[float, float], extent: tuple[float, float], size: tuple[int, int]
    ) -> npt.NDArray[np.uint8]:
        """Draw the lesions in a rectangle of the slide.

        Args:
            corner: its x and y, in pixels of the finest level.
            extent: its width and height in them.
            size: columns and rows of the mask.

        Returns:
            1 where lesion, else 0, uint8 (rows, columns).
        """
        fine = (size[0] * _FINER, size[1] * _FINER)
        canvas = Image.new("L", fine)
        draw = ImageDraw.Draw(canvas)
        factor = np.array(fine) / np.array(extent)
        for polygons, value in ((self.outlines, 255), (self.holes, 0)):
            for polygon in polygons:
                # Whole numbers are the middles of Pillow's pixels, but their borders in a slide.
                points = (polygon - np.array(corner)) * factor - 0.5
                draw.polygon([(float(x), float(y)) for x, y in points], fill=value)
        shares = np.asarray(canvas.resize(size, Image.Resampling.BOX))
        return (shares >= 128).astype(np.uint8)


def read_lesions(path: Path) -> Lesions:
    """Read a file of outlines.

    Raises:
        InputError: if it is no such file, has no outline, a group that is not known, or an outline that has
            fewer than three points.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise InputError(f"The annotation {path} cannot be read: {error}.") from error
    outlines: list[FloatArray] = []
    holes: list[FloatArray] = []
    for annotation in root.iter("Annotation"):
        name, group = annotation.get("Name", "?"), annotation.get("PartOfGroup", "")
        polygon = _points(annotation.iter("Coordinate"), path, name)
        if group.lower() in LESION_GROUPS:
            outlines.append(polygon)
        elif group.lower() in HOLE_GROUPS:
            holes.append(polygon)
        else:
            known = ", ".join(sorted(LESION_GROUPS | HOLE_GROUPS))
            raise InputError(
                f"{path}: annotation {name!r} is of the group {group!r}, expected one of {known}."
            )
    if not outlines:
        raise InputError(f"The annotation {path} outlines no lesion.")
    return Lesions(tuple(outlines), tuple(holes))


def _points(coordinates: Iterable[ElementTree.Element], path: Path, name: str) -> FloatArray:
    try:
        rows = [(int(c.get("Order", "0")), float(c.attrib["X"]), float(c.attrib["Y"])) for c in coordinates]
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: annotation {name!r} has a coordinate without a number X or Y.") from error
    if len(rows) < 3:
        raise InputError(
            f"{path}: annotation {name!r} has {len(rows)} points, expected at least 3 of a polygon.",
            remedy="Remove or complete it in ASAP.",
        )
    return np.array([row[1:] for row in sorted(rows)])
