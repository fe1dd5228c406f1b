# SPDX-License-Identifier: Apache-2.0
"""Cascading randomisation: weights are drawn anew from the last layer to the first (Adebayo et al., 2018).

A map that tells what the network has learned is another one when the network has forgotten it. What the score
is taken over stays: the voxels that the fitted network gives to the structure.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from DIANetLib.network import DIANet

#: How far the weights are randomised, each with what comes before.
STAGES = ("logits", "decoder", "bottleneck", "all")


def randomised_parts(network: DIANet, stage: str) -> tuple[str, ...]:
    """Beginnings of the names of the parameters that are drawn anew at a stage.

    Args:
        network: with a segmentation head.
        stage: "logits", "decoder", "bottleneck" (and all that lies between the coarsest scale of the encoder
            and the decoder, that scale included) or "all".
    """
    last = len(network.encoder.stages) - 1
    return {
        "logits": ("segmentation.logits.",),
        "decoder": ("segmentation.",),
        "bottleneck": ("segmentation.", "latent.", "diffuser.", "codebook.", f"encoder.stages.{last}."),
        "all": ("",),
    }[stage]


@contextmanager
def randomised(network: DIANet, stage: str, seed: int) -> Iterator[None]:
    """The network with some of its weights as they are before a fit; afterwards it is as it was.

    Args:
        network: the fitted network.
        stage: one of `STAGES`.
        seed: of the weights; one network is drawn, so that stages of one seed continue each other.
    """
    parts = randomised_parts(network, stage)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        drawn = DIANet(network.config).state_dict()
    fitted = {name: values.clone() for name, values in network.state_dict().items()}
    network.load_state_dict(
        {name: drawn[name] if name.startswith(parts) else values for name, values in fitted.items()}
    )
    try:
        yield
    finally:
        network.load_state_dict(fitted)
