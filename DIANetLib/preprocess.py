# SPDX-License-Identifier: Apache-2.0
"""From scanner grids to the network's grid, and exactly back again.

The network sees arrays whose axes (k, j, i) point to Superior, Anterior and Right ("RAS" when named in the
order i, j, k), at the spacing it was trained with, z-scored per volume or scaled if complex. Training and
inference share this code.

Whatever can be done without interpolation is: axes are permuted and flipped, and a grid whose spacing is
already the model's (within a tolerance) and whose axes are nearly the world's is used as it is, so that the
inverse is exact bit for bit. Otherwise the volume is resampled once (`DIANetLib.resample`), and results are
interpolated linearly back onto the source grid.

World coordinates are LPS millimetres; geometry tuples are ordered (i, j, k), arrays (k, j, i).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, model_validator

from DIANetLib.errors import InputError
from DIANetLib.inference.prediction import Box
from DIANetLib.resample import Interpolation, parallel, resample, smoothed, smoothing_sigma
from DIANetLib.volume import Geometry, Volume

__all__ = [
    "Box",
    "Orientation",
    "Prepared",
    "PreprocessConfig",
    "RestoredLabels",
    "deviation_of",
    "normalise",
    "on_one_grid",
    "part_of",
    "paste",
    "prepare",
    "prepared_geometry",
    "restore",
    "restore_box",
    "restore_labels",
    "scale_by_magnitude",
]

FloatArray = npt.NDArray[np.float32]
Triple = tuple[int, int, int]

# Corners closer than this are the same grid: headers in float32 do not carry more.
_SAME_GRID_MM = 0.01
# LPS sign of the canonical axes i -> Right, j -> Anterior, k -> Superior.
_RAS_SIGNS = np.array([-1.0, -1.0, 1.0])


class PreprocessConfig(BaseModel):
    """How a model wants its images; stored in the model's folder.

    Attributes:
        spacing_mm: Voxel size (i, j, k) of the network's grid in mm; ``None`` keeps the image's own along
            that axis, as a 2-D model wants for its slices.
        normalisation: ``"zscore"`` treats every modality by itself, see `normalise`; ``"magnitude"`` takes
            all of them together for the parts of one complex image, see `scale_by_magnitude`.
        clip_percentiles: Percentiles (0 to 100) the intensities are clipped to.
        orientation: ``"RAS"`` turns the axes to Right, Anterior, Superior; ``"source"`` leaves them as they
            are in the file (photographs, radiographs).
        spacing_tolerance: Relative difference of spacing below which an image is not resampled.
        oblique_tolerance_deg: Angle between index and world axes above which the image is resampled onto
            a grid along the world's axes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    spacing_mm: tuple[PositiveFloat | None, PositiveFloat | None, PositiveFloat | None] = (1.0, 1.0, 1.0)
    normalisation: Literal["zscore", "magnitude"] = "zscore"
    clip_percentiles: tuple[float, float] = (0.5, 99.5)
    orientation: Literal["RAS", "source"] = "RAS"
    spacing_tolerance: float = Field(default=0.05, ge=0, lt=1)
    oblique_tolerance_deg: float = Field(default=15.0, ge=0, le=90)

    @model_validator(mode="after")
    def _percentiles_in_order(self) -> PreprocessConfig:
        low, high = self.clip_percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"clip_percentiles must rise within 0 to 100, got {low:g} and {high:g}")
        return self


