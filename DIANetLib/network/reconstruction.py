# SPDX-License-Identifier: Apache-2.0
"""Reconstruction head, equations (20, 21): interpolation and convolution at several resolutions.

Each scale is up-sampled by interpolation, joined by the encoder's features and convolved. As in the
segmentation head, the half of the convolution that reads the encoder's features is computed once per image
(`prepare`). What is put out is a correction of the observed image that starts at zero; where the operator
that made the observation is exact, what was measured is put back (Schlemper et al., IEEE TMI 2018).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from DIANetLib.network.blocks import InstanceNorm, activation, conv
from DIANetLib.network.config import NetworkConfig, ReconstructionConfig
from DIANetLib.network.noise import RandomSource
from DIANetLib.network.output import ReconstructionOutput
from DIANetLib.operators import ForwardOperator, consistent

_LINEAR = {2: "bilinear", 3: "trilinear"}


class ReconstructionScale(nn.Module):
    """One step up: interpolate, add the encoder's half, normalise, activate."""

    def __init__(self, spatial_dims: int, inputs: int, skips: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.stride, self.mode = stride, _LINEAR[spatial_dims]
        self.up_half = conv(spatial_dims, inputs, outputs, bias=False)
        self.skip_half = conv(spatial_dims, skips, outputs, bias=False)
        self.norm = InstanceNorm(outputs)
        self.activation = activation()

    def forward(self, x: Tensor, prepared_skip: Tensor) -> Tensor:
        """Map (N, inputs, *S) and the prepared skip (B, outputs, *S'), B dividing N, to (N, outputs, *S')."""
        if self.stride > 1:
            x = F.interpolate(x, scale_factor=float(self.stride), mode=self.mode, align_corners=False)
        y = self.up_half(x)
        rows, batch = y.shape[0], prepared_skip.shape[0]
        y = (y.unflatten(0, (batch, rows // batch)) + prepared_skip.unsqueeze(1)).flatten(0, 1)
        activated: Tensor = self.activation(self.norm(y))
        return activated


class ReconstructionHead(nn.Module):
    """Decoder from the bottleneck to an image at the input's resolution and, in training, at coarser ones.

    Args:
        config: widths, strides and modalities.
        head: what is put out.
    """

    def __init__(self, config: NetworkConfig, head: ReconstructionConfig) -> None:
        super().__init__()
        dims, widths = config.spatial_dims, config.widths
        self.residual = head.residual
        self.resolutions = head.resolutions
        self.decoder_dropout = config.decoder_dropout
        narrow = [max(4, round(width * head.width_factor)) for width in widths]
        # coarsest first, as they are run
        self.scales = nn.ModuleList(
            ReconstructionScale(
                dims,
                widths[-1] if level == len(widths) - 2 else narrow[level + 1],
                widths[level],
                narrow[level],
                stride=config.strides[level],
            )
            for level in reversed(range(len(widths) - 1))
        )
        channels = head.channels or config.modalities
        # finest first; they start at zero, so that at step 0 a residual head puts out what was observed
        self.images = nn.ModuleList(conv(dims, narrow[level], channels) for level in range(head.resolutions))
        for image in self.images:
            for parameter in image.parameters():
                nn.init.zeros_(parameter)

    def prepare(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The deterministic halves for the L feature maps of the encoder, coarsest decoder scale first."""
        halves = []
        for scale, skip in zip(self.scales, reversed(features[:-1]), strict=True):
            assert isinstance(scale, ReconstructionScale)  # what the list holds; for the type checker
            halves.append(scale.skip_half(skip))
        return tuple(halves)

    def forward(
        self,
        bottleneck: Tensor,
        prepared: Sequence[Tensor],
        observed: Tensor,
        source: RandomSource,
        operator: ForwardOperator | None = None,
    ) -> ReconstructionOutput:
        """Decode the bottleneck.

        Args:
            bottleneck: (N, C, *S_L), N a multiple of B.
            prepared: what `prepare` gave for B cases.
            observed: x_obs, the image that the network read, (B, M, *S).
            source: of the dropout.
            operator: F; if it is exact, what was measured is put back into the finest image.
        """
        repeats = bottleneck.shape[0] // observed.shape[0]
        if repeats > 1:
            observed = observed.repeat_interleave(repeats, 0)
        x = bottleneck
        maps: list[Tensor] = []
        for scale, skip in zip(self.scales, prepared, strict=True):
            finest_scale = len(maps) == len(self.scales) - 1
            x = source.channel_dropout(scale(x, skip), 0.0 if finest_scale else self.decoder_dropout)
            maps.append(x)
        used = self.resolutions if self.training else 1
        images = []
        for head, y in zip(self.images[:used], reversed(maps), strict=False):
            image: Tensor = head(y)
            if self.residual:
                base = observed
                if image.shape[2:] != base.shape[2:]:
                    base = F.interpolate(base, image.shape[2:], mode="area")
                image = image + base.to(image.dtype)
            images.append(image)
        finest = images[0]
        if operator is not None and operator.exact:
            # One sample of every case at a time: the operator knows B images. In float32 for the transforms.
            groups = (part.float().unflatten(0, (-1, repeats)).unbind(1) for part in (finest, observed))
            made = [consistent(image, seen, operator) for image, seen in zip(*groups, strict=True)]
            finest = torch.stack(made, 1).flatten(0, 1)
        return ReconstructionOutput(finest, tuple(images[1:]))
