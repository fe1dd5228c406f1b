# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that a killed fit resumes from; written aside and renamed, read without unpickling objects."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from DIANetLib.errors import InputError


@dataclass(frozen=True)
class Checkpoint:
    """The state of a fit after `step` steps."""

    step: int
    best_dice: float
    config: dict[str, Any]
    fold: int
    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    optimiser: dict[str, Any]


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write atomically."""
    temporary = path.with_suffix(".tmp")
    torch.save(asdict(checkpoint), temporary)
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
