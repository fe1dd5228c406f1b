# SPDX-License-Identifier: Apache-2.0
"""Slices of volumes as pictures: outlines, overlays, boxes and the letters that say which side is which.

Display follows the radiological convention: the patient's left is on the right of axial and coronal pictures,
anterior is on the left of sagittal ones. For display alone, a volume of any orientation is seen as an array
`(z, y, x)` whose axes point to superior, posterior and left (the index axes nearest to them; nothing is
interpolated before a slice is drawn). Pictures are squares of a given width in mm, so that voxels of any
shape keep their proportions. Needs numpy and Pillow only.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from DIANetLib.formats.colormap import color_table
from DIANetLib.inference.prediction import Box
from DIANetLib.volume import Geometry

__all__ = ["AXIAL", "CORONAL", "PLANES", "SAGITTAL", "Display", "Frame", "Plane", "data_uri", "grey_window"]

Color = tuple[int, int, int]
Point = tuple[int, int, int]


@dataclass(frozen=True)
class Plane:
    """One of the three slice directions.

    Args:
        name: Name for people.
        normal: Axis of the display array (z, y, x) that a slice is taken across.
        letters: Where the left, right, top and bottom border of the picture lie in the patient.
    """

    name: Literal["axial", "coronal", "sagittal"]
    normal: int
    letters: tuple[str, str, str, str]

    @property
    def axes(self) -> tuple[int, int]:
        """Axes of the display array along the picture's rows and columns."""
        down, right = (axis for axis in range(3) if axis != self.normal)
        return down, right


AXIAL = Plane("axial", 0, ("R", "L", "A", "P"))
CORONAL = Plane("coronal", 1, ("R", "L", "S", "I"))
SAGITTAL = Plane("sagittal", 2, ("A", "P", "S", "I"))
PLANES = (AXIAL, CORONAL, SAGITTAL)


