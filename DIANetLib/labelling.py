# SPDX-License-Identifier: Apache-2.0
"""What a voxel is called, given the probabilities of its classes: one rule for all that calls voxels.

A voxel is background, class 0, where that is at least as probable as all structures together; else it is the
most probable structure. The most probable of all classes would leave a crack between two structures where
they are told apart badly: 0.4 for background, 0.3 for each of them. `DIANetLib.preprocess.restore_labels`
follows the same rule class by class, as it restores them.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

__all__ = ["confidence", "labels_of", "labels_of_logits"]

Array = TypeVar("Array", Tensor, npt.NDArray[Any])


def labels_of(probabilities: Array) -> Array:
    """Classes (*S), integers, of probabilities (K, *S) that sum to one; ties go to the lower class.

    Of log-probabilities take the exponential first: the rule compares sums.
    """
    if len(probabilities) == 1:
        return probabilities.argmax(0)
    labels = probabilities[1:].argmax(0) + 1
    labels[probabilities[0] >= 0.5] = 0
    return labels


def labels_of_logits(logits: Tensor) -> Tensor:
    """Classes (*S) int64 of logits (K, *S)."""
    return labels_of(logits.float().softmax(0))


def confidence(probabilities: Array, labels: Array) -> Array:
    """Probability (*S) of what each voxel is called, from probabilities (K, *S) and labels (*S)."""
    if isinstance(probabilities, Tensor):
        return probabilities.gather(0, labels[None].long())[0]
    return np.take_along_axis(probabilities, labels[None].astype(np.intp), 0)[0]
