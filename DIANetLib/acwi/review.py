# SPDX-License-Identifier: Apache-2.0
"""Review: the places where a segmentation is most likely wrong (paper section 3.4, Figure 5).

A voxel counts where its calibrated error probability reaches a threshold. What counts is cut into regions
that a person can look at (`DIANetLib.acwi.places`), ranked by expected wrong volume: the sum of the error
probability over a region's voxels times the volume of a voxel.

Runs inside Slicer's process: numpy and scipy only.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from DIANetLib.acwi.places import Group, Places
from DIANetLib.acwi.regions import (
    SCHEMA,
    SCHEMA_VERSION,
    Point,
    Region,
    State,
    regions_from_csv,
    regions_from_json,
    regions_to_csv,
    regions_to_json,
)
from DIANetLib.errors import InputError
from DIANetLib.structures import Structure
from DIANetLib.volume import Volume

__all__ = [
    "SCHEMA",
    "SCHEMA_VERSION",
    "Found",
    "Point",
    "Region",
    "RegionFinder",
    "State",
    "edit_mask",
    "find_regions",
    "regions_from_csv",
    "regions_from_json",
    "regions_to_csv",
    "regions_to_json",
]

# Places come in falling order of error, but not strictly: so many in a row that do not reach the list end it.
_PATIENCE = 10
_LABELS = 1 << 16  # above any label
_PLACES_PER_REGION = 10  # an end even where no place has a region, as in salt and pepper


@dataclass(frozen=True, eq=False)
class Found:
    """A region with its voxels.

    Attributes:
        region: what the worklist holds of it.
        voxels: (V, 3) index (k, j, i).
    """

    region: Region
    voxels: npt.NDArray[np.intp]


class RegionFinder:
    """Looks for regions of one segmentation with changing options, fast enough to follow a slider.

    What does not depend on the options is checked and worked out once. The same input gives the same list.

    Args:
        error_probability: calibrated probability, 0 to 1, that the label is wrong.
        labels: labelmap on the same grid, 0 for background.
        structures: what the labels stand for.

    Raises:
        InputError: grids differ, an error probability is not between 0 and 1, or a label has no structure.
    """

    def __init__(self, error_probability: Volume, labels: Volume, structures: Sequence[Structure]) -> None:
        _check_volumes(error_probability, labels, structures)
        self._geometry = error_probability.geometry
        self._labels = labels.array
        self._keys = {structure.value: structure.key for structure in structures}
        self._places = Places(error_probability.array, self._geometry.spacing[::-1])

    def find(
        self,
        *,
        threshold: float = 0.2,
        minimum_mm3: float = 10.0,
        maximum: int = 20,
        extent_mm: float = 15.0,
    ) -> tuple[Region, ...]:
        """List the places where the segmentation is most likely wrong, the largest wrong volume first.

        Args:
            threshold: error probability, above 0 and below 1, from which on a voxel counts.
            minimum_mm3: smaller regions are left out.
            maximum: most regions listed.
            extent_mm: greatest distance between the centres of two voxels of one region.

        Returns:
            At most `maximum` regions, all open; none where the error probability stays below the threshold.

        Raises:
            InputError: an option is out of range.
        """
        found = self.find_voxels(
            threshold=threshold, minimum_mm3=minimum_mm3, maximum=maximum, extent_mm=extent_mm
        )
        return tuple(item.region for item in found)

    def find_voxels(
        self,
        *,
        threshold: float = 0.2,
        minimum_mm3: float = 10.0,
        maximum: int = 20,
        extent_mm: float = 15.0,
    ) -> tuple[Found, ...]:
        """The same with the regions' voxels; arguments as for `find`."""
        _check_options(threshold, minimum_mm3, maximum, extent_mm)
        least = max(1, math.ceil(minimum_mm3 / self._voxel_mm3 - 1e-9))
        groups: list[tuple[float, Group]] = []
        listed: list[float] = []  # the largest sums, as a heap
        idle = 0
        for number, place in enumerate(self._places.cut(threshold, extent_mm / 2, least), start=1):
            reached = False
            for group in place:
                held = float(group.error.sum(dtype=np.float64))
                groups.append((held, group))
                reached |= len(listed) < maximum or held > listed[0]
                (heapq.heappush if len(listed) < maximum else heapq.heappushpop)(listed, held)
            idle = 0 if reached else idle + 1
            if (idle >= _PATIENCE and len(listed) == maximum) or number >= _PLACES_PER_REGION * maximum:
                break
        # Equal sums are ordered by place, for the list to be the same on every machine.
        groups.sort(key=lambda item: (-item[0], item[1].voxels[0].tolist()))
        return tuple(
            Found(self._describe(rank, group, held), group.voxels)
            for rank, (held, group) in enumerate(groups[:maximum], start=1)
        )

    @property
    def _voxel_mm3(self) -> float:
        return self._geometry.voxel_volume_ml * 1000.0

    def _describe(self, rank: int, group: Group, held: float) -> Region:
        geometry = self._geometry
        ijk = group.voxels[:, ::-1].astype(np.float64)
        offsets = (ijk - np.average(ijk, axis=0, weights=group.error)) * geometry.spacing
        middle = geometry.index_to_world(ijk[(offsets**2).sum(axis=1).argmin()])
        # A voxel's box reaches half of each of its edges beyond its centre.
        reach = np.abs(geometry.affine[:3, :3]).sum(axis=1) / 2
        world = geometry.index_to_world(ijk)
        return Region(
            rank=rank,
            structures=self._in_question(group),
            centre=_point(middle),
            lo=_point(world.min(axis=0) - reach),
            hi=_point(world.max(axis=0) + reach),
            volume_mm3=round(len(ijk) * self._voxel_mm3, 6),
            expected_error_mm3=round(held * self._voxel_mm3, 6),
            peak=round(float(group.error.max()), 6),
        )

    def _in_question(self, group: Group) -> tuple[str, ...]:
        """Keys of the structures whose border holds most of the doubt; see `Region.structures`.

        Each voxel that shares a face with one of another label votes for that pair of labels, by its error.
        """
        low, high = group.voxels.min(axis=0), group.voxels.max(axis=0) + 1
        box, start = _grown(low, high, 1, self._labels.shape)
        labels = self._labels[box]
        own = tuple((group.voxels - start).T)
        mine = labels[own].astype(np.int64)
        pairs, votes = [], []
        for axis in range(3):
            for step in (-1, 1):
                at = own[axis] + step
                inside = (at >= 0) & (at < labels.shape[axis])
                beside = [index[inside] for index in own]
                beside[axis] = at[inside]
                other, here = labels[tuple(beside)].astype(np.int64), mine[inside]
                border = here != other
                pair = np.minimum(here, other) * _LABELS + np.maximum(here, other)
                pairs.append(pair[border])
                votes.append(group.error[inside][border])
        borders, which = np.unique(np.concatenate(pairs), return_inverse=True)
        if borders.size:
            held = np.bincount(which, weights=np.concatenate(votes))
            one, other_label = divmod(int(borders[held.argmax()]), _LABELS)
            given = np.bincount(mine, weights=group.error, minlength=_LABELS)
            both = sorted((one, other_label), key=lambda label: -given[label])
            return tuple(self._keys[label] for label in both if label)
        if mine.any():
            return (self._keys[int(np.bincount(mine)[1:].argmax()) + 1],)
        return self._nearest(group, low, high)

    def _nearest(
        self, group: Group, low: npt.NDArray[np.intp], high: npt.NDArray[np.intp]
    ) -> tuple[str, ...]:
        """Key of the structure nearest to voxels in the background; empty if there is none anywhere."""
        margin = 4
        while True:
            box, start = _grown(low, high, margin, self._labels.shape)
            around = self._labels[box]
            if around.any():
                break
            if around.shape == self._labels.shape:
                return ()
            margin *= 2
        region = np.zeros(around.shape, dtype=bool)
        region[tuple((group.voxels - start).T)] = True
        distance = ndimage.distance_transform_edt(~region, sampling=self._geometry.spacing[::-1])
        at = np.where(around > 0, distance, np.inf).argmin()
        return (self._keys[int(around.ravel()[at])],)


