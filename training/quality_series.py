# SPDX-License-Identifier: Apache-2.0
"""Corrupted copies of cases, on which an estimate of quality is fitted and judged: kinds and levels.

What makes images bad is imitated by MONAI's transforms: noise, a bias field, blur, another contrast (gamma)
and a lower resolution. Labels stay as they are.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from monai.transforms import (
    AdjustContrast,
    GaussianSmooth,
    RandBiasField,
    RandGaussianNoise,
    RandSimulateLowResolution,
)
from torch import Tensor

from DIANetLib.volume import Volume

Kind = Literal["none", "noise", "bias", "blur", "gamma", "resolution"]

#: What a level means: the noise's deviation as a share of the image's range; the greatest coefficient of the
#: bias field's polynomial of degree 3; the blur's deviation in voxels; gamma; the zoom before it is undone.
LEVELS: Mapping[Kind, tuple[float, ...]] = {
    "none": (0.0,),
    "noise": (0.1, 0.2, 0.4),
    "bias": (0.3, 0.6, 1.0),
    "blur": (0.8, 1.5, 2.5),
    "gamma": (0.4, 2.0, 4.0),
    "resolution": (0.6, 0.4, 0.25),
}


@dataclass(frozen=True)
class Corruption:
    """One entry of the series.

    Attributes:
        kind: what is done.
        level: how much, see `LEVELS`.
    """

    kind: Kind = "none"
    level: float = 0.0

    def __str__(self) -> str:
        return self.kind if self.kind == "none" else f"{self.kind} {self.level:g}"


def series(*, middle: bool = False) -> tuple[Corruption, ...]:
    """All corruptions, the images as they are first.

    Args:
        middle: only the middle level of each kind, for models that take long.
    """
    return tuple(
        Corruption(kind, level)
        for kind, levels in LEVELS.items()
        for level in (levels[len(levels) // 2 :][:1] if middle else levels)
    )


def corrupted(volume: Volume, corruption: Corruption, seed: int) -> Volume:
    """A corrupted copy of an image; the same image, corruption and seed give the same copy.

    Args:
        volume: the image; returned as it is for the kind "none".
        corruption: kind and level.
        seed: 0 or more; modalities and cases should have different ones.
    """
    if corruption.kind == "none":
        return volume
    image = torch.from_numpy(np.ascontiguousarray(volume.array, dtype=np.float32))[None]
    # A kind has noise of its own, so that no two corruptions of a case share it.
    state = zlib.crc32(f"{corruption.kind} {seed}".encode())
    made = _KINDS[corruption.kind](image, corruption.level, state)
    return volume.with_array(np.asarray(torch.as_tensor(made)[0].numpy(), dtype=np.float32))


def _noise(image: Tensor, level: float, seed: int) -> Tensor:
    low, high = np.percentile(image.numpy(), (1, 99))
    transform = RandGaussianNoise(prob=1.0, std=float(level * (high - low)), sample_std=False)
    return transform.set_random_state(seed)(image)


def _bias(image: Tensor, level: float, seed: int) -> Tensor:
    transform = RandBiasField(prob=1.0, degree=3, coeff_range=(-level, level))
    # The field multiplies: what is darkest is taken for zero.
    least = image.min()
    return transform.set_random_state(seed)(image - least) + least


def _blur(image: Tensor, level: float, seed: int) -> Tensor:
    del seed
    return GaussianSmooth(sigma=level)(image)


def _gamma(image: Tensor, level: float, seed: int) -> Tensor:
    del seed
    return AdjustContrast(gamma=level)(image)


def _resolution(image: Tensor, level: float, seed: int) -> Tensor:
    # By areas: the default, the nearest voxel, moves the image by half a coarse voxel against its labels.
    transform = RandSimulateLowResolution(prob=1.0, zoom_range=(level, level), downsample_mode="area")
    return transform.set_random_state(seed)(image)


_KINDS: Mapping[Kind, Callable[[Tensor, float, int], Tensor]] = {
    "noise": _noise,
    "bias": _bias,
    "blur": _blur,
    "gamma": _gamma,
    "resolution": _resolution,
}
