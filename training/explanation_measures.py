# SPDX-License-Identifier: Apache-2.0
"""What tells whether a map explains anything: likeness of maps, pointing game, order of voxels, heat.

Maps are arrays (k, j, i) that are not negative. Sources: Adebayo et al., NeurIPS 2018 (likeness after weights
were randomised); Zhang et al., IJCV 2018 (pointing game); Petsiuk et al., BMVC 2018 (deletion, insertion).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.stats import rankdata

Map = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]

# Constants of SSIM for values from 0 to 1 (Wang et al., IEEE TIP 2004): (0.01 L)^2 and (0.03 L)^2.
_C1, _C2 = 1e-4, 9e-4


def scaled(values: Map) -> Map:
    """A map divided by its maximum; as it is where nothing is above 0."""
    peak = values.max()
    return values / peak if peak > 0 else values


def structural_similarity(one: Map, other: Map, *, sigma: float = 1.5) -> float:
    """Mean SSIM of two maps, each scaled to a maximum of 1 (Wang et al., IEEE TIP 2004).

    Args:
        one: (k, j, i).
        other: same shape.
        sigma: of the Gaussian window, voxels.
    """
    x, y = (scaled(values).astype(np.float64) for values in (one, other))

    def blurred(values: Map) -> Map:
        smooth: Map = gaussian_filter(values, sigma, truncate=3.5)
        return smooth

    mean_x, mean_y = blurred(x), blurred(y)
    variance = blurred(x * x) - mean_x**2 + blurred(y * y) - mean_y**2
    covariance = blurred(x * y) - mean_x * mean_y
    upper = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    lower = (mean_x**2 + mean_y**2 + _C1) * (variance + _C2)
    return float((upper / lower).mean())


def correlation(one: Map, other: Map) -> float:
    """Pearson's correlation over the voxels; NaN where a map is constant."""
    x, y = (values.ravel().astype(np.float64) for values in (one, other))
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])


def rank_correlation(one: Map, other: Map) -> float:
    """Spearman's correlation over the voxels, ties at their mean rank; NaN where a map is constant."""
    return correlation(rankdata(one), rankdata(other))


def centred(values: Map, shape: Sequence[int]) -> Map:
    """The middle of a map on a grid of another size, 0 where the map does not reach."""
    out = np.zeros(tuple(shape), values.dtype)
    here, there = [], []
    for n, m in zip(values.shape, shape, strict=True):
        size = min(n, m)
        here.append(slice((n - size) // 2, (n - size) // 2 + size))
        there.append(slice((m - size) // 2, (m - size) // 2 + size))
    out[tuple(there)] = values[tuple(here)]
    return out


def distance_mm(mask: Mask, spacing: Sequence[float]) -> Map:
    """Distance of each voxel to the nearest one of a mask that is not empty, mm; 0 within it."""
    distance: Map = distance_transform_edt(~mask, sampling=tuple(spacing))
    return distance


def points_at(values: Map, distance: Map, tolerance_mm: float) -> bool:
    """Whether the maximum of a map is so near; the first one in memory if there are several, as in cubes."""
    return bool(distance.ravel()[values.argmax()] <= tolerance_mm)


def descending(values: Map, generator: np.random.Generator) -> Indices:
    """Flat indices of the voxels, the greatest value first, equal ones in random order."""
    flat = values.ravel()
    order: Indices = np.lexsort((generator.random(flat.size), -flat))
    return order


def heat_share(values: Map, where: Mask) -> float:
    """Share of a map's sum that lies in a mask; NaN where the map is 0 everywhere."""
    total = float(values.sum())
    return float(values[where].sum()) / total if total > 0 else math.nan


def area_under(positions: Sequence[float], scores: Sequence[float]) -> float:
    """Mean height of a curve between its first and its last position, by trapezia."""
    x, y = np.asarray(positions, np.float64), np.asarray(scores, np.float64)
    return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() / (x[-1] - x[0]))
