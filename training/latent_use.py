# SPDX-License-Identifier: Apache-2.0
"""Whether the Gaussian latent h carries anything: KL per dimension, and Dice with another case's h.

Equations (10, 12, 13). A latent whose exchange between cases changes nothing is decorative.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from DIANetLib.labelling import labels_of_logits
from DIANetLib.losses.latent import gaussian_kl, total_correlation
from DIANetLib.network import DIANet, Encoded, GaussianDistribution
from training.datasets import PreparedCase
from training.predict import structure_dice


@dataclass(frozen=True)
class LatentUse:
    """What h does on held-out cases, all in one window per case and with the mean pass.

    Attributes:
        kl_per_dimension: nats of the marginals, mean over cases and positions; (d,).
        kl: nats of the whole distribution: their sum and the total correlation.
        total_correlation: nats by which the dimensions depend on each other; 0 for a diagonal Sigma.
        active_dimensions: how many exceed 0.01 nats.
        cases: number of cases.
        dice_own: mean Dice with each case's own mean of h; None for a network that segments nothing.
        dice_shuffled: the same with the mean of h of the next case.
        dice_prior: the same with the prior's mean, 0.
    """

    kl_per_dimension: tuple[float, ...]
    kl: float
    total_correlation: float
    active_dimensions: int
    cases: int
    dice_own: float | None = None
    dice_shuffled: float | None = None
    dice_prior: float | None = None

    @property
    def dice_change_when_shuffled(self) -> float | None:
        """Dice with another case's h, less Dice with its own."""
        if self.dice_shuffled is None or self.dice_own is None:
            return None
        return self.dice_shuffled - self.dice_own


@dataclass(frozen=True, eq=False)
class MiddlePatch:
    """What the network reads of a case: the same grid for every case, so that latents can be exchanged.

    Attributes:
        image: (1, M, *S), 0 around an image that is smaller.
        available: (1, M) bool, or None where all modalities are there.
        labels: (*S) int64, or None.
    """

    image: Tensor
    available: Tensor | None
    labels: npt.NDArray[np.int64] | None


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
    patches = [middle_patch(network, case, window) for case in cases]
    divergences, correlations, latents = [], [], []
    for patch in patches:
        latent = network.encode(patch.image, patch.available).latent
        assert latent is not None  # the network has one
        divergences.append(gaussian_kl(latent.mean, latent.marginal_log_variance).cpu().numpy())
        if latent.factors is not None:
            correlations.append(float(total_correlation(latent.log_variance, latent.factors)))
        latents.append(latent)
    divergence = np.mean(divergences, axis=0)
    correlation = float(np.mean(correlations)) if correlations else 0.0
    return LatentUse(
        kl_per_dimension=tuple(round(float(value), 5) for value in divergence),
        kl=float(divergence.sum()) + correlation,
        total_correlation=correlation,
        active_dimensions=int((divergence > 0.01).sum()),
        cases=len(cases),
        **_dice(network, patches, latents),
    )


def middle_patch(network: DIANet, case: PreparedCase, window: tuple[int, ...]) -> MiddlePatch:
    """The window (k, j, i) in the middle of a case; for a 2-D network of its slice with the most labels."""
    device = next(network.parameters()).device
    image, labels = case.image, case.labels
    if network.config.modalities == len(image) + 1:  # of a complex image only the real part is there
        image = np.concatenate([image, np.zeros_like(image[:1])])
    if network.config.spatial_dims == 2:
        areas = [0] if labels is None else (labels > 0).sum(axis=(1, 2))
        chosen = int(np.argmax(areas)) if np.max(areas) else image.shape[1] // 2
        image, window = image[:, chosen], window[1:]
        labels = None if labels is None else labels[chosen]
    return MiddlePatch(
        torch.from_numpy(_middle(image, window))[None].to(device),
        None if all(case.available) else torch.tensor([case.available], device=device),
        None if labels is None else _middle(labels[None], window)[0].astype(np.int64),
    )


def _dice(
    network: DIANet, patches: Sequence[MiddlePatch], latents: Sequence[GaussianDistribution]
) -> Mapping[str, float]:
    """Mean Dice with the own, the next case's and the prior's mean of h; empty without a segmentation."""
    scores: dict[str, list[float]] = {"dice_own": [], "dice_shuffled": [], "dice_prior": []}
    for number, patch in enumerate(patches):
        if network.segmentation is None or patch.labels is None:
            continue
        encoded, own = network.encode(patch.image, patch.available), latents[number]
        zeros = torch.zeros_like(own.mean)
        variants = (own, latents[(number + 1) % len(latents)], GaussianDistribution(zeros, zeros))
        for name, latent in zip(scores, variants, strict=True):
            dice = structure_dice(_labels(network, encoded, latent), patch.labels, network.config.classes)
            if not np.isnan(dice).all():
                scores[name].append(float(np.nanmean(dice)))
    return {name: float(np.mean(values)) for name, values in scores.items() if values}


def _labels(network: DIANet, encoded: Encoded, latent: GaussianDistribution) -> npt.NDArray[np.int64]:
    output = network.decode(replace(encoded, latent=latent))
    return np.asarray(labels_of_logits(output.segmented.mean[0]).cpu().numpy())


def _middle(array: npt.NDArray[np.generic], window: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """The middle (C, *window) of an array (C, *S), with 0 where the array is smaller."""
    out = np.zeros((array.shape[0], *window), np.float32)
    source, target = [], []
    for have, want in zip(array.shape[1:], window, strict=True):
        take = min(have, want)
        source.append(slice((have - take) // 2, (have - take) // 2 + take))
        target.append(slice((want - take) // 2, (want - take) // 2 + take))
    out[(slice(None), *target)] = array[(slice(None), *source)]
    return out
