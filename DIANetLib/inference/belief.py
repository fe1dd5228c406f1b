# SPDX-License-Identifier: Apache-2.0
"""What a localiser believes about the voxels of a region, and how it weighs beside what was segmented there.

A localiser has seen the whole head, the next model a crop of it. Where images are unlike those that the
second model was fitted on, it draws its structure too small and takes look-alikes for it, at places that the
localiser is sure of. The two are pooled (a logarithmic opinion pool, Genest and Zidek, Statistical Science 1,
1986): the localiser's log-odds of its structures, times a weight, are added to the logits of all structures.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from DIANetLib.acwi.uncertainty import UncertaintyMaps, entropy
from DIANetLib.labelling import confidence, labels_of
from DIANetLib.preprocess import Prepared
from DIANetLib.resample import resample
from DIANetLib.volume import Geometry

__all__ = ["Localised", "with_belief"]

#: No localiser is surer than this: its probabilities at a far coarser grid say little about single voxels.
_LEAST = 1e-3
_TINY = 1e-6


@dataclass(frozen=True, eq=False)
class Localised:
    """What a localiser found, on its own grid.

    Attributes:
        mask: (k, j, i) bool, the structures asked for.
        body: (k, j, i) bool, all that it knows.
        probability: (k, j, i) float32, of the structures asked for together.
        prepared: What it read.
    """

    mask: npt.NDArray[np.bool_]
    body: npt.NDArray[np.bool_]
    probability: npt.NDArray[np.float32]
    prepared: Prepared

    def log_odds(self, grid: Geometry) -> npt.NDArray[Any]:
        """Of the structures asked for against the rest, on the grid of a region, (k, j, i)."""
        p = resample(self.probability, self.prepared.geometry, grid)
        p = np.clip(p, _LEAST, 1.0 - _LEAST)
        return np.asarray(np.log(p) - np.log1p(-p))


def with_belief(maps: UncertaintyMaps, log_odds: npt.NDArray[Any], weight: float) -> UncertaintyMaps:
    """Maps after the localiser's belief was added.

    The probabilities are pooled exactly. Kept are the epistemic share of the total uncertainty, the share of
    p (1 - p) that the variance is, and the ratio of a one-pass head's error probability to 1 - max p. How far
    samples overlap stays: it tells how well the model agrees with itself.

    Args:
        maps: Of a region; (K, k, j, i) and (k, j, i) on the CPU.
        log_odds: (k, j, i), of the structures against the rest.
        weight: 0 changes nothing.
    """
    if weight == 0:
        return maps
    before = maps.mean_probability
    factor = torch.from_numpy(np.exp(weight * log_odds).astype(np.float32))
    pooled = before.clone()
    pooled[1:] *= factor
    pooled /= pooled.sum(0)
    total = entropy(pooled)
    share = maps.epistemic / maps.total.clamp_min(_TINY)
    epistemic = total * share.clamp(0.0, 1.0)
    spread = maps.variance / (before * (1.0 - before)).clamp_min(_TINY)
    error = maps.error
    if error is not None:
        doubt, pooled_doubt = (1.0 - confidence(p, labels_of(p)) for p in (before, pooled))
        error = (error * pooled_doubt / doubt.clamp_min(_TINY)).clamp(0.0, 1.0)
    return replace(
        maps,
        mean_probability=pooled,
        total=total,
        aleatoric=total - epistemic,
        epistemic=epistemic,
        variance=spread.clamp(0.0, 1.0) * pooled * (1.0 - pooled),
        error=error,
    )
