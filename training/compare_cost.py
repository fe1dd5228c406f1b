# SPDX-License-Identifier: Apache-2.0
"""What methods of uncertainty cost, in plain passes of the same network on the same crop.

All methods are run in turn, and again, so that what else the machine does hits all alike; processor seconds
are taken, since on a shared machine a clock on the wall measures the neighbours. Everything from the prepared
image to the finished maps counts; passes of one encoding share it, as in the product.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence

import torch

from DIANetLib.acwi.uncertainty import RunningUncertainty
from DIANetLib.network import DIANet
from training.compare_cases import probabilities_of
from training.compare_methods import PLAIN, Method
from training.compare_passes import SHIPPED, one_window, run_passes
from training.datasets import PreparedCase


def costs(
    networks: Mapping[str, DIANet],
    asked: Sequence[Method],
    case: PreparedCase,
    window: tuple[int, ...],
    *,
    rounds: int,
    seed: int = 0,
) -> dict[str, float]:
    """Median processor seconds of each method over those of the plain pass; empty for no rounds.

    Args:
        networks: by name, in evaluation mode.
        asked: the methods, the plain one among them.
        case: the crop that is read.
        window: voxels (k, j, i) of the model's window.
        rounds: how often all are run, after the first round, which does not count.
        seed: of the random numbers.
    """
    if rounds < 1:
        return {}
    place = one_window(networks[SHIPPED], case.image.shape[1:], window, case.name)
    image = torch.from_numpy(case.image)
    seconds: dict[str, list[float]] = {method.name: [] for method in asked}
    for round_ in range(rounds + 1):
        for method in asked:
            start = time.process_time()
            running: RunningUncertainty | None = None
            for _, output in run_passes(networks, image, place, method.passes, seed=seed):
                probabilities = probabilities_of(output, 1.5, method.noise)
                running = running or RunningUncertainty(probabilities.shape[1:])
                running.update(probabilities)
            if running is not None:
                running.finish()
            if round_:
                seconds[method.name].append(time.process_time() - start)
    plain = statistics.median(seconds[PLAIN])
    return {name: statistics.median(values) / plain for name, values in seconds.items()}
