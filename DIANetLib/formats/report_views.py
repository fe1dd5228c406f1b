# SPDX-License-Identifier: Apache-2.0
"""Which slices a report shows: a view per region of interest, and one of the whole image.

The scales of the overlays are fixed, so that the pictures of two cases can be compared: total uncertainty
from 0 to ln 2 nats (as unsure as between two equally probable labels), epistemic uncertainty from 0 to 0.2
nats, Grad-CAM from 0 to 1 (relative to the map's own maximum). Grad-CAM follows Eq. 30 of the paper, the
uncertainties are Eqs. 33 and 35.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from DIANetLib.formats.report_pictures import Color, Display, Frame, Plane, Point, grey_window
from DIANetLib.inference.prediction import Prediction
from DIANetLib.structures import Structure
from DIANetLib.volume import Volume

__all__ = ["SCALES", "Panel", "Row", "RowKind", "View", "Views"]

RowKind = Literal["structures", "total", "epistemic", "attention", "gradcam"]

#: Greatest value of each overlay's colour bar: nats, nats, relative, relative.
SCALES: Mapping[RowKind, float] = {
    "total": math.log(2.0),
    "epistemic": 0.2,
    "attention": 1.0,
    "gradcam": 1.0,
}

_MARGIN_MM = 12.0
_MOST_VIEWS = 6
_MOST_GRADCAM_ROWS = 6
_BOX_COLOR: Color = (255, 255, 255)
# Not in the colour map, so that the segmentation's border is seen on any value.
_BORDER: Color = (120, 230, 255)


@dataclass(frozen=True)
class Panel:
    """A picture with the words that go with it."""

    picture: Image.Image
    alt: str
    caption: str


@dataclass(frozen=True)
class Row:
    """The slices of one kind of map.

    Args:
        kind: What is drawn; names the colour bar.
        title: Heading.
        panels: One picture per plane.
    """

    kind: RowKind
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class View:
    """Where to look: display indices (z, y, x) as in `report_pictures.Display`.

    Args:
        title: Heading.
        lo: First voxel of the region.
        hi: Last voxel + 1 of the region.
        middle: Voxel the pictures are centred on.
        slices: Through which slice to cut along z, y, x.
        width_mm: Width of the pictures.
        structures: What is shown in it.
    """

    title: str
    lo: Point
    hi: Point
    middle: Point
    slices: Point
    width_mm: float
    structures: tuple[Structure, ...]


class Views:
    """The views of a prediction and the pictures in them.

    Args:
        prediction: What was computed.
        image: The image to draw under it, on the prediction's grid.
        gradcam: Grad-CAM maps by structure key, 0 to 1, on the prediction's grid.
        attention: Attention map, 0 to 1, on the prediction's grid; None for no row of it.
    """

    def __init__(
        self,
        prediction: Prediction,
        image: Volume,
        gradcam: Mapping[str, Volume],
        attention: Volume | None = None,
    ) -> None:
        self.prediction = prediction
        self.display = Display(prediction.geometry)
        self._image = self.display.view(image.array)
        self._window = grey_window(image.array)
        self._labels = self.display.view(prediction.labels.array)
        self._maps = {
            kind: self.display.view(prediction.uncertainty[kind].array) for kind in ("total", "epistemic")
        }
        self._attention = None if attention is None else self.display.view(attention.array)
        self._gradcam = {key: self.display.view(volume.array) for key, volume in gradcam.items()}
        self._colors = {s.value: s.color for s in prediction.structures}
        self.omitted: list[str] = []  # sentences on what there was no room for
        self.views = self._find()

    def _find(self) -> tuple[View, ...]:
        boxes = [self.display.box(box) for box in self.prediction.regions_of_interest]
        whole: tuple[Point, Point] = ((0, 0, 0), self.display.shape)
        if len(boxes) > _MOST_VIEWS:
            self.omitted.append(
                f"Pictures of the first {_MOST_VIEWS} of {len(boxes)} regions of interest are shown."
            )
        views = []
        for number, (lo, hi) in enumerate(boxes[:_MOST_VIEWS] or [whole], start=1):
            part = self._labels[tuple(slice(a, b) for a, b in zip(lo, hi, strict=True))]
            shown = tuple(s for s in self.prediction.structures if (part == s.value).any())
            mask = part != 0
            if not mask.any():
                mask = np.ones(part.shape, dtype=bool)
            middle, slices, width = self._place(mask, lo)
            names = ", ".join(s.name for s in shown) if len(shown) <= 4 else f"{len(shown)} structures"
            title = f"Region {number}" if boxes else "Whole image"
            views.append(View(f"{title}: {names or 'nothing found'}", lo, hi, middle, slices, width, shown))
        return tuple(views)

    def _place(self, mask: npt.NDArray[np.bool_], start: Point) -> tuple[Point, Point, float]:
        """Centre, largest cross-sections and picture width for a mask whose first voxel is at `start`."""
        middle, slices, extents = [], [], []
        for axis in range(3):
            area = mask.sum(axis=tuple(a for a in range(3) if a != axis))
            filled = np.flatnonzero(area)
            largest = np.flatnonzero(area == area.max())
            middle.append(start[axis] + int(filled[0] + filled[-1]) // 2)
            slices.append(start[axis] + int(largest[len(largest) // 2]))
            extents.append(float(filled[-1] - filled[0] + 1) * self.display.spacing[axis])
        seen = [a for plane in self.display.planes for a in plane.axes]
        whole = max(self.display.shape[a] * self.display.spacing[a] for a in seen)
        width = min(max(extents[a] for a in seen) + 2 * _MARGIN_MM, whole)
        return (middle[0], middle[1], middle[2]), (slices[0], slices[1], slices[2]), width

    def overview(self) -> Row:
        """The whole image with the outlines and a box around each region of interest."""
        mask = self._labels != 0
        if mask.any():
            _, slices, _ = self._place(mask, (0, 0, 0))
        else:
            slices = self.views[0].slices
        shape = self.display.shape
        middle = (shape[0] // 2, shape[1] // 2, shape[2] // 2)
        width = max(shape[a] * self.display.spacing[a] for plane in self.display.planes for a in plane.axes)
        boxes = [self.display.box(box) for box in self.prediction.regions_of_interest]
        panels = []
        for frame in self._frames(middle, slices, width):
            picture = frame.outlines(
                frame.grey(self._image, self._window), self._labels, self._colors, width=1
            )
            for lo, hi in boxes:
                picture = frame.rectangle(picture, lo, hi, _BOX_COLOR)
            panels.append(self._panel(frame, picture, "whole image with segmentation outlines"))
        return Row("structures", "Whole image", tuple(panels))

    def rows(self, view: View) -> tuple[Row, ...]:
        """Outlines, total and epistemic uncertainty, attention if asked for, Grad-CAM of its structures."""
        rows = [
            self._outlined(view),
            self._mapped(view, "total", "Total uncertainty", self._maps["total"], view.slices),
            self._mapped(view, "epistemic", "Epistemic uncertainty", self._maps["epistemic"], view.slices),
        ]
        if self._attention is not None:
            rows.append(self._mapped(view, "attention", "Attention", self._attention, view.slices))
        explained = [
            s for s in self.prediction.structures if s.key in self._gradcam and self._view_of(s) is view
        ]
        if len(explained) > _MOST_GRADCAM_ROWS:
            self.omitted.append(
                f"Grad-CAM of the first {_MOST_GRADCAM_ROWS} of {len(explained)} structures is shown; "
                "the others are in the folder."
            )
        for structure in explained[:_MOST_GRADCAM_ROWS]:
            mask = self._labels == structure.value
            slices = self._place(mask, (0, 0, 0))[1] if mask.any() else view.slices
            rows.append(
                self._mapped(
                    view, "gradcam", f"Grad-CAM: {structure.name}", self._gradcam[structure.key], slices
                )
            )
        return tuple(rows)

    def close_up(self, center_lps: Sequence[float], width_mm: float = 40.0, pixels: int = 210) -> Panel:
        """A small axial picture (or the one plane of a 2-D image) with ticks around a point in LPS mm."""
        at = self.display.point(center_lps)
        frame = Frame(self.display, self.display.planes[0], at, width_mm, pixels)
        picture = frame.overlay(frame.grey(self._image, self._window), self._maps["total"], SCALES["total"])
        picture = frame.outlines(picture, self._labels, self._colors, width=1)
        return self._panel(frame, frame.ticks(picture), "total uncertainty around the region")

    def _view_of(self, structure: Structure) -> View:
        """The view a structure's map belongs to: where most of its voxels lie, else most of its relevance."""
        inside = [tuple(slice(a, b) for a, b in zip(view.lo, view.hi, strict=True)) for view in self.views]
        amounts = [int((self._labels[part] == structure.value).sum()) for part in inside]
        if not any(amounts):
            relevance = self._gradcam[structure.key]
            return self.views[int(np.argmax([float(relevance[part].sum(dtype=float)) for part in inside]))]
        return self.views[int(np.argmax(amounts))]

    def _outlined(self, view: View) -> Row:
        panels = []
        for frame in self._frames(view.middle, view.slices, view.width_mm):
            picture = frame.outlines(frame.grey(self._image, self._window), self._labels, self._colors)
            panels.append(self._panel(frame, picture, f"segmentation outlines, {view.title}"))
        return Row("structures", "Segmentation", tuple(panels))

    def _mapped(self, view: View, kind: RowKind, title: str, seen: npt.NDArray[Any], slices: Point) -> Row:
        border = dict.fromkeys(self._colors, _BORDER)
        opacity = 0.6 if kind in ("gradcam", "attention") else 0.9
        panels = []
        for frame in self._frames(view.middle, slices, view.width_mm):
            picture = frame.overlay(frame.grey(self._image, self._window), seen, SCALES[kind], opacity)
            picture = frame.outlines(picture, self._labels, border, width=1, opacity=0.8)
            panels.append(self._panel(frame, picture, f"{title.lower()}, {view.title}"))
        return Row(kind, title, tuple(panels))

    def _frames(self, middle: Point, slices: Point, width_mm: float) -> list[Frame]:
        frames = []
        for plane in self.display.planes:
            center = list(middle)
            center[plane.normal] = slices[plane.normal]
            frames.append(Frame(self.display, plane, (center[0], center[1], center[2]), width_mm))
        return frames

    def _panel(self, frame: Frame, picture: Image.Image, what: str) -> Panel:
        position = _position(self.display, frame.plane, frame.center)
        plane = frame.plane.name
        return Panel(
            frame.letters(picture), f"{plane.capitalize()} slice: {what}", f"{plane.capitalize()}, {position}"
        )


def _position(display: Display, plane: Plane, center: Point) -> str:
    """Where a slice cuts, as the RAS coordinate along its normal at the middle of the picture."""
    x, y, z = display.world(center)
    name, value = (("S", z), ("A", -y), ("R", -x))[plane.normal]
    return f"{name} {value:.1f} mm".replace("-", "−")
