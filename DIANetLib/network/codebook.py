# SPDX-License-Identifier: Apache-2.0
"""CodeBook: h is softly matched to learned prototypes; paper, section 3.3 (its text gives no equation).

A position's h is compared with K codes c_k of its width d, and moved towards their weighted mean,

    w_k = softmax_k(-||h - c_k||^2 / (d * temperature)),    h + gain * (sum_k w_k c_k - h).

The gain starts at zero; at one, h is its quantisation. The codes learn by gradient, as in soft-to-hard
quantisation (Agustsson et al., NeurIPS 2017). A code that hardly any position reads gets hardly any gradient;
in training it is put in the place of some h of the batch (as in Dhariwal et al., Jukebox, 2020).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from DIANetLib.network.config import CodeBookConfig
from DIANetLib.network.noise import RandomSource


class CodeBook(nn.Module):
    """K prototypes of h, and the residual that pulls h towards them.

    Args:
        channels: d, channels of h.
        config: number of codes, temperature, what counts as unused.

    Attributes:
        codes: the prototypes, (K, d).
        gain: how far each channel of h is pulled, (d,); starts at zero.
        usage: share of the positions that read each code, (K,), a moving average over training passes.
    """

    usage: Tensor

    def __init__(self, channels: int, config: CodeBookConfig) -> None:
        super().__init__()
        self.config = config
        # The divergence pulls h towards N(0, I): that is where the codes wait for it.
        self.codes = nn.Parameter(torch.randn(config.codes, channels))
        self.gain = nn.Parameter(torch.zeros(channels))
        self.register_buffer("usage", torch.full((config.codes,), 1.0 / config.codes))

    def forward(self, h: Tensor, source: RandomSource | None = None) -> Tensor:
        """Pull h (N, d, *S) towards its prototypes; same shape.

        In training mode the pass also updates `usage` and revives unused codes.

        Args:
            h: latent, one vector per position.
            source: where the h that revive codes are drawn from; None for torch's own stream. Evaluation
                draws nothing, and a row's result does not depend on the other rows.
        """
        tokens = h.movedim(1, -1)  # (N, *S, d)
        if self.training:
            self.revive(h, source)
        weights = self._match(tokens)
        if self.training:
            self._count(weights)
        matched = self._mean_code(weights)
        return torch.addcmul(tokens, self.gain, matched - tokens).movedim(-1, 1).to(h.dtype)

    def assign(self, h: Tensor) -> Tensor:
        """How much each position of h (N, d, *S) reads each code, (N, K, *S) float32; sums to one over K."""
        return self._match(h.movedim(1, -1)).movedim(-1, 1)

    @property
    def perplexity(self) -> Tensor:
        """Number of codes in effective use over the last training passes, a scalar from 1 to K."""
        return perplexity(self.usage)

    @torch.no_grad()
    def revive(self, h: Tensor, source: RandomSource | None = None) -> None:
        """Put codes used less than `revive_below` / K in the places of drawn vectors of h (N, d, *S)."""
        count = self.config.codes
        tokens = h.detach().movedim(1, -1).flatten(0, -2)
        drawn = (source or RandomSource(stochastic=True)).choose(tokens, count)
        # No branch on the data: it would wait for the GPU in every pass and split a compiled graph.
        dead = self.usage < self.config.revive_below / count
        self.codes.copy_(torch.where(dead.unsqueeze(1), drawn.to(self.codes.dtype), self.codes))
        self.usage.copy_(torch.where(dead, torch.full_like(self.usage, 1.0 / count), self.usage))

    def _match(self, tokens: Tensor) -> Tensor:
        """(N, *S, d) -> (N, *S, K) float32."""
        with torch.autocast(tokens.device.type, enabled=False):
            # Distances stay the same when both sides move, and ||h||^2 drops out of the softmax. Around the
            # codes' mean the two remaining terms are small, and so is what their difference loses.
            codes = self._codes()
            center = codes.detach().mean(0)
            codes = codes - center
            scores = 2.0 * (tokens.float() - center) @ codes.T - codes.square().sum(1)
            return torch.softmax(scores / (codes.shape[1] * self.config.temperature), -1)

    def _mean_code(self, weights: Tensor) -> Tensor:
        """(N, *S, K) -> (N, *S, d) float32."""
        with torch.autocast(weights.device.type, enabled=False):
            return weights @ self._codes()

    def _codes(self) -> Tensor:
        # A copy in training: reviving codes in a second pass must not spoil the first one's gradients.
        return self.codes.float().clone() if self.training else self.codes.float()

    @torch.no_grad()
    def _count(self, weights: Tensor) -> None:
        share = weights.flatten(0, -2).mean(0)
        self.usage.lerp_(share.to(self.usage.dtype), 1.0 - self.config.decay)


def perplexity(usage: Tensor) -> Tensor:
    """Exponential of the entropy of `usage` (K,), on any scale: K for uniform use, 1 for a single code."""
    shares = usage / usage.sum()
    return torch.exp(-torch.xlogy(shares, shares).sum())
