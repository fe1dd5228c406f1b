# SPDX-License-Identifier: Apache-2.0
"""Mean and deviation of feature maps over their positions, from windows that arrive one by one.

They come from the maps of the very pass that segments. Only the part of a map under the image counts, not the
padding around it. Where windows overlap, what both see counts twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PooledFeatures:
    """Sums over the positions of some feature maps, in the order of the maps.

    Attributes:
        counts: positions of each map.
        sums: (C,) per map, the sum of each channel.
        squares: (C,) per map, the sum of its squares.
    """

    counts: tuple[int, ...]
    sums: tuple[Float64Array, ...]
    squares: tuple[Float64Array, ...]

    def __add__(self, other: PooledFeatures) -> PooledFeatures:
        """Both together, of the same maps."""
        return PooledFeatures(
            tuple(a + b for a, b in zip(self.counts, other.counts, strict=True)),
            tuple(a + b for a, b in zip(self.sums, other.sums, strict=True)),
            tuple(a + b for a, b in zip(self.squares, other.squares, strict=True)),
        )

    @property
    def means(self) -> tuple[Float64Array, ...]:
        """(C,) per map, mean over the positions."""
        return tuple(total / n for n, total in zip(self.counts, self.sums, strict=True))

    @property
    def deviations(self) -> tuple[Float64Array, ...]:
        """(C,) per map, population standard deviation over the positions."""
        return tuple(
            np.sqrt(np.maximum(square / n - mean**2, 0.0))
            for n, square, mean in zip(self.counts, self.squares, self.means, strict=True)
        )


def pool(maps: Sequence[Tensor], size: Sequence[int], valid: Sequence[slice] | None = None) -> PooledFeatures:
    """Sum up the feature maps of one window.

    Args:
        maps: (1, C, *S_l) each, of one image.
        size: *S, voxels that the network read.
        valid: the part of S that is image and not padding; None for all of it. Of a coarser map those
            positions count whose middle lies in it, and one at least.

    Returns:
        Sums on the CPU.
    """
    counts, sums, squares = [], [], []
    for features in maps:
        part = features[0].float()
        if valid is not None:
            part = part[(slice(None), *_positions(features.shape[2:], size, valid))]
        # Positions first, as convolutions on CPUs leave them: seven times faster than the other way round.
        rows = part.movedim(0, -1).reshape(-1, part.shape[0])
        shift = rows[0]  # keeps the squares small where the mean is large
        shifted = rows - shift
        mean, square = (
            t.cpu().numpy().astype(np.float64) for t in (shifted.mean(0), shifted.square_().mean(0))
        )
        middle, count = mean + shift.cpu().numpy().astype(np.float64), len(rows)
        counts.append(count)
        sums.append(middle * count)
        squares.append((square - mean**2 + middle**2) * count)
    return PooledFeatures(tuple(counts), tuple(sums), tuple(squares))


def _positions(shape: Sequence[int], size: Sequence[int], valid: Sequence[slice]) -> list[slice]:
    found = []
    for length, voxels, part in zip(shape, size, valid, strict=True):
        share = length / voxels
        start = min(math.ceil(part.start * share - 0.5), length - 1)
        found.append(slice(start, max(start + 1, math.ceil(part.stop * share - 0.5))))
    return found
