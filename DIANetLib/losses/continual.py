# SPDX-License-Identifier: Apache-2.0
"""Continual learning, equation (26): elastic weight consolidation with a diagonal Fisher information.

Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 114, 3521 (2017). The
Fisher information is the true one, of labels drawn from the model's own predictions, and not the "empirical"
one of the labels at hand, which vanishes where the model is right (Kunstner, Balles and Hennig, NeurIPS
2019); so it needs images alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


def diagonal_fisher(parameters: Mapping[str, Tensor], log_likelihoods: Iterable[Tensor]) -> dict[str, Tensor]:
    """Diagonal of the Fisher information: the mean over observations of the squared gradient.

    Args:
        parameters: the weights, by name; those that an observation does not depend on count as 0 there.
        log_likelihoods: per observation a scalar on the graph of `parameters`: the log-likelihood, in nats,
            of labels drawn from the model's prediction, see `drawn_log_likelihood`. Consumed one at a time.

    Returns:
        Per name a tensor of the parameter's shape, at least 0.

    Raises:
        ValueError: if there is no observation.
    """
    sums = {name: torch.zeros_like(value) for name, value in parameters.items()}
    count = 0
    for value in log_likelihoods:
        gradients = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(sums, gradients, strict=True):
            if gradient is not None:
                sums[name] += gradient.square()
        count += 1
    if not count:
        raise ValueError(
            "expected at least one observation to estimate the Fisher information from, got none"
        )
    return {name: value / count for name, value in sums.items()}


def drawn_log_likelihood(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Log-likelihood of labels drawn from the prediction itself, summed over voxels; a scalar, nats.

    Voxels are independent given the weights, so the gradient's cross terms vanish in expectation and the sum
    over voxels estimates the sum of their Fisher informations.

    Args:
        logits: (B, K, *S).
        generator: of the draw, on the logits' device.
    """
    log_probabilities = torch.log_softmax(logits.float(), dim=1).movedim(1, -1).flatten(0, -2)  # (V, K)
    with torch.no_grad():
        drawn = torch.multinomial(log_probabilities.exp(), 1, generator=generator)
    return log_probabilities.gather(1, drawn).sum()


def normalised(fisher: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The Fisher information over its mean, so that EWC of one weight is as stiff as L2-SP of the same.

    Raises:
        ValueError: if it is zero everywhere.
    """
    total = sum(float(value.sum(dtype=torch.float64)) for value in fisher.values())
    count = sum(value.numel() for value in fisher.values())
    if not total > 0:
        raise ValueError("expected a Fisher information above 0 somewhere, got zeros")
    return {name: value * (count / total) for name, value in fisher.items()}


def elastic(
    parameters: Mapping[str, Tensor], start: Mapping[str, Tensor], fisher: Mapping[str, Tensor]
) -> Tensor:
    """1/2 sum_i F_i (theta_i - theta*_i)^2, a scalar on the graph of `parameters`.

    Args:
        parameters: theta, by name.
        start: theta*, the weights at the end of the earlier task.
        fisher: F, the diagonal Fisher information there. Names that are not in all three are left out.

    Raises:
        ValueError: if the three share no name.
    """
    shared = [name for name in parameters if name in start and name in fisher]
    if not shared:
        raise ValueError("expected weights, start and Fisher information to share a name, got none")
    parts = [(fisher[name] * (parameters[name] - start[name]).square()).sum() for name in shared]
    return 0.5 * torch.stack(parts).sum()
