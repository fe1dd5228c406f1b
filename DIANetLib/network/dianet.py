# SPDX-License-Identifier: Apache-2.0
"""The Domain-Informed Adaptive Network; paper, section 3.3 and Figure 1.

`encode` holds everything before the first stochastic layer and runs once per image; `decode` holds the
rest and runs once per sample. `forward` is one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from DIANetLib.errors import InputError
from DIANetLib.network.attention import MultiScaleAttention
from DIANetLib.network.classification import ClassificationHead
from DIANetLib.network.codebook import CodeBook
from DIANetLib.network.config import NetworkConfig
from DIANetLib.network.diffuser import Diffuser
from DIANetLib.network.encoder import Encoder
from DIANetLib.network.fusion import ModalityFusion, blank_missing
from DIANetLib.network.heads import SegmentationHead
from DIANetLib.network.latent import AnatomyHead, GaussianDistribution, GaussianLatent
from DIANetLib.network.noise import RandomSource
from DIANetLib.network.output import DIANetOutput
from DIANetLib.network.pyramid import FeaturePyramid
from DIANetLib.network.reconstruction import ReconstructionHead
from DIANetLib.operators import ForwardOperator

Head = Literal["segmentation", "classification", "reconstruction"]


@dataclass(frozen=True)
class Encoded:
    """The deterministic part of a pass.

    Attributes:
        features: coarsest feature map, (B, C_L, *S_L).
        latent: distribution of h, or None without the latent.
        prepared: deterministic halves of the segmentation decoder's convolutions, coarsest first,
            (B, C_l, *S_l); empty without that head.
        reconstruction: the same of the reconstruction decoder.
        observed: the image as it was read, (B, M, *S), for reconstruction; None without that head.
    """

    features: Tensor
    latent: GaussianDistribution | None
    prepared: tuple[Tensor, ...] = ()
    reconstruction: tuple[Tensor, ...] = ()
    observed: Tensor | None = None


class DIANet(nn.Module):
    """Encoder, Gaussian latent and task heads.

    Args:
        config: what the network is made of.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        dims, widths, latent = config.spatial_dims, config.widths, config.latent
        # The main path first, so that from one seed it starts the same with and without the rest.
        self.encoder = Encoder(config)
        # What the decoders read passes through this module, so that explanation methods can hook it.
        self.bottleneck = nn.Identity()
        self.segmentation = SegmentationHead(config) if config.classes else None
        self.reconstruction = (
            ReconstructionHead(config, config.reconstruction) if config.reconstruction else None
        )
        self.decodes = self.segmentation is not None or self.reconstruction is not None
        self.latent = GaussianLatent(dims, widths[-1], latent, projected=self.decodes) if latent else None
        self.anatomy = (
            AnatomyHead(dims, latent.channels, config.classes) if latent and latent.anatomy else None
        )
        self.diffuser = (
            Diffuser(dims, latent.channels, config.diffuser) if latent and config.diffuser else None
        )
        self.codebook = CodeBook(latent.channels, config.codebook) if latent and config.codebook else None
        self.classification = (
            ClassificationHead(latent.channels if latent else widths[-1], config.classification)
            if config.classification
            else None
        )
        self.fusion = (
            ModalityFusion(dims, config.modalities, widths[0], config.modality_fusion)
            if config.modality_fusion
            else None
        )
        coarsest = not self.decodes  # without a decoder nothing reads the finer scales
        self.pyramid = (
            FeaturePyramid(dims, widths, config.strides, config.pyramid, coarsest_only=coarsest)
            if config.pyramid
            else None
        )
        self.attention = (
            MultiScaleAttention(dims, widths, config.attention, coarsest_only=coarsest)
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
        operator: ForwardOperator | None = None,
    ) -> DIANetOutput:
        """Read (B, M, *S) and put out what each head makes of it.

        Args:
            x: preprocessed image, every size of S divisible by `divisor`.
            available: (B, M) bool, which modalities are there; None for all of them.
            generators: None for the mean pass (in training mode: a random pass); or B * R generators for R
                samples of each case, see `decode`.
            times: (N, T) if the cases are the time points of sequences, see `decode`.
            operator: how the image was observed, for reconstruction, see `decode`.
        """
        return self.decode(self.encode(x, available), generators, times, operator)

    def encode(
        self, x: Tensor, available: Tensor | None = None, heads: Collection[Head] | None = None
    ) -> Encoded:
        """Run the deterministic part once: multi-scale feature encoding and the latent's distribution.

        Args:
            x: as for `forward`.
            available: as for `forward`; what the channel of a missing modality holds has no influence.
            heads: those that are going to be asked for; None for all there are.

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
        latent = self.latent(features[-1]) if self.latent is not None else None  # (10, 13)
        segmentation = self.segmentation if _asked("segmentation", heads) else None
        reconstruction = self.reconstruction if _asked("reconstruction", heads) else None
        return Encoded(
            features[-1],
            latent,
            segmentation.prepare(features) if segmentation is not None else (),
            reconstruction.prepare(features) if reconstruction is not None else (),
            x if reconstruction is not None else None,
        )

    def decode(
        self,
        encoded: Encoded,
        generators: Sequence[torch.Generator] | None = None,
        times: Tensor | None = None,
        operator: ForwardOperator | None = None,
        heads: Collection[Head] | None = None,
        *,
        keep_features: bool = False,
    ) -> DIANetOutput:
        """Run the stochastic part: the draw of h, its refinement, and the heads.

        Args:
            encoded: B cases.
            generators: None for the mean of h with dropout off (in training mode: one random draw per case);
                or B * R CPU generators: the output then has B * R rows, row r decodes case r // R and draws
                from generator r alone, so that a batched call equals a loop.
            times: (N, T), N * T = B, if the cases are N sequences of T time points each, the points of one
                sequence side by side: the diffuser then aligns them; None for cases on their own.
            operator: F, by which the B images were observed; where it is exact, the reconstruction keeps
                what was measured.
            heads: which heads run, of those prepared; None for all there are. A head's dropout is drawn after
                that of the heads before it (segmentation, classification, reconstruction).
            keep_features: have the segmentation put out the features that its logits are made of.

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
        h = self._draw(encoded.latent, source, times, rows // batch)  # (31)
        anatomy = self.anatomy(h) if self.anatomy is not None else None  # P(h) of (11, 14)
        bottleneck = self._joined(encoded.features, h, source, rows // batch)
        segmentation = classification = reconstruction = None
        if self.segmentation is not None and _asked("segmentation", heads):
            segmentation = self.segmentation(  # (19, 32)
                bottleneck, encoded.prepared, source, anatomy, keep_features=keep_features
            )
        if self.classification is not None and _asked("classification", heads):
            classification = self.classification(bottleneck if h is None else h, source)  # (16-18)
        if self.reconstruction is not None and _asked("reconstruction", heads):
            reconstruction = self.reconstruction(
                bottleneck, encoded.reconstruction, encoded.observed, source, operator
            )  # (20, 21)
        return DIANetOutput(
            segmentation,
            classification,
            reconstruction,
            anatomy,
            encoded.latent if self.training else None,
            h if self.training else None,
        )

    def explainable_layers(self) -> tuple[str, ...]:
        """Names of the modules that explanation methods may hook, the default first."""
        names = ["bottleneck"] if self.decodes or self.latent is None else []
        names += ["classification.features"] if self.classification is not None else []
        names += [f"encoder.stages.{i}" for i in range(len(self.encoder.stages))]
        if self.segmentation is not None:
            names += [f"segmentation.scales.{i}" for i in range(len(self.segmentation.scales))]
        return tuple(names)

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
        layers = self.attention_layers()
        with self._outputs_of(layers) as seen:
            self.encode(x, available)
        return tuple(seen[name] for name in layers)

    def path_names(self) -> tuple[str, ...]:
        """What the paths are whose fusion the segmentation is, the full one first; empty without fusion."""
        paths = self.segmentation.paths if self.segmentation is not None else None
        return () if paths is None else paths.names

    def path_weights(self, x: Tensor, available: Tensor | None = None) -> Tensor:
        """How much each path counts where in the mean pass, (B, P, *S) float32, sums to one over P.

        Args:
            x: as for `forward`.
            available: as for `forward`.

        Raises:
            InputError: if the network fuses no paths.
        """
        if not self.path_names():
            raise InputError("expected a network with reliable_path, got one that has a single path.")
        name = "segmentation.paths.weights"
        with self._outputs_of((name,)) as seen:
            self(x, available=available)
        return seen[name]

    @contextmanager
    def _outputs_of(self, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        """What the modules of these names put out while the context lasts, as float32."""
        seen: dict[str, Tensor] = {}

        def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
            return lambda _module, _inputs, output: seen.update({name: output.float()})

        hooks = [self.get_submodule(name).register_forward_hook(keep(name)) for name in layers]
        try:
            yield seen
        finally:
            for hook in hooks:
                hook.remove()

    def parameter_count(self) -> int:
        """Number of learned numbers."""
        return sum(parameter.numel() for parameter in self.parameters())

    def _draw(
        self, latent: GaussianDistribution | None, source: RandomSource, times: Tensor | None, repeats: int
    ) -> Tensor | None:
        """Draw h for each row and refine it, (B * repeats, d, *S_L); None without the latent."""
        if times is not None and self.diffuser is None:
            raise InputError("expected no times, since this network has no diffuser to read them.")
        if latent is None:
            return None
        h = latent.repeat_rows(repeats).sample(source)
        if self.diffuser is not None:
            h = self._diffuse(self.diffuser, h, times, repeats)
        return h if self.codebook is None else self.codebook(h, source)

    def _joined(self, features: Tensor, h: Tensor | None, source: RandomSource, repeats: int) -> Tensor:
        """What the decoders read: the coarsest features with h added, (B * repeats, C_L, *S_L)."""
        bottleneck = features if repeats == 1 else features.repeat_interleave(repeats, 0)
        if h is not None and self.latent is not None and self.latent.project is not None:
            # Without this a decoder that can read the features never needs h, and h carries nothing.
            bottleneck = source.path_dropout(bottleneck, self.latent.path_dropout)
            bottleneck = bottleneck + self.latent.project(h.to(bottleneck.dtype))
        joined: Tensor = self.bottleneck(source.channel_dropout(bottleneck, self.config.dropout))
        return joined

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


def _asked(head: Head, heads: Collection[Head] | None) -> bool:
    return heads is None or head in heads
