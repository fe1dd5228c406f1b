# SPDX-License-Identifier: Apache-2.0
"""Windows over an image that does not fit through the network at once, and the blending of what they give.

Windows overlap and are weighted by a Gaussian, as in nnU-Net (Isensee et al., Nature Methods 2021): a voxel
is best known where it is far from the border of its window. Blended are the quantities that are means over
the samples (p, p^2, the entropy, the logit variance); what depends on them non-linearly (entropy of the
mean, variance, mutual information; equations 33 to 35) is computed from the blended means.

Sizes and starts are in array order (k, j, i). A 2-D network reads windows of one slice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import torch
from torch import Tensor

from DIANetLib.acwi.pooling import PooledFeatures
from DIANetLib.acwi.uncertainty import UncertaintyMaps, entropy

__all__ = [
    "Blend",
    "Window",
    "gaussian_weights",
    "plan_windows",
    "round_up",
    "usual_windows",
    "whole_window",
]

#: Share of a window that its neighbour sees as well.
OVERLAP = 0.25
#: An image may be this much longer than the model's window and still be read at once.
STRETCH = 1.5

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Window:
    """A piece of an image.

    Attributes:
        index: Position in the list of windows; random numbers depend on it.
        start: First voxel (k, j, i).
        size: Voxels of the image that it covers (k, j, i).
        padded: Voxels that the network reads, multiples of its divisor; the rest around is 0, the mean.
        counted: The part of the window that counts where every voxel of the image is to count once; None for
            all of it.
    """

    index: int
    start: Sizes
    size: Sizes
    padded: Sizes
    counted: tuple[slice, ...] | None = None

    @property
    def slices(self) -> tuple[slice, ...]:
        """Where the window lies in the image."""
        return tuple(slice(a, a + n) for a, n in zip(self.start, self.size, strict=True))

    @property
    def valid(self) -> tuple[slice, ...]:
        """Where the image lies in what the network reads: in its middle."""
        before = [(p - n) // 2 for p, n in zip(self.padded, self.size, strict=True)]
        return tuple(slice(b, b + n) for b, n in zip(before, self.size, strict=True))

    def cut(self, image: Tensor) -> Tensor:
        """The window of an image (M, k, j, i), padded: (M, *padded); a view where nothing is added."""
        piece = image[(slice(None), *self.slices)]
        if self.size == self.padded:
            return piece
        out = image.new_zeros((image.shape[0], *self.padded))
        out[(slice(None), *self.valid)] = piece
        return out


def round_up(size: int, divisor: int) -> int:
    """The next multiple of ``divisor``, at least two of them: one voxel cannot be normalised by itself."""
    return size if divisor == 1 else max(2, math.ceil(size / divisor)) * divisor


def whole_window(shape: Sizes, window: Sizes, divisor: Sizes) -> Sizes | None:
    """Size of one window around the whole image, or None if that is much more than the model's window."""
    sizes = tuple(round_up(n, d) for n, d in zip(shape, divisor, strict=True))
    fits = all(n <= STRETCH * round_up(w, d) for n, w, d in zip(sizes, window, divisor, strict=True))
    return sizes if fits else None


def plan_windows(
    shape: Sizes, window: Sizes, divisor: Sizes, *, overlap: float = OVERLAP
) -> tuple[Window, ...]:
    """Cover an image with as few windows as the overlap asks for, evenly spaced.

    Args:
        shape: Voxels of the image (k, j, i).
        window: Voxels of a window (k, j, i); rounded up to the divisor, and down to what the image needs.
        divisor: What the network needs sizes to be divisible by (k, j, i).
        overlap: Least share of a window that its neighbour sees as well, 0 to below 1.
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"expected an overlap from 0 to below 1, got {overlap}")
    padded = tuple(
        min(round_up(w, d), round_up(n, d)) for n, w, d in zip(shape, window, divisor, strict=True)
    )
    size = tuple(min(n, p) for n, p in zip(shape, padded, strict=True))
    axes = [_spans(n, s, overlap) for n, s in zip(shape, size, strict=True)]
    return tuple(
        Window(index, tuple(start for start, _ in spans), size, padded, tuple(part for _, part in spans))
        for index, spans in enumerate(product(*axes))
    )


def usual_windows(shape: Sizes, window: Sizes, divisor: Sizes, *, flat: bool = False) -> tuple[Window, ...]:
    """The windows that the engine reads an image in, where memory allows.

    Args:
        shape: Voxels of the image (k, j, i).
        window: The model's own window (k, j, i).
        divisor: What the network needs sizes to be divisible by (k, j, i).
        flat: Slice by slice.

    Returns:
        One window around the whole image if that is not much more than the model's; else as many as cover it.
    """
    if flat:
        return plan_windows(shape, (1, *window[1:]), divisor)
    return plan_windows(shape, whole_window(shape, window, divisor) or window, divisor)


def gaussian_weights(size: Sizes) -> Tensor:
    """Weights of a window's voxels, (*size) float32, 1 in the middle; the deviation is 1/8 of the window."""
    weights = torch.ones(())
    for n in size:
        offset = (torch.arange(n) - (n - 1) / 2) / (n / 8)
        weights = weights.unsqueeze(-1) * torch.exp(-0.5 * offset**2)
    # Corners that only one window sees must not vanish in rounding.
    return weights.clamp_min_(1e-3)


