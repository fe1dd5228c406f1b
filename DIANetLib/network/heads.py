# SPDX-License-Identifier: Apache-2.0
"""Segmentation head, equation (19): transposed convolutions from h with skips, and logit moments (32).

Each decoder scale convolves the concatenation of skip and up-sampled features. A convolution is linear in
its input channels, so it is written as two: the half that reads the skip is the same for every stochastic
sample and is computed once (`prepare`), the half that reads the up-sampled features runs per sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from DIANetLib.network.blocks import InstanceNorm, activation, conv, conv_transpose, pointwise
from DIANetLib.network.config import NetworkConfig
from DIANetLib.network.latent import LOG_VARIANCE_BOUNDS, GaussianDistribution
from DIANetLib.network.noise import RandomSource


@dataclass(frozen=True)
class SegmentationOutput:
    """Moments of the Gaussian over the logits, (32).

    Attributes:
        mean: logit mean, (N, K, *S).
        log_variance: log of the logit variance, (N, K, *S), or None for a homoscedastic head.
        auxiliary: logit means of coarser decoder scales, finest first, (N, K, *S_l); training only.
        latent: distribution of h, training only.
    """

    mean: Tensor
    log_variance: Tensor | None = None
    auxiliary: tuple[Tensor, ...] = field(default=())
    latent: GaussianDistribution | None = None

    def probabilities(self, temperature: float = 1.0) -> Tensor:
        """Class probabilities with the logit noise integrated out, (N, K, *S) float32.

        The mean-field softmax of a Gaussian logit divides each mean by sqrt(1 + pi/8 sigma^2)
        (MacKay, Neural Computation 1992; Lu et al., arXiv:2006.07584).
        """
        logits = self.mean.float()
        if self.log_variance is not None:
            # not in place on the exponential itself: its backward needs it
            scale = (torch.exp(self.log_variance.float()) * (math.pi / 8.0)).add_(1.0).rsqrt_()
            logits = logits * scale
        if temperature != 1.0:
            logits = logits / temperature
        return torch.softmax(logits, dim=1)


class DecoderScale(nn.Module):
    """One step up: the stochastic half of conv(concat(skip, up)), normalised, activated."""

    def __init__(self, spatial_dims: int, inputs: int, outputs: int, *, stride: int, dropout: float) -> None:
        super().__init__()
        self.up = conv_transpose(spatial_dims, inputs, outputs, stride=stride)
        self.up_half = conv(spatial_dims, outputs, outputs, bias=False)
        self.skip_half = conv(spatial_dims, outputs, outputs, bias=False)
        self.norm = InstanceNorm(outputs)
        self.activation = activation()
        self.dropout = dropout

    def forward(self, x: Tensor, prepared_skip: Tensor, source: RandomSource) -> Tensor:
        """Map (N, inputs, *S) and the prepared skip (B, outputs, *S'), B dividing N, to (N, outputs, *S')."""
        y = self.up_half(self.up(x))
        rows, batch = y.shape[0], prepared_skip.shape[0]
        if rows == batch:
            y = y + prepared_skip
        else:  # broadcast over the samples of a case without copying its skip
            y = (y.unflatten(0, (batch, rows // batch)) + prepared_skip.unsqueeze(1)).flatten(0, 1)
        return source.channel_dropout(self.activation(self.norm(y)), self.dropout)


class SegmentationHead(nn.Module):
    """Decoder from the bottleneck to logit mean and logit log-variance at the input's resolution."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        dims, widths = config.spatial_dims, config.widths
        self.classes = config.classes
        self.heteroscedastic = config.heteroscedastic
        # coarsest first, as they are run
        self.scales = nn.ModuleList(
            DecoderScale(
                dims,
                widths[level + 1],
                widths[level],
                stride=config.strides[level],
                dropout=config.decoder_dropout if level > 0 else 0.0,
            )
            for level in reversed(range(len(widths) - 1))
        )
        self.logits = pointwise(dims, widths[0], config.classes * (2 if config.heteroscedastic else 1))
        self.auxiliary = nn.ModuleList(
            conv(dims, widths[level], config.classes, kernel=1)
            for level in range(1, config.deep_supervision + 1)
        )
        if config.heteroscedastic:
            assert self.logits.bias is not None  # conv() builds it; for the type checker
            with torch.no_grad():  # start nearly homoscedastic: sigma^2 = e^-3
                self.logits.weight[config.classes :].zero_()
                self.logits.bias[config.classes :].fill_(-3.0)

    def prepare(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The deterministic halves for the L feature maps of the encoder, coarsest decoder scale first."""
        halves: list[Tensor] = []
        for scale, skip in zip(self.scales, reversed(features[:-1]), strict=True):
            assert isinstance(scale, DecoderScale)  # what the list holds; for the type checker
            halves.append(scale.skip_half(skip))
        return tuple(halves)

    def forward(
        self, bottleneck: Tensor, prepared: Sequence[Tensor], source: RandomSource
    ) -> SegmentationOutput:
        """Decode the bottleneck (N, C, *S_L) with prepared skips of batch B, N a multiple of B."""
        x = bottleneck
        outputs = []
        for scale, skip in zip(self.scales, prepared, strict=True):
            x = scale(x, skip, source)
            outputs.append(x)
        logits = self.logits(x)
        auxiliary: tuple[Tensor, ...] = ()
        if self.training and len(self.auxiliary) > 0:
            coarser = outputs[-2::-1]
            auxiliary = tuple(head(y) for head, y in zip(self.auxiliary, coarser, strict=False))
        if not self.heteroscedastic:
            return SegmentationOutput(logits, None, auxiliary)
        mean, log_variance = logits[:, : self.classes], logits[:, self.classes :]
        return SegmentationOutput(mean, log_variance.clamp(*LOG_VARIANCE_BOUNDS), auxiliary)
