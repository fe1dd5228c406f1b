# SPDX-License-Identifier: Apache-2.0
"""Domain-informed latent h ~ N(mu, Sigma), equations (10, 12, 13, 31), as a residual at the bottleneck.

The projection back into the feature map starts at zero, so that at step 0 the network equals its plain
encoder-decoder. At test time h is its mean unless a pass samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from DIANetLib.network.blocks import conv
from DIANetLib.network.config import LatentConfig
from DIANetLib.network.noise import RandomSource

# Bounds on log sigma^2: sigma between 0.007 and 7.4 keeps the KL term and half precision finite.
LOG_VARIANCE_BOUNDS = (-10.0, 4.0)


@dataclass(frozen=True)
class GaussianDistribution:
    """A diagonal Gaussian per latent position.

    Attributes:
        mean: mu, (B, d, *S_L).
        log_variance: log of the diagonal of Sigma, (B, d, *S_L).
    """

    mean: Tensor
    log_variance: Tensor

    def repeat_rows(self, repeats: int) -> GaussianDistribution:
        """The distribution with every row repeated `repeats` times, rows of one case side by side."""
        if repeats == 1:
            return self
        return GaussianDistribution(
            self.mean.repeat_interleave(repeats, 0), self.log_variance.repeat_interleave(repeats, 0)
        )

    def sample(self, source: RandomSource) -> Tensor:
        """Draw h (reparametrised), or return mu when the pass is not stochastic."""
        if not source.stochastic:
            return self.mean
        return self.mean + torch.exp(0.5 * self.log_variance) * source.normal(self.mean)


class GaussianLatent(nn.Module):
    """Separate heads for mu and log Sigma, and the projection of h back to the feature width."""

    def __init__(self, spatial_dims: int, features: int, config: LatentConfig) -> None:
        super().__init__()
        channels = config.channels
        self.path_dropout = config.path_dropout
        self.mean = conv(spatial_dims, features, channels, kernel=1)
        self.log_variance = conv(spatial_dims, features, channels, kernel=1)
        self.project = conv(spatial_dims, channels, features, kernel=1)
        # sigma starts at about 0.2: enough noise to be felt, too little to drown the mean.
        nn.init.zeros_(self.log_variance.weight)
        nn.init.constant_(_bias(self.log_variance), -3.0)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(_bias(self.project))

    def forward(self, features: Tensor) -> GaussianDistribution:
        """Map the bottleneck features (B, C, *S_L) to the distribution of h."""
        log_variance = self.log_variance(features).float().clamp(*LOG_VARIANCE_BOUNDS)
        return GaussianDistribution(self.mean(features).float(), log_variance)


def _bias(layer: nn.Conv2d | nn.Conv3d) -> nn.Parameter:
    assert isinstance(layer.bias, nn.Parameter)  # built with a bias above; for the type checker
    return layer.bias
