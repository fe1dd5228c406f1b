# SPDX-License-Identifier: Apache-2.0
"""Cutting a map of expected error into places that a person can look at.

Voxels that are probably wrong lie in thin shells along whole boundaries, which nobody can review as one
region. Greedily, as for maximum coverage (Nemhauser et al. 1978), each place is a ball put where the most
expected error is left within reach, so that the first places hold as much of it as possible; parts of a place
that do not touch become groups of their own.

Where to put a ball is decided on cells of a third of its radius, and then moved to the centre of what it
holds (mean shift, Comaniciu and Meer 2002); only what the ball takes is looked at voxel by voxel. What does
not depend on the threshold is kept, so that a head at 1 mm is cut anew while a slider moves.

numpy and scipy only: this runs inside Slicer's process.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

FloatArray = npt.NDArray[np.floating[Any]]
Float32Array = npt.NDArray[np.float32]
IndexArray = npt.NDArray[np.intp]
Box = tuple[slice, ...]

TOUCHING = np.ones((3, 3, 3), dtype=bool)  # voxels that share a corner touch
_TILE = 16  # cells along an edge of the tiles whose maxima are kept
_FLOOR = 0.05  # error from which on voxels are kept at first; a lower threshold collects them anew
_SHIFTS = 3  # a place has found its centre by then, or is as good as


@dataclass(frozen=True, eq=False)
class Group:
    """Voxels that touch and lie within a ball.

    Attributes:
        voxels: (V, 3) index.
        error: (V,) their error.
    """

    voxels: IndexArray
    error: Float32Array


class Places:
    """Cuts one map, with changing options.

    Args:
        error: (k, j, i), not negative; not changed.
        spacing: mm in the array's order.
    """

    def __init__(self, error: FloatArray, spacing: Sequence[float]) -> None:
        self._error = np.ascontiguousarray(error, dtype=np.float32)
        self._spacing = tuple(float(s) for s in spacing)
        self._grid: _Grid | None = None
        self._collect(_FLOOR)

    def cut(self, threshold: float, radius_mm: float, least: int) -> Iterator[tuple[Group, ...]]:
        """Cut the voxels that reach a threshold into places, those with the most error first.

        Args:
            threshold: positive; a voxel counts if its error is not below it.
            radius_mm: no group reaches beyond a ball of this radius.
            least: voxels of the smallest group; what is smaller is left out.

        Yields:
            The groups of a place, the largest error first; none where all were too small. The places end
            when no voxel is left.
        """
        if threshold < self._floor:
            self._collect(threshold)
        level = np.float32(threshold)
        first = int(np.searchsorted(self._values, level))
        if first == self._values.size:
            return
        if self._grid is None or self._grid.radius_mm != radius_mm:
            self._grid = _Grid(self._index, self._error.shape, self._spacing, radius_mm)
        left = _Left(self._grid, self._grid.cell_of[first:], self._values[first:])
        ball = _ball(radius_mm, self._spacing)
        taken = np.zeros(self._error.shape, dtype=bool)
        while (centre := left.highest()) is not None:
            start, mask = self._place(centre, ball, level, taken)
            box = tuple(slice(s, s + n) for s, n in zip(start, mask.shape, strict=True))
            taken[box] |= mask
            inside = np.argwhere(mask)
            left.remove(inside + start, self._error[box][mask])
            yield self._groups(inside, mask, start, least)

    def _collect(self, floor: float) -> None:
        """Keep the voxels from a level on, in rising order, so that any threshold is a cut through them."""
        index = np.flatnonzero(self._error >= np.float32(floor))
        values = self._error.ravel()[index]
        order = np.argsort(values, kind="stable")
        self._index, self._values, self._floor = index[order], values[order], floor
        self._grid = None

    def _place(
        self,
        centre: Sequence[int],
        ball: npt.NDArray[np.bool_],
        level: np.float32,
        taken: npt.NDArray[np.bool_],
    ) -> tuple[list[int], npt.NDArray[np.bool_]]:
        """Start of a box, and which of its voxels a ball takes that was put near a centre."""
        best: tuple[list[int], npt.NDArray[np.bool_]] | None = None
        most = 0.0
        for _ in range(_SHIFTS + 1):
            outer, inner = _window(centre, [n // 2 for n in ball.shape], self._error.shape)
            values = self._error[outer]
            mask = ball[inner] & (values >= level) & ~taken[outer]
            weights = np.where(mask, values, np.float32(0))
            held = float(weights.sum(dtype=np.float64))
            if best is not None and held <= most:
                break
            start = [s.start for s in outer]
            best, most = (start, mask), held
            shifted = [
                round(s + _mean_index(weights.sum(axis=tuple({0, 1, 2} - {axis}))))
                for axis, s in enumerate(start)
            ]
            if shifted == list(centre):
                break
            centre = shifted
        assert best is not None
        return best

    def _groups(
        self, inside: IndexArray, mask: npt.NDArray[np.bool_], start: Sequence[int], least: int
    ) -> tuple[Group, ...]:
        pieces, count = ndimage.label(mask, structure=TOUCHING)
        which = pieces[tuple(inside.T)]
        voxels = inside + start
        error = self._error[tuple(voxels.T)]
        groups = []
        for piece in range(1, count + 1):
            mine = which == piece
            if np.count_nonzero(mine) >= least:
                groups.append(Group(voxels[mine], error[mine]))
        return tuple(sorted(groups, key=lambda group: -float(group.error.sum(dtype=np.float64))))


class _Grid:
    """Boxes of a few voxels, a third of a place's radius along each edge, over the voxels that matter.

    Args:
        index: (V,) flat index of the voxels, one or more.
        shape: of the map.
        spacing: mm in the map's order.
        radius_mm: of a place.
    """

    def __init__(
        self, index: IndexArray, shape: Sequence[int], spacing: Sequence[float], radius_mm: float
    ) -> None:
        self.radius_mm, self.map_shape = radius_mm, shape
        self.edges = [max(1, round(radius_mm / 3 / s)) for s in spacing]
        # At the radius of a place this Gaussian is down to an eighth: it weighs what a place there would
        # hold, and prefers one that has the worst of it in its middle.
        self.sigma = [radius_mm / 2 / (s * n) for s, n in zip(spacing, self.edges, strict=True)]
        self.halo = [math.ceil(2 * s) for s in self.sigma]
        where = [axis // edge for axis, edge in zip(np.unravel_index(index, shape), self.edges, strict=True)]
        self.first = [int(axis.min()) for axis in where]
        self.shape = [int(axis.max()) - low + 1 for axis, low in zip(where, self.first, strict=True)]
        inside = tuple(axis - low for axis, low in zip(where, self.first, strict=True))
        self.cell_of = np.ravel_multi_index(inside, self.shape)

    def smooth(self, array: Float32Array) -> Float32Array:
        """What places around each cell of an array would hold."""
        smoothed: Float32Array = ndimage.gaussian_filter(array, self.sigma, mode="constant", radius=self.halo)
        return smoothed


class _Left:
    """What is left of the error in the cells of a grid, and where most of it is within reach.

    Args:
        grid: the cells.
        cell_of: (V,) flat index of the cell of each voxel that counts.
        values: (V,) their error.
    """

    def __init__(self, grid: _Grid, cell_of: IndexArray, values: Float32Array) -> None:
        self._grid = grid
        size = math.prod(grid.shape)
        content = np.bincount(cell_of, weights=values, minlength=size).reshape(grid.shape)
        # Counted apart, for a cell to be empty when its last voxel is gone, whatever rounding leaves of it.
        self._count = np.bincount(cell_of, minlength=size).reshape(grid.shape)
        self._density = _Peaks(grid.smooth(content.astype(np.float32)), self._count)

    def highest(self) -> list[int] | None:
        """Voxel in the middle of the cell around which most error is left, None where none is left."""
        cell = self._density.highest()
        if cell is None:
            return None
        grid = self._grid
        middles = [(c + low) * e + e // 2 for c, low, e in zip(cell, grid.first, grid.edges, strict=True)]
        return [min(middle, n - 1) for middle, n in zip(middles, grid.map_shape, strict=True)]

    def remove(self, voxels: IndexArray, values: Float32Array) -> None:
        """Take away voxels (V, 3) and their error (V,)."""
        grid = self._grid
        cells = voxels // grid.edges - grid.first
        low, high = cells.min(axis=0), cells.max(axis=0) + 1
        inner = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        shape = tuple(int(n) for n in high - low)
        flat = np.ravel_multi_index(tuple((cells - low).T), shape)
        size = math.prod(shape)
        self._count[inner] -= np.bincount(flat, minlength=size).reshape(shape)
        # Smoothing is linear: taking away what the voxels gave spares smoothing the whole again.
        outer = tuple(
            slice(max(s.start - h, 0), min(s.stop + h, n))
            for s, h, n in zip(inner, grid.halo, grid.shape, strict=True)
        )
        gone = np.zeros([s.stop - s.start for s in outer], dtype=np.float32)
        part = tuple(slice(i.start - o.start, i.stop - o.start) for i, o in zip(inner, outer, strict=True))
        gone[part] = np.bincount(flat, weights=values, minlength=size).reshape(shape)
        self._density.subtract(grid.smooth(gone), outer)


class _Peaks:
    """A map whose highest allowed entry is found without searching all of it, since changes are local.

    Args:
        values: the map; changed in place by `subtract`.
        allowed: same shape; only entries where it is positive (at that moment) can be found.
    """

    def __init__(self, values: Float32Array, allowed: npt.NDArray[Any]) -> None:
        self._values, self._allowed = values, allowed
        tiles = [math.ceil(n / _TILE) for n in values.shape]
        self._maxima = np.empty(tiles, dtype=np.float32)
        self._measure(tuple(slice(0, n) for n in values.shape))

    def highest(self) -> tuple[int, ...] | None:
        """Index of the highest allowed entry, None where none is allowed."""
        tile = np.unravel_index(self._maxima.argmax(), self._maxima.shape)
        if self._maxima[tile] == -np.inf:
            return None
        box = tuple(slice(int(t) * _TILE, (int(t) + 1) * _TILE) for t in tile)
        inside = self._masked(box)
        at = np.unravel_index(inside.argmax(), inside.shape)
        return tuple(s.start + int(n) for s, n in zip(box, at, strict=True))

    def subtract(self, change: Float32Array, box: Box) -> None:
        """Lower the map in a box, which must hold every entry that ceased to be allowed."""
        self._values[box] -= change
        self._measure(box)

    def _masked(self, box: Box) -> Float32Array:
        return np.where(self._allowed[box] > 0, self._values[box], np.float32(-np.inf))

    def _measure(self, box: Box) -> None:
        tiles = tuple(slice(s.start // _TILE, math.ceil(s.stop / _TILE)) for s in box)
        values = self._masked(tuple(slice(t.start * _TILE, t.stop * _TILE) for t in tiles))
        for axis in range(values.ndim):
            values = np.maximum.reduceat(values, np.arange(0, values.shape[axis], _TILE), axis=axis)
        self._maxima[tiles] = values


def _ball(radius_mm: float, spacing: Sequence[float]) -> npt.NDArray[np.bool_]:
    """Voxels of a box around its middle one whose centres are within the radius of it."""
    axes = [np.arange(-math.floor(radius_mm / s), math.floor(radius_mm / s) + 1) * s for s in spacing]
    squares = np.stack(np.meshgrid(*(axis**2 for axis in axes), indexing="ij"))
    inside: npt.NDArray[np.bool_] = squares.sum(axis=0) <= radius_mm**2
    return inside


def _mean_index(weights: FloatArray) -> float:
    return float((weights * np.arange(weights.size)).sum() / weights.sum())


def _window(centre: Sequence[int], half: Sequence[int], shape: Sequence[int]) -> tuple[Box, Box]:
    """Box of `half` voxels each way around a centre, cut to the array, and which part of the box is left."""
    outer, inner = [], []
    for c, h, n in zip(centre, half, shape, strict=True):
        low, high = max(c - h, 0), min(c + h + 1, n)
        outer.append(slice(low, high))
        inner.append(slice(low - (c - h), high - (c - h)))
    return tuple(outer), tuple(inner)
