# SPDX-License-Identifier: Apache-2.0
"""The Domain-Informed Adaptive Network; paper, section 3.3 and Figure 1.

`encode` holds everything before the first stochastic layer and runs once per image; `decode` holds the
rest and runs once per sample. `forward` is one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from DIANetLib.errors import InputError
from DIANetLib.network.attention import MultiScaleAttention
from DIANetLib.network.codebook import CodeBook
from DIANetLib.network.config import NetworkConfig
from DIANetLib.network.diffuser import Diffuser
from DIANetLib.network.encoder import Encoder
from DIANetLib.network.fusion import ModalityFusion, blank_missing
from DIANetLib.network.heads import SegmentationHead, SegmentationOutput
from DIANetLib.network.latent import GaussianDistribution, GaussianLatent
from DIANetLib.network.noise import RandomSource
from DIANetLib.network.pyramid import FeaturePyramid


@dataclass(frozen=True)
class Encoded:
    """The deterministic part of a pass.

    Attributes:
        features: coarsest feature map, (B, C_L, *S_L).
        latent: distribution of h, or None without the latent.
        prepared: deterministic halves of the decoder's convolutions, coarsest first, (B, C_l, *S_l).
    """

    features: Tensor
    latent: GaussianDistribution | None
    prepared: tuple[Tensor, ...]


class DIANet(nn.Module):
    """Encoder, Gaussian latent and task heads.

    Args:
        config: what the network is made of.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.fusion = (
            ModalityFusion(config.spatial_dims, config.modalities, config.widths[0], config.modality_fusion)
            if config.modality_fusion
            else None
        )
        features = self.encoder.out_channels[-1]
        self.latent = GaussianLatent(config.spatial_dims, features, config.latent) if config.latent else None
        self.diffuser = (
            Diffuser(config.spatial_dims, config.latent.channels, config.diffuser)
            if config.latent and config.diffuser
            else None
        )
        self.codebook = (
            CodeBook(config.latent.channels, config.codebook) if config.latent and config.codebook else None
        )
        # What the decoder reads passes through this module, so that explanation methods can hook it.
        self.bottleneck = nn.Identity()
        self.segmentation = SegmentationHead(config)
        # Built last, so that from one seed the rest starts the same with and without them.
        self.pyramid = (
            FeaturePyramid(config.spatial_dims, config.widths, config.strides, config.pyramid)
            if config.pyramid
            else None
        )
        self.attention = (
            MultiScaleAttention(config.spatial_dims, config.widths, config.attention)
            if config.attention
            else None
        )

    @property
    def divisor(self) -> tuple[int, ...]:
        """What each spatial size of the input must be divisible by."""
        return (self.config.divisor,) * self.config.spatial_dims

    def forward(
        self,
        x: Tensor,
        *,
        available: Tensor | None = None,
        generators: Sequence[torch.Generator] | None = None,
        times: Tensor | None = None,
    ) -> SegmentationOutput:
        """Segment (B, M, *S).

        Args:
            x: preprocessed image, every size of S divisible by `divisor`.
            available: (B, M) bool, which modalities are there; None for all of them.
            generators: None for the mean pass (in training mode: a random pass); or B * R generators for R
                samples of each case, see `decode`.
            times: (N, T) if the cases are the time points of sequences, see `decode`.
        """
        return self.decode(self.encode(x, available), generators, times)

    def encode(self, x: Tensor, available: Tensor | None = None) -> Encoded:
        """Run the deterministic part once.

        Args:
            x: as for `forward`.
            available: as for `forward`; what the channel of a missing modality holds has no influence.

        Raises:
            InputError: if `x` has not the shape that the network reads, or `available` does not fit it.
        """
        self._check(x)
        if available is not None:
            x = blank_missing(x, available)
        joint = self.fusion(x, available) if self.fusion is not None else None  # (5)
        features = self.encoder(x, joint)  # (6)
        features = self.pyramid(features) if self.pyramid is not None else features  # (7, 8)
        features = self.attention(features) if self.attention is not None else features  # (9)
        latent = self.latent(features[-1]) if self.latent is not None else None  # (10)
        return Encoded(features[-1], latent, self.segmentation.prepare(features))

    def decode(
        self,
        encoded: Encoded,
        generators: Sequence[torch.Generator] | None = None,
        times: Tensor | None = None,
    ) -> SegmentationOutput:
        """Run the stochastic part.

        Args:
            encoded: B cases.
            generators: None for the mean of h with dropout off (in training mode: one random draw per case);
                or B * R CPU generators: the output then has B * R rows, row r decodes case r // R and draws
                from generator r alone, so that a batched call equals a loop.
            times: (N, T), N * T = B, if the cases are N sequences of T time points each, the points of one
                sequence side by side: the diffuser then aligns them; None for cases on their own.

        Raises:
            InputError: if the number of generators is no positive multiple of B, or `times` fits neither the
                cases nor the network.
        """
        batch = encoded.features.shape[0]
        source = RandomSource(generators, stochastic=self.training or generators is not None)
        rows = batch if source.rows is None else source.rows
        if rows == 0 or rows % batch:
            raise InputError(
                f"expected a positive multiple of {batch} generators for a batch of {batch} cases, "
                f"got {rows}."
            )
        repeats = rows // batch
        bottleneck = encoded.features if repeats == 1 else encoded.features.repeat_interleave(repeats, 0)
        if encoded.latent is not None and self.latent is not None:
            h = encoded.latent.repeat_rows(repeats).sample(source)  # (31)
            if self.diffuser is not None:
                h = self._diffuse(self.diffuser, h, times, repeats)
            elif times is not None:
                raise InputError("expected no times, since this network has no diffuser to read them.")
            if self.codebook is not None:
                h = self.codebook(h, source)
            # Without this a decoder that can read the features never needs h, and h carries nothing.
            bottleneck = source.path_dropout(bottleneck, self.latent.path_dropout)
            bottleneck = bottleneck + self.latent.project(h.to(bottleneck.dtype))
        bottleneck = self.bottleneck(source.channel_dropout(bottleneck, self.config.dropout))
        output = self.segmentation(bottleneck, encoded.prepared, source)  # (19, 32)
        return replace(output, latent=encoded.latent) if self.training else output

    def explainable_layers(self) -> tuple[str, ...]:
        """Names of the modules that explanation methods may hook, the default first."""
        return (
            "bottleneck",
            *(f"encoder.stages.{i}" for i in range(len(self.encoder.stages))),
            *(f"segmentation.scales.{i}" for i in range(len(self.segmentation.scales))),
        )

    def attention_layers(self) -> tuple[str, ...]:
        """Names of the modules whose outputs are the spatial attention maps (9), finest first.

        Each puts out (B, 1, *S_l) in (0, 1) when it runs; empty without attention.
        """
        if self.attention is None:
            return ()
        return tuple(f"attention.{name}" for name in self.attention.layers())

    def attention_maps(self, x: Tensor, available: Tensor | None = None) -> tuple[Tensor, ...]:
        """The spatial attention maps of an image, (B, 1, *S_l) float32 in (0, 1), finest first.

        Args:
            x: as for `forward`.
            available: as for `forward`.
        """
        seen: dict[str, Tensor] = {}
        layers = self.attention_layers()

        def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
            return lambda _module, _inputs, output: seen.update({name: output.float()})

        hooks = [self.get_submodule(name).register_forward_hook(keep(name)) for name in layers]
        try:
            self.encode(x, available)
        finally:
            for hook in hooks:
                hook.remove()
        return tuple(seen[name] for name in layers)

    def parameter_count(self) -> int:
        """Number of learned numbers."""
        return sum(parameter.numel() for parameter in self.parameters())

    @staticmethod
    def _diffuse(diffuser: Diffuser, h: Tensor, times: Tensor | None, repeats: int) -> Tensor:
        """Refine h (B * repeats, d, *S_L); sample r of a time point is aligned with r of the others."""
        if times is None:
            refined: Tensor = diffuser(h)
            return refined
        if times.numel() * repeats != h.shape[0] or times.ndim != 2:
            raise InputError(
                f"expected times of shape (sequences, time points) for {h.shape[0] // repeats} cases, "
                f"got shape {tuple(times.shape)}."
            )
        series = h.unflatten(0, (*times.shape, repeats)).transpose(1, 2)  # (N, R, T, d, *S_L)
        refined = diffuser(series.flatten(0, 1), times.repeat_interleave(repeats, 0))
        return refined.unflatten(0, series.shape[:2]).transpose(1, 2).flatten(0, 2)

    def _check(self, x: Tensor) -> None:
        expected = 2 + self.config.spatial_dims
        if x.ndim != expected:
            raise InputError(
                f"expected {expected} axes (batch, modality, {self.config.spatial_dims} spatial), "
                f"got shape {tuple(x.shape)}."
            )
        if x.shape[1] != self.config.modalities:
            raise InputError(f"expected {self.config.modalities} modality channels, got {x.shape[1]}.")
        if any(size % factor or size == 0 for size, factor in zip(x.shape[2:], self.divisor, strict=True)):
            raise InputError(
                f"expected spatial sizes divisible by {self.config.divisor}, got {tuple(x.shape[2:])}; "
                "pad the image first."
            )
        if tuple(x.shape[2:]) == self.divisor:  # instance normalisation needs two positions or more
            raise InputError(
                f"expected a spatial size above {self.config.divisor} along one axis at least, "
                f"got {tuple(x.shape[2:])}; pad the image first."
            )
