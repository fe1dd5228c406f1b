# SPDX-License-Identifier: Apache-2.0
"""What a fit is: one YAML file, validated; everything that a result depends on stands in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from DIANetLib.errors import ConfigError
from DIANetLib.network.config import NetworkConfig, describe_validation_error
from DIANetLib.preprocess import PreprocessConfig


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CodeConfig(_Section):
    """A coded term, for example SCT 66019005 "Limb structure"."""

    scheme: str = "SCT"
    value: str
    meaning: str


class StructureConfig(_Section):
    """One structure of the model and the label values of the data that make it up."""

    key: str = Field(pattern=r"^[a-z0-9_]+$")
    name: str
    color: tuple[int, int, int]
    source_values: tuple[int, ...] = Field(min_length=1)
    type: CodeConfig
    category: CodeConfig = CodeConfig(value="123037004", meaning="Anatomical Structure")


class ModalityConfig(_Section):
    """One input channel."""

    name: str
    aliases: tuple[str, ...] = ()
    required: bool = True


class DataConfig(_Section):
    """Where the cases are and how they are divided.

    Attributes:
        format: how the cases are laid out: the module of `training.datasets` that finds and reads them.
        release: name of the public release that `monai.apps.DecathlonDataset` downloads, or None.
        folds: number of folds over the sorted case names (shuffled once with `split_seed`).
        inner: number of training cases kept from fitting for the temperature.
    """

    format: str = "decathlon"
    release: str | None = None
    folds: int = Field(default=5, ge=2)
    split_seed: int = 12345
    inner: int = Field(default=12, ge=1)
    modalities: tuple[ModalityConfig, ...] = Field(min_length=1)
    structures: tuple[StructureConfig, ...] = Field(min_length=1)

    @field_validator("format")
    @classmethod
    def _format_exists(cls, name: str) -> str:
        from training.datasets import known_formats  # it needs this module

        if name not in known_formats():
            raise ValueError(f"expected one of {', '.join(known_formats())}")
        return name


class AugmentConfig(_Section):
    """Probabilities and ranges of the augmentations (nnU-Net: Isensee et al. 2021, supplementary note 4)."""

    affine_probability: float = 0.35
    rotation_deg: float = 20.0
    scale: tuple[float, float] = (0.75, 1.3)
    shift: float = Field(default=0.0, description="largest translation, voxels")
    mirror_axes: tuple[int, ...] = Field(default=(2,), description="of (k, j, i); 2 mirrors left and right")
    noise: float = 0.15
    smooth: float = 0.15
    brightness: float = 0.2
    contrast: float = 0.2
    gamma: float = 0.3
    inverted_gamma: float = 0.1
    low_resolution: float = 0.2
    bias_field: float = 0.15
    stripped: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="share of patches blanked outside of the structures",
    )
    modality_dropout: float = Field(
        default=0.0,
        ge=0.0,
        lt=1.0,
        description="how often a modality of a patch is missing; one is always left",
    )
    foreground_crops: float = Field(default=0.5, description="share of patches centred on a structure voxel")


class OptimiserConfig(_Section):
    """Optimisation; the schedule is per step."""

    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    schedule: Literal["cosine", "poly"] = "cosine"
    warmup_steps: int = 100
    gradient_clip: float = 12.0
    ema_decay: float = Field(default=0.999, ge=0.0, lt=1.0)
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    compile: bool = False


class ObjectiveConfig(_Section):
    """Weights of the terms of the loss."""

    logit_draws: int = Field(default=4, ge=2, description="draws of the Gaussian logit, (32)")
    rarity_power: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="cross-entropy weights: class frequency to the power of minus this",
    )
    kl_weight: float = Field(default=1e-3, ge=0.0)
    kl_free_nats: float = Field(default=0.1, ge=0.0)


class LocaliserConfig(_Section):
    """The model and structures that tell where to crop in a larger image."""

    model: str
    structures: tuple[str, ...]
    instances: Literal["left-right", "single"] = "single"
    margin_mm: float = 8.0
    minimum_ml: float = 0.3


class AboutConfig(_Section):
    """Words for the model card and the licence of the weights; they change nothing in a fit.

    Attributes:
        data: what the data is, in sentences.
        attribution: whom the licence of the data asks to name.
        references: publications and addresses.
        intended_use: what the model is for.
        limits: what it does badly, a sentence each.
    """

    data: str = ""
    attribution: str = ""
    references: tuple[str, ...] = ()
    intended_use: str = ""
    limits: tuple[str, ...] = ()


class TrainingConfig(_Section):
    """Everything a fit depends on."""

    name: str = Field(pattern=r"^[a-z0-9-]+$")
    description: str
    anatomy: str = ""
    version: str = "0.1.0"
    licence: str = "CC-BY-SA-4.0"
    data: DataConfig
    network: NetworkConfig
    preprocess: PreprocessConfig = PreprocessConfig()
    patch: tuple[int, int, int] = Field(description="voxels, (i, j, k)")
    window: tuple[int, int, int] | None = Field(
        default=None, description="inference window; the patch if None"
    )
    augment: AugmentConfig = AugmentConfig()
    optimiser: OptimiserConfig
    objective: ObjectiveConfig = ObjectiveConfig()
    localiser: LocaliserConfig | None = None
    about: AboutConfig = AboutConfig()
    seed: int = 1
    validate_every: int = Field(default=500, ge=1)
    checkpoint_every: int = Field(default=250, ge=1)

    @model_validator(mode="after")
    def _parts_agree(self) -> TrainingConfig:
        if self.network.spatial_dims != 3:
            raise ValueError(
                f"network.spatial_dims: expected 3 (patches are volumes), got {self.network.spatial_dims}"
            )
        expected = len(self.data.structures) + 1
        if self.network.classes != expected:
            raise ValueError(
                f"network.classes: expected {expected} ({expected - 1} structures and background), "
                f"got {self.network.classes}"
            )
        if self.network.modalities != len(self.data.modalities):
            raise ValueError(
                f"network.modalities: expected {len(self.data.modalities)} as in data.modalities, "
                f"got {self.network.modalities}"
            )
        for name, size in (("patch", self.patch), ("window", self.window or self.patch)):
            if any(side < 1 or side % self.network.divisor for side in size):
                raise ValueError(
                    f"{name}: every side must be divisible by {self.network.divisor}, got {list(size)}"
                )
        return self

    @property
    def patch_kji(self) -> tuple[int, int, int]:
        """The patch in array order."""
        i, j, k = self.patch
        return k, j, i

    @property
    def window_kji(self) -> tuple[int, int, int]:
        """The inference window in array order."""
        i, j, k = self.window or self.patch
        return k, j, i

    def signature(self) -> dict[str, Any]:
        """What decides the weights, by section: two fits of equal signatures and folds are the same fit.

        Names, colours and codes of structures, words, the localiser and the intervals of validation and
        checkpoints may change without making it another fit.
        """
        sections = self.model_dump(mode="json", exclude=_DESCRIPTIVE)
        sections["data"]["modalities"] = len(self.data.modalities)
        sections["data"]["structures"] = [structure.source_values for structure in self.data.structures]
        return sections


_DESCRIPTIVE = {
    "about",
    "anatomy",
    "checkpoint_every",
    "description",
    "licence",
    "localiser",
    "validate_every",
    "version",
    "window",
}


def load_config(path: str | Path, overrides: dict[str, Any] | None = None) -> TrainingConfig:
    """Read and validate a YAML file.

    Args:
        path: the file.
        overrides: dotted names to values, for example {"optimiser.steps": 10}.

    Raises:
        ConfigError: if the file is missing, is no YAML mapping or does not validate.
    """
    path = Path(path)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"configuration {path} cannot be read: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"configuration {path} is no valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ConfigError(
            f"configuration {path}: expected a mapping of names to values, got {type(data).__name__}."
        )
    for dotted, value in (overrides or {}).items():
        _set(data, dotted.split("."), value)
    return parse_config(data, str(path))


def parse_config(data: dict[str, Any], where: str) -> TrainingConfig:
    """Validate a plain dictionary; `where` names it in errors."""
    try:
        return TrainingConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"configuration {where}: {describe_validation_error(error)}") from error


def _set(data: dict[str, Any], names: list[str], value: Any) -> None:
    *parents, last = names
    for name in parents:
        data = data.setdefault(name, {})
        if not isinstance(data, dict):
            raise ConfigError(
                f"the setting {'.'.join(names)} does not exist: {name} is {data!r}, which has no parts.",
                remedy="Give dotted names as the file nests them, for example optimiser.steps=100.",
            )
    data[last] = value
