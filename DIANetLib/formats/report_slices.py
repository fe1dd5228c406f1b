# SPDX-License-Identifier: Apache-2.0
"""Pictures of whole slices for reports without regions of interest."""

from __future__ import annotations

import numpy as np

from DIANetLib.formats.report_pictures import Display, Frame, Point, grey_window
from DIANetLib.formats.report_views import Panel
from DIANetLib.volume import Geometry, Volume

__all__ = ["Slices"]


class Slices:
    """Slices of an image, in one plane for an image of one slice, through a point.

    Args:
        image: What is drawn in grey.
        like: Image whose grey scale is used; the image's own when None.
    """

    def __init__(self, image: Volume, like: Volume | None = None) -> None:
        self.display = Display(image.geometry)
        self._image = self.display.view(image.array)
        self._window = grey_window((like or image).array)
        self._flat = _is_picture(image.geometry)
        shape = self.display.shape
        self.middle: Point = (shape[0] // 2, shape[1] // 2, shape[2] // 2)
        self._width = max(
            shape[a] * self.display.spacing[a] for plane in self.display.planes for a in plane.axes
        )

    def brightest(self, volume: Volume) -> Point:
        """Where a map is greatest."""
        seen = self.display.view(volume.array)
        z, y, x = (int(n) for n in np.unravel_index(int(seen.argmax()), seen.shape))
        return z, y, x

    def panels(
        self,
        volume: Volume | None,
        point: Point,
        what: str,
        *,
        maximum: float = 1.0,
        opacity: float = 0.6,
    ) -> tuple[Panel, ...]:
        """One picture per plane, the whole image wide.

        Args:
            volume: A map to lay over the image, None for the image alone.
            point: Voxel (z, y, x) of the display that the planes go through.
            what: What is shown.
            maximum: Value of the map that gets the brightest colour.
            opacity: Of the map, 0 to 1.
        """
        panels = []
        for plane in self.display.planes:
            center = list(self.middle)
            center[plane.normal] = point[plane.normal]
            frame = Frame(self.display, plane, (center[0], center[1], center[2]), self._width)
            picture = frame.grey(self._image, self._window)
            if volume is not None:
                seen = self.display.view(volume.array)
                picture = frame.overlay(picture, seen, maximum, opacity)
            # A photograph's grid says nothing of the patient.
            picture = picture if self._flat else frame.letters(picture)
            name = "picture" if self._flat else plane.name
            panels.append(Panel(picture, f"{name.capitalize()}: {what}", what if self._flat else plane.name))
        return tuple(panels)


def _is_picture(geometry: Geometry) -> bool:
    """Whether an image is one slice on a grid as files without positions get it."""
    return geometry.size[2] == 1 and geometry.origin == (0.0, 0.0, 0.0) and geometry.anatomical_axes == "LPS"
