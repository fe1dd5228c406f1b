# SPDX-License-Identifier: Apache-2.0
"""Modality stems and their fusion, z = g_phi(x_1, ..., x_M), equation (5), with missing modalities as input.

Each modality has a stem of its own. Where in the image which modality counts is decided by attention over
the modality axis, masked by which ones are there (HeMIS, Havaei et al., MICCAI 2016, takes their mean).
What the stems see jointly is added to the first scale of the encoder through a projection that starts at
zero, so that at step 0 the network equals the one without stems.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from DIANetLib.errors import InputError
from DIANetLib.network.blocks import ConvBlock, conv
from DIANetLib.network.config import FusionConfig


class ModalityFusion(nn.Module):
    """One stem per modality, fused by attention over those that are there.

    Args:
        spatial_dims: 2 or 3.
        modalities: M.
        outputs: feature channels of the encoder's first scale.
        config: width of the stems.
    """

    def __init__(self, spatial_dims: int, modalities: int, outputs: int, config: FusionConfig) -> None:
        super().__init__()
        channels = config.channels
        self.stems = nn.ModuleList(ConvBlock(spatial_dims, 1, channels) for _ in range(modalities))
        # One score per stem: what a modality looks like here says how much it can tell here.
        self.scores = nn.ModuleList(conv(spatial_dims, channels, 1, kernel=1) for _ in range(modalities))
        self.project = conv(spatial_dims, channels, outputs, kernel=1)
        nn.init.zeros_(self.project.weight)
        assert self.project.bias is not None  # conv() builds it; for the type checker
        nn.init.zeros_(self.project.bias)

    def forward(self, x: Tensor, available: Tensor | None = None) -> Tensor:
        """Map (B, M, *S) to what is added to the first scale, (B, outputs, *S).

        Args:
            x: image, missing modalities blank.
            available: (B, M) bool, which modalities are there; None for all of them.
        """
        stems = self._stems(x)
        weights = self._weights(stems, available)
        fused: Tensor = self.project((weights.unsqueeze(2) * stems).sum(1).to(x.dtype))
        return fused

    def weights(self, x: Tensor, available: Tensor | None = None) -> Tensor:
        """How much each modality counts at each position, (B, M, *S) float32; sums to one over M."""
        return self._weights(self._stems(x), available)

    def _stems(self, x: Tensor) -> Tensor:
        """(B, M, C, *S)."""
        return torch.stack([stem(x[:, m : m + 1]) for m, stem in enumerate(self.stems)], 1)

    def _weights(self, stems: Tensor, available: Tensor | None) -> Tensor:
        scores = torch.cat([score(stems[:, m]) for m, score in enumerate(self.scores)], 1).float()
        if available is not None:
            missing = ~available.view(*available.shape, *([1] * (scores.ndim - 2)))
            scores = scores.masked_fill(missing, float("-inf"))
        return torch.softmax(scores, 1)


def blank_missing(x: Tensor, available: Tensor) -> Tensor:
    """The image (B, M, *S) with zeros, the mean after normalisation, where a modality is missing.

    Whatever stands in the channel of a missing modality, NaN too, has no influence.

    Raises:
        InputError: `available` is not (B, M) bool, or a case has no modality at all.
    """
    if available.shape != x.shape[:2] or available.dtype != torch.bool:
        raise InputError(
            f"expected which modalities are available as booleans of shape {tuple(x.shape[:2])}, "
            f"got {available.dtype} of shape {tuple(available.shape)}."
        )
    if not torch.compiler.is_compiling() and not bool(available.any(1).all()):
        raise InputError("expected at least one available modality per case, got none for one of them.")
    there = available.view(*available.shape, *([1] * (x.ndim - 2)))
    return torch.where(there, x, torch.zeros((), dtype=x.dtype, device=x.device))
