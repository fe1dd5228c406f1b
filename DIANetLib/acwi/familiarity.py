# SPDX-License-Identifier: Apache-2.0
"""How much a region that a network read is like what the network was fitted on.

A network answers whatever it is shown, and may be sure of nonsense. What its encoder sees, pooled over the
region, lies near what it saw on the fitted cases, or it does not: the distance is Mahalanobis' (Lee et al.,
NeurIPS 2018), with a covariance shrunk as Ledoit and Wolf do (J. Multivariate Analysis 88, 2004), since there
are more features than cases. A bundle keeps the centre, the leading axes and the distances of fitted cases
that were left out of the fit, to which a new distance is compared on the scale of logarithms.

It needs no samples: what it says is the same for one pass and for many. Runs inside Slicer's process: numpy
only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from DIANetLib.errors import InputError

__all__ = [
    "Familiarity",
    "FamiliarityModel",
    "FamiliarityScale",
    "Grade",
    "familiarity_line",
    "familiarity_warning",
    "feature_vector",
    "least_familiar",
]

Float64Array = npt.NDArray[np.float64]
FloatArray = npt.NDArray[np.floating[Any]]
Grade = Literal["familiar", "unusual", "unfamiliar"]

_LEAST_DEVIATION = 1e-3


@dataclass(frozen=True)
class Familiarity:
    """What is said of one region.

    Attributes:
        score: Standard deviations by which the logarithm of its distance exceeds the mean of the cases that
            the network was fitted on.
        grade: `"familiar"`, `"unusual"` (as few of those cases are) or `"unfamiliar"`.
        region: Which one, `"left"` or `"right"`; empty where there is one region, or the whole image.
        about: What the network was fitted on, in words.
    """

    score: float
    grade: Grade
    region: str = ""
    about: str = ""


@dataclass(frozen=True)
class FamiliarityScale:
    """From a distance to a score and a grade.

    Attributes:
        log_mean: Mean of ln(distance) over fitted cases, each left out of the fit that measured it.
        log_deviation: Standard deviation of it, above 0.
        unusual: Score from which a region is unusual.
        unfamiliar: Score from which it is unfamiliar; not below `unusual`.
        about: What the network was fitted on, in words.

    Raises:
        InputError: A number is not finite, the deviation is not positive, or the limits are not in order.
    """

    log_mean: float
    log_deviation: float
    unusual: float
    unfamiliar: float
    about: str = ""

    def __post_init__(self) -> None:
        numbers = (self.log_mean, self.log_deviation, self.unusual, self.unfamiliar)
        if not all(math.isfinite(v) for v in numbers) or self.log_deviation <= 0:
            raise InputError(
                f"A scale of familiarity needs finite numbers and a positive deviation, got {numbers}."
            )
        if self.unusual > self.unfamiliar:
            raise InputError(
                f"A scale of familiarity calls a score of {self.unusual:g} unusual and one of"
                f" {self.unfamiliar:g} unfamiliar, expected the second not below the first."
            )

    def judge(self, distance: float, region: str = "") -> Familiarity:
        """Score and grade of a distance."""
        score = (math.log(max(distance, 1e-12)) - self.log_mean) / self.log_deviation
        grade: Grade = "familiar"
        if score >= self.unusual:
            grade = "unfamiliar" if score >= self.unfamiliar else "unusual"
        return Familiarity(score, grade, region, self.about)


@dataclass(frozen=True, eq=False)
class FamiliarityModel:
    """Where the fitted cases lie among all that an encoder could see.

    With z = (x - centre) / scale and p = axes z, the distance is
    sqrt((sum of precisions p^2 + rest (|z|^2 - |p|^2)) / D).

    Attributes:
        centre: (D,) mean of the fitted cases' features.
        scale: (D,) their standard deviations, above 0.
        axes: (R, D) orthonormal rows, the leading eigenvectors of the shrunk covariance of z.
        precisions: (R,) inverse of their eigenvalues.
        rest: Inverse of the variance along all other directions.
        levels: Turns the distance into words.

    Raises:
        InputError: The shapes do not fit each other, or a number is not finite or has the wrong sign.
    """

    centre: FloatArray
    scale: FloatArray
    axes: FloatArray
    precisions: FloatArray
    rest: float
    levels: FamiliarityScale

    def __post_init__(self) -> None:
        size, rank = self.centre.size, self.precisions.size
        shapes = (self.centre.shape, self.scale.shape, self.axes.shape, self.precisions.shape)
        if shapes != ((size,), (size,), (rank, size), (rank,)) or not size:
            raise InputError(
                "A model of familiarity needs a centre and a scale (D,), axes (R, D) and precisions (R,), got"
                f" {', '.join(str(shape) for shape in shapes)}."
            )
        arrays = (self.centre, self.scale, self.axes, self.precisions)
        positive = (self.scale, self.precisions, np.asarray(self.rest))
        if not all(np.isfinite(a).all() for a in arrays) or not all(bool((a > 0).all()) for a in positive):
            raise InputError(
                "A model of familiarity needs finite numbers, and positive scales and precisions."
            )

    def distance(self, features: FloatArray) -> float:
        """Mahalanobis distance per feature, about 1 for a case like the fitted ones.

        Args:
            features: (D,), see `feature_vector`.

        Raises:
            InputError: There are not D of them.
        """
        if features.shape != self.centre.shape:
            raise InputError(
                f"The model of familiarity reads {self.centre.size} features, got {features.size}: it was"
                " fitted with another network."
            )
        z = (features.astype(np.float64) - self.centre) / self.scale
        along = self.axes.astype(np.float64) @ z
        beside = max(0.0, float(z @ z - along @ along))
        return math.sqrt((float(self.precisions @ along**2) + self.rest * beside) / z.size)

    def judge(self, features: FloatArray, region: str = "") -> Familiarity:
        """How familiar the features (D,) of a region are."""
        return self.levels.judge(self.distance(features), region)


def feature_vector(means: Sequence[Float64Array], deviations: Sequence[Float64Array]) -> Float64Array:
    """What familiarity is judged by: per map its channels' means, then the logarithms of their deviations.

    Args:
        means: (C_l,) per feature map.
        deviations: (C_l,) per feature map, not negative.
    """
    pairs = zip(means, deviations, strict=True)
    return np.concatenate([part for m, d in pairs for part in (m, np.log(d + _LEAST_DEVIATION))])


def least_familiar(found: Sequence[Familiarity]) -> Familiarity | None:
    """The region with the highest score; None where nothing was judged."""
    return max(found, key=lambda one: one.score, default=None)


def familiarity_line(found: Sequence[Familiarity]) -> str:
    """One line on an image, by its least familiar region; empty where nothing was judged."""
    worst = least_familiar(found)
    if worst is None:
        return ""
    said = {
        "familiar": "like what the model was fitted on",
        "unusual": "unlike most of what the model was fitted on, so look closely",
        "unfamiliar": "not like what the model was fitted on",
    }[worst.grade]
    alone = any(one.grade != worst.grade for one in found)
    which = f" ({worst.region} region)" if worst.region and alone else ""
    return f"Image: {worst.grade}{which}, {said} (score {worst.score:.1f})"


def familiarity_warning(found: Sequence[Familiarity]) -> str | None:
    """A warning about unfamiliar regions; None where there are none."""
    bad = [one for one in found if one.grade == "unfamiliar"]
    if not bad:
        return None
    sides = [one.region for one in bad if one.region]
    what = "The image" if not sides or len(bad) == len(found) else f"The {' and '.join(sides)} region"
    about = f" ({bad[0].about})" if bad[0].about else ""
    return (
        f"{what} does not look like what this model was fitted on{about}: do not trust the result without"
        " checking."
    )
