# SPDX-License-Identifier: Apache-2.0
"""The weighted sum of losses that a fit minimises.

A new loss is one file in DIANetLib/losses and one line here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from DIANetLib.losses.latent import free_bits_kl, gaussian_kl
from DIANetLib.losses.task import (
    DiceCrossEntropy,
    deep_supervision_weights,
    downsample_labels,
    expected_probabilities,
    rarity_weights,
)
from DIANetLib.network import SegmentationOutput
from training.config import ObjectiveConfig


@dataclass(frozen=True)
class Loss:
    """The value to minimise and its named terms, each before weighting."""

    total: Tensor
    terms: dict[str, Tensor]


class Objective(torch.nn.Module):
    """Task loss with deep supervision, and the divergence of the latent.

    Args:
        config: weights of the terms.
        class_counts: (K,) voxels per class in the training cases; needed for `config.rarity_power` above 0.
    """

    def __init__(self, config: ObjectiveConfig, class_counts: Sequence[float] | None = None) -> None:
        super().__init__()
        self.config = config
        power = config.rarity_power
        weights = rarity_weights(class_counts, power) if class_counts and power > 0 else None
        self.task = DiceCrossEntropy(class_weights=weights)

    def forward(self, output: SegmentationOutput, labels: Tensor) -> Loss:
        """Loss of a training pass against class numbers (B, *S)."""
        probabilities = expected_probabilities(output.mean, output.log_variance, self.config.logit_draws)
        scales = [self.task(probabilities, labels)]
        for logits in output.auxiliary:
            coarse = downsample_labels(labels, logits.shape[2:])
            scales.append(self.task(torch.softmax(logits.float(), dim=1), coarse))
        weights = deep_supervision_weights(len(scales))
        task = torch.stack([w * s for w, s in zip(weights, scales, strict=True)]).sum()
        total, terms = task, {"task": task.detach()}
        if output.latent is not None:
            latent = output.latent
            total = total + self.config.kl_weight * free_bits_kl(
                latent.mean, latent.log_variance, self.config.kl_free_nats
            )
            terms["kl"] = gaussian_kl(latent.mean.detach(), latent.log_variance.detach()).sum()
        return Loss(total, terms)
