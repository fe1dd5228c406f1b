# SPDX-License-Identifier: Apache-2.0
"""Maps that a network shows of its mean pass, over a prepared image: window by window, blended."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from DIANetLib.inference.grid import for_inference
from DIANetLib.inference.memory import available_bytes, divisors, make_plan
from DIANetLib.inference.sampling import autocast, interruptible
from DIANetLib.inference.sliding_window import gaussian_weights, plan_windows
from DIANetLib.network import DIANet

__all__ = ["scan"]


def scan(
    network: DIANet,
    image: npt.NDArray[np.float32],
    available: Sequence[bool],
    window: tuple[int, int, int],
    read: Callable[[Tensor, Tensor | None], Tensor],
    *,
    check: Callable[[], None] = lambda: None,
) -> npt.NDArray[np.float32]:
    """Read a map off each window and blend them as the engine blends probabilities.

    Args:
        network: In evaluation mode; it runs where its weights are.
        image: (M, k, j, i), prepared.
        available: Per modality whether it is there.
        window: The model's window (i, j, k).
        read: Takes a window (1, M, *S) and which modalities are there, (1, M) bool or None; gives (1, C, *S).
        check: Called before every layer of the network; what it raises ends the work.

    Returns:
        (C, k, j, i) float32.
    """
    device = next(network.parameters()).device
    flat = network.config.spatial_dims == 2
    there = None if all(available) else torch.tensor([list(available)], device=device)
    shape, source = image.shape[1:], torch.from_numpy(image)
    plan = make_plan(
        network.config, shape, window[::-1], device, samples=0, free_bytes=available_bytes(device)
    )
    total: Tensor | None = None
    weight = torch.zeros(shape)
    for_inference(network, device)
    with torch.inference_mode(), interruptible(network, check):
        for part in plan_windows(shape, plan.window, divisors(network.config)):
            x = part.cut(source)[None].to(device)
            with autocast(device):
                found = read(x.squeeze(2) if flat else x, there)
            values = (found.unsqueeze(2) if flat else found)[0].float().cpu()
            values = values[(slice(None), *part.valid)]
            if total is None:
                total = torch.zeros((values.shape[0], *shape))
            weights = gaussian_weights(part.size)
            total[(slice(None), *part.slices)] += values * weights
            weight[part.slices] += weights
    assert total is not None  # there is always a window
    result: npt.NDArray[np.float32] = (total / weight).numpy()
    return result
