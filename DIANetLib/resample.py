# SPDX-License-Identifier: Apache-2.0
"""Linear resampling between grids: axis by axis where the grids are parallel, else through SimpleITK.

Between parallel grids linear interpolation is three small matrices, one per axis, and so is the Gaussian that
must come before an axis gets coarser. Its width matches the point spread functions of the two voxel sizes
(Cardoso et al., "Scale factor point spread function matching", MICCAI 2015).

Arrays are (k, j, i); geometry tuples and everything "per axis" are (i, j, k).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from DIANetLib.volume import Geometry, Volume

__all__ = ["Interpolation", "parallel", "resample", "smoothed", "smoothing_sigma"]

FloatArray = npt.NDArray[np.float32]
Interpolation = Literal["linear", "nearest"]


def resample(
    array: npt.NDArray[Any],
    source: Geometry,
    target: Geometry,
    *,
    interpolation: Interpolation = "linear",
    outside: float | None = 0.0,
    smooth: bool = False,
) -> npt.NDArray[Any]:
    """Bring an array (k, j, i) from one grid to another.

    Args:
        array: Values on ``source``.
        source: Grid of ``array``.
        target: Grid of the result.
        interpolation: ``"linear"`` gives float32, ``"nearest"`` keeps the type.
        outside: Value of voxels that ``source`` does not reach, None for the lowest value there is. Between
            parallel grids the edge is repeated instead: as used here, they end within a voxel of each other.
        smooth: Smooth first along axes that get coarser; for images, not for results.
    """
    if interpolation not in ("linear", "nearest"):
        raise ValueError(f"expected interpolation 'linear' or 'nearest', got {interpolation!r}")
    if not parallel(source, target):
        return _resample_tilted(array, source, target, interpolation, outside, smooth)
    offset = source.world_to_index(target.origin)
    step = np.array(target.spacing) / np.array(source.spacing)
    positions = [offset[axis] + step[axis] * np.arange(target.size[axis]) for axis in range(3)]
    if interpolation == "nearest":
        nearest = [
            np.clip(np.rint(p), 0, n - 1).astype(int) for p, n in zip(positions, source.size, strict=True)
        ]
        return array[np.ix_(*reversed(nearest))]
    sigma = smoothing_sigma(step) if smooth else np.zeros(3)
    return _apply(array, [_weights(source.size[axis], positions[axis], sigma[axis]) for axis in range(3)])


def smoothed(array: npt.NDArray[Any], geometry: Geometry, target: Geometry) -> FloatArray:
    """Smooth an array (k, j, i) on ``geometry`` so that it can be read at the spacing of ``target``."""
    cosines = np.asarray(target.direction).T @ np.asarray(geometry.direction)
    spacing_along_axes = np.array(target.spacing) @ cosines**2
    sigma = smoothing_sigma(spacing_along_axes / np.array(geometry.spacing))
    weights = [_weights(n, np.arange(n, dtype=float), s) for n, s in zip(geometry.size, sigma, strict=True)]
    return _apply(array, weights)


def smoothing_sigma(ratio: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Standard deviation in source voxels for a spacing that grows by ``ratio``; 0 where it does not grow."""
    widened = np.sqrt(np.maximum(ratio**2 - 1, 0)) / (2 * np.sqrt(2 * np.log(2)))
    return np.asarray(np.where(ratio > 1.02, widened, 0.0))


def parallel(a: Geometry, b: Geometry) -> bool:
    """Whether the index axes of two grids point the same way."""
    return bool(np.allclose(a.direction, b.direction, atol=1e-6))


def _resample_tilted(
    array: npt.NDArray[Any],
    source: Geometry,
    target: Geometry,
    interpolation: Interpolation,
    outside: float | None,
    smooth: bool,
) -> npt.NDArray[Any]:
    from DIANetLib.formats.image import resample_to

    values = smoothed(array, source, target) if smooth else np.ascontiguousarray(array)
    fill = float(values.min()) if outside is None else outside
    return resample_to(Volume(values, source), target, interpolation=interpolation, outside=fill).array


def _weights(size: int, positions: npt.NDArray[np.float64], sigma: float) -> FloatArray | None:
    """Weights (len(positions), size) for reading ``size`` values at ``positions``; None for the identity."""
    if sigma <= 0 and len(positions) == size and np.allclose(positions, np.arange(size), atol=1e-6):
        return None
    clipped = np.clip(positions, 0, size - 1)
    below = np.minimum(np.floor(clipped).astype(int), max(size - 2, 0))
    fraction = clipped - below
    rows = np.arange(len(positions))
    weights = np.zeros((len(positions), size))
    weights[rows, below] = 1 - fraction
    weights[rows, np.minimum(below + 1, size - 1)] += fraction
    # Smoothing at the voxels and then interpolating keeps a ramp a ramp, whatever the width: a narrow
    # Gaussian sampled between voxels would not.
    return (weights @ _gaussian(size, sigma) if sigma > 0 else weights).astype(np.float32)


def _gaussian(size: int, sigma: float) -> npt.NDArray[np.float64]:
    """Matrix (size, size) that smooths; beyond the image its edge is repeated."""
    around = int(np.ceil(4 * sigma)) + 1
    kernel = np.exp(-0.5 * (np.arange(-around, around + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    matrix = np.zeros((size, size))
    rows = np.arange(size)
    for offset, weight in zip(range(-around, around + 1), kernel, strict=True):
        matrix[rows, np.clip(rows + offset, 0, size - 1)] += weight
    return matrix


def _apply(array: npt.NDArray[Any], weights: Sequence[FloatArray | None]) -> FloatArray:
    """Multiply the weights (i, j, k) onto an array (k, j, i), the axes that shrink most first."""
    out: FloatArray = np.ascontiguousarray(array, np.float32)
    growth = [1.0 if w is None else w.shape[0] / w.shape[1] for w in weights]
    for axis in sorted(range(3), key=lambda a: growth[a]):
        weight = weights[axis]
        if weight is None:
            continue
        if axis == 0:
            out = out @ weight.T
        elif axis == 1:
            out = weight @ out
        else:
            out = (weight @ out.reshape(out.shape[0], -1)).reshape(weight.shape[0], *out.shape[1:])
    return out
