# SPDX-License-Identifier: Apache-2.0
"""The temperature that a bundle carries, fitted on the inner cases (Guo et al., ICML 2017).

Inference divides the logits of each of its T samples by the temperature and then averages the probabilities.
So that is what is fitted here: the temperature under which the averaged probabilities have the least negative
log-likelihood, with the samples held fixed. A temperature fitted on the mean pass would be too low where the
samples disagree, since averaging softens probabilities by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from DIANetLib.errors import InputError


def fit_sampled_temperature(
    logits: Sequence[npt.NDArray[np.floating]],
    labels: Sequence[npt.NDArray[np.integer]],
    *,
    bounds: tuple[float, float] = (0.2, 5.0),
) -> float:
    """Temperature that minimises the negative log-likelihood of mean_t softmax(logits_t / temperature).

    Args:
        logits: per case (T, V, K), logits or log-probabilities; V may be 0.
        labels: per case (V,) true classes.
        bounds: least and greatest temperature returned.

    Raises:
        InputError: if there is no voxel at all.
    """
    pairs = [
        (z.astype(np.float32), y.astype(np.int64)) for z, y in zip(logits, labels, strict=True) if y.size
    ]
    if not pairs:
        raise InputError(
            "The inner cases have no labelled voxel to fit a temperature on.",
            remedy="Check the structures' source_values against the label files.",
        )

    def loss(log_temperature: float) -> float:
        return sum(_log_loss(z, y, math.exp(log_temperature)) for z, y in pairs)

    found = minimize_scalar(
        loss, bounds=(math.log(bounds[0]), math.log(bounds[1])), method="bounded", options={"xatol": 1e-4}
    )
    return math.exp(float(found.x))


def _log_loss(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], temperature: float) -> float:
    """Sum over voxels of -log mean_t softmax(logits_t / temperature)[label]."""
    voxels = np.arange(labels.size)
    probability = np.zeros(labels.size, np.float64)
    for sample in logits:  # one at a time: the exponentials of all would be a second copy
        scaled = sample / np.float32(temperature)
        scaled -= scaled.max(axis=1, keepdims=True)
        np.exp(scaled, out=scaled)
        probability += scaled[voxels, labels] / scaled.sum(axis=1)
    return float(-np.log(np.maximum(probability / len(logits), 1e-30)).sum())
