# SPDX-License-Identifier: Apache-2.0
"""Segmentation head, equation (19): transposed convolutions from h with skips, and logit moments (32).

Each decoder scale convolves the concatenation of skip and up-sampled features. A convolution is linear in
its input channels, so it is written as two: the half that reads the skip is the same for every stochastic
sample and is computed once (`prepare`), the half that reads the up-sampled features runs per sample.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from DIANetLib.network.blocks import InstanceNorm, activation, conv, conv_transpose, pointwise
from DIANetLib.network.config import NetworkConfig
from DIANetLib.network.latent import LOG_VARIANCE_BOUNDS
from DIANetLib.network.noise import RandomSource
from DIANetLib.network.output import SegmentationOutput
from DIANetLib.network.reliable_path import ReliablePath


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

    def forward(
        self, x: Tensor, prepared_skip: Tensor, source: RandomSource, kept: Tensor | None = None
    ) -> Tensor:
        """Decode one scale.

        Args:
            x: (N, inputs, *S).
            prepared_skip: (B, outputs, *S'), B dividing N.
            source: of the dropout.
            kept: (N, 1, 1, ...), 0 for rows without skip; None where all have it.

        Returns:
            (N, outputs, *S').
        """
        y = self.up_half(self.up(x))
        rows, batch = y.shape[0], prepared_skip.shape[0]
        if kept is not None:
            y = y + kept * prepared_skip.repeat_interleave(rows // batch, 0)
        elif rows == batch:
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
        self.skip_dropout = config.latent.skip_dropout if config.latent else 0.0
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
        self.paths: ReliablePath | None = None
        if config.reliable_path is not None:
            names = ["full", *(f"scale {level}" for level in range(1, config.deep_supervision + 1))]
            if config.latent is not None and config.latent.anatomy:
                names.append("latent")
            self.paths = ReliablePath(names, config.reliable_path)

    def prepare(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The deterministic halves for the L feature maps of the encoder, coarsest decoder scale first."""
        halves: list[Tensor] = []
        for scale, skip in zip(self.scales, reversed(features[:-1]), strict=True):
            assert isinstance(scale, DecoderScale)  # what the list holds; for the type checker
            halves.append(scale.skip_half(skip))
        return tuple(halves)

    def forward(
        self,
        bottleneck: Tensor,
        prepared: Sequence[Tensor],
        source: RandomSource,
        anatomy: Tensor | None = None,
        *,
        keep_features: bool = False,
    ) -> SegmentationOutput:
        """Decode the bottleneck.

        Args:
            bottleneck: (N, C, *S_L), N a multiple of B.
            prepared: what `prepare` gave for B cases.
            source: of the dropout.
            anatomy: logits of P(h), (N, K, *S_L), one more path of those that are fused.
            keep_features: put out what the logits are made of too.
        """
        x = bottleneck
        outputs = []
        # With every skip at hand a decoder never needs h; without the coarse ones it does.
        kept = None
        if source.stochastic and self.skip_dropout > 0.0:
            kept = source.kept_rows(bottleneck, self.skip_dropout)
        for place, (scale, skip) in enumerate(zip(self.scales, prepared, strict=True), start=1):
            x = scale(x, skip, source, kept if place < len(self.scales) else None)
            outputs.append(x)
        logits = self.logits(x)
        auxiliary: tuple[Tensor, ...] = ()
        if len(self.auxiliary) > 0 and (self.training or self.paths is not None):
            coarser = outputs[-2::-1]
            auxiliary = tuple(head(y) for head, y in zip(self.auxiliary, coarser, strict=False))
        mean, log_variance = logits[:, : self.classes], None
        if self.heteroscedastic:
            log_variance = logits[:, self.classes :].clamp(*LOG_VARIANCE_BOUNDS)
        if self.paths is not None:
            mean = self.paths([mean, *auxiliary, *([] if anatomy is None else [anatomy])])
        return SegmentationOutput(
            mean, log_variance, auxiliary if self.training else (), x if keep_features else None
        )
