# SPDX-License-Identifier: Apache-2.0
"""Fitting an estimate of quality: from what runs tell of structures to their Dice, with an interval.

Per structure a line from the features to the logit of the Dice, by least squares with weights that are not
negative and a little shrinkage, so that few cases suffice. Intervals are conformal: residuals of cases that
were left out of the fit, over a scale that depends on the estimate itself (Papadopoulos et al., "Inductive
confidence machines for regression", ECML 2002). Cases as they are and corrupted copies both count for a fixed
share, however many copies there are: what is used most must not drown in what is seldom.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import lsq_linear, minimize

from DIANetLib.acwi.quality import (
    FEATURES,
    LEVEL,
    Feature,
    QualityCurve,
    QualityModel,
    VolumeRange,
    logit,
    scale,
    values,
)
from DIANetLib.errors import InputError
from training.quality_runs import Told

FloatArray = npt.NDArray[np.float64]

#: Share of all weight that cases as they are have; the rest is their corrupted copies'.
CLEAN_SHARE = 0.5
_SHRINKAGE = 20.0  # as many rows as pull every weight, of a feature with unit deviation, to zero
_DICE_EDGE = 0.02  # Dice closer to 0 or 1 is taken for this: a structure missed is bad, not infinitely bad
_LEAST_ROWS = 4
_LEAST_DEVIATION = 0.05


def fit_quality(
    rows: Sequence[Told],
    volumes: Mapping[str, VolumeRange],
    *,
    features: Sequence[Feature] = FEATURES,
    samples: int = 10,
) -> QualityModel:
    """Fit an estimate on cases that the network has not seen.

    Args:
        rows: what runs told of them, as they are and corrupted; structures not found are left out.
        volumes: usual volumes per structure.
        features: what the estimate uses.
        samples: T of the runs.

    Raises:
        InputError: if there are fewer than two cases, so that none could be left out.
    """
    found = [row for row in rows if row.features is not None]
    cases = sorted({row.case for row in found})
    if len(cases) < 2:
        raise InputError(
            "expected two inner cases or more to fit expected Dice on, got"
            f" {len(cases)} with structures found.",
            remedy="Raise data.inner and fit again.",
        )
    curves: dict[str, QualityCurve] = {}
    residuals, weights = [], []
    for structure in dict.fromkeys(row.structure for row in found):
        own = [row for row in found if row.structure == structure]
        if len(own) < _LEAST_ROWS or len({row.case for row in own}) < 2:
            continue
        x = np.array([values(row.features, features, volumes.get(structure)) for row in own if row.features])
        y = np.array([row.dice for row in own])
        w = _weights(own)
        left_out = _left_out(x, y, w, [row.case for row in own])
        curve = _curve(x, y, w, left_out, volumes.get(structure))
        curves[structure] = curve
        residuals.append((y - left_out) / _scales(left_out, curve.spread))
        weights.append(w)
    quantiles = _quantiles(residuals, weights)
    curves = {
        key: _rounded(QualityCurve(c.intercept, c.weights, c.spread, own, c.volumes))
        for (key, c), own in zip(curves.items(), quantiles, strict=True)
    }
    return QualityModel(tuple(features), curves, samples, len(cases))


def cross_validated(
    rows: Sequence[Told],
    volumes: Mapping[str, VolumeRange],
    *,
    features: Sequence[Feature] = FEATURES,
    samples: int = 10,
) -> list[tuple[Told, QualityModel]]:
    """Every row with a model that was fitted without its case; nothing where that leaves only one case."""
    cases = dict.fromkeys(row.case for row in rows if row.features is not None)
    if len(cases) < 3:
        return []
    models = {
        case: fit_quality(
            [row for row in rows if row.case != case], volumes, features=features, samples=samples
        )
        for case in cases
    }
    return [(row, models[row.case]) for row in rows if row.case in models]


def usual_volumes(volumes_ml: Mapping[str, Sequence[float]]) -> dict[str, VolumeRange]:
    """The usual volume of each structure; those with fewer than two volumes are left out.

    Args:
        volumes_ml: per structure the volumes of references that have it, ml.
    """
    usual = {}
    for key, found in volumes_ml.items():
        logs = np.log([volume for volume in found if volume > 0])
        if logs.size > 1:
            deviation = max(_LEAST_DEVIATION, float(logs.std(ddof=1)))
            usual[key] = VolumeRange(math.exp(float(np.median(logs))), deviation)
    return usual


def _weights(rows: Sequence[Told]) -> FloatArray:
    """Weights with mean 1."""
    clean = np.array([row.kind == "none" for row in rows])
    if clean.all() or not clean.any():
        return np.ones(clean.size)
    share = np.where(clean, CLEAN_SHARE / clean.sum(), (1.0 - CLEAN_SHARE) / (~clean).sum())
    return np.asarray(share * clean.size)


def _line(x: FloatArray, y: FloatArray, weights: FloatArray) -> tuple[float, FloatArray]:
    """Intercept and weights of the line in the logit of Dice."""
    mean = np.average(x, axis=0, weights=weights)
    deviation = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=weights))
    unit = np.where(deviation > 1e-9, deviation, 1.0)
    z = (x - mean) / unit
    root, count = np.sqrt(weights), x.shape[1]
    target = np.array([logit(min(1 - _DICE_EDGE, max(_DICE_EDGE, value))) for value in y])
    left = np.vstack(
        [np.c_[root, z * root[:, None]], np.c_[np.zeros(count), math.sqrt(_SHRINKAGE) * np.eye(count)]]
    )
    right = np.r_[target * root, np.zeros(count)]
    least = np.r_[-np.inf, np.zeros(count)]
    found = lsq_linear(left, right, bounds=(least, np.inf), method="bvls").x
    slopes = np.maximum(found[1:], 0.0) / unit
    return float(found[0] - slopes @ mean), slopes


def _expected(x: FloatArray, line: tuple[float, FloatArray]) -> FloatArray:
    return np.asarray(1.0 / (1.0 + np.exp(-(line[0] + x @ line[1]))))


def _left_out(x: FloatArray, y: FloatArray, weights: FloatArray, cases: Sequence[str]) -> FloatArray:
    """Dice expected of each row by a line that was fitted without the row's case."""
    names, found = np.array(cases), np.zeros(y.size)
    for case in dict.fromkeys(cases):
        out = names == case
        found[out] = _expected(x[out], _line(x[~out], y[~out], weights[~out]))
    return found


