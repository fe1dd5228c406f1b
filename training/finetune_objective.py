# SPDX-License-Identifier: Apache-2.0
"""The loss of learning from corrections: the fit's own, with a weight per voxel, and what holds the weights.

Total = task with voxel weights + L2-SP (25) + elastic weight consolidation (26).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from DIANetLib.losses.continual import elastic
from DIANetLib.losses.task import deep_supervision_weights, downsample_labels
from DIANetLib.losses.transfer import l2_sp
from DIANetLib.network import DIANetOutput, SegmentationOutput
from training.batch import Batch
from training.config_tasks import ObjectiveConfig
from training.finetune_cases import Level
from training.finetune_config import FinetuneConfig
from training.objective import Loss, Objective


class CorrectionObjective(Objective):
    """Dice and cross-entropy in which each voxel counts by what the correction says of it.

    The labels of its batches are class + classes x level, as `CorrectedCase.encoded` makes them.

    Args:
        settings: weights of the levels and of what holds the weights.
        classes: K, background included.
        start: weights that the fit started from, by name.
        fisher: Fisher information there, over its mean; None for no elastic weight consolidation.
    """

    def __init__(
        self,
        settings: FinetuneConfig,
        classes: int,
        start: Mapping[str, Tensor],
        fisher: Mapping[str, Tensor] | None,
    ) -> None:
        super().__init__(ObjectiveConfig())
        self.settings, self.classes, self.start, self.fisher = settings, classes, start, fisher
        weights = settings.weights
        table = {
            Level.ELSEWHERE: weights.elsewhere,
            Level.CHANGED: weights.changed,
            Level.JUDGED: weights.judged,
            Level.OPEN: weights.open,
        }
        self.table = torch.tensor([table[level] for level in sorted(Level)])
        self._voxels = torch.zeros(0)

    def corrected(self, output: DIANetOutput, batch: Batch, rows: int) -> Loss:
        """Loss of a training pass.

        Args:
            output: of the network.
            batch: patches; the first `rows` are of corrected cases, the others are rehearsed and count fully.
            rows: see there.
        """
        assert batch.labels is not None  # corrected cases have some
        level = torch.div(batch.labels, self.classes, rounding_mode="floor")
        self._voxels = self.table.to(level.device)[level]
        self._voxels[rows:] = 1.0
        return self.forward(output, replace(batch, labels=batch.labels % self.classes))

    def held(self, parameters: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """What holds the weights where they were, (25, 26): the sum and its terms, each before weighting."""
        total = next(iter(parameters.values())).new_zeros(())
        terms: dict[str, Tensor] = {}
        if self.settings.l2_sp > 0:
            distance = l2_sp(parameters, self.start)
            total = total + self.settings.l2_sp * distance
            terms["l2_sp"] = distance.detach()
        if self.settings.ewc > 0 and self.fisher is not None:
            strain = elastic(parameters, self.start, self.fisher)
            total = total + self.settings.ewc * strain
            terms["ewc"] = strain.detach()
        return total, terms

    def _segmentation(self, output: SegmentationOutput, probabilities: Tensor, batch: Batch) -> Tensor:
        assert batch.labels is not None  # checked above
        scales = [self._weighted(probabilities, batch.labels, self._voxels)]
        for logits in output.auxiliary:
            size = logits.shape[2:]
            coarse = downsample_labels(batch.labels, size)
            voxels = F.interpolate(self._voxels.unsqueeze(1), size=tuple(size), mode="nearest").squeeze(1)
            scales.append(self._weighted(torch.softmax(logits.float(), dim=1), coarse, voxels))
        weights = deep_supervision_weights(len(scales))
        return torch.stack([w * s for w, s in zip(weights, scales, strict=True)]).sum()

    def _weighted(self, probabilities: Tensor, labels: Tensor, voxels: Tensor) -> Tensor:
        """Dice and cross-entropy of (B, K, *S) probabilities with the weights (B, *S) of voxels."""
        cross_entropy = F.nll_loss(torch.log(probabilities.clamp_min(1e-7)), labels, reduction="none")
        mean = (cross_entropy * voxels).sum() / voxels.sum().clamp_min(1e-6)
        return weighted_dice(probabilities, labels, voxels) + mean


def weighted_dice(probabilities: Tensor, labels: Tensor, voxels: Tensor) -> Tensor:
    """1 - Dice over the batch, mean over the structures, each voxel counted so many times; a scalar.

    MONAI's masked Dice multiplies both factors of the overlap by the mask, which only one of 0 and 1 bears.

    Args:
        probabilities: (B, K, *S).
        labels: class numbers (B, *S).
        voxels: weights (B, *S), at least 0.
    """
    one_hot = F.one_hot(labels, probabilities.shape[1]).movedim(-1, 1).to(probabilities.dtype)
    weights = voxels.unsqueeze(1)
    over = (0, *range(2, probabilities.ndim))
    overlap = (weights * probabilities * one_hot).sum(over)
    sizes = (weights * (probabilities + one_hot)).sum(over)
    return 1.0 - ((2.0 * overlap + 1e-5) / (sizes + 1e-5))[1:].mean()
