# SPDX-License-Identifier: Apache-2.0
"""Tiles of whole slides: which of them show tissue, and their pixels; slides are opened by OpenSlide.

Tissue is what is coloured: on a thumbnail, pixels whose saturation (of hue, saturation, value) is above
Otsu's threshold, and above `LEAST_SATURATION` in any case, so that an empty slide has none. Tiles lie side by
side from the slide's corner; one counts if enough of it is tissue.

Otsu, IEEE Transactions on Systems, Man, and Cybernetics 9, 62 (1979).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 (the name that its own documentation uses)
from PIL import Image
from pydantic import Field

from DIANetLib.errors import InputError, optional_import
from DIANetLib.volume import Geometry, Volume
from training.annotations import Lesions
from training.config import DataConfig
from training.config_tasks import Section
from training.datasets.base import Case

#: Of 255: what Otsu's threshold is at least.
LEAST_SATURATION = 15
#: Pixels of the thumbnail along a tile, and along the thumbnail, at most.
_PER_TILE, _THUMBNAIL = 16, 4096
#: How much coarser than wanted a level may be before a finer one is read.
_TOLERANCE = 1.05


class TileOptions(Section):
    """How slides are cut into tiles.

    Attributes:
        tile: pixels along a side of a tile as it is read.
        spacing_um: micrometres per pixel of it.
        tissue: least share of a tile that is tissue.
        per_slide: tiles of a slide, at most; which, the seed and the slide's name decide. Where lesions are
            outlined, half of them show lesion if there are as many.
        seed: of that choice.
        source_um: micrometres per pixel of slides that do not say it themselves.
    """

    tile: int = Field(default=256, ge=8)
    spacing_um: float = Field(default=1.0, gt=0.0)
    tissue: float = Field(default=0.5, gt=0.0, le=1.0)
    per_slide: int = Field(default=100, ge=1)
    seed: int = 1
    source_um: float | None = Field(default=None, gt=0.0)


@dataclass(frozen=True)
class Tile:
    """A square of a slide; `place` is what a case holds of it.

    Attributes:
        level: level of the pyramid that is read.
        x: pixels of the finest level from the left.
        y: and from above.
        side: pixels of the finest level along a side.
    """

    level: int
    x: int
    y: int
    side: int

    @property
    def place(self) -> tuple[int, ...]:
        """Level, left, top and side."""
        return self.level, self.x, self.y, self.side


@contextmanager
def open_slide(path: Path) -> Iterator[Any]:
    """Open a slide for a while.

    Raises:
        DependencyError: if OpenSlide is not installed.
        InputError: if the file is missing, or no slide that OpenSlide reads.
    """
    openslide = optional_import(
        "openslide", feature="whole slides", extra="pathology", version=">=1.4 with openslide-bin"
    )
    if not path.is_file():
        raise InputError(f"There is no slide {path}.", remedy="Check the path.")
    try:
        slide = openslide.OpenSlide(path)
    except openslide.OpenSlideError as error:
        raise InputError(
            f"The slide {path} cannot be opened: {_reason(error)}.",
            remedy="Expected a tiled TIFF, SVS or another format that OpenSlide reads; copy it again.",
        ) from error
    try:
        yield slide
    except openslide.OpenSlideError as error:
        raise InputError(
            f"The slide {path} is damaged: {_reason(error)}.", remedy="Copy it again."
        ) from error
    finally:
        slide.close()


def find_tiles(path: Path, options: TileOptions, lesions: Lesions | None = None) -> tuple[Tile, ...]:
    """Tiles of a slide that show tissue, in reading order.

    Args:
        path: the slide.
        options: size and number of the tiles.
        lesions: outlines to prefer.

    Raises:
        InputError: if the slide cannot be read, has no pixel size, or is coarser than what is wanted.
    """
    with open_slide(path) as slide:
        own = _spacing_um(slide, path, options)
        factor = options.spacing_um / own
        if factor * _TOLERANCE < 1.0:
            raise InputError(
                f"The slide {path} has {own:g} µm per pixel, expected at most {options.spacing_um:g}.",
                remedy="Set data.options.spacing_um to what the slides have.",
            )
        level = slide.get_best_level_for_downsample(factor * _TOLERANCE)
        side = round(options.tile * factor)
        width, height = slide.dimensions
        scale = min(_PER_TILE / side, _THUMBNAIL / max(width, height))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        thumbnail = slide.get_thumbnail(size)
    columns, rows = width // side, height // side
    if not columns or not rows:
        return ()
    share = _share(tissue(np.asarray(thumbnail)), (columns, rows), side * thumbnail.width / width)
    candidates = np.flatnonzero(share >= options.tissue)
    if candidates.size > options.per_slide:
        rng = np.random.default_rng([options.seed, zlib.crc32(path.stem.encode())])
        shuffled = rng.permutation(candidates)
        if lesions is not None:
            fine = max(1, min(4, 1024 // max(columns, rows)))  # squares along a tile
            extent, squares = (columns * side, rows * side), (columns * fine, rows * fine)
            within = _share(lesions.mask((0, 0), extent, squares) > 0, (columns, rows), fine) > 0
            shuffled = _half_first(shuffled, within.ravel()[shuffled], options.per_slide)
        candidates = np.sort(shuffled[: options.per_slide])
    return tuple(Tile(level, int(n % columns) * side, int(n // columns) * side, side) for n in candidates)


def tissue(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Where (J, I, 3) pixels are coloured enough to be tissue, (J, I)."""
    saturation = np.asarray(Image.fromarray(pixels).convert("HSV"))[..., 1]
    otsu = sitk.OtsuThresholdImageFilter()
    otsu.Execute(sitk.GetImageFromArray(np.ascontiguousarray(saturation)))
    found: npt.NDArray[np.bool_] = saturation > max(otsu.GetThreshold(), LEAST_SATURATION)
    return found


