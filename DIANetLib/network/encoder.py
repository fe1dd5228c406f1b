# SPDX-License-Identifier: Apache-2.0
"""Multi-scale feature encoder, equation (6): z_i = f_i(z_{i-1}), finest scale first."""

from __future__ import annotations

from torch import Tensor, nn

from DIANetLib.network.blocks import ConvBlock, ResidualBlock
from DIANetLib.network.config import NetworkConfig


class Encoder(nn.Module):
    """L convolution stages, each an entry convolution (strided after the first) and residual blocks.

    `out_channels` publishes the width of every scale to the modules that follow.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        dims = config.spatial_dims
        self.out_channels = config.widths
        stages = []
        inputs = config.modalities
        for width, blocks, stride in zip(config.widths, config.blocks, (1, *config.strides), strict=True):
            entry = ConvBlock(dims, inputs, width, stride=stride)
            stages.append(nn.Sequential(entry, *(ResidualBlock(dims, width) for _ in range(blocks))))
            inputs = width
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor, joint: Tensor | None = None) -> list[Tensor]:
        """Map (B, M, *S) to L feature maps (B, widths[l], *S_l).

        Args:
            x: image.
            joint: what modalities show together (5), (B, widths[0], *S), added to the first scale.
        """
        features: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            if joint is not None and not features:
                x = x + joint
            features.append(x)
        return features
