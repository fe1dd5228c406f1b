# SPDX-License-Identifier: Apache-2.0
"""Volumes and the grid they live on, in one convention.

Axes, everywhere in DIANet:

* World is the patient in millimetres, LPS: +x to the patient's left, +y posterior, +z superior (ITK, DICOM).
* Index points are continuous `(i, j, k)`; whole numbers are voxel centres, as in ITK. Sizes, spacings and the
  columns of directions are in the order `(i, j, k)`.
* Arrays are in the order `(k, j, i)`, as SimpleITK's `GetArrayFromImage` gives them; `Geometry.shape` too.
* An orientation code such as `"RAS"` names where i, j, k point to, as in nibabel.

A 2-D image is a volume of one slice: size 1 along k.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from DIANetLib.errors import InputError

FloatArray = npt.NDArray[np.float64]

_DIRECTION_TOLERANCE = 1e-3  # of each entry of direction^T direction; scanners write cosines with few digits


@dataclass(frozen=True, eq=False)
class Geometry:
    """The grid of a volume.

    Args:
        size: Voxels along i, j, k.
        spacing: Millimetres between voxel centres along i, j, k.
        origin: LPS position in mm of the centre of voxel (0, 0, 0).
        direction: (3, 3); column a is the LPS unit vector along index axis a.

    Raises:
        InputError: A size or spacing is not positive, a number is not finite, or the direction is singular or
            not orthonormal to 1e-3.
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: FloatArray

    def __post_init__(self) -> None:
        size = _triple(self.size, "size")
        if any(s != int(s) or s < 1 for s in size):
            raise InputError(f"The grid's size is {_text(size)}, expected three whole numbers of at least 1.")
        spacing = _triple(self.spacing, "spacing")
        if not all(math.isfinite(s) and s > 0 for s in spacing):
            raise InputError(
                f"The voxel spacing is {_text(spacing)} mm, expected three positive numbers.",
                remedy="Correct the spacing in the image's header.",
            )
        origin = _triple(self.origin, "origin")
        if not all(math.isfinite(o) for o in origin):
            raise InputError(
                f"The origin is ({_text(origin, ', ')}) mm, expected three finite numbers.",
                remedy="Correct the origin in the image's header.",
            )
        direction = np.array(self.direction, dtype=np.float64)
        _check_direction(direction)
        direction.setflags(write=False)
        object.__setattr__(self, "size", tuple(int(s) for s in size))
        object.__setattr__(self, "spacing", tuple(float(s) for s in spacing))
        object.__setattr__(self, "origin", tuple(float(o) for o in origin))
        object.__setattr__(self, "direction", direction)

    @classmethod
    def from_affine(cls, affine: npt.ArrayLike, size: Sequence[int]) -> Geometry:
        """Make the grid whose `affine` is given.

        Args:
            affine: (4, 4), continuous index (i, j, k) to LPS mm.
            size: Voxels along i, j, k.

        Raises:
            InputError: As for `Geometry`.
        """
        matrix = np.asarray(affine, dtype=np.float64)
        if matrix.shape != (4, 4):
            raise InputError(f"The affine has shape {matrix.shape}, expected (4, 4).")
        spacing = np.linalg.norm(matrix[:3, :3], axis=0)
        # A zero column would divide by zero here; Geometry then says what is wrong with the spacing.
        direction = matrix[:3, :3] / np.where(spacing > 0, spacing, 1.0)
        i, j, k = (int(s) for s in size)
        return cls((i, j, k), _floats(spacing), _floats(matrix[:3, 3]), direction)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (k, j, i) of an array on this grid."""
        i, j, k = self.size
        return k, j, i

    @property
    def affine(self) -> FloatArray:
        """(4, 4) matrix from continuous index (i, j, k) to LPS mm."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.direction * np.asarray(self.spacing)
        matrix[:3, 3] = self.origin
        return matrix

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in ml."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        """Size times spacing along i, j, k in mm, outer face to outer face."""
        i, j, k = (n * s for n, s in zip(self.size, self.spacing, strict=True))
        return i, j, k

    @property
    def oblique_angle_deg(self) -> float:
        """Largest angle in degrees between an index axis and its nearest world axis; 0 if aligned."""
        units = self.direction / np.linalg.norm(self.direction, axis=0)
        nearest = np.abs(units).argmax(axis=0)
        # atan2 keeps its precision near 0, where acos of a cosine near 1 loses half the digits.
        angles = []
        for axis, world in enumerate(nearest):
            along = abs(units[world, axis])
            across = math.hypot(*np.delete(units[:, axis], world))
            angles.append(math.degrees(math.atan2(across, along)))
        return max(angles)

    @property
    def anatomical_axes(self) -> str:
        """Where i, j, k point to, as letters of R/L, A/P, S/I: `"RAS"`. Each world axis is used once."""
        weights = np.abs(self.direction)
        world = max(itertools.permutations(range(3)), key=lambda p: sum(weights[p[a], a] for a in range(3)))
        letters = ("RL", "AP", "IS")
        return "".join(letters[world[a]][int(self.direction[world[a], a] > 0)] for a in range(3))

    def index_to_world(self, points: npt.ArrayLike) -> FloatArray:
        """Map continuous index points (..., 3) in the order (i, j, k) to LPS mm (..., 3)."""
        affine = self.affine
        mapped: FloatArray = np.asarray(points, dtype=np.float64) @ affine[:3, :3].T + affine[:3, 3]
        return mapped

    def world_to_index(self, points: npt.ArrayLike) -> FloatArray:
        """Map LPS points (..., 3) in mm to continuous index (..., 3) in the order (i, j, k)."""
        relative = np.asarray(points, dtype=np.float64) - np.asarray(self.origin)
        mapped: FloatArray = relative @ np.linalg.inv(self.affine[:3, :3]).T
        return mapped

    def corners_world(self) -> FloatArray:
        """LPS mm (8, 3) of the outer corners of the grid, half a voxel beyond the outermost centres."""
        ends = [(-0.5, n - 0.5) for n in self.size]
        return self.index_to_world(list(itertools.product(*ends)))

    def bounds_world(self) -> FloatArray:
        """LPS mm (2, 3): least and greatest coordinates of the grid's outer corners, half voxels included."""
        corners = self.corners_world()
        return np.stack([corners.min(axis=0), corners.max(axis=0)])

    def same_grid(self, other: Geometry, tolerance: float = 1e-6) -> bool:
        """Tell whether sizes agree and outer corners lie within `tolerance` mm of each other."""
        if self.size != other.size:
            return False
        apart = np.linalg.norm(self.corners_world() - other.corners_world(), axis=1)
        return bool(apart.max() <= tolerance)

    def crop(self, start_ijk: Sequence[int], size_ijk: Sequence[int]) -> Geometry:
        """Return the grid of a box of voxels of this one.

        Args:
            start_ijk: Index (i, j, k) of the first voxel.
            size_ijk: Voxels along i, j, k.

        Raises:
            InputError: The box is empty or reaches beyond the grid.
        """
        start, size = _triple(start_ijk, "crop's start"), _triple(size_ijk, "crop's size")
        within = all(b >= 0 and s >= 1 and b + s <= n for b, s, n in zip(start, size, self.size, strict=True))
        if not within:
            raise InputError(
                f"The crop of {_text(size)} voxels from ({_text(start, ', ')}) does not fit in a grid of"
                f" {_text(self.size)}."
            )
        i, j, k = (int(s) for s in size)
        return replace(self, size=(i, j, k), origin=_floats(self.index_to_world(start)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Geometry):
            return NotImplemented
        return self._numbers() == other._numbers()

    def __hash__(self) -> int:
        return hash(self._numbers())

    def _numbers(self) -> tuple[float, ...]:
        return (*self.size, *self.spacing, *self.origin, *self.direction.ravel().tolist())


@dataclass(frozen=True, eq=False)
class Volume:
    """An array on a grid.

    Args:
        array: (k, j, i), real numbers or booleans.
        geometry: The grid; `geometry.shape` equals `array.shape`.
        name: Name for people.
        modality: Name of the modality, such as `"T1"`, where known.
        frame_of_reference: DICOM frame of reference UID, where known.
        source: Path of the file or folder it was read from.

    Raises:
        InputError: The array is not 3-D, not real, or not of the grid's shape.
    """

    array: npt.NDArray[Any]
    geometry: Geometry
    name: str = ""
    modality: str | None = None
    frame_of_reference: str | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        if self.array.ndim != 3:
            raise InputError(f"A volume needs a 3-D array (k, j, i), got shape {self.array.shape}.")
        if self.array.shape != self.geometry.shape:
            raise InputError(
                f"A volume's array has shape {self.array.shape} (k, j, i), its grid expects"
                f" {self.geometry.shape}."
            )
        if self.array.dtype.kind not in "biuf":
            raise InputError(f"A volume's voxels are {self.array.dtype}, expected real numbers or booleans.")

    def with_array(self, array: npt.NDArray[Any], name: str | None = None) -> Volume:
        """Return a volume with other voxels (k, j, i) on the same grid, and another name where given.

        Raises:
            InputError: The array does not have the grid's shape.
        """
        return replace(self, array=array, name=self.name if name is None else name)

    def sha256(self) -> str:
        """SHA-256 (hex) of the content: voxel type, voxels in (k, j, i) order and the grid's numbers."""
        little = self.array.dtype.newbyteorder("<")
        digest = hashlib.sha256(f"{little.str} {self.geometry.size}".encode())
        digest.update(np.asarray(self.geometry._numbers(), dtype="<f8").tobytes())
        for plane in self.array:  # by planes: a full contiguous copy may not fit beside the volume
            digest.update(np.ascontiguousarray(plane, dtype=little).data)
        return digest.hexdigest()


def _triple(values: Sequence[float], what: str) -> tuple[float, float, float]:
    numbers = tuple(values)
    if len(numbers) != 3:
        raise InputError(f"The {what} has {len(numbers)} entries, expected 3 (i, j, k).")
    return numbers


def _floats(values: npt.ArrayLike) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in np.asarray(values, dtype=np.float64))
    return x, y, z


def _text(values: Sequence[float], between: str = " × ") -> str:
    return between.join(f"{value:g}" for value in values)


def _check_direction(direction: FloatArray) -> None:
    remedy = "Correct the orientation in the image's header."
    if direction.shape != (3, 3) or not np.isfinite(direction).all():
        raise InputError(
            f"The direction is {direction.tolist()}, expected 3 × 3 finite numbers.", remedy=remedy
        )
    if abs(np.linalg.det(direction)) < _DIRECTION_TOLERANCE:
        raise InputError(
            f"The direction matrix {direction.round(4).tolist()} is singular, expected three perpendicular"
            " unit vectors.",
            remedy=remedy,
        )
    skew = np.abs(direction.T @ direction - np.eye(3)).max()
    if skew > _DIRECTION_TOLERANCE:
        raise InputError(
            f"The direction matrix {direction.round(4).tolist()} is off from three perpendicular unit"
            f" vectors by {skew:.2g}, expected at most {_DIRECTION_TOLERANCE:g}.",
            remedy="Resample the image onto a rectangular grid, or correct the orientation in its header.",
        )
