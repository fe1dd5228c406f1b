# SPDX-License-Identifier: Apache-2.0
"""Fitting the class-wise correction of the error probability on inner cases, after their temperature.

The cases are segmented by the product's engine with the fitted temperature; the correction is what
`DIANetLib.acwi.error_calibration` describes. What is fitted is the most probable correction, with normal
priors around none: a class that was hardly ever answered, or a single case, changes little.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from DIANetLib.acwi.error_calibration import ErrorCalibration, logit
from DIANetLib.inference.engine import Segmenter
from training.datasets import read_case
from training.progress import track
from training.trial import Trial, TrialModel, named_volumes

Float64Array = npt.NDArray[np.float64]
#: Error probability, class answered, and whether it is wrong: arrays of one shape.
Answers = tuple[npt.NDArray[np.floating[Any]], npt.NDArray[np.integer[Any]], npt.NDArray[np.bool_]]

# Below this, hardly a voxel is wrong, and there are millions of them.
_FLOOR = 0.01
# The voxels of a case are wrong together: it is drawn too wide or too narrow as a whole. Those given to a
# class count as one observation, however many they are. Chosen on the twelve inner cases of hippocampus, each
# left out in turn: the weakest correction whose likelihood is within a standard error of the best one's.
_OBSERVATIONS_PER_CASE = 1.0
# Without observations the correction is none: offset 0 and slope 1, with these standard deviations.
_OFFSET_SD, _SLOPE_SD = 1.0, 0.5
_LEAST_SLOPE = 0.05  # the order of the voxels within a class stays


def error_calibration(trial: Trial, temperature: float) -> ErrorCalibration:
    """The correction that fits the inner cases of a trial, at a temperature."""
    engine = Segmenter(TrialModel(trial.fitted, trial.network, temperature), str(trial.device))

    def answers() -> Iterable[Answers]:
        cases = [case for case in trial.inner if case.labels is not None]
        for case in track(cases, "error calibration", unit="case"):
            source = read_case(case, trial.config.data)
            assert source.labels is not None
            found = engine.segment(
                named_volumes(source, trial.config), samples=trial.samples, seed=trial.seed
            )
            labels = found.labels.array
            yield found.error_probability.array, labels, labels != source.labels.array

    return fit_error_calibration(answers(), len(trial.config.data.structures) + 1)


def fit_error_calibration(cases: Iterable[Answers], count: int) -> ErrorCalibration:
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
        logits, answered, missed = logit(error[doubtful]), classes[doubtful], wrong[doubtful]
        for number, found in enumerate(pairs):
            mine = answered == number
            found.append((logits[mine], missed[mine].astype(np.float64)))
    fitted = [_fit(found) for found in pairs]
    return ErrorCalibration(tuple(offset for offset, _ in fitted), tuple(slope for _, slope in fitted))


def _fit(pairs: Sequence[tuple[Float64Array, Float64Array]]) -> tuple[float, float]:
    """Offset and slope from logits of the error probability and whether they were wrong, per case."""
    logits, wrong = (np.concatenate([np.zeros(0), *(pair[n] for pair in pairs)]) for n in (0, 1))
    sizes = [len(pair[0]) for pair in pairs]
    weights = np.repeat([_OBSERVATIONS_PER_CASE / max(1, size) for size in sizes], sizes)

    def loss(parameters: Float64Array) -> tuple[float, Float64Array]:
        offset, slope = parameters
        z = offset + slope * logits
        residual = weights * (1.0 / (1.0 + np.exp(-z)) - wrong)
        prior = (offset / _OFFSET_SD) ** 2 / 2 + ((slope - 1) / _SLOPE_SD) ** 2 / 2
        value = weights @ (np.logaddexp(0.0, z) - wrong * z) + prior
        gradient = np.array([residual.sum(), residual @ logits])
        gradient += np.array([offset / _OFFSET_SD**2, (slope - 1) / _SLOPE_SD**2])
        return float(value), gradient

    found = minimize(
        loss, (0.0, 1.0), jac=True, method="L-BFGS-B", bounds=[(None, None), (_LEAST_SLOPE, None)]
    )
    offset, slope = (round(float(v), 4) for v in found.x)
    return offset, slope
