# SPDX-License-Identifier: Apache-2.0
"""Fitting where the fitted cases lie among all that an encoder could see, and from where on that is unusual.

The distance of a case that took part in the fit is too small; so the scale comes from cases that were left
out, a tenth at a time. `unusual` is set from these alone, by the share of false alarms that one is ready to
bear. `unfamiliar` begins where corrupted copies of the inner cases are segmented badly as often as not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from DIANetLib.acwi.familiarity import FamiliarityModel, FamiliarityScale
from DIANetLib.errors import InputError

FloatArray = npt.NDArray[np.float64]

#: Expected share of cases like the fitted ones that are called unusual.
FALSE_ALARMS = 0.02
#: A structure with less Dice than this is segmented badly: the limit of the traffic light's red.
BAD_DICE = 0.70
RANK = 64
FOLDS = 10
_LEAST_CASES = 20
_LEAST_SCALE = 1e-6
_FAR = 4.0  # deviations, where no corrupted copy says better


def fit_familiarity(
    features: FloatArray,
    *,
    copies: Sequence[tuple[FloatArray, float]] = (),
    rank: int = RANK,
    seed: int = 0,
    about: str = "",
) -> FamiliarityModel:
    """Fit centre, axes and scale.

    Args:
        features: (N, D) of cases that are usual.
        copies: features (D,) and mean true Dice of corrupted copies of cases that the network was not fitted
            on; they set the limit of `unfamiliar`.
        rank: R, axes that are kept.
        seed: of the folds.
        about: what the network was fitted on, in words.

    Raises:
        InputError: if there are too few cases.
    """
    if len(features) < _LEAST_CASES:
        raise InputError(
            f"expected {_LEAST_CASES} cases or more to learn what is usual from, got {len(features)}."
        )
    found = _fitted(features, rank, FamiliarityScale(0.0, 1.0, 0.0, 0.0, about))
    logs = np.log(left_out_distances(features, rank=rank, seed=seed))
    mean, deviation = float(logs.mean()), float(logs.std(ddof=1))
    unusual = float(np.quantile((logs - mean) / deviation, 1 - FALSE_ALARMS))
    scores = [((np.log(found.distance(x)) - mean) / deviation, dice) for x, dice in copies]
    limit = even_odds(scores)
    unfamiliar = max(unusual, _FAR if limit is None else limit)
    levels = FamiliarityScale(
        round(mean, 5), round(deviation, 5), round(unusual, 3), round(unfamiliar, 3), about
    )
    return FamiliarityModel(
        found.centre, found.scale, found.axes, found.precisions, round(found.rest, 7), levels
    )


def left_out_distances(features: FloatArray, *, rank: int = RANK, seed: int = 0) -> FloatArray:
    """(N,) distances of cases, each to a fit without its tenth of them."""
    order = np.random.default_rng(seed).permutation(len(features))
    distances = np.zeros(len(features))
    for part in np.array_split(order, FOLDS):
        rest = np.setdiff1d(order, part)
        model = _fitted(features[rest], rank, FamiliarityScale(0.0, 1.0, 0.0, 0.0))
        distances[part] = [model.distance(x) for x in features[part]]
    return distances


def ledoit_wolf(z: FloatArray) -> tuple[FloatArray, FloatArray, float]:
    """Ledoit's and Wolf's covariance of centred rows, by its eigenvectors.

    Args:
        z: (N, D), N below D or not, of mean zero.

    Returns:
        Eigenvectors (M, D) with the largest eigenvalues first, M at most the smaller of N and D; their
        eigenvalues (M,); the eigenvalue of all other directions.
    """
    n, d = z.shape
    _, singular, axes = np.linalg.svd(z, full_matrices=False)
    values = singular**2 / n  # of the sample covariance S
    mean = float(values.sum() / d)
    spread = float((values**2).sum() / d) - mean**2  # |S - mean I|^2 / d
    # Mean over the rows of |z z' - S|^2 / d, over n: how far S itself is off.
    error = float(((z**2).sum(1) ** 2).mean() - (values**2).sum()) / d / n
    shrinkage = min(error, spread) / spread if spread > 0 else 1.0
    shrunk = (1 - shrinkage) * values + shrinkage * mean
    return axes, shrunk, max(shrinkage * mean, 1e-9)


def even_odds(scored: Sequence[tuple[float, float]]) -> float | None:
    """The score at which a bad segmentation is as likely as not, by logistic regression; None if unknown.

    Args:
        scored: score and Dice of each run; without bad and good ones, or without a rise, nothing is known.
    """
    x = np.array([score for score, _ in scored])
    bad = np.array([dice < BAD_DICE for _, dice in scored], float)
    if bad.sum() < 2 or (1 - bad).sum() < 2:
        return None

    def loss(p: FloatArray) -> float:
        z = p[0] + p[1] * x
        return float(np.sum(np.logaddexp(0.0, z) - bad * z) + 1e-3 * p[1] ** 2)

    offset, slope = minimize(loss, (0.0, 0.1), method="BFGS").x
    return None if slope <= 0 else float(-offset / slope)


def _fitted(features: FloatArray, rank: int, levels: FamiliarityScale) -> FamiliarityModel:
    centre = features.mean(0)
    scale = features.std(0) + _LEAST_SCALE
    axes, values, other = ledoit_wolf((features - centre) / scale)
    kept = min(rank, len(values))
    # What is cut off keeps its total variance, evenly spread over all directions that have no axis.
    size = features.shape[1]
    left = float(values[kept:].sum() + other * (size - len(values)))
    rest = left / (size - kept) if size > kept else other
    return FamiliarityModel(
        centre.astype(np.float32),
        scale.astype(np.float32),
        axes[:kept].astype(np.float32),
        (1.0 / values[:kept]).astype(np.float32),
        1.0 / rest,
        levels,
    )
