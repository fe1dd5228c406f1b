# SPDX-License-Identifier: Apache-2.0
"""The discriminator that a fit plays against, equation (15), with an optimiser and a state of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from DIANetLib.losses.adversarial import (
    Discriminator,
    discriminator_loss,
    encoder_loss,
    latent_vectors,
    prior_draws,
    warm_up,
)
from training.config_tasks import AdversarialTerm
from training.distributed import Context


class Adversary:
    """Discriminator between latents and draws of their prior.

    Args:
        config: weight, warm-up, size.
        channels: d, channels of h.
        context: the device, and the processes that share its gradients.
    """

    def __init__(self, config: AdversarialTerm, channels: int, context: Context) -> None:
        self.config, self.context = config, context
        self.discriminator = Discriminator(channels, width=config.width).to(context.device).train()
        self.optimiser = torch.optim.AdamW(
            self.discriminator.parameters(), lr=config.learning_rate, betas=(0.5, 0.9), weight_decay=0.0
        )

    def vectors(self, h: Tensor) -> Tensor:
        """What it reads of the drawn h (N, d, *S): (P, d), with the graph of `h`."""
        return latent_vectors(h.float(), tokens=self.config.vectors)

    def encoder_term(self, vectors: Tensor, step: int) -> Tensor:
        """The encoder's weighted loss at a step; a scalar."""
        weight = self.config.weight * warm_up(step, self.config.start, self.config.length)
        return weight * encoder_loss(self.discriminator, vectors)

    def learn(self, vectors: Tensor) -> dict[str, Tensor]:
        """One step of the discriminator; returns its loss and accuracy (0.5 is chance)."""
        verdict = discriminator_loss(self.discriminator, vectors, prior_draws(vectors))
        self.optimiser.zero_grad(set_to_none=True)
        verdict.loss.backward()
        self.context.average_gradients(self.discriminator)
        self.optimiser.step()
        return {"discriminator": verdict.loss.detach(), "discriminator_accuracy": verdict.accuracy}

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimiser."""
        return {
            "discriminator": self.discriminator.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from an earlier state."""
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimiser.load_state_dict(state["optimiser"])
