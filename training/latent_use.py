# SPDX-License-Identifier: Apache-2.0
"""Whether the Gaussian latent h carries anything: KL per dimension, and Dice with another case's h.

Equations (10, 12, 13). A latent whose exchange between cases changes nothing is decorative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from DIANetLib.losses.latent import gaussian_kl
from DIANetLib.network import DIANet, GaussianDistribution
from training.datasets import PreparedCase
from training.predict import structure_dice


@dataclass(frozen=True)
class LatentUse:
    """What h does on held-out cases, all in one window per case and with the mean pass.

    Attributes:
        kl_per_dimension: nats, mean over cases and positions; (d,).
        kl: their sum.
        active_dimensions: how many exceed 0.01 nats.
        dice_own: mean Dice with each case's own mean of h.
        dice_shuffled: the same with the mean of h of the next case.
        dice_prior: the same with the prior's mean, 0.
        cases: number of cases.
    """

    kl_per_dimension: tuple[float, ...]
    kl: float
    active_dimensions: int
    dice_own: float
    dice_shuffled: float
    dice_prior: float
    cases: int

    @property
    def dice_change_when_shuffled(self) -> float:
        """Dice with another case's h, less Dice with its own."""
        return self.dice_shuffled - self.dice_own


@torch.inference_mode()
def latent_use(network: DIANet, cases: Sequence[PreparedCase], window: tuple[int, ...]) -> LatentUse | None:
    """Measure the use of h on cases; None for a network without it or for fewer than two cases.

    Args:
        network: in evaluation mode.
        cases: prepared.
        window: voxels (k, j, i) around the middle of each case, so that every h has the same grid.
    """
    if network.latent is None or len(cases) < 2:
        return None
    device = next(network.parameters()).device
    divergences, latents = [], []
    for case in cases:
        latent = network.encode(_middle(case.image, window).to(device)).latent
        assert latent is not None  # the network has one
        divergences.append(gaussian_kl(latent.mean, latent.log_variance).cpu().numpy())
        latents.append(latent)
    scores: dict[str, list[float]] = {"own": [], "shuffled": [], "prior": []}
    for number, case in enumerate(cases):
        encoded = network.encode(_middle(case.image, window).to(device))
        own = latents[number]
        prior = GaussianDistribution(torch.zeros_like(own.mean), torch.zeros_like(own.log_variance))
        variants = {"own": own, "shuffled": latents[(number + 1) % len(latents)], "prior": prior}
        reference = _middle(case.labels[None], window)[0, 0].numpy()
        for name, latent in variants.items():
            labels = network.decode(replace(encoded, latent=latent)).segmented.mean[0].argmax(0).cpu().numpy()
            dice = structure_dice(labels, reference.astype(np.int64), network.config.classes)
            if not np.isnan(dice).all():
                scores[name].append(float(np.nanmean(dice)))
    divergence = np.mean(divergences, axis=0)
    return LatentUse(
        kl_per_dimension=tuple(round(float(value), 5) for value in divergence),
        kl=float(divergence.sum()),
        active_dimensions=int((divergence > 0.01).sum()),
        dice_own=float(np.mean(scores["own"])),
        dice_shuffled=float(np.mean(scores["shuffled"])),
        dice_prior=float(np.mean(scores["prior"])),
        cases=len(cases),
    )


def _middle(array: np.ndarray, window: tuple[int, ...]) -> Tensor:
    """The middle (1, C, *window) of an array (C, *S), with 0 where the array is smaller."""
    out = np.zeros((1, array.shape[0], *window), np.float32)
    source, target = [], []
    for have, want in zip(array.shape[1:], window, strict=True):
        take = min(have, want)
        source.append(slice((have - take) // 2, (have - take) // 2 + take))
        target.append(slice((want - take) // 2, (want - take) // 2 + take))
    out[0][(slice(None), *target)] = array[(slice(None), *source)]
    return torch.from_numpy(out)
