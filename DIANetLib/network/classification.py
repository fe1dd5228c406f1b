# SPDX-License-Identifier: Apache-2.0
"""Classification head, equations (16-18): softmax(W h + b) on the pooled latent.

Pooling and W are both linear, so that W applied before pooling gives the class activation map (29) exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from DIANetLib.network.config import ClassificationConfig
from DIANetLib.network.noise import RandomSource
from DIANetLib.network.output import ClassificationOutput


class ClassificationHead(nn.Module):
    """h (N, d, *S_L) -> logits (N, C).

    Args:
        channels: d, or the width of the bottleneck in a network without latent.
        config: classes and dropout.

    Attributes:
        features: identity through which the map passes that is pooled, so that it can be hooked.
        linear: W and b of (17).
    """

    def __init__(self, channels: int, config: ClassificationConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.features = nn.Identity()
        self.linear = nn.Linear(channels, config.classes)

    def forward(self, h: Tensor, source: RandomSource) -> ClassificationOutput:
        """Pool h over its positions and classify it."""
        features = source.channel_dropout(self.features(h), self.dropout)
        return ClassificationOutput(self.linear(features.flatten(2).mean(2)))

    def activation_map(self, h: Tensor) -> Tensor:
        """Class activation maps before ReLU (29), (N, C, *S_L): their means and b add up to the logits."""
        return torch.einsum("cd,nd...->nc...", self.linear.weight, h)
