# SPDX-License-Identifier: Apache-2.0
"""Whether rounding the weights to float16, as a bundle stores them, changes what the network puts out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from DIANetLib.errors import InputError
from DIANetLib.labelling import labels_of
from training.datasets import Case, PreparedCase, load_case
from training.fitted import FittedModel
from training.predict import predict_classes, predict_mean, structure_dice
from training.progress import track
from training.validation import validate

#: Difference of the mean Dice that rounding the weights is expected to stay within, and the one that it must.
#: (A single voxel on a border between two classes can make the former in few cases.)
ROUNDING_TOLERANCE = 1e-4
ROUNDING_LIMIT = 1e-3
#: Largest difference of a class probability, and of the mean PSNR in dB.
PROBABILITY_LIMIT = 1e-2
PSNR_LIMIT = 0.05


def rounding_check(fitted: FittedModel, cases: Sequence[Case], device: torch.device) -> dict[str, Any]:
    """Compare the mean pass of float32 and of float16-rounded weights, head by head.

    Returns:
        "cases", and per head what was compared; Dice beside it, as segmentation came first.

    Raises:
        InputError: if a head's figures differ by more than its limit.
    """
    prepared = [load_case(case, fitted.config) for case in track(cases, "float16 check", unit="case")]
    found: dict[str, Any] = {"cases": len(prepared)}
    config = fitted.fitted.network
    if config.classes and any(case.labels is not None for case in prepared):
        found |= _dice(fitted, [case for case in prepared if case.labels is not None], device)
    if config.classification is not None and prepared:
        found["largest_difference_of_a_probability"] = _probabilities(fitted, prepared, device)
    if config.reconstruction is not None and prepared:
        found["difference_psnr_db"] = _psnr(fitted, prepared, device)
    return found


def _dice(fitted: FittedModel, cases: Sequence[PreparedCase], device: torch.device) -> dict[str, Any]:
    full, rounded = fitted.network(device, rounded=False), fitted.network(device)
    classes = fitted.fitted.network.classes
    dice = []
    for case in cases:
        assert case.labels is not None  # only such cases come here
        pair = []
        for network in (full, rounded):
            labels = labels_of(predict_mean(network, case.image, fitted.config, case.available))
            scores = structure_dice(labels, case.labels, classes)
            pair.append(1.0 if np.isnan(scores).all() else float(np.nanmean(scores)))
        dice.append(pair)
    means = np.mean(dice, axis=0)
    difference = float(means[1] - means[0])
    _check(difference, ROUNDING_LIMIT, f"the mean Dice of {len(dice)} cases")
    return {
        "cases": len(dice),
        "dice_float32": float(means[0]),
        "dice_float16": float(means[1]),
        "difference": difference,
        "tolerance": ROUNDING_TOLERANCE,
        "within_tolerance": abs(difference) <= ROUNDING_TOLERANCE,
        "largest_difference_of_a_case": float(np.abs(np.subtract(*np.transpose(dice))).max()),
    }


def _probabilities(fitted: FittedModel, cases: Sequence[PreparedCase], device: torch.device) -> float:
    pairs = list(_both(fitted, device))
    differences = []
    for case in cases:
        one, other = (predict_classes(net, case.image, fitted.config, case.available) for net in pairs)
        differences.append(float(np.abs(one - other).max()))
    largest = max(differences)
    _check(largest, PROBABILITY_LIMIT, "a class probability")
    return largest


def _psnr(fitted: FittedModel, cases: Sequence[PreparedCase], device: torch.device) -> float:
    one, other = (validate(fitted.fitted, net, cases).figures["psnr"] for net in _both(fitted, device))
    _check(other - one, PSNR_LIMIT, "the mean PSNR in dB")
    return other - one


def _both(fitted: FittedModel, device: torch.device) -> Iterator[Any]:
    yield fitted.network(device, rounded=False)
    yield fitted.network(device)


def _check(difference: float, limit: float, what: str) -> None:
    if math.isnan(difference) or abs(difference) > limit:
        raise InputError(
            f"rounding the weights to float16 changes {what} by {difference:+.6f}, expected at most"
            f" {limit:g}.",
            remedy="Look for weights that float16 cannot hold.",
        )