def read_tile(path: Path, tile: Tile, size: int) -> npt.NDArray[np.uint8]:
    """The pixels (size, size, 3) of a tile; what the slide leaves transparent is white.

    Raises:
        InputError: if the slide cannot be read.
    """
    with open_slide(path) as slide:
        pixels = max(1, round(tile.side / slide.level_downsamples[tile.level]))
        region = slide.read_region((tile.x, tile.y), tile.level, (pixels, pixels))
    white = Image.new("RGBA", region.size, "white")
    white.alpha_composite(region)
    return np.asarray(white.convert("RGB").resize((size, size), Image.Resampling.BOX))


def tile_cases(
    path: Path,
    tiles: Sequence[Tile],
    *,
    labels: Path | None = None,
    target: int | None = None,
    group: str,
) -> list[Case]:
    """A case for each tile of a slide, named by the slide and the tile's corner."""
    return [
        Case(f"{path.stem}_x{tile.x}_y{tile.y}", (path,), labels, target, group, place=tile.place)
        for tile in tiles
    ]


def tile_volumes(case: Case, options: TileOptions) -> tuple[Volume, ...]:
    """The tile of a case as one volume of one slice for each of red, green and blue.

    Raises:
        InputError: if the slide cannot be read.
    """
    path, tile = case.images[0], Tile(*case.place)
    assert path is not None  # a tile without its slide is never listed
    pixels = read_tile(path, tile, options.tile)
    grid = tile_geometry(tile, options)
    return tuple(
        Volume(np.ascontiguousarray(pixels[None, :, :, colour]), grid, name=name, source=str(path))
        for colour, name in enumerate(("red", "green", "blue"))
    )


def tile_geometry(tile: Tile, options: TileOptions) -> Geometry:
    """The grid of a tile, in mm from the slide's corner."""
    spacing = options.spacing_um / 1000.0
    scale = spacing * options.tile / tile.side  # mm per pixel of the finest level
    origin = (tile.x * scale, tile.y * scale, 0.0)
    return Geometry((options.tile, options.tile, 1), (spacing, spacing, 1.0), origin, np.eye(3))


def check_colours(config: DataConfig) -> None:
    """Raise unless a model has a modality for each colour of a slide.

    Raises:
        InputError: it says how many there are.
    """
    if len(config.modalities) != 3:
        raise InputError(
            f"expected a model of 3 modalities (red, green, blue) for slides, got {len(config.modalities)}."
        )


def _spacing_um(slide: Any, path: Path, options: TileOptions) -> float:
    text = slide.properties.get("openslide.mpp-x")
    if text is not None:
        return float(text)
    if options.source_um is None:
        raise InputError(
            f"The slide {path} does not say how large its pixels are.",
            remedy="Give data.options.source_um, the micrometres per pixel of its finest level.",
        )
    return options.source_um


def _share(mask: npt.NDArray[np.bool_], grid: tuple[int, int], pixels: float) -> npt.NDArray[np.float32]:
    """The share (rows, columns) of each square of so many pixels that is in a mask."""
    columns, rows = grid
    box = (0.0, 0.0, min(columns * pixels, mask.shape[1]), min(rows * pixels, mask.shape[0]))
    values = Image.fromarray(mask.astype(np.float32))
    return np.asarray(values.resize(grid, Image.Resampling.BOX, box=box))


def _half_first(
    numbers: npt.NDArray[np.int_], preferred: npt.NDArray[np.bool_], count: int
) -> npt.NDArray[np.int_]:
    """Numbers in an order whose first `count` are preferred ones by half, or as many as there are."""
    half = np.cumsum(preferred) <= (count + 1) // 2
    first = preferred & half
    return np.concatenate([numbers[first], numbers[~preferred], numbers[preferred & ~half]])


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