def find_regions(
    error_probability: Volume,
    labels: Volume,
    structures: Sequence[Structure],
    *,
    threshold: float = 0.2,
    minimum_mm3: float = 10.0,
    maximum: int = 20,
    extent_mm: float = 15.0,
) -> tuple[Region, ...]:
    """List regions once; see `RegionFinder`, which is faster where options change."""
    finder = RegionFinder(error_probability, labels, structures)
    return finder.find(threshold=threshold, minimum_mm3=minimum_mm3, maximum=maximum, extent_mm=extent_mm)


def edit_mask(
    region: Region, error_probability: Volume, *, threshold: float, margin_mm: float = 2.0
) -> npt.NDArray[np.bool_]:
    """Where a correction of a region may change voxels.

    Args:
        region: one of the list that was found in `error_probability` with `threshold`.
        error_probability: on the grid of the segmentation.
        threshold: error probability from which on a voxel counts.
        margin_mm: how far beyond those voxels may be edited, mm.

    Returns:
        (k, j, i) on the volume's grid: voxels within `margin_mm` of those in the region's box whose error
        probability reaches the threshold; around the region's centre where none does.

    Raises:
        InputError: the margin is negative or not finite, or the region lies outside the volume.
    """
    if not (math.isfinite(margin_mm) and margin_mm >= 0):
        raise InputError(f"The margin of an edit is {margin_mm} mm, expected 0 or more.")
    geometry = error_probability.geometry
    corners = np.array(np.meshgrid(*zip(region.lo, region.hi, strict=True))).reshape(3, -1).T
    indices = geometry.world_to_index(corners)
    reach = [math.ceil(margin_mm / s) for s in geometry.spacing]
    low = np.maximum(np.floor(indices.min(axis=0)).astype(int) - reach, 0)
    high = np.minimum(np.ceil(indices.max(axis=0)).astype(int) + reach + 1, geometry.size)
    mask = np.zeros(geometry.shape, dtype=bool)
    if (low >= high).any():
        raise InputError(f"Region {region.rank} lies outside the image.", remedy="Look for regions again.")
    box = tuple(slice(int(a), int(b)) for a, b in zip(low[::-1], high[::-1], strict=True))
    k, j, i = np.meshgrid(*(np.arange(s.start, s.stop) for s in box), indexing="ij")
    world = geometry.index_to_world(np.stack([i, j, k], axis=-1))
    within = ((world >= np.subtract(region.lo, 1e-3)) & (world <= np.add(region.hi, 1e-3))).all(axis=-1)
    core = within & (error_probability.array[box] >= threshold)
    if not core.any():
        middle = np.rint(geometry.world_to_index(region.centre)).astype(int)
        core[tuple(np.clip(middle - low, 0, high - low - 1)[::-1])] = True
    distance = ndimage.distance_transform_edt(~core, sampling=geometry.spacing[::-1])
    mask[box] = distance <= margin_mm + 1e-6
    return mask


