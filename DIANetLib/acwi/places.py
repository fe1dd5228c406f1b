# SPDX-License-Identifier: Apache-2.0
"""Cutting a map of expected error into places that a person can look at.

Voxels that are probably wrong lie in thin shells along whole boundaries, which nobody can review as one
region. Greedily, as for maximum coverage (Nemhauser et al. 1978), each place is put where the most expected
error is left within reach, so that the first places hold as much of it as possible. Then every voxel goes to
its nearest place, and parts of a place that do not touch become groups of their own.

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
IntArray = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]

TOUCHING = np.ones((3, 3, 3), dtype=bool)  # voxels that share a corner touch
_CLEARED = 0.75  # of a place's radius: what is left around it is thin and joins it or its neighbour


def cut(
    error: npt.NDArray[np.float32], spacing: Sequence[float], radius_mm: float, least: int, places: int
) -> Iterator[tuple[npt.NDArray[np.intp], FloatArray]]:
    """Cut the voxels of positive error into groups of touching voxels within balls.

    Args:
        error: (k, j, i), 0 where a voxel doesn't count.
        spacing: mm in the array's order.
        radius_mm: no group reaches beyond a ball of this radius.
        least: voxels of the smallest group.
        places: most balls.

    Yields:
        Index (V, 3) of a group's voxels and their error (V,).
    """
    error = _without_specks(error, least)
    owner = _nearest_place(_centres(error, spacing, radius_mm, places), error > 0, spacing, radius_mm)
    for number, box in enumerate(ndimage.find_objects(owner), start=1):
        if box is None:
            continue
        pieces, count = ndimage.label(owner[box] == number, structure=TOUCHING)
        sizes = np.bincount(pieces.ravel(), minlength=count + 1)
        for piece in range(1, count + 1):
            if sizes[piece] >= least:
                voxels = np.argwhere(pieces == piece) + [s.start for s in box]
                yield voxels, error[tuple(voxels.T)]


def _without_specks(error: npt.NDArray[np.float32], least: int) -> npt.NDArray[np.float32]:
    pieces, _ = ndimage.label(error > 0, structure=TOUCHING)
    keep = np.bincount(pieces.ravel()) >= least
    keep[0] = False
    result: npt.NDArray[np.float32] = np.where(keep[pieces], error, np.float32(0))
    return result


def _centres(
    error: npt.NDArray[np.float32], spacing: Sequence[float], radius_mm: float, most: int
) -> list[tuple[int, ...]]:
    """Choose voxels, one after the other, with the most error around them that no earlier one has cleared."""
    left = error.copy()
    sigma = [radius_mm / 3 / s for s in spacing]
    halo = [math.ceil(2.5 * s) for s in sigma]

    def smooth(array: FloatArray) -> npt.NDArray[np.float32]:
        smoothed: npt.NDArray[np.float32] = ndimage.gaussian_filter(
            array, sigma, mode="constant", radius=halo
        )
        return smoothed

    density = smooth(left)
    ball = _ball(radius_mm * _CLEARED, spacing) <= radius_mm * _CLEARED
    half = [n // 2 for n in ball.shape]
    waiting = np.flatnonzero(left)
    chosen: list[tuple[int, ...]] = []
    while waiting.size and len(chosen) < most:
        centre = tuple(
            int(n) for n in np.unravel_index(waiting[density.ravel()[waiting].argmax()], left.shape)
        )
        chosen.append(centre)
        inner, part = _window(centre, half, left.shape)
        cleared = np.where(ball[part], left[inner], np.float32(0))
        left[inner] -= cleared
        # Smoothing is linear: taking away what the cleared voxels gave spares smoothing the whole again.
        outer, _ = _window(centre, [h + r for h, r in zip(half, halo, strict=True)], left.shape)
        gone = np.zeros([s.stop - s.start for s in outer], dtype=np.float32)
        gone[tuple(slice(i.start - o.start, i.stop - o.start) for i, o in zip(inner, outer, strict=True))] = (
            cleared
        )
        density[outer] -= smooth(gone)
        waiting = waiting[left.ravel()[waiting] > 0]
    return chosen


def _nearest_place(
    centres: Sequence[tuple[int, ...]], counted: BoolArray, spacing: Sequence[float], radius_mm: float
) -> IntArray:
    """Number, from 1, of the nearest centre within the radius, 0 without one; ties go to the earlier."""
    owner = np.zeros(counted.shape, dtype=np.int32)
    nearest = np.full(counted.shape, np.inf, dtype=np.float32)
    distance = _ball(radius_mm, spacing)
    half = [n // 2 for n in distance.shape]
    for number, centre in enumerate(centres, start=1):
        box, part = _window(centre, half, counted.shape)
        near = distance[part]
        better = counted[box] & (near <= radius_mm) & (near < nearest[box])
        nearest[box][better] = near[better]
        owner[box][better] = number
    return owner


def _ball(radius_mm: float, spacing: Sequence[float]) -> npt.NDArray[np.float32]:
    """Distances in mm from the middle voxel of a box that holds a ball of the radius."""
    axes = [np.arange(-math.floor(radius_mm / s), math.floor(radius_mm / s) + 1) * s for s in spacing]
    squares = np.meshgrid(*(axis**2 for axis in axes), indexing="ij")
    return np.sqrt(sum(squares)).astype(np.float32)


def _window(
    centre: Sequence[int], half: Sequence[int], shape: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Box of `half` voxels each way around a centre, cut to the array, and which part of the box is left."""
    outer, inner = [], []
    for c, h, n in zip(centre, half, shape, strict=True):
        low, high = max(c - h, 0), min(c + h + 1, n)
        outer.append(slice(low, high))
        inner.append(slice(low - (c - h), high - (c - h)))
    return tuple(outer), tuple(inner)
