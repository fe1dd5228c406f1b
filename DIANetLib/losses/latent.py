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


def total_correlation(log_variance: Tensor, factors: Tensor) -> Tensor:
    """How far a Gaussian of covariance D + U U^T is from the product of its marginals, a mean over positions.

    KL(N(mu, Sigma) || N(0, I)) is the sum over dimensions of `gaussian_kl` of the marginals, plus this:
    1/2 (sum_d log Sigma_dd - log det Sigma), with the determinant of the small r x r matrix
    I + U^T D^-1 U (matrix determinant lemma).

    Args:
        log_variance: log of the diagonal D, (B, d, *S).
        factors: U, (B, r, d, *S).

    Returns:
        A scalar of at least 0, nats.
    """
    diagonal = log_variance.float().flatten(2).transpose(1, 2)  # (B, P, d)
    u = factors.float().flatten(3).permute(0, 3, 1, 2)  # (B, P, r, d)
    scaled = u * torch.exp(-0.5 * diagonal).unsqueeze(2)
    small = scaled @ scaled.mT  # (B, P, r, r)
    small = small + torch.eye(small.shape[-1], device=small.device)
    log_determinant = diagonal.sum(-1) + 2.0 * torch.linalg.cholesky(small).diagonal(
        dim1=-2, dim2=-1
    ).log().sum(-1)
    marginals = torch.log(diagonal.exp() + u.square().sum(2)).sum(-1)
    return 0.5 * (marginals - log_determinant).mean()
