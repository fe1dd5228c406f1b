# SPDX-License-Identifier: Apache-2.0
"""A fit's result as evaluation and export see it: the averaged weights, rounded as they are shipped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from DIANetLib.errors import InputError
from DIANetLib.network import DIANet
from training.baselines import build_model
from training.checkpoint import load_checkpoint
from training.config import TrainingConfig, parse_config
from training.priors import Priors
from training.weights import state_sha256 as state_sha256

WeightsName = Literal["latest", "best"]
_FILES: dict[WeightsName, str] = {"latest": "checkpoint.pt", "best": "best.pt"}


@dataclass(frozen=True, eq=False)
class FittedModel:
    """The outcome of a fit.

    Attributes:
        config: the configuration given now, with its present words, names and codes.
        fitted: the configuration that the fit ran with.
        fold: the fold that was held out.
        step: steps done.
        best_score: best score of the inner cases that the fit saw, 0 to 1.
        weights: "latest" or "best".
        averages: moving averages of the weights, float32.
        state: the same rounded to float16, as the bundle stores them, and back to float32.
        priors: what the fit learned from its training masks.
    """

    config: TrainingConfig
    fitted: TrainingConfig
    fold: int
    step: int
    best_score: float
    weights: WeightsName
    averages: Mapping[str, Tensor]
    state: Mapping[str, Tensor]
    priors: Priors = field(default_factory=Priors)

    @property
    def sha256(self) -> str:
        """Hash of the rounded weights: names, shapes and values."""
        return state_sha256(self.state)

    def network(self, device: torch.device, *, rounded: bool = True) -> DIANet:
        """The network in evaluation mode."""
        network = build_model(self.fitted)
        network.load_state_dict(dict(self.state if rounded else self.averages))
        return network.to(device).eval().requires_grad_(False)


def load_fitted(
    output: Path, config: TrainingConfig, *, weights: WeightsName = "latest", fold: int | None = None
) -> FittedModel:
    """Read the folder that a fit wrote.

    Args:
        output: the fit's --output.
        config: what the weights are going to be used with; it must describe the same network, preprocessing
            and split.
        weights: "latest" (the end of the fit) or "best" (best on the inner cases).
        fold: the fold that is expected, or None for any.

    Raises:
        InputError: if there is no such checkpoint, or it is of another model or fold.
    """
    path = output / _FILES[weights]
    if not path.is_file():
        raise InputError(
            f"{output} holds no fitted model: {path.name} is missing.",
            remedy="Run `python -m training fit` with this --output first.",
        )
    checkpoint = load_checkpoint(path)
    fitted = parse_config(checkpoint.config, str(path))
    ours, theirs = config.signature(), fitted.signature()
    differing = [
        key for key in ("name", "data", "network", "baseline", "preprocess") if ours[key] != theirs[key]
    ]
    if fold is not None and fold != checkpoint.fold:
        differing.append(f"fold ({checkpoint.fold}, not {fold})")
    if differing:
        raise InputError(
            f"checkpoint {path} is of another model than the configuration: {', '.join(differing)} differ.",
            remedy="Give the configuration and the fold that the fit ran with.",
        )
    averages = {name: value.detach().float().cpu() for name, value in checkpoint.ema.items()}
    return FittedModel(
        config=config,
        fitted=fitted,
        fold=checkpoint.fold,
        step=checkpoint.step,
        best_score=checkpoint.best_score,
        weights=weights,
        averages=averages,
        state={name: value.half().float() for name, value in averages.items()},
        priors=Priors.restored(checkpoint.extras),
    )
