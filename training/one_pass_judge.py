# SPDX-License-Identifier: Apache-2.0
"""How much of what T samples tell one pass tells: on cases, within three voxels of their structures.

All methods are judged on the same voxels, each on the errors of its own answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import spearmanr

from DIANetLib.acwi import metrics
from DIANetLib.acwi.calibration import expected_calibration_error
from DIANetLib.acwi.error_calibration import ErrorCalibration
from DIANetLib.labelling import confidence, labels_of
from DIANetLib.network.one_pass import OnePassHead
from training.one_pass_fit import Tensors
from training.summary import statistic

FloatArray = npt.NDArray[np.floating[Any]]

#: Figures that get a bootstrap interval.
_MAIN = ("error_auroc", "ece", "dice", "loss", "gain", "correlation")


@torch.inference_mode()
def case_figures(
    head: OnePassHead,
    case: Tensors,
    *,
    temperature: float,
    corrections: tuple[ErrorCalibration | None, ErrorCalibration | None] = (None, None),
) -> dict[str, float]:
    """The figures of one case.

    Args:
        head: fitted.
        case: with the maps of its samples.
        temperature: what divided its logits; the plain pass is judged without.
        corrections: of the error probability of samples, and of one pass.
    """
    told = head(case.features.float(), case.logits)
    mask = case.mask[0].cpu().numpy()
    true = case.labels[0].cpu().numpy()
    plain = torch.softmax(case.logits * temperature, 1)[0].cpu().numpy()
    samples, once = case.mean[0].cpu().numpy(), told.probabilities[0].cpu().numpy()
    sampled = np.maximum(_entropy(samples), case.aleatoric[0].cpu().numpy())
    epistemic = sampled - case.aleatoric[0].cpu().numpy()
    total = _entropy(once)
    share = total * told.epistemic_share[0].cpu().numpy()
    error = told.error[0].cpu().numpy()
    figures: dict[str, float] = {}
    methods: tuple[tuple[str, FloatArray, FloatArray | None, ErrorCalibration | None], ...] = (
        ("plain", plain, None, None),
        ("samples", samples, None, corrections[0]),
        ("one_pass", once, error, corrections[1]),
    )
    maps: Mapping[str, Mapping[str, FloatArray]] = {
        "plain": {"total": _entropy(plain)},
        "samples": {"total": sampled, "epistemic": epistemic},
        "one_pass": {"total": total, "epistemic": share},
    }
    for name, p, told_error, correction in methods:
        answer = labels_of(p)
        wrong = answer != true
        doubt = np.clip(1 - confidence(p, answer) if told_error is None else told_error, 0.0, 1.0)
        if correction is not None:
            doubt = correction.apply(doubt, answer)
        for kind, values in {**maps[name], "error": doubt}.items():
            figures[f"error_auroc_{kind} {name}"] = metrics.error_auroc(values, wrong, mask)
            figures[f"normalised_aurc_{kind} {name}"] = metrics.normalised_aurc(values, wrong, mask)
        figures[f"ece {name}"] = expected_calibration_error(1 - doubt[mask], ~wrong[mask])
        parts = [metrics.dice(answer == k, true == k) for k in range(1, len(p))]
        figures[f"dice {name}"] = float(np.mean(parts))
    figures["loss error_auroc"] = figures["error_auroc_total samples"] - figures["error_auroc_total one_pass"]
    figures["gain error_auroc"] = figures["error_auroc_error one_pass"] - figures["error_auroc_total samples"]
    figures["correlation total"] = _correlation(total[mask], sampled[mask])
    figures["correlation epistemic"] = _correlation(share[mask], epistemic[mask])
    figures["rank correlation epistemic"] = float(spearmanr(share[mask], epistemic[mask]).statistic)
    variance, sampled_variance = told.variance[0].cpu().numpy(), case.variance[0].cpu().numpy()
    figures["correlation variance"] = _correlation(
        variance[1:, mask].ravel(), sampled_variance[1:, mask].ravel()
    )
    figures["labels changed"] = float((labels_of(once) != labels_of(plain))[mask].mean())
    return figures


def answers(head: OnePassHead, case: Tensors) -> tuple[FloatArray, npt.NDArray[np.integer[Any]], npt.NDArray]:
    """Error probability, answer, and whether it is wrong, for `training.error_calibration`."""
    with torch.inference_mode():
        told = head(case.features.float(), case.logits)
    answer = labels_of(told.log_probabilities[0].exp()).cpu().numpy()
    return told.error[0].cpu().numpy(), answer, answer != case.labels[0].cpu().numpy()


def summarised(rows: Sequence[Mapping[str, float]], *, seed: int = 0) -> dict[str, Any]:
    """Each figure over cases: mean, median, deviation, n, and a bootstrap interval of the main ones."""
    names = list(rows[0]) if rows else []
    found = {}
    for name in names:
        main = name.startswith(_MAIN)
        found[name] = vars(statistic([row[name] for row in rows], interval=main, seed=seed))
    return found


def _entropy(p: FloatArray) -> npt.NDArray[np.float64]:
    exact = p.astype(np.float64)
    return np.asarray(-(exact * np.log(np.maximum(exact, 1e-30))).sum(0))


def _correlation(a: FloatArray, b: FloatArray) -> float:
    return float(np.corrcoef(a, b)[0, 1])
