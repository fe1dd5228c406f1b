# SPDX-License-Identifier: Apache-2.0
"""The weighted sum of losses that a fit minimises, each over the rows of a batch that it can learn from.

A new loss is one file in DIANetLib/losses and one line here. A task without any row in a batch adds zero
times what its head put out, so that every parameter has a gradient, as processes that share gradients need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from DIANetLib.losses.anatomy import domain_regulariser, spatial_prior_kl
from DIANetLib.losses.classification import classification_loss
from DIANetLib.losses.cut import CutWeights, cut_loss
from DIANetLib.losses.distribution import distribution_divergence
from DIANetLib.losses.latent import free_bits_kl, gaussian_kl, total_correlation
from DIANetLib.losses.reconstruction import ReconstructionLoss
from DIANetLib.losses.task import (
    DiceCrossEntropy,
    deep_supervision_weights,
    downsample_labels,
    expected_probabilities,
    rarity_weights,
)
from DIANetLib.network import DIANetOutput, GaussianDistribution, ReconstructionOutput, SegmentationOutput
from training.batch import Batch
from training.config_tasks import ObjectiveConfig, TasksConfig
from training.priors import Priors

#: Divergence in nats above which a dimension of h counts as used.
ACTIVE_NATS = 0.01


@dataclass(frozen=True)
class Loss:
    """The value to minimise and its named terms, each before weighting and without graph."""

    total: Tensor
    terms: dict[str, Tensor]


class Objective(torch.nn.Module):
    """Task losses (1, 2), the divergence of the latent (12, 13) and the anatomical terms (11, 14).

    Args:
        config: weights of the terms.
        tasks: weights of the tasks.
        class_counts: (K,) voxels per class in the training cases; needed for `config.rarity_power` above 0.
        priors: what was learned from the training masks; needed for the anatomical terms.
    """

    def __init__(
        self,
        config: ObjectiveConfig,
        tasks: TasksConfig | None = None,
        class_counts: Sequence[float] | None = None,
        priors: Priors | None = None,
    ) -> None:
        super().__init__()
        self.config, self.tasks = config, tasks or TasksConfig()
        self.priors = priors or Priors()
        power = config.rarity_power
        weights = rarity_weights(class_counts, power) if class_counts and power > 0 else None
        self.task = DiceCrossEntropy(class_weights=weights)
        task = self.tasks.reconstruction
        self.reconstruction = (
            ReconstructionLoss(data_weight=task.consistency, norm=task.error) if task is not None else None
        )

    def forward(self, output: DIANetOutput, batch: Batch, progress: float = 0.0) -> Loss:
        """Loss of a training pass, made where `progress` (0 to 1) of the fit is done."""
        strength = self.config.strength(progress)
        weighted: list[Tensor] = []
        terms: dict[str, Tensor] = {}

        def add(name: str, weight: float, value: Tensor) -> None:
            weighted.append(weight * value)
            terms[name] = value.detach()

        if output.segmentation is not None:
            probabilities = expected_probabilities(
                output.segmentation.mean, output.segmentation.log_variance, self.config.logit_draws
            )
            add(
                "task", self.tasks.segmentation, self._segmentation(output.segmentation, probabilities, batch)
            )
            for name, weight, value in self._anatomical(probabilities, output.anatomy, batch):
                add(name, strength * weight, value)
        if output.classification is not None:
            logits = output.classification.logits
            value = logits.float().sum() * 0.0
            if batch.target is not None:
                value = classification_loss(logits, batch.target)
            add("classification", self.tasks.classification, value)
        if output.reconstruction is not None and self.tasks.reconstruction is not None:
            value, parts = self._reconstruction(output.reconstruction, batch)
            add("reconstruction", self.tasks.reconstruction.weight, value)
            terms |= parts
        if output.latent is not None:
            value, divergence = self._latent(output.latent)
            weighted.append(value)
            terms |= divergence
        return Loss(torch.stack(weighted).sum(), terms)

    def _segmentation(self, output: SegmentationOutput, probabilities: Tensor, batch: Batch) -> Tensor:
        """Dice and cross-entropy over all decoder scales."""
        if batch.labels is None:
            return sum((logits.float().sum() * 0.0 for logits in output.auxiliary), probabilities.sum() * 0.0)
        scales = [self.task(probabilities, batch.labels, batch.labelled)]
        for logits in output.auxiliary:
            coarse = downsample_labels(batch.labels, logits.shape[2:])
            scales.append(self.task(torch.softmax(logits.float(), dim=1), coarse, batch.labelled))
        weights = deep_supervision_weights(len(scales))
        return torch.stack([w * s for w, s in zip(weights, scales, strict=True)]).sum()

    def _anatomical(
        self, probabilities: Tensor, anatomy: Tensor | None, batch: Batch
    ) -> list[tuple[str, float, Tensor]]:
        """Terms that compare with what was learned from the training masks: name, weight and value."""
        config, atlas, cut = self.config, self.priors.atlas, self.priors.cut
        found: list[tuple[str, float, Tensor]] = []
        if anatomy is not None:
            found.append(("domain", 0.0, anatomy.float().sum()))  # on the graph, whatever comes of it
        if batch.labels is None:
            return found
        if anatomy is not None and config.anatomy > 0:
            value = distribution_divergence(anatomy, batch.labels, batch.labelled)
            found.append(("anatomy", config.anatomy, value))
        if config.cut is not None and cut is not None:
            weights = CutWeights(config.cut.shares, config.cut.single, config.cut.position)
            value = cut_loss(probabilities, cut, batch.labels, batch.labelled, weights=weights).total
            found.append(("cut", config.cut.weight, value))
        if atlas is None:
            return found
        if anatomy is not None and max(config.domain_l2, config.domain_l1) > 0:
            ph = torch.softmax(anatomy.float(), 1)  # P(h)
            place = atlas.at(batch.labels, anatomy.shape[2:], batch.labelled)
            if config.domain_l2 > 0:
                value = domain_regulariser(ph, place.target, place.valid, order=2)
                found.append(("domain_l2", config.domain_l2, value))
            if config.domain_l1 > 0:
                value = domain_regulariser(ph, place.target, place.valid, order=1)
                found.append(("domain_l1", config.domain_l1, value))
        if config.spatial_prior > 0:
            place = atlas.at(batch.labels, probabilities.shape[2:], batch.labelled)
            value = spatial_prior_kl(probabilities, place.target, place.valid)
            found.append(("spatial_prior", config.spatial_prior, value))
        return found

    def _reconstruction(self, output: ReconstructionOutput, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        assert self.reconstruction is not None  # the task is there; for the type checker
        assert batch.operator is not None  # a batch of that task has one
        found = self.reconstruction(
            output.image,
            batch.images,
            batch.operator,
            clean=batch.clean,
            known=batch.degraded,
            coarser=output.coarser,
        )
        return found.total, {"reconstruction_data": found.data, "reconstruction_clean": found.clean}

    def _latent(self, latent: GaussianDistribution) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted divergence of h from its prior, and the figures that tell whether h is used."""
        marginal = latent.marginal_log_variance
        total = self.config.kl_weight * free_bits_kl(latent.mean, marginal, self.config.kl_free_nats)
        with torch.no_grad():
            divergence = gaussian_kl(latent.mean, marginal)
        terms = {"kl": divergence.sum(), "kl_active": (divergence > ACTIVE_NATS).sum().float()}
        if latent.factors is not None:
            dependence = total_correlation(latent.log_variance, latent.factors)
            total = total + self.config.total_correlation * dependence
            terms["total_correlation"] = dependence.detach()
        return total, terms