def _grown(
    low: npt.NDArray[np.intp], high: npt.NDArray[np.intp], margin: int, shape: Sequence[int]
) -> tuple[tuple[slice, ...], npt.NDArray[np.intp]]:
    """A box with a margin, cut to the array, and its first voxel."""
    start = np.maximum(low - margin, 0)
    stop = np.minimum(high + margin, shape)
    return tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True)), start


def _point(position: npt.NDArray[np.float64]) -> Point:
    # A micrometre is far below any voxel, and its digits are the same everywhere. Adding 0 drops "-0.0".
    x, y, z = (round(float(p), 3) + 0.0 for p in position)
    return x, y, z


def _check_options(threshold: float, minimum_mm3: float, maximum: int, extent_mm: float) -> None:
    if not 0 < threshold < 1:
        raise InputError(f"The threshold is {threshold}, expected more than 0 and less than 1.")
    if not minimum_mm3 >= 0:
        raise InputError(f"The smallest volume of a region is {minimum_mm3} mm³, expected 0 or more.")
    if maximum < 1:
        raise InputError(f"The number of regions asked for is {maximum}, expected at least 1.")
    if not (math.isfinite(extent_mm) and extent_mm > 0):
        raise InputError(f"The extent of a region is {extent_mm} mm, expected a positive number.")


def _check_volumes(error_probability: Volume, labels: Volume, structures: Sequence[Structure]) -> None:
    if not error_probability.geometry.same_grid(labels.geometry, 1e-3):
        raise InputError(
            "The error probability and the labels are on different grids.",
            remedy="Resample the labels onto the grid of the error probability.",
        )
    error = error_probability.array
    if not (error.min() >= 0 and error.max() <= 1 + 1e-5):
        raise InputError(
            f"The error probability goes from {error.min():g} to {error.max():g}, expected 0 to 1 everywhere."
        )
    if labels.array.dtype.kind not in "biu":
        raise InputError(f"The labels are {labels.array.dtype}, expected whole numbers.")
    foreground = labels.array[labels.array != 0]
    unknown = sorted(set(np.unique(foreground).tolist()) - {structure.value for structure in structures})
    if unknown:
        raise InputError(f"The labels have values that no structure has: {', '.join(map(str, unknown))}.")
