# SPDX-License-Identifier: Apache-2.0
"""How often an answer is really wrong, class by class: the last step of calibrating the error probability.

One temperature sets the confidence of all classes alike, but networks that were fitted with a Dice loss err
in favour of structures: voxels given to a structure are wrong more often than 1 - max p says, voxels given to
the background less often. So the error probability gets a logistic correction (Platt 1999) for each class
that was answered, as class-wise calibration asks for (Kull et al., NeurIPS 2019). It changes no label and
keeps the order of the voxels within a class. `training.error_calibration` fits it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from DIANetLib.errors import InputError

FloatArray = npt.NDArray[np.floating[Any]]
Float64Array = npt.NDArray[np.float64]
Classes = npt.NDArray[np.integer[Any]]

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
        logits = np.asarray(self.offsets)[which] + np.asarray(self.slopes)[which] * logit(error[at])
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


def logit(probability: FloatArray) -> Float64Array:
    """ln(p / (1 - p)), with p kept a millionth away from 0 and 1."""
    clipped = np.clip(probability.astype(np.float64), _TINY, 1 - _TINY)
    logits: Float64Array = np.log(clipped) - np.log1p(-clipped)
    return logits