@dataclass(frozen=True)
class Orientation:
    """Canonical index axis ``a`` is the source's index axis ``axes[a]``, reversed if ``flips[a]``."""

    axes: Triple
    flips: tuple[bool, bool, bool]

    def view(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The source array (k, j, i) seen along the canonical axes (k, j, i); a view, nothing is copied."""
        turned = array.transpose([2 - self.axes[axis] for axis in (2, 1, 0)])
        return turned[tuple(slice(None, None, -1 if self.flips[axis] else 1) for axis in (2, 1, 0))]

    def geometry(self, source: Geometry) -> Geometry:
        """Geometry of `view` of an array that lives on ``source``."""
        axes = list(self.axes)
        signs = np.where(self.flips, -1.0, 1.0)
        first = np.zeros(3)
        for axis, flipped in zip(axes, self.flips, strict=True):
            first[axis] = source.size[axis] - 1 if flipped else 0
        return Geometry(
            size=_int_triple(np.array(source.size)[axes]),
            spacing=_triple(np.array(source.spacing)[axes]),
            origin=_triple(source.index_to_world(first)),
            direction=np.asarray(source.direction)[:, axes] * signs,
        )


_AS_IT_IS = Orientation((0, 1, 2), (False, False, False))


@dataclass(frozen=True, eq=False)
class Prepared:
    """What the network reads, and all that is needed to bring results back.

    Attributes:
        array: float32 (M, k, j, i), C-contiguous, normalised.
        geometry: Grid of ``array``.
        source_geometry: Grid of the first input volume, where results go.
        orientation: From the source's axes to the canonical ones.
        start: First voxel (i, j, k), on the reoriented source grid, of the part that was taken.
        size: Number of voxels (i, j, k) of that part; smaller than the image where a region was given.
        interpolated: False when ``array`` is that part itself, so that the inverse is exact.
        warnings: Sentences for the user.
    """

    array: FloatArray
    geometry: Geometry
    source_geometry: Geometry
    orientation: Orientation
    start: Triple
    size: Triple
    interpolated: bool
    warnings: tuple[str, ...] = ()

    @property
    def part_geometry(self) -> Geometry:
        """The part of the reoriented source grid that results are pasted into."""
        return self.orientation.geometry(self.source_geometry).crop(self.start, self.size)


@dataclass(frozen=True, eq=False)
class RestoredLabels:
    """Classes on the part of the reoriented source grid that a `Prepared` covers, (k, j, i).

    Attributes:
        labels: uint8 class indices.
        confidence: float32 probability of that class.
        joined: bool, where background is the most probable class, but not as probable as all structures.
        soft_voxels: float64 (K,) sum of each class's probability over the part, in voxels.
    """

    labels: npt.NDArray[np.uint8]
    confidence: FloatArray
    joined: npt.NDArray[np.bool_]
    soft_voxels: npt.NDArray[np.float64]


def normalise(array: npt.NDArray[Any], clip_percentiles: tuple[float, float] = (0.5, 99.5)) -> FloatArray:
    """Clip to percentiles, then subtract the mean and divide by the standard deviation.

    Percentiles, mean and deviation are those of the finite voxels of the array given: one volume, or the crop
    that the network sees. Voxels that are not finite become 0, the mean.

    Args:
        array: Any shape, any real type.
        clip_percentiles: Low and high percentile, 0 to 100.

    Returns:
        A new float32 array of the same shape.

    Raises:
        InputError: if there are no finite voxels or all of them are equal, before or after clipping.
    """
    values = np.array(array, dtype=np.float32)
    finite = np.isfinite(values)
    whole = bool(finite.all())
    known = values.ravel() if whole else values[finite]
    if known.size == 0:
        raise InputError("the image has no finite voxel, so there is nothing to segment.")
    low, high = _clipped_range(known, clip_percentiles)
    np.clip(values, low, high, out=values)
    known = values.ravel() if whole else values[finite]
    mean, deviation = float(known.mean(dtype=np.float64)), float(known.std(dtype=np.float64))
    if not low < high or deviation <= 0:
        raise InputError(
            f"the image is constant (every voxel is {low:g}), so there is nothing to segment.",
            remedy="Check that the right volume and region were chosen.",
        )
    values -= np.float32(mean)
    values /= np.float32(deviation)
    if not whole:
        values[~finite] = 0.0
    return values


def deviation_of(array: npt.NDArray[Any], clip_percentiles: tuple[float, float] = (0.5, 99.5)) -> float:
    """What `normalise` divides by: the standard deviation of the clipped finite voxels."""
    known = np.asarray(array, np.float32)[np.isfinite(array)]
    return float(np.clip(known, *_clipped_range(known, clip_percentiles)).std(dtype=np.float64))


def scale_by_magnitude(parts: FloatArray, percentile: float) -> FloatArray:
    """Divide the parts of a complex image by a percentile of its magnitude.

    Phases and the zero stay as they are, so that what was measured of the image's k-space is only scaled.

    Args:
        parts: (M, *S) real and imaginary part, or a real image alone.
        percentile: 0 to 100, over the positions.

    Returns:
        A new float32 array of the same shape.

    Raises:
        InputError: if the image is not finite, or nothing but zeros.
    """
    magnitude = np.sqrt(np.sum(np.square(parts, dtype=np.float64), axis=0))
    scale = float(np.percentile(magnitude, percentile)) or float(magnitude.max())
    if not 0.0 < scale < np.inf:
        raise InputError(
            f"the image's magnitude is {scale:g} at its {percentile:g}th percentile, expected more than 0.",
            remedy="Check that the right image was chosen.",
        )
    return (parts / np.float32(scale)).astype(np.float32)


def prepare(volumes: Sequence[Volume], config: PreprocessConfig, *, region: Box | None = None) -> Prepared:
    """Bring one volume per modality onto the network's grid.

    Args:
        volumes: One or more; results will live on the first one's grid, onto which the others are resampled.
        config: The model's wishes.
        region: Only this part of the image is taken (the voxels that it touches), and normalised by itself.

    Raises:
        InputError: for no volume, a constant one, a region outside of the image, or modalities that do not
            share a frame of reference or do not overlap.
    """
    if not volumes:
        raise InputError("no image was given.", remedy="Give one image per modality of the model.")
    aligned, warnings = on_one_grid(volumes)
    source = aligned[0].geometry
    orientation = _orientation(source, config)
    canonical = orientation.geometry(source)
    start, size = _part(canonical, region)
    part = canonical.crop(start, size)
    grid = _network_grid(part, config, region)
    interpolated = grid is not part
    if interpolated and not parallel(grid, part):
        warnings = (
            *warnings,
            f"the image is tilted by {source.oblique_angle_deg:.0f} degrees against the world's axes and was "
            "resampled; results are interpolated back onto its grid.",
        )
    channels = np.empty((len(aligned), *grid.shape), np.float32)
    for channel, volume in zip(channels, aligned, strict=True):
        turned = orientation.view(volume.array)
        values = _cut(turned, start, size)
        if interpolated:
            values = _resampled_part(turned, canonical, start, size, grid)
        if config.normalisation == "magnitude":
            channel[...] = values
            continue
        try:
            channel[...] = normalise(values, config.clip_percentiles)
        except InputError as error:
            raise InputError(f"'{volume.name or 'image'}' cannot be used: {error}") from error
    if config.normalisation == "magnitude":
        channels = scale_by_magnitude(channels, config.clip_percentiles[1])
    return Prepared(channels, grid, source, orientation, start, size, interpolated, warnings)


def prepared_geometry(source: Geometry, config: PreprocessConfig, *, region: Box | None = None) -> Geometry:
    """The grid that `prepare` would bring an image on the grid ``source`` onto.

    Raises:
        InputError: for a region outside of the image.
    """
    canonical = _orientation(source, config).geometry(source)
    return _network_grid(canonical.crop(*_part(canonical, region)), config, region)


def restore_box(
    array: npt.NDArray[Any],
    prepared: Prepared,
    *,
    outside: float = 0.0,
    interpolation: Interpolation = "linear",
) -> npt.NDArray[Any]:
    """Results (k, j, i) on the network's grid -> the part of the reoriented source grid they belong to.

    Where nothing was interpolated the very array comes back. ``outside`` fills voxels that the network's grid
    does not reach (corners of tilted images).
    """
    if array.shape != prepared.geometry.shape:
        raise ValueError(f"expected an array of shape {prepared.geometry.shape}, got {array.shape}")
    if not prepared.interpolated:
        return array
    grids = prepared.geometry, prepared.part_geometry
    return resample(array, *grids, interpolation=interpolation, outside=outside)


def part_of(array: npt.NDArray[Any], prepared: Prepared) -> npt.NDArray[Any]:
    """View of the part that `restore_box` fills, in an ``array`` (k, j, i) on the source grid."""
    return _cut(prepared.orientation.view(array), prepared.start, prepared.size)


def paste(values: npt.NDArray[Any], prepared: Prepared, into: npt.NDArray[Any]) -> None:
    """Write a part, as `restore_box` gives it, to its place in ``into`` (k, j, i) on the source grid."""
    part_of(into, prepared)[...] = values


def restore(
    array: npt.NDArray[Any],
    prepared: Prepared,
    interpolation: Interpolation = "linear",
    *,
    outside: float = 0.0,
) -> npt.NDArray[Any]:
    """Results (k, j, i) on the network's grid -> a new array (k, j, i) on the whole source grid.

    Where nothing was interpolated, the exact inverse of how `prepare` moved the voxels. Voxels that were not
    taken are ``outside``.
    """
    shape, dtype = prepared.source_geometry.shape, array.dtype
    # zeros() costs no memory for pages that are never written, which is most of a head around a small crop.
    full = np.zeros(shape, dtype) if outside == 0 else np.full(shape, outside, dtype)
    paste(restore_box(array, prepared, outside=outside, interpolation=interpolation), prepared, full)
    return full


def restore_labels(probabilities: Iterable[npt.NDArray[Any]], prepared: Prepared) -> RestoredLabels:
    """Classes on the source grid, from probabilities (K, k, j, i) that sum to one, restored one by one.

    A voxel is background, class 0, where that is at least as probable as all structures together; else it is
    the most probable structure. The most probable of all classes would leave a crack between two
    structures where they are told apart badly: 0.4 for background, 0.3 for each of them.

    Labels come from interpolated probabilities, never from interpolated labels, so borders stay smooth. What
    the network's grid does not reach is background. Ties go to the lower class.
    """
    soft: list[float] = []
    background: FloatArray | None = None
    for value, channel in enumerate(probabilities):
        restored = restore_box(channel, prepared, outside=1.0 if value == 0 else 0.0)
        soft.append(float(restored.sum(dtype=np.float64)))
        if background is None:
            background = np.array(restored, np.float32)
            best = np.zeros_like(background)
            labels = np.zeros(background.shape, np.uint8)
            continue
        labels[restored > best] = value
        np.maximum(best, restored, out=best)
    if background is None:
        raise ValueError("expected at least one class, got none")
    nothing = background >= 0.5
    joined = (background >= best) & ~nothing
    labels[nothing] = 0
    np.copyto(best, background, where=nothing)
    return RestoredLabels(labels, best, joined, np.array(soft))


def on_one_grid(volumes: Sequence[Volume]) -> tuple[tuple[Volume, ...], tuple[str, ...]]:
    """Resample every volume onto the first one's grid where it is not there already.

    Returns:
        The volumes, and a warning for each that was resampled.

    Raises:
        InputError: if frames of reference are known and differ, or if volumes do not overlap.
    """
    first = volumes[0]
    aligned, warnings = [first], []
    for volume in volumes[1:]:
        if first.geometry.same_grid(volume.geometry, tolerance=_SAME_GRID_MM):
            aligned.append(volume)
            continue
        names = f"'{volume.name or 'image'}' and '{first.name or 'image'}'"
        known = first.frame_of_reference and volume.frame_of_reference
        if known and first.frame_of_reference != volume.frame_of_reference:
            raise InputError(
                f"{names} are on different grids and their frames of reference differ, so where they lie "
                "relative to each other is unknown.",
                remedy="Register them first, then segment the registered images.",
            )
        boxes = np.array([np.asarray(v.geometry.bounds_world()) for v in (first, volume)])
        if np.any(boxes[:, 0].max(axis=0) >= boxes[:, 1].min(axis=0)):
            raise InputError(f"{names} do not overlap in space.", remedy="Register them first.")
        from DIANetLib.formats.image import resample_to

        smooth = smoothed(volume.array, volume.geometry, first.geometry)
        aligned.append(resample_to(volume.with_array(smooth), first.geometry))
        why = "their frames of reference agree" if known else "supposing that they share a frame of reference"
        warnings.append(f"{names} are on different grids; the former was resampled onto the latter, {why}.")
    return tuple(aligned), tuple(warnings)


def _clipped_range(known: FloatArray, clip_percentiles: tuple[float, float]) -> tuple[float, float]:
    low, high = np.percentile(known, clip_percentiles).tolist()
    if not low < high:
        # All that differs may lie in the clipped tails (a few bright voxels on black): keep the full range.
        low, high = float(known.min()), float(known.max())
    return low, high


def _orientation(source: Geometry, config: PreprocessConfig) -> Orientation:
    return _closest_canonical(source) if config.orientation == "RAS" else _AS_IT_IS


def _closest_canonical(source: Geometry) -> Orientation:
    """The permutation and flips that bring index axes closest to Right, Anterior, Superior."""
    direction = np.asarray(source.direction)
    best = max(permutations(range(3)), key=lambda axes: sum(abs(direction[w, a]) for w, a in enumerate(axes)))
    flips = tuple(bool(direction[world, axis] * _RAS_SIGNS[world] < 0) for world, axis in enumerate(best))
    return Orientation((best[0], best[1], best[2]), (flips[0], flips[1], flips[2]))


def _part(grid: Geometry, region: Box | None) -> tuple[Triple, Triple]:
    """Start and size (i, j, k) of the voxels that a region touches."""
    if region is None:
        return (0, 0, 0), grid.size
    indices = np.asarray(grid.world_to_index(region.corners))
    low = np.maximum(np.ceil(indices.min(axis=0) - 0.5 + 1e-6), 0).astype(int)
    high = np.minimum(np.floor(indices.max(axis=0) + 0.5 - 1e-6), np.array(grid.size) - 1).astype(int)
    if np.any(low > high):
        bounds = np.asarray(grid.bounds_world())
        raise InputError(
            f"the region of interest {_span(region.lo, region.hi)} lies outside of the image, which spans "
            f"{_span(*bounds)}.",
            remedy="Check the coordinates: they are those that 3D Slicer shows (RAS).",
        )
    return _int_triple(low), _int_triple(high - low + 1)


def _network_grid(part: Geometry, config: PreprocessConfig, region: Box | None) -> Geometry:
    """The grid the network will see; ``part`` itself where nothing needs interpolation."""
    spacings = zip(part.spacing, config.spacing_mm, strict=True)
    wanted = np.array([own if want is None else want for own, want in spacings])
    oblique = config.orientation == "RAS" and part.oblique_angle_deg > config.oblique_tolerance_deg
    if not oblique:
        if np.all(np.abs(np.array(part.spacing) / wanted - 1) <= config.spacing_tolerance):
            return part
        extent, direction = np.array(part.extent_mm), np.asarray(part.direction)
        centre = np.asarray(part.index_to_world((np.array(part.size) - 1) / 2))
    else:
        bounds = np.asarray(part.bounds_world())
        if region is not None:
            bounds = np.array([np.maximum(bounds[0], region.lo), np.minimum(bounds[1], region.hi)])
        extent, direction, centre = bounds[1] - bounds[0], np.diag(_RAS_SIGNS), bounds.mean(axis=0)
    # The 0.05 keeps a sliver of a voxel at the border from costing a whole one.
    size = np.maximum(np.ceil(extent / wanted - 0.05), 1).astype(int)
    origin = centre - direction @ (wanted * (size - 1) / 2)
    return Geometry(_int_triple(size), _triple(wanted), _triple(origin), direction)


def _resampled_part(
    turned: npt.NDArray[Any], canonical: Geometry, start: Triple, size: Triple, grid: Geometry
) -> npt.NDArray[Any]:
    """The part, read with enough of its surroundings for the smoothing, on the network's grid."""
    ratio = np.array(grid.spacing) / np.array(canonical.spacing)
    around = np.ceil(3 * smoothing_sigma(ratio)).astype(int) + 2
    low = np.maximum(np.array(start) - around, 0)
    high = np.minimum(np.array(start) + np.array(size) + around, canonical.size)
    first, count = _int_triple(low), _int_triple(high - low)
    values = np.asarray(_cut(turned, first, count), np.float32)
    return resample(values, canonical.crop(first, count), grid, outside=None, smooth=True)


def _span(low: Sequence[float], high: Sequence[float]) -> str:
    """Two LPS corners in RAS, the coordinates that 3D Slicer and the command line speak."""
    flipped = (-high[0], -high[1], low[2]), (-low[0], -low[1], high[2])
    corners = [f"({', '.join(f'{x:.1f}' for x in corner)})" for corner in flipped]
    return " to ".join(corners) + " mm RAS"


def _cut(array: npt.NDArray[Any], start: Triple, size: Triple) -> npt.NDArray[Any]:
    """View of ``size`` (i, j, k) voxels from ``start`` (i, j, k) in an array (k, j, i)."""
    return array[tuple(slice(start[axis], start[axis] + size[axis]) for axis in (2, 1, 0))]


def _triple(values: npt.NDArray[Any]) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    return x, y, z


def _int_triple(values: npt.NDArray[Any]) -> Triple:
    i, j, k = (int(v) for v in values)
    return i, j, k
