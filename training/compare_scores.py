# SPDX-License-Identifier: Apache-2.0
"""How good the uncertainty of each method is: figures per case, their means, and paired differences.

Three rankings per method: the entropy of the mean probabilities ("total"), what the passes disagree by
("epistemic"), and the calibrated probability of an error ("error"). Each is judged on the errors of the
method's own segmentation, and by AUROC also on those of the plain pass, which are the same for all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from DIANetLib.acwi import metrics
from DIANetLib.acwi.calibration import expected_calibration_error
from DIANetLib.acwi.error_calibration import ErrorCalibration
from DIANetLib.acwi.filtering import error_auprc, filtering, mean_filtering
from DIANetLib.labelling import confidence, labels_of
from training.compare_cases import Near, Told
from training.summary import statistic

FloatArray = npt.NDArray[np.floating[Any]]

_OTHER_RANKING = re.compile(r"_(epistemic|error)(?=_|$)")


def entropy(probabilities: FloatArray) -> FloatArray:
    """Entropy in nats of (K, V), (V,)."""
    p = np.maximum(probabilities.astype(np.float64), np.finfo(np.float64).tiny)
    return np.asarray(-(p * np.log(p)).sum(0))


def corrected_error(told: Told, calibration: ErrorCalibration) -> FloatArray:
    """The calibrated probability that each voxel's answer is wrong."""
    labels = labels_of(told.probabilities)
    error = 1.0 - confidence(told.probabilities, labels) if told.error is None else told.error
    return calibration.apply(np.clip(error, 0.0, 1.0), labels)


def case_figures(near: Near, told: Told, calibration: ErrorCalibration, plain: Told) -> dict[str, float]:
    """The figures of one method on one case.

    Args:
        near: the judged voxels.
        told: what the method gives there.
        calibration: of the method's probability of an error.
        plain: what the plain pass gives.
    """
    labels, true = labels_of(told.probabilities), near.true
    wrong, plain_wrong = labels != true, labels_of(plain.probabilities) != true
    count = len(told.probabilities)
    error = corrected_error(told, calibration)
    # Each from 0 to its greatest value, as the thresholds of filtering ask for.
    scores = {
        "total": np.clip(entropy(told.probabilities) / math.log(count), 0.0, 1.0),
        "epistemic": np.clip(told.epistemic / math.log(count), 0.0, 1.0),
        "error": np.clip(error * count / (count - 1), 0.0, 1.0),
    }
    figures = {
        "dice": float(np.nanmean(told.dice)),
        "error_rate": float(wrong.mean()),
        "ece": expected_calibration_error(confidence(told.probabilities, labels), ~wrong),
        "ece_error": expected_calibration_error(1.0 - error, ~wrong),
    }
    for name, values in scores.items():
        parts = [filtering(values, labels, true, part) for part in range(1, count)]
        filtered = mean_filtering(parts)
        figures |= {
            f"auroc_{name}": metrics.error_auroc(values, wrong),
            f"auroc_plain_errors_{name}": metrics.error_auroc(values, plain_wrong),
            f"auprc_{name}": error_auprc(values, wrong),
            f"aurc_{name}": metrics.normalised_aurc(values, wrong),
            f"qubrats_{name}": filtered.score,
        } | {f"qubrats_{name}_{part}": value for part, value in asdict(filtered).items()}
    return figures


def over_cases(
    rows: Mapping[str, Sequence[Mapping[str, float]]], peer: str, *, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Means over cases with intervals, and paired differences from a peer.

    Args:
        rows: per method the figures of each case, in the same order.
        peer: the method that the others are compared with, ranked by its total uncertainty.
        seed: of the bootstrap.

    Returns:
        Per method and figure "mean", "interval_95", "less_peer", "less_peer_95". A ranking other than the
        total one is compared with the peer's total one too.
    """
    found: dict[str, dict[str, Any]] = {}
    for method, cases in rows.items():
        found[method] = {}
        for name in cases[0]:
            ours = np.array([row[name] for row in cases], np.float64)
            theirs = np.array([row[_peer_of(name)] for row in rows[peer]], np.float64)
            less = ours - theirs  # NaN where either is: such a case counts for neither
            mean, difference = (statistic(part, interval=True, seed=seed) for part in (ours, less))
            found[method][name] = {
                "mean": mean.mean,
                "interval_95": mean.interval_95,
                "less_peer": difference.mean,
                "less_peer_95": difference.interval_95,
            }
    return found


def _peer_of(figure: str) -> str:
    """What of the peer a figure is compared with: the same, of the total ranking."""
    return "ece" if figure == "ece_error" else _OTHER_RANKING.sub("_total", figure)
