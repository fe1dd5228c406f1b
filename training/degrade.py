# SPDX-License-Identifier: Apache-2.0
"""What the reconstruction task makes of a clean patch: noise, or k-space with lines left out.

Where images are complex the network's two channels are their parts and what is measured is exact. Real images
are undersampled channel by channel, and what the network reads is the real part of the zero-filled image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from DIANetLib.errors import ConfigError
from DIANetLib.operators import (
    Denoising,
    ForwardOperator,
    KSpaceUndersampling,
    cartesian_masks,
    complex_channels,
)
from training.coil import seen_by_coil
from training.config_tasks import ReconstructionTask


@dataclass(frozen=True)
class RealUndersampling:
    """H = Re F^H F on real images: each channel is measured alone, and only the real part is kept.

    Attributes:
        mask: as in `KSpaceUndersampling`, (B, 1, *S).
    """

    mask: Tensor

    @property
    def exact(self) -> bool:
        """False: H is no projection."""
        return False

    def normal(self, image: Tensor) -> Tensor:
        """H image, (B, C, *S)."""
        channels = image.shape[1]
        mask = self.mask if self.mask.shape[0] == 1 else self.mask.repeat_interleave(channels, 0)
        alone = image.reshape(-1, 1, *image.shape[2:])
        seen = KSpaceUndersampling(mask).normal(complex_channels(alone))
        return seen[:, :1].reshape(image.shape)

    def observe(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """H image; nothing is drawn."""
        return self.normal(image)


@dataclass(frozen=True, eq=False)
class Degraded:
    """A patch as the network reads it.

    Attributes:
        image: (C, *S) float32.
        clean: (C, *S) float32.
        mask: what is measured of k-space, (1, *S); all of it where the operator is denoising.
        degraded: whether `image` differs from `clean`.
    """

    image: Tensor
    clean: Tensor
    mask: Tensor
    degraded: bool


def degrade(task: ReconstructionTask, image: Tensor, rng: np.random.Generator) -> Degraded:
    """Degrade a clean patch, or leave it alone as often as the task says.

    Args:
        task: its settings.
        image: (M, *S); for complex images with M = 1 an imaginary part of zero is appended.
        rng: decides everything.
    """
    clean = complex_channels(image[None])[0] if task.complex and image.shape[0] == 1 else image
    size = clean.shape[1:]
    mask = torch.ones(1, *size)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    factor = float(rng.choice(task.accelerations))
    sigma = float(rng.uniform(*task.sigma))
    if task.coil > 0.0 and rng.random() < task.coil:
        clean = seen_by_coil(clean, rng)
    if rng.random() >= task.share:
        return Degraded(clean, clean, mask, False)
    if task.operator == "denoising":
        operator: ForwardOperator = Denoising(sigma)
    else:
        mask = cartesian_masks(tuple(size), factor, task.centre_fraction, generator)[0]
        operator = operator_of(task, mask[None])
    return Degraded(operator.observe(clean[None], generator)[0], clean, mask, True)


def operator_of(task: ReconstructionTask, mask: Tensor) -> ForwardOperator:
    """The operator of a batch of patches, whose masks are (B, 1, *S)."""
    if task.operator == "denoising":
        return Denoising(0.0)  # what is measured is all of the image; how noisy it was, no loss asks
    return KSpaceUndersampling(mask) if task.complex else RealUndersampling(mask)


def check_masks(task: ReconstructionTask, width: int) -> None:
    """Find out before a fit whether every acceleration is possible on patches of that width.

    Raises:
        ConfigError: if one is not.
    """
    if task.operator != "kspace":
        return
    for factor in task.accelerations:
        try:
            cartesian_masks((1, width), factor, task.centre_fraction, torch.Generator())
        except ConfigError as error:
            raise ConfigError(f"tasks.reconstruction: {error.message}", remedy=error.remedy) from error
