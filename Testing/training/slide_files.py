# SPDX-License-Identifier: Apache-2.0
"""A tiny whole slide: a tiled, pyramidal TIFF of pink tissue on white glass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile

#: Pixels of the finest level; the tissue's left, top, right and bottom.
WIDTH, HEIGHT = 256, 128
TISSUE = (64, 0, 192, 96)


def slide_pixels(tissue: tuple[int, int, int, int] | None = TISSUE) -> np.ndarray:
    """White with tissue whose colours change from place to place, in blocks of 2 × 2: halving is exact."""
    pixels = np.full((HEIGHT, WIDTH, 3), 240, np.uint8)
    if tissue is not None:
        left, top, right, bottom = tissue
        j, i = np.meshgrid(np.arange(top, bottom) // 2, np.arange(left, right) // 2, indexing="ij")
        pixels[top:bottom, left:right] = np.stack([200 + j % 40, 40 + i % 128, 120 + (i + j) % 60], -1)
    return pixels


def write_slide(
    path: Path, *, tissue: tuple[int, int, int, int] | None = TISSUE, um: float | None = 0.5
) -> Path:
    """Two levels, the second of half the size, in tiles of 64 × 64 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = slide_pixels(tissue)
    with tifffile.TiffWriter(path) as file:
        for level in range(2):
            per_cm = None if um is None else (10_000 / um / 2**level,) * 2
            file.write(
                pixels[:: 2**level, :: 2**level],
                tile=(64, 64),
                photometric="rgb",
                compression="zlib",
                subfiletype=level,
                resolution=per_cm,
                resolutionunit=None if um is None else "CENTIMETER",
                metadata=None,
            )
    return path


def asap(*annotations: tuple[str, list[tuple[float, float]]]) -> str:
    """Outlines as ASAP writes them: (group, points)."""
    text = ['<?xml version="1.0"?>', "<ASAP_Annotations>", "\t<Annotations>"]
    for number, (group, points) in enumerate(annotations):
        text.append(
            f'\t\t<Annotation Name="Annotation {number}" Type="Polygon" PartOfGroup="{group}"'
            ' Color="#F4FA58">\n\t\t\t<Coordinates>'
        )
        text += [
            f'\t\t\t\t<Coordinate Order="{order}" X="{x}" Y="{y}" />' for order, (x, y) in enumerate(points)
        ]
        text.append("\t\t\t</Coordinates>\n\t\t</Annotation>")
    text += ["\t</Annotations>", "\t<AnnotationGroups>"]
    text.append('\t\t<Group Name="metastases" PartOfGroup="None" Color="#ff0000"><Attributes /></Group>')
    return "\n".join([*text, "\t</AnnotationGroups>", "</ASAP_Annotations>"])


def rectangle(left: float, top: float, right: float, bottom: float) -> list[tuple[float, float]]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]
