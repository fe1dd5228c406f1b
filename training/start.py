# SPDX-License-Identifier: Apache-2.0
"""Starting a fit from weights that are there: what both have is taken over, new blocks start as built.

They are those of another fit, or of a model folder.

Every block of DIANet leaves the network as it was at step 0, so that such a fit continues the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from DIANetLib.bundle import load_bundle
from DIANetLib.errors import InputError
from DIANetLib.model_folders import METADATA
from training.checkpoint import load_checkpoint
from training.weights import state_sha256

#: Tensors whose first rows are the logits' means and whose other rows, if any, their log-variances (32).
_MOMENTS = ("segmentation.logits.weight", "segmentation.logits.bias")


@dataclass(frozen=True)
class Start:
    """What a fit starts from.

    Attributes:
        folder: of the other fit, or the model folder.
        step: steps that it has done; 0 where the model folder does not say.
        weights: its averaged weights, float32.
    """

    folder: Path
    step: int
    weights: Mapping[str, Tensor]

    @property
    def sha256(self) -> str:
        """Hash of the weights."""
        return state_sha256(self.weights)


@dataclass(frozen=True)
class Taken:
    """What came of it: names of tensors that are new in the model, and of those that it has no use for."""

    new: tuple[str, ...]
    unused: tuple[str, ...]

    def describe(self) -> str:
        """One line for people."""
        parts = sorted({".".join(name.split(".")[:2]) for name in self.new})
        left = sorted({".".join(name.split(".")[:2]) for name in self.unused})
        text = f"new: {', '.join(parts) or 'nothing'}"
        return f"{text}; left behind: {', '.join(left)}" if left else text


def read_start(folder: Path) -> Start:
    """Read the averaged weights at the end of the fit in a folder, or the weights of a model folder.

    Raises:
        InputError: if there is neither, or the checkpoint cannot be read.
        BundleError: if the model folder cannot be used.
    """
    path = folder / "checkpoint.pt"
    if not path.is_file() and (folder / METADATA).is_file():
        model = load_bundle(folder)
        state = {name: value.float() for name, value in model.network().state_dict().items()}
        return Start(folder, int(model.metadata.dianet.training.get("steps_done", 0)), state)
    if not path.is_file():
        raise InputError(
            f"{folder} holds no fit to start from: checkpoint.pt is missing.",
            remedy="Give the --output of a fit, or a model folder.",
        )
    checkpoint = load_checkpoint(path)
    return Start(folder, checkpoint.step, checkpoint.ema)


@torch.no_grad()
def take_over(model: nn.Module, start: Start) -> Taken:
    """Copy into a model what it shares with the start; the rest stays as it is.

    Raises:
        InputError: if the two share nothing, or a tensor that both have differs in shape.
    """
    ours = model.state_dict()
    shared = [name for name in ours if name in start.weights]
    if not shared:
        raise InputError(f"the fit in {start.folder} shares no weights with the configuration's network.")
    for name in shared:
        mine, theirs = ours[name], start.weights[name]
        if name in _MOMENTS and mine.shape[1:] == theirs.shape[1:]:
            rows = min(len(mine), len(theirs))
            if len(mine) in (rows, 2 * rows) and len(theirs) in (rows, 2 * rows):
                mine[:rows].copy_(theirs[:rows])
                continue
        if mine.shape != theirs.shape:
            raise InputError(
                f"{name} has the shape {tuple(mine.shape)} in the configuration's network and "
                f"{tuple(theirs.shape)} in the fit in {start.folder}.",
                remedy="Start from a fit of the same widths, modalities and classes.",
            )
        mine.copy_(theirs)
    return Taken(
        new=tuple(name for name in ours if name not in start.weights),
        unused=tuple(name for name in start.weights if name not in ours),
    )