def _curve(
    x: FloatArray, y: FloatArray, weights: FloatArray, left_out: FloatArray, volumes: VolumeRange | None
) -> QualityCurve:
    intercept, slopes = _line(x, y, weights)
    spread = _spread(left_out, np.abs(y - left_out), weights)
    return QualityCurve(intercept, tuple(slopes.tolist()), spread, (0.0, 0.0), volumes)


def _rounded(curve: QualityCurve) -> QualityCurve:
    """Six digits: what a person may still read in the metadata."""
    volumes = curve.volumes
    return QualityCurve(
        round(curve.intercept, 6),
        tuple(round(weight, 6) for weight in curve.weights),
        (round(curve.spread[0], 6), round(curve.spread[1], 6)),
        (round(curve.quantiles[0], 6), round(curve.quantiles[1], 6)),
        None
        if volumes is None
        else VolumeRange(round(volumes.median_ml, 6), round(volumes.log_deviation, 6)),
    )


def _scales(expected: FloatArray, spread: tuple[float, float]) -> FloatArray:
    return np.array([scale(float(value), spread) for value in expected])


def _spread(expected: FloatArray, error: FloatArray, weights: FloatArray) -> tuple[float, float]:
    """Exponents of the scale under which Laplace-distributed residuals are likeliest."""

    def loss(exponents: FloatArray) -> float:
        s = _scales(expected, (float(exponents[0]), float(exponents[1])))
        factor = np.average(error / s, weights=weights)  # the likeliest factor in front of the scale
        return float(np.log(max(factor, 1e-12)) + np.average(np.log(s), weights=weights))

    found = minimize(loss, x0=(1.0, 0.5), bounds=((0.0, 3.0), (0.0, 3.0)), method="Powell").x
    return float(found[0]), float(found[1])


def _quantiles(residuals: Sequence[FloatArray], weights: Sequence[FloatArray]) -> list[tuple[float, float]]:
    """Lower and upper quantile per structure: those of all structures together, each by its own mean size."""
    sizes = [float(np.average(np.abs(r), weights=w)) for r, w in zip(residuals, weights, strict=True)]
    pooled = np.concatenate([r / max(size, 1e-9) for r, size in zip(residuals, sizes, strict=True)])
    low, high = _weighted_quantiles(pooled, np.concatenate(list(weights)))
    return [(min(0.0, low * size), max(0.0, high * size)) for size in sizes]


def _weighted_quantiles(residuals: FloatArray, weights: FloatArray) -> tuple[float, float]:
    """Both ends of the interval, with the correction for a finite number of residuals."""
    order = np.argsort(residuals)
    ordered, share = residuals[order], weights[order] / weights.sum()
    effective = 1.0 / float((share**2).sum())
    level = min(1.0, (1.0 + LEVEL) / 2 * (1.0 + 1.0 / effective))
    middle = np.cumsum(share) - share / 2
    low, high = np.interp((1.0 - level, level), middle, ordered)
    return float(low), float(high)
