# SPDX-License-Identifier: Apache-2.0
"""Regions of a replayed review: the worklist's, and those of its rivals, which get the same sizes.

The worklist decides how many voxels the region of each rank has; at that rank every rival gets exactly as
many. So nobody wins by size, and what is compared is where a method sends the reader, and which voxels there
it takes for wrong.

    worklist            `DIANetLib.acwi.review.RegionFinder` on the product's error probability: what the
                        user is shown.
    softmax_entropy     the same cutting into places (same extent, same smallest region), fed with the entropy
                        of the softmax of one plain pass, with the threshold at which as many voxels count as
                        for the worklist. Its regions are ranked by their sum of entropy. Around the centre of
                        the region of each rank, the voxels of highest entropy are taken.
    largest_boundary    the same cutting, fed with 1 at every boundary voxel of the segmentation: the places
                        with most boundary come first. Around each centre, boundary voxels are taken, the
                        nearest first.
    random_boundary     centres are boundary voxels drawn at random; voxels as for largest_boundary.

A rival takes its voxels from the ball of the places' radius around its centre, without those that it took
before; where these do not suffice, or where it has fewer regions than the worklist, it goes on with the
nearest voxels, and with the voxels of highest score. Boundary voxels share a face with another label.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from DIANetLib.acwi.places import Group, Places
from DIANetLib.acwi.review import RegionFinder
from DIANetLib.structures import Structure
from DIANetLib.volume import Volume

Mask = npt.NDArray[np.bool_]
Voxels = npt.NDArray[np.intp]
Map = npt.NDArray[np.floating[Any]]

_SLACK = 10  # places beyond the ranks, since they do not come in strictly falling order


@dataclass(frozen=True)
class ReviewSettings:
    """How regions are looked for; see `DIANetLib.acwi.review.find_regions`."""

    threshold: float = 0.2
    minimum_mm3: float = 10.0
    maximum: int = 10
    extent_mm: float = 15.0


def worklist_regions(
    error_probability: Volume, labels: Volume, structures: Sequence[Structure], settings: ReviewSettings
) -> list[Voxels]:
    """Voxels (V, 3) of each region of the worklist, by rank."""
    found = RegionFinder(error_probability, labels, structures).find_voxels(
        threshold=settings.threshold,
        minimum_mm3=settings.minimum_mm3,
        maximum=settings.maximum,
        extent_mm=settings.extent_mm,
    )
    return [item.voxels for item in found]


def scored_regions(
    score: Map, counted: int, sizes: Sequence[int], spacing: Sequence[float], settings: ReviewSettings
) -> list[Voxels]:
    """Regions of a rival that scores voxels.

    Args:
        score: (k, j, i), higher where a voxel is rather wrong; 0 where it does not count.
        counted: how many voxels count: those of highest score.
        sizes: voxels of the region of each rank.
        spacing: mm in the array's order.
        settings: extent and smallest region.
    """
    if not sizes or not score.any():
        return []
    radius = settings.extent_mm / 2
    kept = np.partition(score.ravel(), -counted)[-counted] if 0 < counted < score.size else 0.0
    threshold = max(float(kept), float(score[score > 0].min()))
    least = max(1, math.ceil(settings.minimum_mm3 / math.prod(spacing) - 1e-9))
    groups: list[Group] = []
    for number, place in enumerate(Places(score, spacing).cut(threshold, radius, least), start=1):
        groups += place
        if number >= len(sizes) + _SLACK and len(groups) >= len(sizes):
            break
    groups.sort(key=lambda group: (-float(group.error.sum(dtype=np.float64)), group.voxels[0].tolist()))
    return sized_regions(score, [_centre(group, spacing) for group in groups], sizes, spacing, radius)


def random_regions(
    boundary: Mask,
    sizes: Sequence[int],
    spacing: Sequence[float],
    settings: ReviewSettings,
    generator: np.random.Generator,
) -> list[Voxels]:
    """Regions around boundary voxels drawn at random; arguments as for `scored_regions`."""
    at = np.argwhere(boundary)
    if not sizes or not at.size:
        return []
    chosen = at[generator.permutation(len(at))[: len(sizes)]]
    return sized_regions(boundary.astype(np.float32), list(chosen), sizes, spacing, settings.extent_mm / 2)


def sized_regions(
    score: Map, centres: Sequence[Voxels], sizes: Sequence[int], spacing: Sequence[float], radius_mm: float
) -> list[Voxels]:
    """Regions of given sizes around centres, no voxel in two of them.

    Of the voxels of the ball around a centre those of highest score are taken, the nearest first among
    equals; where the ball does not hold enough, the nearest ones beyond it too.

    Args:
        score: (k, j, i).
        centres: index of the centre of each rank; where they are fewer than `sizes`, the voxel of highest
            score that is left is the centre.
        sizes: voxels of the region of each rank.
        spacing: mm in the array's order.
        radius_mm: of the ball.
    """
    taken = np.zeros(score.shape, dtype=bool)
    regions = []
    for rank, size in enumerate(sizes):
        if rank < len(centres):
            centre = np.asarray(centres[rank])
        else:
            centre = np.array(np.unravel_index(np.where(taken, -1, score).argmax(), score.shape))
        voxels = _nearby(score, taken, centre, min(size, int(taken.size - taken.sum())), spacing, radius_mm)
        taken[tuple(voxels.T)] = True
        regions.append(voxels)
    return regions


def boundary_voxels(labels: npt.NDArray[np.integer[Any]]) -> Mask:
    """Voxels (k, j, i) that share a face with one of another label."""
    boundary = np.zeros(labels.shape, dtype=bool)
    for axis in range(labels.ndim):
        along, edge = np.moveaxis(labels, axis, 0), np.moveaxis(boundary, axis, 0)
        differs = along[1:] != along[:-1]
        edge[1:] |= differs
        edge[:-1] |= differs
    return boundary


def _centre(group: Group, spacing: Sequence[float]) -> Voxels:
    """The voxel that is nearest to a group's centre of score, as a worklist's region has it."""
    offsets = (group.voxels - np.average(group.voxels, axis=0, weights=group.error)) * spacing
    nearest: Voxels = group.voxels[(offsets**2).sum(axis=1).argmin()]
    return nearest


def _nearby(
    score: Map, taken: Mask, centre: Voxels, size: int, spacing: Sequence[float], radius_mm: float
) -> Voxels:
    reach = radius_mm
    while True:
        half = [math.floor(reach / s) for s in spacing]
        low = [max(int(c) - h, 0) for c, h in zip(centre, half, strict=True)]
        high = [min(int(c) + h + 1, n) for c, h, n in zip(centre, half, score.shape, strict=True)]
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        free = np.argwhere(~taken[box]) + low
        squares = (((free - centre) * spacing) ** 2).sum(axis=1)
        near = squares <= reach**2
        if near.sum() >= size:
            break
        reach *= 1.5
    free, squares = free[near], squares[near]
    outside = squares > radius_mm**2
    # Beyond the ball nothing but the distance counts.
    values = np.where(outside, 0.0, score[tuple(free.T)])
    order = np.lexsort((squares, -values, outside))
    chosen: Voxels = free[order[:size]]
    return chosen
