# SPDX-License-Identifier: Apache-2.0
"""How good the class probabilities of images are, (17, 18): AUROC, accuracy, calibration, confusion."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from DIANetLib.acwi.calibration import expected_calibration_error
from DIANetLib.acwi.metrics import error_auroc
from DIANetLib.errors import InputError
from training.bootstrap import Figures, Indices

FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.integer]


@dataclass(frozen=True, eq=False)
class Classified:
    """Probabilities and true classes of cases.

    Attributes:
        probabilities: (N, C), rows sum to one.
        targets: (N,) class numbers.
    """

    probabilities: FloatArray
    targets: IntArray

    def __post_init__(self) -> None:
        shape = self.probabilities.shape
        if len(shape) != 2 or shape[1] < 2 or self.targets.shape != shape[:1]:
            raise InputError(
                f"expected probabilities (N, C) of two classes or more and targets (N,), got {shape} and "
                f"{self.targets.shape}."
            )
        if self.targets.size and not 0 <= self.targets.min() <= self.targets.max() < shape[1]:
            raise InputError(
                f"expected targets from 0 to {shape[1] - 1}, got {self.targets.min()} to"
                f" {self.targets.max()}."
            )

    @property
    def classes(self) -> int:
        """C."""
        return int(self.probabilities.shape[1])

    @property
    def predicted(self) -> IntArray:
        """The most probable class of each case, (N,): the one above 0.5 of two; the lower one of a tie."""
        return np.asarray(self.probabilities.argmax(axis=1))

    def at(self, chosen: Indices) -> Classified:
        """The cases at some indices."""
        return Classified(self.probabilities[chosen], self.targets[chosen])


def figures_of(cases: Classified) -> dict[str, float]:
    """Figures of cases; NaN where a class that is needed is not among them.

    Returns:
        "auroc": of two classes that of class 1; of more the mean over classes, each against the rest.
        "accuracy"; "balanced_accuracy", the mean of the classes' recalls; "ece"; and of two classes
        "sensitivity" and "specificity", the recalls of class 1 and class 0.
    """
    recalls = _recalls(cases)
    figures = {
        "auroc": auroc(cases),
        "accuracy": float((cases.predicted == cases.targets).mean()) if cases.targets.size else math.nan,
        "balanced_accuracy": _mean_over_present(recalls),
        "ece": expected_calibration_error(cases.probabilities.max(axis=1), cases.predicted == cases.targets),
    }
    if cases.classes == 2:
        figures |= {"sensitivity": float(recalls[1]), "specificity": float(recalls[0])}
    return figures


def figures_at(cases: Classified) -> Figures:
    """The same as a function of which cases count."""
    return lambda chosen: figures_of(cases.at(chosen))


def auroc(cases: Classified) -> float:
    """Area under the ROC curve: how often a case of a class scores above one of another; ties count half.

    Of more than two classes it is the mean over the classes that some cases have and some have not.
    """
    wanted = [1] if cases.classes == 2 else range(cases.classes)
    areas = [error_auroc(cases.probabilities[:, number], cases.targets == number) for number in wanted]
    return _mean_over_present(np.array(areas))


def confusion(cases: Classified) -> IntArray:
    """Number of cases of each true class (rows) that were given each class (columns), (C, C)."""
    pairs = cases.targets.astype(np.int64) * cases.classes + cases.predicted
    return np.bincount(pairs, minlength=cases.classes**2).reshape(cases.classes, cases.classes)


def _recalls(cases: Classified) -> npt.NDArray[np.float64]:
    table = confusion(cases)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.diag(table) / table.sum(axis=1))


def _mean_over_present(values: npt.NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan
