# SPDX-License-Identifier: Apache-2.0
"""Attention per scale, equation (9), channel weights, and the local and global paths of the HEF blocks.

Spatial map as in CBAM (Woo et al., ECCV 2018), channel weights as in squeeze-and-excitation (Hu et al., CVPR
2018). The global path attends over a pooled grid of bounded size, so that memory stays linear in the voxels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from DIANetLib.network.blocks import ConvBlock, GatedResidual, pointwise
from DIANetLib.network.config import AttentionConfig


class SpatialAttention(nn.Module):
    """Where the features matter: (B, C, *S) -> map (B, 1, *S) in (0, 1).

    A sigmoid and not a softmax over S: the map of a place must not depend on how large the window is.
    """

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.score = pointwise(spatial_dims, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Score each position."""
        return torch.sigmoid(self.score(x))


class ChannelAttention(nn.Module):
    """Which features matter, from their means over the image: (B, C, *S) -> weights (B, C) in (0, 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(4, channels // 4)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Weigh each channel."""
        return torch.sigmoid(self.excite(F.silu(self.squeeze(x.flatten(2).mean(2)))))


class LocalPath(nn.Module):
    """Each position's surroundings in a quarter of the channels: (B, C, *S) -> same shape.

    Not depthwise: on a CPU the backward pass of a depthwise convolution takes longer than that of this one.
    """

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        narrow = max(4, channels // 4)
        self.squeeze = pointwise(spatial_dims, channels, narrow)
        self.surroundings = ConvBlock(spatial_dims, narrow, narrow)
        self.mix = pointwise(spatial_dims, narrow, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the path."""
        mixed: Tensor = self.mix(self.surroundings(self.squeeze(x)))
        return mixed


class GlobalPath(nn.Module):
    """Self-attention over T <= grid^dims pooled tokens, interpolated back: (B, C, *S) -> same shape.

    Tokens carry no position, so that windows of every size are read alike.
    """

    def __init__(self, spatial_dims: int, channels: int, config: AttentionConfig) -> None:
        super().__init__()
        self.pool: Callable[..., Tensor] = (
            F.adaptive_avg_pool2d if spatial_dims == 2 else F.adaptive_avg_pool3d
        )
        self.mode = "bilinear" if spatial_dims == 2 else "trilinear"
        self.grid = config.grid
        self.heads = config.heads
        self.norm = nn.LayerNorm(channels)
        # no bias: one on the keys shifts all scores alike and changes nothing
        self.query_key_value = nn.Linear(channels, 3 * config.channels, bias=False)
        self.project = nn.Linear(config.channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the path."""
        size = tuple(min(self.grid, length) for length in x.shape[2:])
        pooled = self.pool(x, size)
        tokens = self.norm(pooled.flatten(2).transpose(1, 2))  # (B, T, C)
        parts = self.query_key_value(tokens).unflatten(2, (3, self.heads, -1))  # (B, T, 3, heads, width)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, T, width)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        grid = self.project(mixed).transpose(1, 2).unflatten(2, size)  # (B, C, *size)
        return F.interpolate(grid, size=x.shape[2:], mode=self.mode, align_corners=False)


class ScaleAttention(nn.Module):
    """One scale's attention as a residual: (B, C, *S) -> same shape."""

    def __init__(self, spatial_dims: int, channels: int, config: AttentionConfig) -> None:
        super().__init__()
        self.spatial = SpatialAttention(spatial_dims, channels)
        self.channel = ChannelAttention(channels)
        self.local_path = LocalPath(spatial_dims, channels)
        self.global_path = GlobalPath(spatial_dims, channels, config)
        self.residual = GatedResidual(channels)

    def forward(self, z: Tensor) -> Tensor:
        """Map z to z + gain * (attended + local(attended) + global(attended))."""
        attended = self.attend(z)
        refined: Tensor = self.residual(z, attended + self.local_path(attended) + self.global_path(attended))
        return refined

    def attend(self, z: Tensor) -> Tensor:
        """z_attended of (9), weighted by channel: (B, C, *S) -> same shape."""
        weights = self.channel(z)
        attended: Tensor = z * self.spatial(z) * weights.view(*weights.shape, *([1] * (z.ndim - 2)))
        return attended


class MultiScaleAttention(nn.Module):
    """Attention at each of L scales.

    Args:
        spatial_dims: 2 or 3.
        widths: feature channels per scale, finest first.
        config: the tokens of the global path.
        coarsest_only: whether there is attention at the coarsest scale alone, where nothing reads the others.
    """

    def __init__(
        self,
        spatial_dims: int,
        widths: Sequence[int],
        config: AttentionConfig,
        *,
        coarsest_only: bool = False,
    ) -> None:
        super().__init__()
        attended = widths[-1:] if coarsest_only else widths
        self.scales = nn.ModuleList(ScaleAttention(spatial_dims, width, config) for width in attended)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Map L feature maps (B, widths[l], *S_l), finest first, to as many of the same shapes."""
        passed = len(features) - len(self.scales)
        attended = [scale(z) for scale, z in zip(self.scales, features[passed:], strict=True)]
        return [*features[:passed], *attended]

    def layers(self) -> tuple[str, ...]:
        """Names of the modules whose outputs are the maps, finest first."""
        return tuple(f"scales.{level}.spatial" for level in range(len(self.scales)))
