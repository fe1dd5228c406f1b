# SPDX-License-Identifier: Apache-2.0
"""Whether the CodeBook says something about a case: codes in use, and how alike samples are assigned.

Two samples of one case differ by the noise of h alone. If the codes stand for anatomy, they read the same
codes at the same place more often than the samples of two different cases do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor, nn

from DIANetLib.inference.sampling import sample_generators
from DIANetLib.network import DIANet
from DIANetLib.network.codebook import perplexity
from training.datasets import PreparedCase
from training.latent_use import middle_patch


@dataclass(frozen=True)
class CodeBookUse:
    """What the codes do on held-out cases, in one window per case.

    Attributes:
        codes: K.
        perplexity: codes in effective use over all positions, cases and samples, 1 to K.
        same_case: share of positions at which two samples of a case read the same code the most.
        other_case: the same of samples of two different cases, at the same place of their windows.
        cases: number of cases.
        samples: samples per case.
    """

    codes: int
    perplexity: float
    same_case: float
    other_case: float
    cases: int
    samples: int


@torch.inference_mode()
def codebook_use(
    network: DIANet,
    cases: Sequence[PreparedCase],
    window: tuple[int, ...],
    *,
    samples: int = 4,
    seed: int = 0,
) -> CodeBookUse | None:
    """Measure the use of the codes; None for a network without them or for fewer than two cases.

    Args:
        network: in evaluation mode.
        cases: prepared.
        window: voxels (k, j, i) around the middle of each case.
        samples: per case, at least two.
        seed: of the samples.
    """
    codebook = network.codebook
    if codebook is None or len(cases) < 2:
        return None
    usage = torch.zeros(codebook.config.codes)
    chosen: list[Tensor] = []  # per case (T, *S_L)
    for number, case in enumerate(cases):
        patch = middle_patch(network, case, window)
        encoded = network.encode(patch.image, patch.available)
        with _inputs_of(codebook) as seen:
            network.decode(encoded, sample_generators(seed, number, range(max(2, samples))))
        weights = codebook.assign(seen[-1]).cpu()  # (T, K, *S_L)
        usage += weights.transpose(0, 1).flatten(1).mean(1)
        chosen.append(weights.argmax(1))
    pairs = combinations(range(chosen[0].shape[0]), 2)
    same = [_agreement(part[a], part[b]) for a, b in pairs for part in chosen]
    other = [_agreement(a[0], b[0]) for a, b in combinations(chosen, 2)]
    return CodeBookUse(
        codes=codebook.config.codes,
        perplexity=float(perplexity(usage)),
        same_case=float(np.mean(same)),
        other_case=float(np.mean(other)),
        cases=len(cases),
        samples=int(chosen[0].shape[0]),
    )


def _agreement(a: Tensor, b: Tensor) -> float:
    return float((a == b).float().mean())


@contextmanager
def _inputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """What the module is given while the context lasts."""
    seen: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        hook.remove()