class Blend:
    """Weighted running means over windows; on the CPU, 2 K + 3 values a voxel (K + 2 for a plain pass).

    Args:
        classes: K.
        shape: Voxels of the image (k, j, i).
        samples: Stochastic passes; a single one has no variance to keep.
        one_pass: Whether a one-pass head tells what samples would: then there is variance and an error map.
    """

    def __init__(self, classes: int, shape: Sizes, samples: int, *, one_pass: bool = False) -> None:
        self.samples = samples
        self._weight = torch.zeros(shape)
        self._mean = torch.zeros((classes, *shape))
        self._square = torch.zeros((classes, *shape)) if samples > 1 or one_pass else None
        self._error = torch.zeros(shape) if one_pass else None
        self._aleatoric = torch.zeros(shape)
        self._logit_variance: Tensor | None = None
        self._overlaps: Tensor | None = None
        self._pooled: PooledFeatures | None = None
        self._weights: dict[Sizes, Tensor] = {}

    def add(self, window: Window, maps: UncertaintyMaps) -> None:
        """Add what a window gave: maps (K, *size) and (*size) on the CPU."""
        if window.size not in self._weights:
            self._weights[window.size] = gaussian_weights(window.size)
        weights, where = self._weights[window.size], window.slices
        channels = (slice(None), *where)
        self._weight[where].add_(weights)
        self._mean[channels].addcmul_(maps.mean_probability, weights)
        if self._square is not None:
            square = torch.addcmul(maps.variance, maps.mean_probability, maps.mean_probability)
            self._square[channels].addcmul_(square, weights)
        self._aleatoric[where].addcmul_(maps.aleatoric, weights)
        if maps.heteroscedastic is not None:
            if self._logit_variance is None:
                self._logit_variance = torch.zeros_like(self._weight)
            self._logit_variance[where].addcmul_(maps.heteroscedastic, weights)
        if maps.error is not None and self._error is not None:
            self._error[where].addcmul_(maps.error, weights)
        if maps.overlaps is not None:
            self._overlaps = maps.overlaps if self._overlaps is None else self._overlaps + maps.overlaps
        if maps.pooled is not None:
            self._pooled = maps.pooled if self._pooled is None else self._pooled + maps.pooled

    def finish(self) -> UncertaintyMaps:
        """Turn the means into maps, in place: no further window can be added."""
        mean, aleatoric = self._mean.div_(self._weight), self._aleatoric.div_(self._weight)
        if self._logit_variance is not None:
            self._logit_variance.div_(self._weight)
        if self._error is not None:
            self._error.div_(self._weight)
        total = torch.empty_like(aleatoric)
        for k in range(total.shape[0]):  # by slices: entropy takes a copy of what it is given
            total[k] = entropy(mean[:, k])
        if self._square is None:
            # One pass: what is not known here is not known for lack of samples, so nothing is epistemic. The
            # entropy of the blended probabilities is the one that belongs to them.
            variance, aleatoric = torch.zeros_like(mean), total.clone()
        else:
            variance = self._square.div_(self._weight).addcmul_(mean, mean, value=-1.0).clamp_min_(0.0)
            # Jensen's inequality holds for exact numbers; rounding may break it in the last digits.
            torch.maximum(total, aleatoric, out=total)
        return UncertaintyMaps(
            mean_probability=mean,
            total=total,
            aleatoric=aleatoric,
            epistemic=total - aleatoric,
            variance=variance,
            heteroscedastic=self._logit_variance,
            samples=self.samples,
            overlaps=self._overlaps,
            pooled=self._pooled,
            error=self._error,
        )


def _spans(length: int, size: int, overlap: float) -> list[tuple[int, slice]]:
    """Start of every window along an axis, and the part of the window that is nearest to its middle."""
    starts = _starts(length, size, overlap)
    borders = [(a + b + size) // 2 for a, b in pairwise(starts)]
    ends = zip([0, *borders], [*borders, length], strict=True)
    return [(start, slice(a - start, b - start)) for start, (a, b) in zip(starts, ends, strict=True)]


def _starts(length: int, size: int, overlap: float) -> Sequence[int]:
    if size >= length:
        return (0,)
    count = math.ceil((length - size) / max(1.0, size * (1 - overlap))) + 1
    return tuple(round(n * (length - size) / (count - 1)) for n in range(count))
