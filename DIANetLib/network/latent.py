# SPDX-License-Identifier: Apache-2.0
"""Domain-informed latent h ~ N(mu, Sigma), equations (10, 12, 13, 31), as a residual at the bottleneck.

The projection back into the feature map starts at zero, so that at step 0 the network equals its plain
encoder-decoder. At test time h is its mean unless a pass samples.

Sigma is diagonal, or diagonal plus U U^T of rank r per position: channels of h then vary together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from DIANetLib.network.blocks import ConvBlock, conv, pointwise
from DIANetLib.network.config import LatentConfig
from DIANetLib.network.noise import RandomSource

# Bounds on log sigma^2: sigma between 0.007 and 7.4 keeps the KL term and half precision finite.
LOG_VARIANCE_BOUNDS = (-10.0, 4.0)


@dataclass(frozen=True)
class GaussianDistribution:
    """A Gaussian per latent position, of covariance diag(exp(log_variance)) + U U^T.

    Attributes:
        mean: mu, (B, d, *S_L).
        log_variance: log of the diagonal part of Sigma, (B, d, *S_L).
        factors: U, (B, r, d, *S_L), or None for a diagonal Sigma.
    """

    mean: Tensor
    log_variance: Tensor
    factors: Tensor | None = None

    @property
    def marginal_log_variance(self) -> Tensor:
        """Log of the variance of each channel by itself, the diagonal of Sigma: (B, d, *S_L)."""
        if self.factors is None:
            return self.log_variance
        return torch.log(self.log_variance.exp() + self.factors.square().sum(1))

    def repeat_rows(self, repeats: int) -> GaussianDistribution:
        """The distribution with every row repeated `repeats` times, rows of one case side by side."""
        if repeats == 1:
            return self
        return GaussianDistribution(
            self.mean.repeat_interleave(repeats, 0),
            self.log_variance.repeat_interleave(repeats, 0),
            None if self.factors is None else self.factors.repeat_interleave(repeats, 0),
        )

    def sample(self, source: RandomSource) -> Tensor:
        """Draw h (reparametrised), or return mu when the pass is not stochastic."""
        if not source.stochastic:
            return self.mean
        h = self.mean + torch.exp(0.5 * self.log_variance) * source.normal(self.mean)
        if self.factors is not None:  # one number per factor and position moves all channels at once
            h = h + (self.factors * source.normal(self.factors[:, :, :1])).sum(1)
        return h


class GaussianLatent(nn.Module):
    """Separate heads for mu and Sigma, and the projection of h back to the feature width.

    Args:
        spatial_dims: 2 or 3.
        features: C, width of the bottleneck.
        config: d, rank, path dropout.
        projected: whether a decoder reads h; without one there is nothing to project to.
    """

    def __init__(
        self, spatial_dims: int, features: int, config: LatentConfig, *, projected: bool = True
    ) -> None:
        super().__init__()
        channels = config.channels
        self.path_dropout = config.path_dropout
        self.rank = config.rank
        self.mean = conv(spatial_dims, features, channels, kernel=1)
        self.log_variance = conv(spatial_dims, features, channels, kernel=1)
        self.factors = conv(spatial_dims, features, config.rank * channels, kernel=1) if config.rank else None
        self.project = conv(spatial_dims, channels, features, kernel=1) if projected else None
        # sigma starts at about 0.2: enough noise to be felt, too little to drown the mean.
        nn.init.zeros_(self.log_variance.weight)
        nn.init.constant_(_bias(self.log_variance), -3.0)
        for start_at_zero in (self.factors, self.project):
            if start_at_zero is not None:
                nn.init.zeros_(start_at_zero.weight)
                nn.init.zeros_(_bias(start_at_zero))

    def forward(self, features: Tensor) -> GaussianDistribution:
        """Map the bottleneck features (B, C, *S_L) to the distribution of h."""
        log_variance = self.log_variance(features).float().clamp(*LOG_VARIANCE_BOUNDS)
        factors = None
        if self.factors is not None:
            factors = self.factors(features).float().unflatten(1, (self.rank, -1))
        return GaussianDistribution(self.mean(features).float(), log_variance, factors)


class AnatomyHead(nn.Module):
    """P(h) of (11, 14): a class distribution decoded from h alone, (N, d, *S_L) -> logits (N, K, *S_L)."""

    def __init__(self, spatial_dims: int, channels: int, classes: int) -> None:
        super().__init__()
        self.surroundings = ConvBlock(spatial_dims, channels, channels)
        self.logits = pointwise(spatial_dims, channels, classes)

    def forward(self, h: Tensor) -> Tensor:
        """Decode h."""
        logits: Tensor = self.logits(self.surroundings(h))
        return logits


def _bias(layer: nn.Conv2d | nn.Conv3d) -> nn.Parameter:
    assert isinstance(layer.bias, nn.Parameter)  # built with a bias above; for the type checker
    return layer.bias
