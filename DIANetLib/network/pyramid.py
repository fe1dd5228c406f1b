# SPDX-License-Identifier: Apache-2.0
"""Feature pyramid fusion, equations (7, 8): scales exchange context, then learned weights combine them.

Lateral and top-down paths as in Lin et al., CVPR 2017; the bottom-up path as in Liu et al., CVPR 2018; one
combined map that refines every scale as in Pang et al. (Libra R-CNN), CVPR 2019.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from DIANetLib.network.blocks import ConvBlock, GatedResidual, pointwise
from DIANetLib.network.config import PyramidConfig

_LINEAR = {2: "bilinear", 3: "trilinear"}


class FeaturePyramid(nn.Module):
    """Refine L feature maps by what all of them show together.

    Args:
        spatial_dims: 2 or 3.
        widths: feature channels per scale, finest first.
        strides: down-sampling factor from scale l to l+1.
        config: the common width P.
        coarsest_only: whether only the coarsest map is refined, where nothing reads the others.
    """

    def __init__(
        self,
        spatial_dims: int,
        widths: Sequence[int],
        strides: Sequence[int],
        config: PyramidConfig,
        *,
        coarsest_only: bool = False,
    ) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.strides = tuple(strides)
        self.reductions = tuple(math.prod(strides[:level]) for level in range(len(widths)))
        common = config.channels
        self.lateral = nn.ModuleList(pointwise(spatial_dims, width, common) for width in widths)
        self.top_down = nn.ModuleList(ConvBlock(spatial_dims, common, common) for _ in strides)
        self.bottom_up = nn.ModuleList(ConvBlock(spatial_dims, common, common) for _ in strides)
        self.scale_logits = nn.Parameter(torch.zeros(len(widths)))
        self.first_refined = len(widths) - 1 if coarsest_only else 0
        refined = widths[self.first_refined :]
        self.expand = nn.ModuleList(pointwise(spatial_dims, common, width) for width in refined)
        self.gains = nn.ModuleList(GatedResidual(width) for width in refined)

    @property
    def scale_weights(self) -> tuple[float, ...]:
        """alpha_i of (8), finest scale first; they sum to one."""
        return tuple(self._alpha().detach().tolist())

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Map L feature maps (B, widths[l], *S_l), finest first, to as many of the same shapes."""
        fused = self.combine(self.exchange(features))
        first = self.first_refined
        refined = list(features[:first])
        for z, reduction, expand, gain in zip(
            features[first:], self.reductions[first:], self.expand, self.gains, strict=True
        ):
            refined.append(gain(z, expand(self._pool(fused, reduction))))
        return refined

    def exchange(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Lateral, top-down and bottom-up passes of (7): L maps (B, P, *S_l)."""
        maps = [lateral(z) for lateral, z in zip(self.lateral, features, strict=True)]
        for level in reversed(range(len(self.strides))):  # context goes down to the finest scale
            above = F.interpolate(maps[level + 1], scale_factor=float(self.strides[level]), mode="nearest")
            maps[level] = self.top_down[level](maps[level] + above)
        for level, stride in enumerate(self.strides):  # detail goes up to the coarsest
            maps[level + 1] = self.bottom_up[level](maps[level + 1] + self._pool(maps[level], stride))
        return maps

    def combine(self, maps: Sequence[Tensor]) -> Tensor:
        """z_fused = sum_i alpha_i z_i on the finest grid (8): L maps (B, P, *S_l) -> (B, P, *S_1)."""
        alpha = self._alpha()
        fused = maps[0] * alpha[0].to(maps[0].dtype)
        for level in range(1, len(maps)):
            z = maps[level] * alpha[level].to(maps[level].dtype)
            if self.reductions[level] > 1:
                z = F.interpolate(
                    z, size=fused.shape[2:], mode=_LINEAR[self.spatial_dims], align_corners=False
                )
            fused = fused + z
        return fused

    def _alpha(self) -> Tensor:
        return torch.softmax(self.scale_logits, 0)

    def _pool(self, x: Tensor, stride: int) -> Tensor:
        if stride == 1:
            return x
        return F.avg_pool2d(x, stride) if self.spatial_dims == 2 else F.avg_pool3d(x, stride)
