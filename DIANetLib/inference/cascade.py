# SPDX-License-Identifier: Apache-2.0
"""Where to look: from what a localiser found to the regions that the next model reads.

The localiser's mask falls into components; those too small to be the structure are noise. A paired
structure is the largest two components that can face each other across the body, apart sideways more than
in height or depth; a single structure is the largest component. The patient's left is +x in LPS, so sides do
not depend on how the image is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage, spatial

from DIANetLib.errors import InputError
from DIANetLib.inference.prediction import Box
from DIANetLib.structures import Side, Structure
from DIANetLib.volume import Geometry

__all__ = ["Instance", "far_from", "find_instances", "is_crop", "sided"]

#: An image smaller than this in every direction is a crop around the structure already, mm.
CROP_MM = 64.0
#: Left and right of a pair have their centres at least this far apart, mm.
APART_MM = 15.0
#: Pieces of a structure whose centres lie within this distance of the main piece's box belong to it, mm.
FRAGMENT_MM = 5.0
#: Pieces of the segmentation that come no closer than this to what the localiser found are not the structure.
REACH_MM = 5.0


@dataclass(frozen=True, eq=False)
class Instance:
    """One structure that was found.

    Attributes:
        side: ``left`` or ``right`` of the patient, None for a structure that is single.
        box: Around it, margin included, LPS mm.
        volume_ml: Volume of what the localiser found, ml.
        points: (n, 3) centres of the voxels of what it found, LPS mm.
    """

    side: Side | None
    box: Box
    volume_ml: float
    points: npt.NDArray[np.float64] = field(repr=False)


def is_crop(geometry: Geometry) -> bool:
    """Whether an image is too small to hold more than the surroundings of the structure."""
    return max(geometry.extent_mm) < CROP_MM


def sided(structures: Sequence[Structure], side: Side) -> tuple[Structure, ...]:
    """The structures on one side of the body: K values from 1 for the left, the next K for the right."""
    offset = 0 if side == "left" else len(structures)
    return tuple(s.on_side(side, value=offset + n) for n, s in enumerate(structures, start=1))


def find_instances(
    mask: npt.NDArray[np.bool_],
    body: npt.NDArray[np.bool_],
    geometry: Geometry,
    *,
    instances: Literal["left-right", "single"],
    margin_mm: float,
    minimum_ml: float,
    what: str = "the structure",
) -> tuple[Instance, ...]:
    """Regions around what a localiser found.

    Args:
        mask: (k, j, i) bool, the structures to look at.
        body: (k, j, i) bool, all that the localiser knows: its middle tells the side where only one is found.
        geometry: Grid of both.
        instances: ``"left-right"`` gives up to one region per side, ``"single"`` one.
        margin_mm: What boxes are grown by on every side, mm.
        minimum_ml: Smaller components are noise, ml.
        what: Name of what is looked for, for messages.

    Returns:
        Left before right.

    Raises:
        InputError: Nothing was found.
    """
    found = _components(mask, geometry, minimum_ml)
    if not found:
        raise InputError(
            f"{what} was not found in the image (nothing of at least {minimum_ml:g} ml).",
            remedy="Check that the image shows it, in the modality the model expects, or use --roi.",
        )
    main = found[0]
    if instances == "single":
        return (_instance(None, main, found, geometry, margin_mm),)
    pair = next((pair for pair in _by_volume(found) if _face_each_other(*pair)), None)
    if pair is not None:
        left, right = sorted(pair, key=lambda component: -float(component.center[0]))
        rest = [component for component in found if component is not left and component is not right]
        return (
            _instance("left", left, [left, *rest], geometry, margin_mm),
            _instance("right", right, [right, *rest], geometry, margin_mm),
        )
    middle = _points(body, geometry)[:, 0].mean()
    halves = _halves(main, middle, geometry, minimum_ml)
    if len(halves) == 2:
        return (
            _instance("left", halves[0], halves[:1], geometry, margin_mm),
            _instance("right", halves[1], halves[1:], geometry, margin_mm),
        )
    side: Side = "left" if main.center[0] > middle else "right"
    return (_instance(side, main, found, geometry, margin_mm),)


def far_from(
    points: npt.NDArray[np.float64], labels: npt.NDArray[np.integer[Any]], geometry: Geometry
) -> npt.NDArray[np.bool_]:
    """Voxels of connected pieces that come no closer than `REACH_MM` to what the localiser found.

    A model fitted on tight crops may take look-alikes at the border of a wider one for its structure.

    Args:
        points: (n, 3) LPS mm.
        labels: (k, j, i), background 0.
        geometry: Grid of the labels.

    Returns:
        (k, j, i) bool.
    """
    pieces, count = ndimage.label(labels > 0, np.ones((3, 3, 3)))
    far = np.zeros(labels.shape, bool)
    if not count:
        return far
    tree = spatial.cKDTree(points)
    for piece, where in enumerate(ndimage.find_objects(pieces), start=1):
        inside = pieces[where] == piece
        first = np.array([axis.start for axis in where])
        own = geometry.index_to_world((np.argwhere(inside) + first)[:, ::-1])
        if not np.isfinite(tree.query(own, distance_upper_bound=REACH_MM)[0]).any():
            far[where] |= inside
    return far


@dataclass(frozen=True, eq=False)
class _Component:
    points: npt.NDArray[np.float64]  # (n, 3) LPS mm of voxel centres
    volume_ml: float

    @property
    def center(self) -> npt.NDArray[np.float64]:
        return np.asarray(self.points.mean(axis=0))


def _by_volume(found: Sequence[_Component]) -> list[tuple[_Component, _Component]]:
    return sorted(combinations(found, 2), key=lambda pair: -(pair[0].volume_ml + pair[1].volume_ml))


def _face_each_other(one: _Component, other: _Component) -> bool:
    """Whether two finds can be left and right of one body: apart sideways more than in height or depth.

    A look-alike in the neck may be larger than either; a head tilted by 45 degrees is not expected.
    """
    x, y, z = np.abs(one.center - other.center)
    return bool(x >= APART_MM and np.hypot(y, z) <= x)


def _points(mask: npt.NDArray[Any], geometry: Geometry) -> npt.NDArray[np.float64]:
    return geometry.index_to_world(np.argwhere(mask)[:, ::-1])


def _components(mask: npt.NDArray[np.bool_], geometry: Geometry, minimum_ml: float) -> list[_Component]:
    """Connected components (26 neighbours) of at least ``minimum_ml``, largest first."""
    labelled, count = ndimage.label(mask, np.ones((3, 3, 3)))
    sizes = np.bincount(labelled.ravel(), minlength=count + 1)[1:]
    least = minimum_ml / geometry.voxel_volume_ml
    order = [int(n) for n in np.argsort(-sizes, kind="stable") if sizes[n] >= max(least, 1)]
    return [
        _Component(_points(labelled == n + 1, geometry), float(sizes[n]) * geometry.voxel_volume_ml)
        for n in order
    ]


def _halves(component: _Component, middle: float, geometry: Geometry, minimum_ml: float) -> list[_Component]:
    """Left and right half of one component that spans the middle, or nothing if it does not."""
    ml = geometry.voxel_volume_ml
    on_left = component.points[:, 0] > middle
    parts = [component.points[on_left], component.points[~on_left]]
    halves = [_Component(part, len(part) * ml) for part in parts if len(part) * ml >= max(minimum_ml, ml)]
    # A structure that merely reaches across the middle is no pair.
    if len(halves) < 2 or halves[0].center[0] - halves[1].center[0] < APART_MM:
        return []
    return halves


def _instance(
    side: Side | None, main: _Component, found: list[_Component], geometry: Geometry, margin_mm: float
) -> Instance:
    half_voxel = np.abs(np.asarray(geometry.direction)) @ np.array(geometry.spacing) / 2
    low, high = main.points.min(axis=0) - half_voxel, main.points.max(axis=0) + half_voxel
    near = [
        other
        for other in found
        if other is main or np.all((other.center >= low - FRAGMENT_MM) & (other.center <= high + FRAGMENT_MM))
    ]
    points = np.concatenate([component.points for component in near])
    low, high = points.min(axis=0) - half_voxel, points.max(axis=0) + half_voxel
    box = Box((float(low[0]), float(low[1]), float(low[2])), (float(high[0]), float(high[1]), float(high[2])))
    volume = sum(component.volume_ml for component in near)
    return Instance(side, box.expanded(margin_mm) if margin_mm else box, volume, points)
