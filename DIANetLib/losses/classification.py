# SPDX-License-Identifier: Apache-2.0
"""Task loss of the classification head, equations (1, 16-18), where only some rows have a known class."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from DIANetLib.errors import InputError
from DIANetLib.losses.precision import at_least_float32

#: Class number of a row whose class is not known.
UNKNOWN = -1


def classification_loss(
    logits: Tensor, target: Tensor, *, class_weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy averaged over the rows whose class is known; 0 where none is, still on the graph.

    The zero keeps every parameter of the head in the backward pass, which processes that share gradients
    need even where one of them met no row with a class.

    Args:
        logits: (N, C), of any floating type; the loss is taken in float32.
        target: class numbers 0..C-1, or `UNKNOWN`, (N,) integers.
        class_weights: (C,) weights, by whose sum over the known rows the average is taken, or None for equal
            ones.
        label_smoothing: share of the target that is spread evenly over all classes, 0 to 1 (Szegedy et al.,
            CVPR 2016).

    Returns:
        A scalar, nats.

    Raises:
        InputError: if a class number is neither known to the head nor `UNKNOWN`.
    """
    classes = logits.shape[1]
    known = target != UNKNOWN
    if not bool(known.any()):
        return at_least_float32(logits).sum() * 0.0
    chosen = target[known]
    if int(chosen.min()) < 0 or int(chosen.max()) >= classes:
        raise InputError(
            f"expected class numbers 0 to {classes - 1}, or {UNKNOWN} where the class is unknown, got "
            f"{int(chosen.min())} to {int(chosen.max())}.",
            remedy="Check the table of classes, or the head's number of classes.",
        )
    weights = None if class_weights is None else class_weights.to(logits.device)
    return F.cross_entropy(
        at_least_float32(logits[known]), chosen, weight=weights, label_smoothing=label_smoothing
    )
