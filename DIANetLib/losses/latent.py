# SPDX-License-Identifier: Apache-2.0
"""Kullback-Leibler divergence of the latent h ~ N(mu, Sigma) from its standard normal prior, (12, 13)."""

from __future__ import annotations

import torch
from torch import Tensor


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, 1)) per latent dimension, averaged over batch and positions.

    Args:
        mean: mu, (B, d, *S).
        log_variance: log sigma^2, (B, d, *S).

    Returns:
        (d,) nats.
    """
    per_position = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance)
    return per_position.transpose(0, 1).flatten(1).mean(1)


def free_bits_kl(mean: Tensor, log_variance: Tensor, free_nats: float) -> Tensor:
    """Sum over dimensions of the KL above `free_nats` (Kingma et al., NeurIPS 2016); a scalar, nats.

    The free allowance lets every dimension carry some information before the prior pulls on it.
    """
    return torch.clamp(gaussian_kl(mean, log_variance) - free_nats, min=0.0).sum()
