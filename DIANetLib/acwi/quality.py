# SPDX-License-Identifier: Apache-2.0
"""Quality without ground truth: the Dice to be expected of a structure, with an interval.

Samples of one network that disagree about a structure tell that it is hard (Roy et al., "Bayesian QuickNAT",
NeuroImage 195, 2019: agreement of Monte Carlo samples predicts Dice). What agreement means in Dice differs
between models and structures, so that a bundle carries a small regression of it, fitted on cases that its
weights have not seen and on corrupted copies of them. It is linear in the logits of its features, with
weights that are not negative: more agreement never lowers the estimate. The interval comes from residuals of
cases that were left out of the fit (normalised conformal prediction, Papadopoulos et al., ECML 2002).

Runs inside Slicer's process: numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from DIANetLib.errors import InputError

__all__ = [
    "DEFAULT_LIMITS",
    "LEVEL",
    "DiceEstimate",
    "Light",
    "LightLimits",
    "QualityCurve",
    "QualityFeatures",
    "QualityModel",
    "light",
    "sentence",
]

#: Share of cases whose true Dice lies in the interval.
LEVEL = 0.9

Light = Literal["green", "amber", "red"]
Feature = Literal["agreement", "closed_form"]

_EDGE = 1e-3  # Dice and agreement closer to 0 or 1 than this are taken for this: logits stay finite


@dataclass(frozen=True)
class DiceEstimate:
    """The Dice to be expected of a structure.

    Attributes:
        value: Expected Dice, 0 to 1.
        low: Lower end of the 90 % interval; None where there is none.
        high: Upper end of it; None where there is none.

    Raises:
        InputError: A number is out of range, or the value lies outside its interval.
    """

    value: float
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if (self.low is None) != (self.high is None):
            raise InputError("An interval of expected Dice needs both of its ends.")
        low = self.value if self.low is None else self.low
        high = self.value if self.high is None else self.high
        if not 0 <= low <= self.value <= high <= 1:
            raise InputError(
                f"Expected Dice is {self.value:g} within {low:g} to {high:g}, expected"
                " 0 <= low <= value <= high <= 1."
            )

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends of the interval."""
        return None if self.low is None or self.high is None else (self.low, self.high)


@dataclass(frozen=True)
class LightLimits:
    """From which expected Dice on a structure is green or amber.

    Attributes:
        green: Least value that is green.
        amber: Least value that is amber; below is red.

    Raises:
        InputError: Not 0 <= amber <= green <= 1.
    """

    green: float = 0.85
    amber: float = 0.70

    def __post_init__(self) -> None:
        if not 0 <= self.amber <= self.green <= 1:
            raise InputError(
                f"The limits of the traffic light are {self.green:g} for green and {self.amber:g} for amber,"
                " expected 0 <= amber <= green <= 1."
            )


#: Limits where nobody has set others.
DEFAULT_LIMITS = LightLimits()


def light(estimate: DiceEstimate | None, limits: LightLimits = DEFAULT_LIMITS) -> Light:
    """The traffic light of a structure, by the estimate's value.

    Args:
        estimate: What is expected; None where the structure was not found, which is red: nothing speaks for
            its absence, so somebody has to look.
        limits: Where the colours begin.
    """
    if estimate is None or estimate.value < limits.amber:
        return "red"
    return "green" if estimate.value >= limits.green else "amber"


def sentence(name: str, estimate: DiceEstimate | None) -> str:
    """What is expected in words, `"anterior left: expected Dice 0.90 (0.86–0.93)"`.

    Args:
        name: Of the structure.
        estimate: None where the structure was not found.
    """
    if estimate is None:
        return f"{name}: not found, so no Dice is expected"
    interval = estimate.interval
    ends = "no interval" if interval is None else f"{interval[0]:.2f}–{interval[1]:.2f}"
    return f"{name}: expected Dice {estimate.value:.2f} ({ends})"


@dataclass(frozen=True)
class QualityFeatures:
    """What a run tells of one structure.

    Attributes:
        agreement: Mean Dice between two samples, 0 to 1.
        closed_form: Dice expected from the calibrated probabilities alone,
            2 * sum of p over the mask / (voxels of the mask + sum of p), 0 to 1.
    """

    agreement: float
    closed_form: float


@dataclass(frozen=True)
class QualityCurve:
    """From features to Dice, for one structure.

    With x the logits of the features, z = intercept + weights . x, and s = exp(spread[0] + spread[1] * z):
    the value is the logistic of z, the interval that of z + quantiles * s.

    Attributes:
        intercept: Of the line.
        weights: One per feature, not negative.
        spread: Logarithm of the residuals' scale as a line in z.
        quantiles: Lower and upper quantile of the residuals over their scale; not above and not below 0.

    Raises:
        InputError: A number is not finite or has the wrong sign.
    """

    intercept: float
    weights: tuple[float, ...]
    spread: tuple[float, float]
    quantiles: tuple[float, float]

    def __post_init__(self) -> None:
        numbers = (self.intercept, *self.weights, *self.spread, *self.quantiles)
        if not all(math.isfinite(value) for value in numbers):
            raise InputError("A curve of expected Dice has a number that is not finite.")
        if min(self.weights, default=0.0) < 0 or not self.quantiles[0] <= 0 <= self.quantiles[1]:
            raise InputError(
                f"A curve of expected Dice has weights {self.weights} and quantiles {self.quantiles},"
                " expected no negative weight, and quantiles on both sides of 0."
            )


@dataclass(frozen=True)
class QualityModel:
    """A bundle's estimate of Dice without ground truth.

    Attributes:
        features: Names of fields of `QualityFeatures`, in the order of the curves' weights.
        structures: Per key of the model's own structures its curve.
        samples: Samples T of the runs that it was fitted on.
        method: How it came about, for people.
        cases: Cases that it was fitted on, not counting their corrupted copies.

    Raises:
        InputError: A curve has another number of weights than there are features.
    """

    features: tuple[Feature, ...]
    structures: Mapping[str, QualityCurve]
    samples: int = 10
    method: str = ""
    cases: int = 0

    def __post_init__(self) -> None:
        for key, curve in self.structures.items():
            if len(curve.weights) != len(self.features):
                raise InputError(
                    f"The curve of {key!r} has {len(curve.weights)} weights for {len(self.features)}"
                    " features."
                )

    def estimate(self, key: str, features: QualityFeatures) -> DiceEstimate | None:
        """The Dice to be expected.

        Args:
            key: Of one of the model's own structures, without a side.
            features: What the run told of the structure.

        Returns:
            The estimate with its interval; None for a structure that has no curve.
        """
        curve = self.structures.get(key)
        if curve is None:
            return None
        x = [logit(getattr(features, name)) for name in self.features]
        z = curve.intercept + sum(w * value for w, value in zip(curve.weights, x, strict=True))
        # exp of a line in z: bounded, lest a structure far from all that was fitted overflows.
        scale = math.exp(min(5.0, max(-10.0, curve.spread[0] + curve.spread[1] * z)))
        low, high = (logistic(z + quantile * scale) for quantile in curve.quantiles)
        return DiceEstimate(logistic(z), low, high)


def logit(share: float) -> float:
    """ln(p / (1 - p)) of a share, kept 0.001 away from 0 and 1."""
    p = min(1.0 - _EDGE, max(_EDGE, share))
    return math.log(p / (1.0 - p))


def logistic(z: float) -> float:
    """1 / (1 + exp(-z)), without overflow."""
    if z >= 0:
        return 1.0 / (1.0 + math.exp(-z))
    return math.exp(z) / (1.0 + math.exp(z))
