# SPDX-License-Identifier: Apache-2.0
"""The rehearsal buffer: some cases of what a model has learned before, fitted along, and some kept aside.

EWC alone forgets (Hsu et al., "Re-evaluating continual learning scenarios", 2018; Chaudhry et al., "On tiny
episodic memories in continual learning", 2019); a few old cases in each step do most of the work.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from DIANetLib.bundle import LoadedModel
from DIANetLib.errors import InputError
from training.config import TrainingConfig
from training.datasets import Case, PreparedCase, find_cases, load_case
from training.finetune_config import RehearsalConfig
from training.progress import track


@dataclass(frozen=True, eq=False)
class Rehearsal:
    """Cases of a model's own data.

    Attributes:
        buffer: fitted along.
        judged: kept aside, to see whether the model forgot.
        unseen: whether the model before was not fitted on the judged ones either, as its folder says.
    """

    buffer: tuple[PreparedCase, ...] = ()
    judged: tuple[PreparedCase, ...] = ()
    unseen: bool = False


def load_rehearsal(
    folder: Path, config: TrainingConfig, model: LoadedModel, settings: RehearsalConfig, seed: int
) -> Rehearsal:
    """Divide the cases of a folder and load those that are used.

    Where the model's folder names cases that it was not fitted on, those judge and the others are rehearsed;
    else a quarter is drawn to judge, and the model before has the advantage of having been fitted on it.

    Args:
        folder: of the data set.
        config: how its cases are laid out and read.
        model: the model that is going to be fitted further.
        settings: how many cases.
        seed: of the draws.

    Raises:
        InputError: the folder has fewer than 4 cases with labels.
    """
    rest, held, unseen = divided(folder, config, model, settings, seed)
    return Rehearsal(
        buffer=_load(rest, config, "rehearsal buffer"),
        judged=_load(held, config, "cases kept aside"),
        unseen=unseen,
    )


def divided(
    folder: Path, config: TrainingConfig, model: LoadedModel, settings: RehearsalConfig, seed: int
) -> tuple[list[Case], list[Case], bool]:
    """The cases that are rehearsed, those that judge, and whether the model has not seen the latter.

    Arguments and errors as for `load_rehearsal`.
    """
    cases = [case for case in find_cases(folder, config.data) if case.labels is not None]
    if len(cases) < 4:
        raise InputError(
            f"{folder} has {len(cases)} labelled cases to rehearse, expected at least 4: some to fit along,"
            " some to see whether the model forgot.",
        )
    order = np.random.default_rng([seed, 11]).permutation(len(cases))
    shuffled = [cases[n] for n in order]
    known = set(model.metadata.dianet.training.get("held_out") or ())
    held = [case for case in shuffled if case.name in known]
    unseen = len(held) >= 2 and len(shuffled) - len(held) >= 2
    if not unseen:
        held = shuffled[: max(2, len(shuffled) // 4)]
    names = {case.name for case in held}
    rest = [case for case in shuffled if case.name not in names]
    return rest[: settings.cases], held[: settings.judged], unseen


def _load(cases: list[Case], config: TrainingConfig, title: str) -> tuple[PreparedCase, ...]:
    cases = sorted(cases, key=lambda case: case.name)
    return tuple(load_case(case, config) for case in track(cases, title, unit="case"))
