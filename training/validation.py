# SPDX-License-Identifier: Apache-2.0
"""How good the averaged weights are on the inner cases: one figure per task, and one for "best".

Each task has a score from 0 to 1: the mean Dice; the area under the ROC curve for two classes, else the
accuracy; and 1 - RMSE / (max - min) for reconstructions, which is 1 - 10^(-PSNR / 20). The score is their
mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics import compute_roc_auc
from torch import nn

from DIANetLib.labelling import labels_of
from training.config import TrainingConfig
from training.datasets import PreparedCase
from training.degrade import degrade, operator_of
from training.predict import middle, predict_classes, predict_mean, structure_dice

#: Slices per volume that are reconstructed in two dimensions.
_SLICES = 8


@dataclass(frozen=True)
class Validation:
    """Figures of a validation.

    Attributes:
        figures: "dice"; "accuracy" and, for two classes that both occur, "auroc"; "psnr" in dB. Tasks without
            a case that has what they need are left out.
        score: mean over the tasks' scores, 0 to 1; 0 without any.
    """

    figures: dict[str, float]
    score: float


def validate(config: TrainingConfig, model: nn.Module, cases: Sequence[PreparedCase]) -> Validation:
    """Measure a model.

    Args:
        config: its configuration.
        model: in evaluation mode.
        cases: prepared; each counts for the tasks that it has a reference for.
    """
    figures: dict[str, float] = {}
    scores: list[float] = []
    if config.network.classes and (dice := _dice(config, model, cases)) is not None:
        figures["dice"] = dice
        scores.append(dice)
    if config.network.classification and any(case.target is not None for case in cases):
        found = _classification(config, model, cases)
        figures |= found
        scores.append(found.get("auroc", found["accuracy"]))
    if config.network.reconstruction and cases:
        figures["psnr"] = float(np.mean([_psnr(config, model, case, n) for n, case in enumerate(cases)]))
        scores.append(1.0 - 10.0 ** (-figures["psnr"] / 20.0))
    return Validation(figures, float(np.mean(scores)) if scores else 0.0)


def _dice(config: TrainingConfig, model: nn.Module, cases: Sequence[PreparedCase]) -> float | None:
    """Mean over cases of the mean over the structures that a case or its prediction has."""
    scores = []
    for case in cases:
        if case.labels is None:
            continue
        labels = labels_of(predict_mean(model, case.image, config, case.available))
        dice = structure_dice(labels, case.labels, config.network.classes)
        scores.append(1.0 if np.isnan(dice).all() else float(np.nanmean(dice)))
    return float(np.mean(scores)) if scores else None


def _classification(
    config: TrainingConfig, model: nn.Module, cases: Sequence[PreparedCase]
) -> dict[str, float]:
    known = [case for case in cases if case.target is not None]
    probabilities = np.stack([predict_classes(model, case.image, config, case.available) for case in known])
    targets = np.array([case.target for case in known])
    figures = {"accuracy": float((probabilities.argmax(1) == targets).mean())}
    if probabilities.shape[1] == 2 and 0 < targets.sum() < targets.size:
        found = compute_roc_auc(torch.from_numpy(probabilities[:, 1]), torch.from_numpy(targets))
        figures["auroc"] = float(np.asarray(found))
    return figures


@torch.inference_mode()
def _psnr(config: TrainingConfig, model: nn.Module, case: PreparedCase, number: int) -> float:
    """Peak signal-to-noise ratio, dB, over a window in the middle of a case, always degraded the same way."""
    task = config.tasks.reconstruction
    assert task is not None  # the network has the head; the configuration has checked it
    task = task.model_copy(update={"share": 1.0})
    flat = config.network.spatial_dims == 2
    image = torch.from_numpy(case.image)
    rows = image.transpose(0, 1) if flat else image.unsqueeze(0)
    if flat:
        every = np.unique(
            np.linspace(0, len(rows) - 1, min(_SLICES, len(rows)) + 2)[1:-1].round().astype(int)
        )
        rows = rows[torch.from_numpy(every)]
    rows = middle(rows, config.window_kji[1:] if flat else config.window_kji)
    rng = np.random.default_rng([config.seed, 4, number])
    made = [degrade(task, row, rng) for row in rows]
    device = next(model.parameters()).device
    observed = torch.stack([patch.image for patch in made]).to(device)
    operator = operator_of(task, torch.stack([patch.mask for patch in made]).to(device))
    clean = torch.stack([patch.clean for patch in made])
    there = None
    if not all(case.available):
        there = torch.tensor(case.available, device=device).expand(len(observed), -1)
    found = model(observed, available=there, operator=operator).reconstructed.image.float().cpu()
    error = (found - clean).square().flatten(1).mean(1).clamp_min(1e-12)
    extent = clean.flatten(1).amax(1) - clean.flatten(1).amin(1)
    return float((20.0 * torch.log10(extent.clamp_min(1e-6)) - 10.0 * torch.log10(error)).mean())
