# SPDX-License-Identifier: Apache-2.0
"""Adversarial alignment of the latent with its prior, equation (15).

A discriminator D tells draws of the prior N(0, I) from encoded latents; the encoder learns to be taken for
the prior (Makhzani et al., Adversarial Autoencoders, 2015). Where the divergence of (12, 13) acts on the
distribution of each position, this acts on all of them pooled.

Equation (15) as printed, -E_data[log D] - E_prior[log(1 - D)], is what the *discriminator* minimises; an
encoder that minimised it too would help to be told apart. Here the discriminator minimises it and the encoder
minimises the non-saturating -E_data[log D] with D the probability of stemming from the prior (Goodfellow et
al., NeurIPS 2014, section 3), whose gradient does not vanish where the discriminator is sure. (15) calls the
encoded latents class 1; naming the prior class 1 swaps D and 1 - D and changes nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class Discriminator(nn.Module):
    """Perceptron on single latent vectors whose layers have spectral norm 1 (Miyato et al., ICLR 2018).

    The norm bounds how steeply the judgement changes with the latent, so that the encoder's gradient stays
    bounded however well the two can be told apart.

    Args:
        channels: d, size of a latent vector.
        width: size of the hidden layers.
        depth: number of hidden layers.
    """

    def __init__(self, channels: int, *, width: int = 64, depth: int = 2) -> None:
        super().__init__()
        sizes = [channels, *[width] * depth]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [spectral_norm(nn.Linear(inputs, outputs)), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, spectral_norm(nn.Linear(sizes[-1], 1)))

    def forward(self, vectors: Tensor) -> Tensor:
        """Logit (P,) of stemming from the prior, for latent vectors (P, d)."""
        logits: Tensor = self.layers(vectors.float())
        return logits.squeeze(1)


@dataclass(frozen=True)
class Verdict:
    """What a discriminator makes of one batch.

    Attributes:
        loss: scalar that it minimises, nats.
        accuracy: scalar without graph, mean of the two classes' shares told right: 0.5 is chance.
    """

    loss: Tensor
    accuracy: Tensor


def latent_vectors(
    h: Tensor, *, tokens: int, pooled: bool = False, generator: torch.Generator | None = None
) -> Tensor:
    """Vectors that the discriminator compares with N(0, I).

    Args:
        h: latent as drawn, (N, d, *S).
        tokens: at most so many single positions, chosen at random over batch and space; 0 for none. Few are
            enough and keep the term cheap.
        pooled: also take every row's sum over its n positions divided by sqrt(n), which for a draw of the
            prior is N(0, I) too, as the mean is not.
        generator: source of the choice, on any device.

    Returns:
        (P, d), P = min(tokens, N * n) (+ N where pooled), with the graph of `h`.
    """
    flat = h.flatten(2)
    rows = flat.transpose(1, 2).flatten(0, 1)
    if tokens < rows.shape[0]:
        device = h.device if generator is None else generator.device
        chosen = torch.randperm(rows.shape[0], generator=generator, device=device)[:tokens]
        rows = rows[chosen.to(h.device)]
    if not pooled:
        return rows
    return torch.cat([rows, flat.sum(2) / math.sqrt(flat.shape[2])])


def prior_draws(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draws of the prior N(0, I), as many and as long as `like` (P, d), float32."""
    device = like.device if generator is None else generator.device
    return torch.randn(like.shape, generator=generator, device=device).to(like.device)


def discriminator_loss(discriminator: nn.Module, encoded: Tensor, prior: Tensor) -> Verdict:
    """Equation (15), for the discriminator's own step: the encoder gets no gradient from it.

    Args:
        discriminator: maps (P, d) to logits (P,) of stemming from the prior.
        encoded: latent vectors of images, (P, d).
        prior: draws of the prior, (Q, d).
    """
    on_prior, on_encoded = discriminator(prior), discriminator(encoded.detach())
    loss = F.softplus(-on_prior).mean() + F.softplus(on_encoded).mean()
    right = ((on_prior > 0).float().mean() + (on_encoded <= 0).float().mean()) / 2
    return Verdict(loss, right.detach())


def encoder_loss(discriminator: nn.Module, encoded: Tensor) -> Tensor:
    """What the encoder minimises, -log D(h) averaged over (P, d) vectors; the discriminator gets no gradient.

    Returns:
        A scalar, nats; log 2 where the discriminator cannot tell.
    """
    learning = [parameter for parameter in discriminator.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        return F.softplus(-discriminator(encoded)).mean()
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def warm_up(step: int, start: int, length: int) -> float:
    """Factor of a term that sets in late: 0 up to step `start`, then linearly up to 1 over `length` steps.

    The encoder first learns something that is worth aligning.
    """
    if step < start:
        return 0.0
    return min(1.0, (step - start) / length) if length > 0 else 1.0
