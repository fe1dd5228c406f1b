# SPDX-License-Identifier: Apache-2.0
"""Quality without ground truth: the Dice to be expected of a structure, with an interval.

Samples of one network that disagree about a structure tell that it is hard (Roy et al., "Bayesian QuickNAT",
NeuroImage 195, 2019: agreement of Monte Carlo samples predicts Dice). What agreement means in Dice differs
between models and structures, so that a bundle carries a small regression of it, fitted on cases that its
weights have not seen and on corrupted copies of them. Its features are turned so that more is better, and no
weight is negative: more agreement never lowers the estimate. The interval comes from residuals of cases that
were left out of the fit (normalised conformal prediction, Papadopoulos et al., ECML 2002).

Runs inside Slicer's process: numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from DIANetLib.errors import InputError

__all__ = [
    "DEFAULT_LIMITS",
    "FEATURES",
    "LEVEL",
    "ONE_PASS_FEATURES",
    "DiceEstimate",
    "Feature",
    "Light",
    "LightLimits",
    "QualityCurve",
    "QualityFeatures",
    "QualityModel",
    "VolumeRange",
    "light",
    "logistic",
    "logit",
    "sentence",
]

#: Share of cases whose true Dice lies in the interval.
LEVEL = 0.9

Light = Literal["green", "amber", "red"]
Feature = Literal["agreement", "trust", "closed_form", "confidence", "steadiness", "typicality"]
#: All features of a run of samples, in the order in which they are usually fitted.
FEATURES: tuple[Feature, ...] = ("agreement", "closed_form", "confidence", "steadiness", "typicality")
#: Those of one pass that a one-pass head has read.
ONE_PASS_FEATURES: tuple[Feature, ...] = ("trust", "closed_form", "confidence", "steadiness", "typicality")

_EDGE = 2e-3  # shares closer to 0 or 1 than this are taken for this: logits stay finite
_LEAST_VARIATION = 1e-4
_UNHEARD_OF = 8.0  # standard deviations: a volume further from the usual one tells nothing more


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
    """What a run tells of one structure that it found.

    Attributes:
        agreement: Mean Dice between two samples, 0 to 1; None for a single pass.
        closed_form: Dice expected from the calibrated probabilities alone,
            2 * sum of p over the mask / (voxels of the mask + sum of p), 0 to 1.
        confidence: Mean calibrated probability over the structure's voxels, 0 to 1.
        variation: Sum over all voxels of the variance of the structure's probability over the samples, over
            the structure's voxels; 0 or more.
        volume_ml: Its volume, ml.
        trust: Dice expected from a one-pass head's error probability e: 2 R / (2 R + F + M) with R the sum of
            1 - e over the mask, F that of e, and M the sum outside of e times the structure's share of what
            is not the answer there; 0 to 1. None where there is no such head.
    """

    agreement: float | None
    closed_form: float
    confidence: float
    variation: float
    volume_ml: float
    trust: float | None = None


@dataclass(frozen=True)
class VolumeRange:
    """Volumes that a structure usually has.

    Attributes:
        median_ml: Median of the reference volumes, ml.
        log_deviation: Standard deviation of their natural logarithms, above 0.
    """

    median_ml: float
    log_deviation: float

    def __post_init__(self) -> None:
        if not (0 < self.median_ml < math.inf and 0 < self.log_deviation < math.inf):
            raise InputError(
                f"Usual volumes have the median {self.median_ml:g} ml and the logarithmic deviation"
                f" {self.log_deviation:g}, expected positive numbers."
            )

    def deviations(self, volume_ml: float) -> float:
        """How many standard deviations a volume lies from the median on the scale of logarithms, 0 to 8."""
        if volume_ml <= 0:
            return _UNHEARD_OF
        return min(_UNHEARD_OF, abs(math.log(volume_ml / self.median_ml)) / self.log_deviation)


@dataclass(frozen=True)
class QualityCurve:
    """From features to Dice, for one structure.

    With x the features (`values`), the Dice expected is v = logistic(intercept + weights . x), and the
    interval is v + quantiles * s, s = (1 - v)^spread[0] * v^spread[1], cut off at 0 and 1.

    Attributes:
        intercept: Of the line.
        weights: One per feature, not negative.
        spread: Exponents of the residuals' scale, not negative.
        quantiles: Lower and upper quantile of the residuals over their scale; not above and not below 0.
        volumes: What "typicality" compares with; None where that is no feature.

    Raises:
        InputError: A number is not finite or has the wrong sign.
    """

    intercept: float
    weights: tuple[float, ...]
    spread: tuple[float, float]
    quantiles: tuple[float, float]
    volumes: VolumeRange | None = None

    def __post_init__(self) -> None:
        numbers = (self.intercept, *self.weights, *self.spread, *self.quantiles)
        if not all(math.isfinite(value) for value in numbers):
            raise InputError("A curve of expected Dice has a number that is not finite.")
        if min(*self.weights, *self.spread, 0.0) < 0 or not self.quantiles[0] <= 0 <= self.quantiles[1]:
            raise InputError(
                f"A curve of expected Dice has weights {self.weights}, spread {self.spread} and quantiles"
                f" {self.quantiles}, expected no negative weight or spread, and quantiles on both sides of 0."
            )

    def estimate(self, x: Sequence[float]) -> DiceEstimate:
        """The Dice expected for features `x`, see `values`."""
        z = self.intercept + sum(w * value for w, value in zip(self.weights, x, strict=True))
        v = logistic(z)
        low, high = (v + quantile * scale(v, self.spread) for quantile in self.quantiles)
        return DiceEstimate(v, max(0.0, low), min(1.0, high))


@dataclass(frozen=True)
class QualityModel:
    """A bundle's estimate of Dice without ground truth.

    Attributes:
        features: In the order of the curves' weights.
        structures: Per key of the model's own structures its curve.
        samples: Samples T of the runs that it was fitted on; 0 for one pass.
        cases: Cases that it was fitted on, not counting their corrupted copies.

    Raises:
        InputError: A curve has another number of weights than there are features, or lacks usual volumes.
    """

    features: tuple[Feature, ...]
    structures: Mapping[str, QualityCurve]
    samples: int = 10
    cases: int = 0

    def __post_init__(self) -> None:
        for key, curve in self.structures.items():
            if len(curve.weights) != len(self.features):
                raise InputError(
                    f"The curve of {key!r} has {len(curve.weights)} weights for {len(self.features)}"
                    " features."
                )
            if "typicality" in self.features and curve.volumes is None:
                raise InputError(f"The curve of {key!r} lacks the usual volumes to compare with.")

    def estimate(self, key: str, features: QualityFeatures) -> DiceEstimate | None:
        """The Dice to be expected.

        Args:
            key: Of one of the model's own structures, without a side.
            features: What the run told of the structure.

        Returns:
            The estimate with its interval; None for a structure that has no curve.
        """
        curve = self.structures.get(key)
        return None if curve is None else curve.estimate(values(features, self.features, curve.volumes))


def values(
    told: QualityFeatures, features: Sequence[Feature], volumes: VolumeRange | None = None
) -> tuple[float, ...]:
    """Features as a curve takes them: more is better.

    Agreement, trust, closed form and confidence are logits, steadiness is -ln(variation + 0.0001), typicality
    the negative number of deviations of the volume.

    Args:
        told: What the run told.
        features: Which ones, in their order.
        volumes: What typicality compares with; None makes it 0.

    Raises:
        InputError: A feature is asked for that the run did not tell, such as the agreement of one sample.
    """
    known: Mapping[Feature, float | None] = {"agreement": told.agreement, "trust": told.trust}
    unknown = [name for name in features if name in known and known[name] is None]
    if unknown:
        raise InputError(f"The run told no {' and no '.join(unknown)}, from which Dice was to be expected.")
    x: Mapping[Feature, float] = {
        **{name: 0.0 if value is None else logit(value) for name, value in known.items()},
        "closed_form": logit(told.closed_form),
        "confidence": logit(told.confidence),
        "steadiness": -math.log(max(0.0, told.variation) + _LEAST_VARIATION),
        "typicality": 0.0 if volumes is None else -volumes.deviations(told.volume_ml),
    }
    return tuple(x[name] for name in features)


def scale(value: float, spread: tuple[float, float]) -> float:
    """What residuals of an expected Dice are measured by, up to a factor: (1 - v)^a * v^b."""
    v = min(1.0 - _EDGE, max(_EDGE, value))
    return float((1.0 - v) ** spread[0] * v ** spread[1])


def logit(share: float) -> float:
    """ln(p / (1 - p)) of a share, kept 0.002 away from 0 and 1."""
    p = min(1.0 - _EDGE, max(_EDGE, share))
    return math.log(p / (1.0 - p))


def logistic(z: float) -> float:
    """1 / (1 + exp(-z)), without overflow."""
    if z >= 0:
        return 1.0 / (1.0 + math.exp(-z))
    return math.exp(z) / (1.0 + math.exp(z))