@dataclass(frozen=True)
class Display:
    """How arrays on a grid are turned for display; views only, nothing is copied.

    Args:
        geometry: The grid of the arrays.
    """

    geometry: Geometry

    @property
    def _axes(self) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        """For z, y, x of the display array: the index axis (0 is i), and whether it is turned round."""
        code = self.geometry.anatomical_axes
        index = tuple(next(a for a in range(3) if code[a] in pair) for pair in ("SI", "PA", "LR"))
        return index, tuple(code[a] in "IAR" for a in index)

    @property
    def shape(self) -> Point:
        """Voxels along z, y, x of the display array."""
        z, y, x = (self.geometry.size[a] for a in self._axes[0])
        return z, y, x

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between voxels along z, y, x of the display array."""
        z, y, x = (self.geometry.spacing[a] for a in self._axes[0])
        return z, y, x

    @property
    def planes(self) -> tuple[Plane, ...]:
        """The planes in which there is something to see: all three, or one for an image of a single slice."""
        return tuple(p for p in PLANES if all(self.shape[a] > 1 for a in p.axes)) or PLANES[:1]

    def view(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """An array (k, j, i) seen as (z, y, x), axes to superior, posterior and left."""
        index, turned = self._axes
        seen = np.transpose(array, [2 - a for a in index])
        return seen[tuple(slice(None, None, -1) if t else slice(None) for t in turned)]

    def box(self, box: Box) -> tuple[Point, Point]:
        """First and last + 1 display index (z, y, x) of the voxels a box touches, clipped to the image."""
        corners = self.geometry.world_to_index(box.corners)
        index, turned = self._axes
        lo, hi = [], []
        for axis, flip in zip(index, turned, strict=True):
            size = self.geometry.size[axis]
            first, last = (round(float(v), 6) for v in (corners[:, axis].min(), corners[:, axis].max()))
            if flip:
                first, last = size - 1 - last, size - 1 - first
            start = int(np.clip(np.floor(first + 0.5), 0, size - 1))
            lo.append(start)
            hi.append(int(np.clip(np.ceil(last + 0.5), start + 1, size)))
        return (lo[0], lo[1], lo[2]), (hi[0], hi[1], hi[2])

    def point(self, world: Sequence[float]) -> Point:
        """Display index (z, y, x) of the voxel nearest to a LPS point in mm, clipped to the image."""
        at = self.geometry.world_to_index(np.asarray(world, dtype=np.float64))
        index, turned = self._axes
        found = []
        for axis, flip in zip(index, turned, strict=True):
            size = self.geometry.size[axis]
            value = round(float(np.clip(at[axis], 0, size - 1)))
            found.append(size - 1 - value if flip else value)
        return found[0], found[1], found[2]

    def world(self, point: Point) -> tuple[float, float, float]:
        """LPS position in mm of the centre of a voxel, display index (z, y, x)."""
        at = [0, 0, 0]
        index, turned = self._axes
        for value, axis, flip in zip(point, index, turned, strict=True):
            at[axis] = self.geometry.size[axis] - 1 - value if flip else value
        x, y, z = self.geometry.index_to_world(at).tolist()
        return x, y, z


@dataclass(frozen=True)
class Frame:
    """A square window on one slice of a display array, and the drawing in it.

    Args:
        display: The grid's display.
        plane: Slice direction.
        center: Voxel (z, y, x) the window is centred on; its coordinate along the normal picks the slice.
        width_mm: Width and height of the window in mm.
        pixels: Width and height of the picture in pixels.
    """

    display: Display
    plane: Plane
    center: Point
    width_mm: float
    pixels: int = 420

    def slice(self, seen: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The slice of a display array (z, y, x), rows downwards on the screen."""
        index: list[Any] = [slice(None)] * 3
        index[self.plane.normal] = self.center[self.plane.normal]
        flat = seen[tuple(index)]
        return flat if self.plane is AXIAL else flat[::-1]  # z points up: superior belongs at the top

    def to_pixels(self, row: float, column: float) -> tuple[float, float]:
        """Picture position (right, down) of a continuous edge coordinate along the plane's two array axes."""
        (down, right), spacing = self.plane.axes, self.display.spacing
        from_middle_down = (row - (self.center[down] + 0.5)) * spacing[down]
        from_middle_right = (column - (self.center[right] + 0.5)) * spacing[right]
        if self.plane is not AXIAL:
            from_middle_down = -from_middle_down
        scale = self.pixels / self.width_mm
        return self.pixels / 2 + from_middle_right * scale, self.pixels / 2 + from_middle_down * scale

    def sample(self, flat: npt.NDArray[Any], *, smooth: bool = False) -> npt.NDArray[np.float32]:
        """Enlarge a slice into the window: (pixels, pixels) float32, 0 beyond the image.

        Args:
            flat: Slice as `slice` gives it.
            smooth: Cubic instead of linear interpolation, for the image itself.
        """
        (down, right), spacing = self.plane.axes, self.display.spacing
        picture = Image.fromarray(np.ascontiguousarray(flat, dtype=np.float32))
        row = self.center[down] + 0.5
        if self.plane is not AXIAL:
            row = self.display.shape[down] - row
        column = self.center[right] + 0.5
        # Pillow's cubic and linear filters look at the nearest voxels only: shrink by means first.
        steps = [self.width_mm / self.pixels / spacing[a] for a in (down, right)]
        shrink = [max(1, int(step)) for step in steps]
        if max(shrink) > 1:
            picture = picture.reduce((shrink[1], shrink[0]))
            row, column = row / shrink[0], column / shrink[1]
            steps = [step / by for step, by in zip(steps, shrink, strict=True)]
        half = self.pixels / 2
        window = (steps[1], 0.0, column - half * steps[1], 0.0, steps[0], row - half * steps[0])
        # One voxel of copied border: Pillow blanks whatever is within half a voxel of its border.
        padded = Image.fromarray(np.pad(np.asarray(picture), 1, mode="edge"))
        window = (window[0], 0.0, window[2] + 1.0, 0.0, window[4], window[5] + 1.0)
        filtering = Image.Resampling.BICUBIC if smooth else Image.Resampling.BILINEAR
        drawn = np.array(
            padded.transform((self.pixels, self.pixels), Image.Transform.AFFINE, window, resample=filtering),
            dtype=np.float32,
        )
        drawn[~self._inside(picture.height, picture.width, window)] = 0.0
        return drawn

    def _inside(self, rows: int, columns: int, window: tuple[float, ...]) -> npt.NDArray[np.bool_]:
        pixel = np.arange(self.pixels) + 0.5
        x, y = window[0] * pixel + window[2] - 1.0, window[4] * pixel + window[5] - 1.0
        return ((y >= 0) & (y <= rows))[:, None] & ((x >= 0) & (x <= columns))[None, :]

    def grey(self, seen: npt.NDArray[Any], window: tuple[float, float]) -> Image.Image:
        """The slice in grey, RGB; `window` is what becomes black and white."""
        low, high = window
        drawn = self.sample(self.slice(seen).astype(np.float32) - low, smooth=True) / max(high - low, 1e-12)
        level = np.clip(drawn * 255.0, 0, 255).astype(np.uint8)
        return Image.fromarray(level).convert("RGB")

    def overlay(
        self, picture: Image.Image, seen: npt.NDArray[Any], maximum: float, opacity: float = 0.9
    ) -> Image.Image:
        """Lay a map over a picture: 0 is transparent, `maximum` and beyond the brightest colour."""
        value = np.clip(self.sample(self.slice(seen)) / maximum, 0.0, 1.0)
        color = color_table()[np.round(value * 255).astype(np.intp)].astype(np.float32)
        # Of one opacity from a tenth of the scale on, so that colours can be compared with the colour bar.
        alpha = (np.clip(value / 0.1, 0.0, 1.0) * opacity)[..., None]
        mixed = np.asarray(picture, dtype=np.float32) * (1 - alpha) + color * alpha
        return Image.fromarray(np.round(mixed).astype(np.uint8))

    def outlines(
        self,
        picture: Image.Image,
        seen: npt.NDArray[Any],
        colors: dict[int, Color],
        *,
        width: Literal[1, 2] = 2,
        opacity: float = 1.0,
    ) -> Image.Image:
        """Draw the border of each label in its colour.

        Args:
            picture: RGB picture of this frame.
            seen: Labelmap as display array.
            colors: Colour per label value; other values are not drawn.
            width: Line width in pixels.
            opacity: 0 to 1.
        """
        flat = self.slice(seen)
        canvas = np.array(picture, dtype=np.float32)
        for value in sorted(set(np.unique(flat).tolist()) & set(colors)):
            covered = self.sample(flat == value) >= 0.5
            line = covered & ~_shrunk(covered, width)
            canvas[line] = canvas[line] * (1 - opacity) + np.asarray(colors[int(value)]) * opacity
        return Image.fromarray(np.round(canvas).astype(np.uint8))

    def rectangle(self, picture: Image.Image, lo: Point, hi: Point, color: Color) -> Image.Image:
        """Draw the outline of a box of voxels, `lo` to `hi` (last + 1), display index (z, y, x)."""
        (down, right), drawing = self.plane.axes, picture.copy()
        ends = [self.to_pixels(lo[down], lo[right]), self.to_pixels(hi[down], hi[right])]
        (x0, y0), (x1, y1) = np.sort(np.asarray(ends), axis=0).tolist()
        pen = ImageDraw.Draw(drawing)
        pen.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=(0, 0, 0), width=4)
        pen.rectangle((x0, y0, x1, y1), outline=color, width=2)
        return drawing

    def ticks(self, picture: Image.Image) -> Image.Image:
        """Draw four ticks that point at the middle of the picture and leave it free."""
        drawing, middle, near, far = picture.copy(), self.pixels / 2, self.pixels / 9, self.pixels / 5
        pen = ImageDraw.Draw(drawing)
        for right, down in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            ends = [(middle + right * reach, middle + down * reach) for reach in (near, far)]
            pen.line(ends, fill=(0, 0, 0), width=4)
            pen.line(ends, fill=(120, 230, 255), width=2)
        return drawing

    def letters(self, picture: Image.Image) -> Image.Image:
        """Write the patient's directions at the four borders."""
        drawing, middle, edge = picture.copy(), self.pixels / 2, 5
        font = ImageFont.load_default(size=max(12, self.pixels // 22))
        places = (
            ((edge, middle), "lm"),
            ((self.pixels - edge, middle), "rm"),
            ((middle, edge), "ma"),
            ((middle, self.pixels - edge), "md"),
        )
        pen = ImageDraw.Draw(drawing)
        for letter, (at, anchor) in zip(self.plane.letters, places, strict=True):
            pen.text(
                at,
                letter,
                font=font,
                anchor=anchor,
                fill=(255, 255, 255),
                stroke_width=2,
                stroke_fill=(0, 0, 0),
            )
        return drawing


def _shrunk(covered: npt.NDArray[np.bool_], by: int) -> npt.NDArray[np.bool_]:
    """A mask without the pixels that touch its outside by an edge, `by` times; so does the border."""
    for _ in range(by):
        padded = np.pad(covered, 1)
        covered = covered & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return covered


def grey_window(array: npt.NDArray[Any]) -> tuple[float, float]:
    """Grey levels to show as black and white: the percentiles 0.5 and 99.5 of a sample of the voxels."""
    step = max(1, round((array.size / 250_000) ** (1 / 3)))
    low, high = np.percentile(array[::step, ::step, ::step].astype(np.float64), (0.5, 99.5)).tolist()
    return (low, high) if high > low else (low, low + 1.0)


def data_uri(picture: Image.Image, quality: int) -> str:
    """A picture as `data:` URI, JPEG without chroma subsampling (thin coloured lines survive)."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, subsampling=0, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
