# SPDX-License-Identifier: Apache-2.0
"""What the blocks of a fitted network do, each by its own measure: latent, CodeBook, pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from DIANetLib.network import DIANet
from training.codebook_use import codebook_use
from training.datasets import PreparedCase
from training.latent_use import latent_use


def block_use(
    network: DIANet, cases: Sequence[PreparedCase], window: tuple[int, ...], *, seed: int = 0
) -> dict[str, Any]:
    """Measure the blocks on held-out cases.

    Args:
        network: in evaluation mode.
        cases: prepared.
        window: voxels (k, j, i) read of each case.
        seed: of the samples.

    Returns:
        "latent": see `LatentUse`; "codebook": see `CodeBookUse`; "scale_weights": alpha_i of (8), finest
        scale first. Each is None where the network has no such block.
    """
    latent, codes = latent_use(network, cases, window), codebook_use(network, cases, window, seed=seed)
    return {
        "latent": None
        if latent is None
        else {**asdict(latent), "dice_change_when_shuffled": latent.dice_change_when_shuffled},
        "codebook": None if codes is None else asdict(codes),
        "scale_weights": None if network.pyramid is None else network.pyramid.scale_weights,
    }
