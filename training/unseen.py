# SPDX-License-Identifier: Apache-2.0
"""A finished model, judged on a data set: its structures, and cases that it was not fitted on."""

from __future__ import annotations

from pathlib import Path

from DIANetLib.bundle import LoadedModel, load_bundle
from DIANetLib.errors import InputError
from training.config import TrainingConfig
from training.datasets import Split


def load_model_of(config: TrainingConfig, folder: Path) -> LoadedModel:
    """The model of a folder, which has the structures of the configuration.

    Raises:
        InputError: it has others.
        BundleError: it cannot be used.
    """
    model = load_bundle(folder)
    expected, got = [part.key for part in config.data.structures], [s.key for s in model.structures]
    if expected != got:
        raise InputError(
            f"expected a model with the structures of {config.name!r} ({', '.join(expected)}), got"
            f" {model.name!r} with {', '.join(got) or 'none'}.",
            remedy="Give the configuration that the model was fitted with, or another --model.",
        )
    return model


def check_unseen(model: LoadedModel, split: Split, fold: int, data: Path) -> None:
    """Find out whether the held-out cases of a fold are those that the model names as held out.

    Raises:
        InputError: they are others. A model that names none is taken at its word.
    """
    known = model.metadata.dianet.training.get("held_out")
    if known is not None and sorted(known) != sorted(split.held_out):
        raise InputError(
            f"the {len(split.held_out)} held-out cases of fold {fold} of {data} are not the {len(known)} that"
            f" the model {model.name!r} names as held out, so cases that it was fitted on could be taken for"
            " unseen ones.",
            remedy="Give the data and the fold that it was fitted with.",
        )
