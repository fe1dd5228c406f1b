# SPDX-License-Identifier: Apache-2.0
"""Anatomical priors from the training masks: domain regulariser (11, 14) and the spatial prior of SPEC O3.

The prior is an atlas: how probable each class is at each offset from the structures' centre of mass. Aligned
there, it needs no registration, and a translation of the patch moves it along.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

from DIANetLib.errors import InputError
from DIANetLib.losses.precision import at_least_float32

#: Least probability of an atlas; half precision holds it to 3 %.
MINIMUM = 1e-6
# Voxels around the outermost foreground, where the smoothed probabilities run out.
_MARGIN = 2
# Mass below which a predicted structure counts as spread evenly: keeps the gradient of its shares bounded.
_TRACE = 1e-6


@dataclass(frozen=True, eq=False)
class AlignedAtlas:
    """An atlas at the place of each row of a batch.

    Attributes:
        target: class probabilities (B, K, *G) float32 that sum to one over classes.
        valid: rows that have a place, (B,) bool; the others' target means nothing.
    """

    target: Tensor
    valid: Tensor


@dataclass(frozen=True, eq=False)
class Atlas:
    """Probability of each class around the foreground's centre of mass, which is the grid's centre.

    Attributes:
        probabilities: (K, *A) float32 on the network's grid (voxels of its spacing); none is 0, they sum to
            one over classes.
    """

    probabilities: Tensor

    @property
    def classes(self) -> int:
        """K, background included."""
        return self.probabilities.shape[0]

    def stored(self) -> Tensor:
        """The probabilities as they are stored, (K, *A) float16."""
        return self.probabilities.half()

    @classmethod
    def restored(cls, stored: Tensor) -> Atlas:
        """The atlas of probabilities (K, *A) that were stored in half precision."""
        values = stored.float().clamp_min(MINIMUM)
        return cls(values / values.sum(0, keepdim=True))

    @torch.no_grad()
    def at(self, labels: Tensor, grid: Sequence[int], labelled: Tensor | None = None) -> AlignedAtlas:
        """The atlas moved to the centre of mass of each row's foreground, on the labels' grid or coarser.

        A cell of a coarser grid gets the mean over the voxels that it covers. Beyond the atlas its border is
        continued.

        Args:
            labels: class numbers (B, *S); 0 is background, below 0 counts as background too.
            grid: size (*G) of the grid wanted, which divides S evenly.
            labelled: rows that have labels, (B,) bool, or None for all.

        Raises:
            ValueError: if the grid does not divide the labels' or has another number of axes than the atlas.
        """
        strides = _strides(tuple(labels.shape[1:]), tuple(grid))
        if len(strides) != self.probabilities.ndim - 1:
            raise ValueError(
                f"expected labels of {self.probabilities.ndim - 1} axes, as the atlas has, got {len(strides)}"
            )
        centre, valid = centre_of_mass(labels > 0)
        if labelled is not None:
            valid = valid & labelled.to(valid.device)
        cells = _cell_means(self.probabilities.to(labels.device), strides)
        middle = (torch.tensor(self.probabilities.shape[1:], device=labels.device) - 1) / 2
        offset = middle - torch.where(valid[:, None], centre, 0.0)
        return AlignedAtlas(_sample(cells, grid, strides, offset), valid)


def learn_atlas(
    labels: Iterable[npt.NDArray[Any]],
    classes: int,
    size: Sequence[int] | None = None,
    *,
    smoothing: float = 1.0,
    mirror_axes: Sequence[int] = (),
) -> Atlas:
    """Average masks aligned by their foreground's centre of mass.

    The average is smoothed, and one case is added whose classes lie anywhere, each as often as it is found on
    the whole (Laplace's rule): where a structure was never seen it may yet be, and a probability of 0 would
    make the divergence from the atlas infinite there.

    Args:
        labels: class numbers (*S) of each case on the network's grid; cases without foreground are skipped.
        classes: K, background included.
        size: (*A), or None for the smallest grid that holds every case's foreground and a margin.
        smoothing: sigma of the Gaussian, in voxels.
        mirror_axes: axes of S along which patches are mirrored in training; the atlas is symmetric in them.

    Raises:
        InputError: if no case has foreground, or a class number is not below `classes`.
    """
    cases = [mask for mask in (np.asarray(one) for one in labels) if (mask > 0).any()]
    if not cases:
        raise InputError(
            "no case has any foreground, so there is no anatomy to learn.",
            remedy="Check the structures' source_values.",
        )
    highest = max(int(mask.max()) for mask in cases)
    if highest >= classes:
        raise InputError(f"expected class numbers below {classes}, got {highest}.")
    size = _size_for(cases) if size is None else tuple(size)
    total = torch.zeros(classes, *size)
    for mask in cases:
        total += _centred(mask, classes, size)
    mean = total.numpy() / len(cases)
    if smoothing > 0:
        mean = np.stack([gaussian_filter(channel, smoothing, mode="nearest") for channel in mean])
    for axis in mirror_axes:
        mean = (mean + np.flip(mean, 1 + axis)) / 2
    anywhere = mean.mean(axis=tuple(range(1, mean.ndim)), keepdims=True)
    return Atlas.restored(torch.from_numpy((len(cases) * mean + anywhere) / (len(cases) + 1)))


def domain_regulariser(
    probabilities: Tensor, target: Tensor, valid: Tensor, order: Literal[1, 2] = 2
) -> Tensor:
    """Distance of P(h) from the atlas: squared L2 norm (11) or L1 norm (14) over classes.

    The norm is summed over classes and averaged over positions and valid rows, so that its weight does not
    depend on the grid. It lies between 0 and 2.

    Args:
        probabilities: P(h), the class distribution decoded from the latent, (B, K, *G).
        target: the atlas in place, (B, K, *G).
        valid: rows that count, (B,) bool.
        order: 2 or 1.

    Returns:
        A scalar; 0 on the graph where no row is valid.
    """
    difference = at_least_float32(probabilities) - target
    distance = (difference.square() if order == 2 else difference.abs()).sum(1).flatten(1).mean(1)
    return _mean_over(distance, valid)


def spatial_prior_kl(probabilities: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """KL divergence of where each structure is predicted from where the atlas has it.

    For each structure k the predicted probability and the atlas' are normalised over space to q_k and a_k;
    KL(q_k || a_k) = sum_s q_k(s) ln(q_k(s) / a_k(s)). It asks for no volume. What costs most is probability
    at places where the atlas has next to none; but it is least for a prediction as blurred as the atlas, so
    its weight has to be small beside the task's.

    Args:
        probabilities: (B, K, *S), background first.
        target: the atlas in place, (B, K, *S).
        valid: rows that count, (B,) bool.

    Returns:
        A scalar, nats, averaged over structures and valid rows; 0 on the graph where no row is valid.
    """
    predicted = at_least_float32(probabilities)[:, 1:].flatten(2) + _TRACE
    prior = target[:, 1:].flatten(2)
    log_q = predicted.log() - predicted.sum(2, keepdim=True).log()
    log_a = prior.log() - prior.sum(2, keepdim=True).log()
    divergence = (log_q.exp() * (log_q - log_a)).sum(2).mean(1)
    return _mean_over(divergence, valid)


def centre_of_mass(foreground: Tensor) -> tuple[Tensor, Tensor]:
    """Centre of mass in voxels, (B, D) float32, of masks (B, *S), and which rows have one, (B,) bool."""
    mass = foreground.float()
    axes = range(1, mass.ndim)
    count = mass.sum(tuple(axes))
    centres = []
    for axis in axes:
        profile = mass.sum(tuple(other for other in axes if other != axis))
        place = torch.arange(profile.shape[1], device=mass.device, dtype=mass.dtype)
        centres.append((profile @ place) / count.clamp_min(1.0))
    return torch.stack(centres, 1), count > 0


def _mean_over(values: Tensor, valid: Tensor) -> Tensor:
    chosen = torch.where(valid.to(values.device), values, 0.0)
    return chosen.sum() / valid.sum().clamp_min(1)


def _strides(fine: tuple[int, ...], coarse: tuple[int, ...]) -> tuple[int, ...]:
    if len(fine) != len(coarse) or any(f % c for f, c in zip(fine, coarse, strict=False)):
        raise ValueError(f"expected a grid that divides the labels' {fine} evenly, got {coarse}")
    return tuple(f // c for f, c in zip(fine, coarse, strict=True))


def _cell_means(values: Tensor, strides: Sequence[int]) -> Tensor:
    """Means of (K, *A), its border continued, over all boxes of size `strides` that touch it.

    Entry m holds the box that begins at voxel m + 1 - stride.
    """
    for axis, stride in enumerate(strides, start=1):
        first, last = values.narrow(axis, 0, 1), values.narrow(axis, values.shape[axis] - 1, 1)
        longer = torch.cat([*[first] * (stride - 1), values, *[last] * (stride - 1)], axis)
        values = longer.unfold(axis, stride, 1).mean(-1)
    return values


def _sample(values: Tensor, grid: Sequence[int], strides: Sequence[int], offset: Tensor) -> Tensor:
    """Box means as of `_cell_means` for the boxes that begin at stride * o + offset: (B, K, *grid).

    Interpolating means linearly equals taking means of the interpolated.
    """
    batch, axes = offset.shape
    coordinates = []
    for axis, (count, stride) in enumerate(zip(grid, strides, strict=True)):
        first = stride * torch.arange(count, device=values.device) + offset[:, axis, None]
        length = values.shape[1 + axis]
        scaled = (
            2.0 * (first + stride - 1) + 1.0
        ) / length - 1.0  # what grid_sample calls align_corners=False
        shape = [batch, *[count if other == axis else 1 for other in range(axes)]]
        coordinates.append(scaled.reshape(shape).expand(batch, *grid))
    where = torch.stack(coordinates[::-1], -1)  # grid_sample takes the last axis first
    source = values.expand(batch, *values.shape)
    return F.grid_sample(source, where, padding_mode="border", align_corners=False)


def _centred(mask: npt.NDArray[Any], classes: int, size: Sequence[int]) -> Tensor:
    """One-hot (K, *A) of a mask whose foreground's centre of mass is moved to the centre."""
    labels = torch.from_numpy(mask.astype(np.int64)).clamp_min(0)[None]
    # one voxel of background all around, which sampling then continues
    padded = F.pad(labels, (1, 1) * mask.ndim)
    one_hot = F.one_hot(padded[0], classes).movedim(-1, 0).float()
    centre, _ = centre_of_mass(padded > 0)
    offset = centre - (torch.tensor(size) - 1) / 2
    return _sample(one_hot, size, (1,) * mask.ndim, offset)[0]


def _size_for(cases: Sequence[npt.NDArray[Any]]) -> tuple[int, ...]:
    """The smallest odd size that holds every foreground, its centre of mass in the middle, and a margin."""
    reach = np.zeros(cases[0].ndim)
    for mask in cases:
        places = np.stack(np.nonzero(mask > 0))
        centre = places.mean(axis=1)
        far = np.maximum(centre - places.min(axis=1), places.max(axis=1) - centre)
        reach = np.maximum(reach, far)
    return tuple(2 * (math.ceil(value) + _MARGIN) + 1 for value in reach)
