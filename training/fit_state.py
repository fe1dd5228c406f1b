# SPDX-License-Identifier: Apache-2.0
"""All that changes during a fit: how it begins, how it is stored, and how it goes on from what was stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from DIANetLib.errors import InputError
from DIANetLib.network import DIANet
from training.adversary import Adversary
from training.baselines import build_model
from training.checkpoint import Checkpoint
from training.config import TrainingConfig, parse_config
from training.datasets import PreparedCase
from training.distributed import Context
from training.optimiser import build_optimiser
from training.priors import Priors, learn_priors
from training.start import Start, take_over
from training.weights import WeightAverage


@dataclass
class FitState:
    """A fit between two steps.

    Attributes:
        model: the network.
        optimiser: of the network.
        average: of the network's weights.
        adversary: the discriminator, or None.
        priors: learned from the training masks before the first step.
        start: hash of the weights that the fit started from, or "".
        step: steps done.
        best: best score of the inner cases so far; below 0 before the first.
    """

    model: DIANet
    optimiser: torch.optim.Optimizer
    average: WeightAverage
    adversary: Adversary | None
    priors: Priors
    start: str = ""
    step: int = 0
    best: float = -1.0

    def snapshot(self, config: TrainingConfig, fold: int) -> Checkpoint:
        """What is stored."""
        return Checkpoint(
            step=self.step,
            best_score=self.best,
            config=config.model_dump(mode="json"),
            fold=fold,
            model=self.model.state_dict(),
            ema=self.average.values,
            optimiser=self.optimiser.state_dict(),
            start=self.start,
            extras=self.priors.stored(),
            adversary=self.adversary.state_dict() if self.adversary else None,
        )


def begin(
    config: TrainingConfig, train: Sequence[PreparedCase], context: Context, start: Start | None
) -> FitState:
    """A fit before its first step.

    Args:
        config: what is fitted.
        train: cases whose masks the priors are learned from.
        context: this process among its peers.
        start: weights to start from, or None for random ones.
    """
    model = model_on(config, context.device, compiled=config.optimiser.compile)
    if start is not None:
        taken = take_over(model, start)
        if context.leads:
            tqdm.write(f"started from {start.folder} ({start.step} steps); {taken.describe()}")
    priors = learn_priors(config, train).to(context.device)
    state = _state(config, model, context, priors)
    state.start = start.sha256 if start is not None else ""
    return state


def go_on(config: TrainingConfig, found: Checkpoint, context: Context) -> FitState:
    """A fit as it was when its checkpoint was written."""
    model = model_on(config, context.device, compiled=config.optimiser.compile)
    model.load_state_dict(found.model)
    state = _state(config, model, context, Priors.restored(found.extras).to(context.device))
    state.optimiser.load_state_dict(found.optimiser)
    state.average.values = {name: value.to(context.device) for name, value in found.ema.items()}
    if state.adversary is not None and found.adversary is not None:
        state.adversary.load_state_dict(found.adversary)
    state.start, state.step, state.best = found.start, found.step, found.best_score
    return state


def model_on(config: TrainingConfig, device: torch.device, *, compiled: bool = False) -> DIANet:
    """The network as it is fitted, with its weights laid out as the device's convolutions like it.

    Args:
        config: the network.
        device: where it goes.
        compiled: whether it will be compiled.
    """
    model = build_model(config).to(device)
    # On a CPU the normalisation wants channels first and would turn every map around, unless it is compiled.
    if config.network.spatial_dims == 3 and (device.type == "cuda" or compiled):
        return model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return model


def check_same_fit(
    found: Checkpoint, config: TrainingConfig, fold: int, start: Start | None, path: Path
) -> None:
    """Find out whether a checkpoint is of the fit that is asked for.

    Raises:
        InputError: if it is not, naming what differs.
    """
    ours: dict[str, Any] = config.signature()
    theirs = parse_config(found.config, str(path)).signature()
    differing = sorted(key for key in ours if ours[key] != theirs[key])
    if fold != found.fold:
        differing.append("fold")
    if start is not None and start.sha256 != found.start:
        differing.append("start")
    if differing:
        raise InputError(
            f"checkpoint {path} belongs to another fit: {', '.join(differing)} differ.",
            remedy="Give another --output, or --restart to begin anew.",
        )


def _state(config: TrainingConfig, model: DIANet, context: Context, priors: Priors) -> FitState:
    settings = config.optimiser
    term, latent = config.objective.adversarial, config.network.latent
    adversary = Adversary(term, latent.channels, context) if term is not None and latent is not None else None
    average = WeightAverage(model, settings.ema_decay)
    return FitState(model, build_optimiser(model, settings), average, adversary, priors)
