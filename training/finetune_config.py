# SPDX-License-Identifier: Apache-2.0
"""What learning from corrections is: settings with defaults, in a YAML file where others are wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, field_validator

from DIANetLib.errors import ConfigError
from DIANetLib.network.config import describe_validation_error
from training.config import AugmentConfig
from training.config_tasks import Section


class WeightsConfig(Section):
    """How much a voxel of a corrected case counts in the loss, over a voxel of a rehearsed case.

    Attributes:
        changed: the reviewer changed it.
        judged: unchanged, within a region that was accepted or corrected: looked at and found right.
        elsewhere: unchanged, in no region: the model was sure, and the reviewer let it be.
        open: unchanged, within a region that was skipped or never looked at: nobody knows.
    """

    changed: float = Field(default=2.0, ge=0.0)
    judged: float = Field(default=1.0, ge=0.0)
    elsewhere: float = Field(default=1.0, ge=0.0)
    open: float = Field(default=0.0, ge=0.0)


class FisherConfig(Section):
    """The estimate of the Fisher information, (26).

    Attributes:
        patches: observations.
    """

    patches: int = Field(default=64, ge=1)


class RehearsalConfig(Section):
    """The rehearsal buffer: cases of the model's own data that are fitted along.

    Attributes:
        cases: at most this many.
        rows: patches of it in each step, beside those of corrected cases.
        judged: at most this many cases are kept aside to see whether the model forgot.
    """

    cases: int = Field(default=32, ge=1)
    rows: int = Field(default=2, ge=1)
    judged: int = Field(default=16, ge=2)


class JudgingConfig(Section):
    """How a candidate is judged before it is shipped.

    Attributes:
        folds: parts of the corrected cases; each is judged by a fit on the others. Never more than cases.
        tolerance_new: mean Dice that corrected cases may lose where they were reviewed, against the model
            before.
        tolerance_whole: mean Dice that they may lose over the whole image. It is wide, because corrected
            labels are the model's own where nobody changed them, so that no other can agree with them better.
        tolerance_old: mean Dice that rehearsed cases may lose.
        shares: candidates are so far on the way from the weights before to those fitted; see
            `training.finetune_judge.choose_share`.
        samples: stochastic passes with which the temperature is fitted anew; 0 keeps the model's.
    """

    folds: int = Field(default=3, ge=2)
    tolerance_new: float = Field(default=0.005, ge=0.0, le=1.0)
    tolerance_whole: float = Field(default=0.1, ge=0.0, le=1.0)
    tolerance_old: float = Field(default=0.005, ge=0.0, le=1.0)
    shares: tuple[float, ...] = Field(default=(0.25, 0.5, 0.75, 1.0), min_length=1)
    samples: int = Field(default=4, ge=0)

    @field_validator("shares")
    @classmethod
    def _between_zero_and_one(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0.0 < share <= 1.0 for share in shares):
            raise ValueError("expected numbers above 0 and up to 1")
        return tuple(sorted(shares))


class FinetuneConfig(Section):
    """Settings of `python -m training finetune`.

    Attributes:
        steps: of each fit.
        rows: patches of corrected cases in each step.
        learning_rate: at its highest; it rises over a tenth of the steps and falls along half a cosine.
        l2_sp: weight of the squared distance from the model that the fit started from, (25).
        ewc: weight of elastic weight consolidation, (26), with the Fisher information over its mean.
        gradient_clip: greatest norm of the gradient.
        ema_decay: of the moving average of the weights, which is what is shipped.
        weights: of voxels.
        fisher: estimate of the Fisher information.
        rehearsal: buffer.
        judging: before anything is shipped.
        augment: of patches.
        patch: voxels (i, j, k); the model's own where None, which is best: instance normalisation sees
            another image in a smaller part of it.
        checkpoint_every: steps between checkpoints.
        seed: of everything random.
    """

    steps: int = Field(default=600, ge=1)
    rows: int = Field(default=2, ge=1)
    learning_rate: float = Field(default=5e-4, gt=0.0)
    l2_sp: float = Field(default=0.01, ge=0.0)
    ewc: float = Field(default=0.01, ge=0.0)
    gradient_clip: float = Field(default=12.0, gt=0.0)
    ema_decay: float = Field(default=0.98, ge=0.0, lt=1.0)
    weights: WeightsConfig = WeightsConfig()
    fisher: FisherConfig = FisherConfig()
    rehearsal: RehearsalConfig = RehearsalConfig()
    judging: JudgingConfig = JudgingConfig()
    augment: AugmentConfig = AugmentConfig(affine_probability=0.7, shift=2.0, foreground_crops=0.5)
    patch: tuple[int, int, int] | None = None
    checkpoint_every: int = Field(default=50, ge=1)
    seed: int = Field(default=1, ge=0)


def load_finetune_config(path: Path | None, overrides: dict[str, Any] | None = None) -> FinetuneConfig:
    """Read a YAML file of settings; those that it leaves out have their defaults.

    Args:
        path: the file; None for defaults alone.
        overrides: dotted names to values, for example {"weights.changed": 8}.

    Raises:
        ConfigError: if the file is missing, is no YAML mapping or does not validate.
    """
    data: Any = {}
    if path is not None:
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except OSError as error:
            raise ConfigError(f"settings {path} cannot be read: {error.strerror}.") from error
        except yaml.YAMLError as error:
            raise ConfigError(f"settings {path} is no valid YAML: {' '.join(str(error).split())}") from error
    where = "of --set" if path is None else str(path)
    if not isinstance(data, dict):
        raise ConfigError(f"settings {where}: expected a mapping of names to values.")
    for dotted, value in (overrides or {}).items():
        part = data
        *parents, last = dotted.split(".")
        for name in parents:
            part = part.setdefault(name, {})
            if not isinstance(part, dict):
                raise ConfigError(f"the setting {dotted} does not exist: {name} has no parts.")
        part[last] = value
    try:
        return FinetuneConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"settings {where}: {describe_validation_error(error)}") from error
