# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that a killed fit resumes from; written aside and renamed, read without unpickling objects."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from DIANetLib.errors import InputError


@dataclass(frozen=True)
class Checkpoint:
    """The state of a fit after `step` steps.

    Attributes:
        step: steps done.
        best_score: best score of the inner cases so far, 0 to 1; below 0 before the first.
        config: the configuration as plain values.
        fold: the fold that is held out.
        model: weights.
        ema: their moving averages, float32.
        optimiser: state of the optimiser.
        start: SHA-256 of the weights that the fit started from, or "" for random ones.
        extras: what was learned from the training masks, see `training.priors`.
        adversary: discriminator and its optimiser, or None.
    """

    step: int
    best_score: float
    config: dict[str, Any]
    fold: int
    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    optimiser: dict[str, Any]
    start: str = ""
    extras: dict[str, Tensor] = field(default_factory=dict)
    adversary: dict[str, Any] | None = None


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write atomically."""
    temporary = path.with_suffix(".tmp")
    torch.save({part.name: getattr(checkpoint, part.name) for part in fields(checkpoint)}, temporary)
    os.replace(temporary, path)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        InputError: if the file is none.
    """
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
        return Checkpoint(**data)
    except (OSError, RuntimeError, TypeError, EOFError, ValueError) as error:
        raise InputError(
            f"checkpoint {path} cannot be read ({type(error).__name__}).",
            remedy="Delete it to start the fit anew.",
        ) from error
