# SPDX-License-Identifier: Apache-2.0
"""Cutting a map of expected error into places that a person can look at.

Voxels that are probably wrong lie in thin shells along whole boundaries, which nobody can review as one
region. Greedily, as for maximum coverage (Nemhauser et al. 1978), each place is a ball put where the most
expected error is left within reach, so that the first places hold as much of it as possible; parts of a place
that do not touch become groups of their own.

numpy and scipy only: this runs inside Slicer's process.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

FloatArray = npt.NDArray[np.floating[Any]]
Float32Array = npt.NDArray[np.float32]
Box = tuple[slice, ...]

TOUCHING = np.ones((3, 3, 3), dtype=bool)  # voxels that share a corner touch
_TILE = 16  # voxels along an edge of the tiles whose maxima are kept


def cut(
    error: Float32Array, spacing: Sequence[float], radius_mm: float, least: int, places: int
) -> Iterator[tuple[npt.NDArray[np.intp], Float32Array]]:
    """Cut the voxels of positive error into groups of touching voxels within balls.

    Args:
        error: (k, j, i), 0 where a voxel doesn't count.
        spacing: mm in the array's order.
        radius_mm: no group reaches beyond a ball of this radius.
        least: voxels of the smallest group; what is smaller is left out.
        places: most balls; what none of them reaches is left out.

    Yields:
        Index (V, 3) of a group's voxels and their error (V,).
    """
    error = _without_specks(error, least)
    owner = _places(error, spacing, radius_mm, places)
    for number, box in enumerate(ndimage.find_objects(owner), start=1):
        pieces, count = ndimage.label(owner[box] == number, structure=TOUCHING)
        sizes = np.bincount(pieces.ravel(), minlength=count + 1)
        for piece in np.flatnonzero(sizes[1:] >= least) + 1:
            voxels = np.argwhere(pieces == piece) + [s.start for s in box]
            yield voxels, error[tuple(voxels.T)]


def _without_specks(error: Float32Array, least: int) -> Float32Array:
    pieces, _ = ndimage.label(error > 0, structure=TOUCHING)
    keep = np.bincount(pieces.ravel()) >= least
    keep[0] = False
    result: Float32Array = np.where(keep[pieces], error, np.float32(0))
    return result


def _places(
    error: Float32Array, spacing: Sequence[float], radius_mm: float, most: int
) -> npt.NDArray[np.int32]:
    """Number, from 1 in the order of choice, of the place that holds each voxel; 0 for none."""
    owner = np.zeros(error.shape, dtype=np.int32)
    left = error.copy()
    # At the radius of a place this Gaussian is down to an eighth: it weighs what a place there would hold,
    # and prefers a place that has the worst of it in its middle.
    sigma = [radius_mm / 2 / s for s in spacing]
    halo = [math.ceil(2 * s) for s in sigma]

    def smooth(array: Float32Array) -> Float32Array:
        smoothed: Float32Array = ndimage.gaussian_filter(array, sigma, mode="constant", radius=halo)
        return smoothed

    density = _Peaks(smooth(left), left)
    ball = _ball(radius_mm, spacing)
    half = [n // 2 for n in ball.shape]
    reach = [h + r for h, r in zip(half, halo, strict=True)]
    for number in range(1, most + 1):
        centre = density.highest()
        if centre is None:
            break
        inner, part = _window(centre, half, left.shape)
        cleared = np.where(ball[part], left[inner], np.float32(0))
        owner[inner][cleared > 0] = number
        left[inner] -= cleared
        # Smoothing is linear: taking away what the cleared voxels gave spares smoothing the whole again.
        outer, _ = _window(centre, reach, left.shape)
        gone = np.zeros([s.stop - s.start for s in outer], dtype=np.float32)
        gone[tuple(slice(i.start - o.start, i.stop - o.start) for i, o in zip(inner, outer, strict=True))] = (
            cleared
        )
        density.subtract(smooth(gone), outer)
    return owner


class _Peaks:
    """A map whose highest allowed voxel is found without searching all of it, since changes are local.

    Args:
        values: the map; changed in place by `subtract`.
        allowed: same shape; only voxels where it is positive (at that moment) can be found.
    """

    def __init__(self, values: Float32Array, allowed: Float32Array) -> None:
        self._values, self._allowed = values, allowed
        tiles = [math.ceil(n / _TILE) for n in values.shape]
        self._maxima = np.empty(tiles, dtype=np.float32)
        self._measure(tuple(slice(0, n) for n in values.shape))

    def highest(self) -> tuple[int, ...] | None:
        """Index of the highest allowed voxel, None where none is allowed."""
        tile = np.unravel_index(self._maxima.argmax(), self._maxima.shape)
        if self._maxima[tile] == -np.inf:
            return None
        box = tuple(slice(int(t) * _TILE, (int(t) + 1) * _TILE) for t in tile)
        inside = self._masked(box)
        at = np.unravel_index(inside.argmax(), inside.shape)
        return tuple(s.start + int(n) for s, n in zip(box, at, strict=True))

    def subtract(self, change: Float32Array, box: Box) -> None:
        """Lower the map in a box, which must hold every voxel that ceased to be allowed."""
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


def _window(centre: Sequence[int], half: Sequence[int], shape: Sequence[int]) -> tuple[Box, Box]:
    """Box of `half` voxels each way around a centre, cut to the array, and which part of the box is left."""
    outer, inner = [], []
    for c, h, n in zip(centre, half, shape, strict=True):
        low, high = max(c - h, 0), min(c + h + 1, n)
        outer.append(slice(low, high))
        inner.append(slice(low - (c - h), high - (c - h)))
    return tuple(outer), tuple(inner)
