# SPDX-License-Identifier: Apache-2.0
"""How often an answer is really wrong, class by class: the last step of calibrating the error probability.

One temperature sets the confidence of all classes alike, but networks that were fitted with a Dice loss err
in favour of structures: voxels given to a structure are wrong more often than 1 - max p says, voxels given to
the background less often. So the error probability gets a logistic correction (Platt 1999) for each class
that was answered, as class-wise calibration asks for (Kull et al., NeurIPS 2019). It is fitted on the cases
that set the temperature, changes no label, and keeps the order of the voxels within a class.

Runs inside Slicer's process: numpy and scipy only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from DIANetLib.errors import InputError

FloatArray = npt.NDArray[np.floating[Any]]
Float64Array = npt.NDArray[np.float64]
Classes = npt.NDArray[np.integer[Any]]

# Below this, hardly a voxel is wrong, and there are millions of them.
_FLOOR = 0.01
# Neighbours are wrong together: a block of 3 x 3 x 3 voxels says about as much as one.
_VOXELS_PER_OBSERVATION = 27.0
# Without observations the correction is none: offset 0 and slope 1, with these standard deviations.
_OFFSET_SD, _SLOPE_SD = 1.0, 0.5
_LEAST_SLOPE = 0.05  # the order of the voxels within a class stays
_TINY = 1e-6


@dataclass(frozen=True)
class ErrorCalibration:
    """A correction of the error probability p, logit q = offset + slope * logit p, for each class answered.

    Attributes:
        offsets: (K,), background first.
        slopes: (K,), positive.

    Raises:
        InputError: not one of each per class, not finite, or a slope is not positive.
    """

    offsets: tuple[float, ...]
    slopes: tuple[float, ...]

    def __post_init__(self) -> None:
        offsets, slopes = (tuple(float(v) for v in part) for part in (self.offsets, self.slopes))
        if len(offsets) != len(slopes) or len(offsets) < 2:
            raise InputError(
                "A calibration of the error probability needs an offset and a slope per class, got"
                f" {len(offsets)} and {len(slopes)}."
            )
        if not all(math.isfinite(v) for v in offsets) or not all(0 < v < math.inf for v in slopes):
            raise InputError(
                "A calibration of the error probability needs finite offsets and positive slopes, got"
                f" {offsets} and {slopes}."
            )
        object.__setattr__(self, "offsets", offsets)
        object.__setattr__(self, "slopes", slopes)

    @property
    def classes(self) -> int:
        """K."""
        return len(self.offsets)

    def apply(self, error: FloatArray, classes: Classes) -> npt.NDArray[np.float32]:
        """Correct an error probability.

        Args:
            error: any shape, 0 to 1; voxels where it is 0 stay as they are.
            classes: same shape, the class that was answered, 0 for the background, below K.

        Returns:
            Corrected probability, 0 to 1.
        """
        corrected = np.zeros(error.shape, np.float32)
        at = error > 0
        which = classes[at]
        logits = np.asarray(self.offsets)[which] + np.asarray(self.slopes)[which] * _logit(error[at])
        corrected[at] = 1.0 / (1.0 + np.exp(-logits))
        return corrected

    def to_json(self) -> dict[str, list[float]]:
        """As a model's metadata keep it."""
        return {"offsets": list(self.offsets), "slopes": list(self.slopes)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ErrorCalibration:
        """Read what `to_json` gave.

        Raises:
            InputError: it is something else.
        """
        try:
            return cls(tuple(document["offsets"]), tuple(document["slopes"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                "A calibration of the error probability needs the entries offsets and slopes, each a list of"
                " numbers."
            ) from error


def fit_error_calibration(
    cases: Iterable[tuple[FloatArray, Classes, npt.NDArray[np.bool_]]], count: int
) -> ErrorCalibration:
    """Fit the correction to cases that neither the weights nor the final figures use.

    The most probable parameters, with normal priors around no correction: a class that was hardly ever
    answered stays as it is.

    Args:
        cases: per case, arrays of one shape: error probability, class answered, and whether it is wrong.
        count: K, background included.
    """
    pairs: list[list[tuple[Float64Array, Float64Array]]] = [[] for _ in range(count)]
    for error, classes, wrong in cases:
        doubtful = error >= _FLOOR
        logits, answered, missed = _logit(error[doubtful]), classes[doubtful], wrong[doubtful]
        for number, found in enumerate(pairs):
            mine = answered == number
            found.append((logits[mine], missed[mine].astype(np.float64)))
    fitted = [_fit(found) for found in pairs]
    return ErrorCalibration(tuple(offset for offset, _ in fitted), tuple(slope for _, slope in fitted))


def _fit(pairs: Sequence[tuple[Float64Array, Float64Array]]) -> tuple[float, float]:
    """Offset and slope from logits of the error probability and whether they were wrong, per case."""
    logits, wrong = (np.concatenate([np.zeros(0), *(pair[n] for pair in pairs)]) for n in (0, 1))

    def loss(parameters: Float64Array) -> tuple[float, Float64Array]:
        offset, slope = parameters
        z = offset + slope * logits
        residual = 1.0 / (1.0 + np.exp(-z)) - wrong
        prior = (offset / _OFFSET_SD) ** 2 / 2 + ((slope - 1) / _SLOPE_SD) ** 2 / 2
        value = (np.logaddexp(0.0, z) - wrong * z).sum() / _VOXELS_PER_OBSERVATION + prior
        gradient = np.array([residual.sum(), residual @ logits]) / _VOXELS_PER_OBSERVATION
        gradient += np.array([offset / _OFFSET_SD**2, (slope - 1) / _SLOPE_SD**2])
        return float(value), gradient

    found = minimize(
        loss, (0.0, 1.0), jac=True, method="L-BFGS-B", bounds=[(None, None), (_LEAST_SLOPE, None)]
    )
    offset, slope = (round(float(v), 4) for v in found.x)
    return offset, slope


def _logit(probability: FloatArray) -> Float64Array:
    clipped = np.clip(probability.astype(np.float64), _TINY, 1 - _TINY)
    logits: Float64Array = np.log(clipped) - np.log1p(-clipped)
    return logits
