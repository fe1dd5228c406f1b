# SPDX-License-Identifier: Apache-2.0
"""Feature pyramid fusion, equations (7, 8): scales exchange context, then learned weights combine them.

Lateral and top-down paths as in Lin et al., CVPR 2017; the bottom-up path as in Liu et al., CVPR 2018; one
combined map that refines every scale as in Pang et al. (Libra R-CNN), CVPR 2019.

The common grid is that of the second scale. On the finest one a pyramid costs as much as the network's first
stage; what it adds there, the skip of that scale has anyhow.
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
        common = config.channels
        self.lateral = nn.ModuleList(pointwise(spatial_dims, width, common) for width in widths)
        # top_down[n] works on scale n + 1: nothing is passed down to the finest one
        self.top_down = nn.ModuleList(ConvBlock(spatial_dims, common, common) for _ in strides[1:])
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
        for level, (expand, gain) in enumerate(zip(self.expand, self.gains, strict=True), start=first):
            refined.append(gain(features[level], expand(self._resize(fused, 1, level))))
        return refined

    def exchange(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Lateral, top-down and bottom-up passes of (7): L maps (B, P, *S_l)."""
        maps = [lateral(z) for lateral, z in zip(self.lateral, features, strict=True)]
        for level in reversed(range(1, len(self.strides))):  # context goes down to the second scale
            above = F.interpolate(maps[level + 1], scale_factor=float(self.strides[level]), mode="nearest")
            maps[level] = self.top_down[level - 1](maps[level] + above)
        for level in range(len(self.strides)):  # detail goes up from the finest to the coarsest
            below = self._resize(maps[level], level, level + 1)
            maps[level + 1] = self.bottom_up[level](maps[level + 1] + below)
        return maps

    def combine(self, maps: Sequence[Tensor]) -> Tensor:
        """z_fused = sum_i alpha_i z_i on the second scale's grid (8): L maps (B, P, *S_l) -> (B, P, *S_2)."""
        alpha = self._alpha()
        weighed = [self._resize(z, level, 1) * alpha[level].to(z.dtype) for level, z in enumerate(maps)]
        return torch.stack(weighed).sum(0)

    def _alpha(self) -> Tensor:
        return torch.softmax(self.scale_logits, 0)

    def _resize(self, x: Tensor, level: int, wanted: int) -> Tensor:
        """Bring a map (B, P, *S_level) onto the grid of another scale: means, or linear interpolation."""
        if wanted > level:
            factor = math.prod(self.strides[level:wanted])
            pool = F.avg_pool2d if self.spatial_dims == 2 else F.avg_pool3d
            return x if factor == 1 else pool(x, factor)
        factor = math.prod(self.strides[wanted:level])
        if factor == 1:
            return x
        return F.interpolate(
            x, scale_factor=float(factor), mode=_LINEAR[self.spatial_dims], align_corners=False
        )
