# SPDX-License-Identifier: Apache-2.0
"""Diffuser: self-attention over the positions of h, and alignment along time; paper, section 3.3.

Each position of h is a token. A layer lets the tokens of one image attend to each other, then, in sequences,
the tokens of one position along the time points, then transforms each alone (Vaswani et al., NeurIPS 2017;
space before time as in Bertasius et al., TimeSformer, ICML 2021). Each of the three is a residual whose gain
starts at zero (Touvron et al., CaiT, ICCV 2021), so that at step 0 h stays as it is.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from DIANetLib.errors import InputError
from DIANetLib.network.config import DiffuserConfig

FREQUENCIES = 4  # per axis; the highest turns four times over the grid


class Diffuser(nn.Module):
    """Attention layers over the tokens of h.

    Args:
        spatial_dims: 2 or 3.
        channels: d, channels of h; a multiple of the number of heads.
        config: layers, heads, and whether sequences are read.
    """

    def __init__(self, spatial_dims: int, channels: int, config: DiffuserConfig) -> None:
        super().__init__()
        self.position = nn.Linear(2 * FREQUENCIES * spatial_dims, channels, bias=False)
        self.time = TimeEncoding(channels) if config.temporal else None
        self.layers = nn.ModuleList(DiffuserLayer(channels, config) for _ in range(config.layers))

    def forward(self, h: Tensor, times: Tensor | None = None) -> Tensor:
        """Refine h (N, d, *S), or with `times` sequences of h (N, T, d, *S); same shape.

        Args:
            h: latent, one token per position.
            times: (N, T), when the time points were taken, in one unit (years, minutes) throughout; for
                tokens of several modalities their indices. One time point has nothing to be aligned with:
                the result is that of the plain call.

        Raises:
            InputError: `times` doesn't fit h, or T > 1 and the configuration is not `temporal`.
        """
        if times is None:
            return self._refine(h.unsqueeze(1), None).squeeze(1)
        if h.shape[:2] != times.shape:
            raise InputError(
                f"expected the times of {h.shape[0]} sequences of {h.shape[1]} time points, "
                f"got shape {tuple(times.shape)}."
            )
        if h.shape[1] == 1:
            return self._refine(h, None)
        if self.time is None:
            raise InputError(
                f"expected one time point, got {h.shape[1]}; build the network with diffuser.temporal."
            )
        return self._refine(h, self.time(times))

    def _refine(self, h: Tensor, time: Tensor | None) -> Tensor:
        """(N, T, d, *S) and the encoding of its times (N, T, d) or None."""
        grid = h.shape[3:]
        tokens = h.flatten(3).transpose(2, 3)  # (N, T, P, d), P positions
        position = self.position(position_features(grid, h.device))
        for layer in self.layers:
            tokens = layer(tokens, position, time)
        return tokens.transpose(2, 3).unflatten(3, grid).to(h.dtype)


class DiffuserLayer(nn.Module):
    """Attention in space, attention in time (sequences only), and a two-layer network per token."""

    def __init__(self, channels: int, config: DiffuserConfig) -> None:
        super().__init__()
        self.space = Attention(channels, config.heads)
        self.time = Attention(channels, config.heads) if config.temporal else None
        self.mix = nn.Sequential(
            nn.LayerNorm(channels),
            nn.Linear(channels, 2 * channels),
            nn.GELU(),
            nn.Linear(2 * channels, channels),
        )
        self.mix_gain = nn.Parameter(torch.zeros(channels))

    def forward(self, tokens: Tensor, position: Tensor, time: Tensor | None) -> Tensor:
        """Tokens (N, T, P, d), encodings of position (P, d) and time (N, T, d); shape of the tokens."""
        rows, points = tokens.shape[:2]
        tokens = self.space(tokens.flatten(0, 1), position).unflatten(0, (rows, points))
        if time is not None and self.time is not None:
            places = tokens.shape[2]
            along = tokens.transpose(1, 2).flatten(0, 1)  # (N * P, T, d)
            along = self.time(along, time.repeat_interleave(places, 0))
            tokens = along.unflatten(0, (rows, places)).transpose(1, 2)
        return tokens + self.mix_gain * self.mix(tokens)


class Attention(nn.Module):
    """Multi-head self-attention as a residual: (N, P, d) -> same shape.

    The scores of all pairs are never stored at once: PyTorch's fused attention takes them in blocks.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.read = nn.Linear(channels, 3 * channels, bias=False)  # a key's bias would cancel in the softmax
        self.write = nn.Linear(channels, channels)
        self.gain = nn.Parameter(torch.zeros(channels))

    def forward(self, tokens: Tensor, encoding: Tensor) -> Tensor:
        """Let the tokens (N, P, d) attend to each other; `encoding`, (P, d) or (N, P, d), places them."""
        read = self.read(self.norm(tokens) + encoding)
        query, key, value = read.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (N, heads, P, ·)
        seen = F.scaled_dot_product_attention(query, key, value)
        return tokens + self.gain * self.write(seen.transpose(1, 2).flatten(2))


class TimeEncoding(nn.Module):
    """Learned encoding of time: one linear and d - 1 periodic features (Time2Vec, Kazemi et al., 2019)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.phase = nn.Linear(1, channels)

    def forward(self, times: Tensor) -> Tensor:
        """Map (N, T) to (N, T, d)."""
        phase = self.phase(times.to(self.phase.weight.dtype).unsqueeze(-1))
        return torch.cat([phase[..., :1], torch.sin(phase[..., 1:])], -1)


def position_features(grid: tuple[int, ...], device: torch.device) -> Tensor:
    """Sines and cosines of where on the grid each position lies, (P, 2 * FREQUENCIES * axes) float32.

    Positions run from 0 to 1 along each axis whatever its size, so that every grid has an encoding.
    """
    turns = math.pi * 2.0 ** torch.arange(FREQUENCIES, device=device)
    axes = [(torch.arange(size, device=device) + 0.5) / size for size in grid]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)  # (P, axes)
    angles = (places.unsqueeze(-1) * turns).flatten(1)
    return torch.cat([angles.sin(), angles.cos()], 1)
