# SPDX-License-Identifier: Apache-2.0
"""What a fit is: one YAML file, validated; everything that a result depends on stands in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from DIANetLib.errors import ConfigError
from DIANetLib.network.config import NetworkConfig, describe_validation_error
from DIANetLib.preprocess import PreprocessConfig
from training.config_check import check_agreement
from training.config_tasks import ObjectiveConfig, Section, TasksConfig


class CodeConfig(Section):
    """A coded term, for example SCT 66019005 "Limb structure"."""

    scheme: str = "SCT"
    value: str
    meaning: str


class StructureConfig(Section):
    """One structure of the model and the label values of the data that make it up."""

    key: str = Field(pattern=r"^[a-z0-9_]+$")
    name: str
    color: tuple[int, int, int]
    source_values: tuple[int, ...] = Field(min_length=1)
    type: CodeConfig
    category: CodeConfig = CodeConfig(value="123037004", meaning="Anatomical Structure")


class ModalityConfig(Section):
    """One input channel."""

    name: str
    aliases: tuple[str, ...] = ()
    required: bool = True


class TargetConfig(Section):
    """One class that whole cases belong to; cases hold its place in the list as a number from 0.

    `source_values` is what the data set calls it, the key if left out.
    """

    key: str = Field(pattern=r"^[a-z0-9_]+$")
    name: str
    source_values: tuple[str, ...] = ()


class RegionConfig(Section):
    """A union of structures that is measured as one, such as the whole tumour; it is not fitted by itself."""

    key: str = Field(pattern=r"^[a-z0-9_]+$")
    name: str
    structures: tuple[str, ...] = Field(min_length=1)


class DataConfig(Section):
    """Where the cases are and how they are divided.

    Attributes:
        format: how the cases are laid out: the module of `training.datasets` that finds and reads them.
        options: settings of that module, if it has any.
        release: name of the public release that `monai.apps.DecathlonDataset` downloads, or None.
        folds: number of folds over the sorted case names (shuffled once with `split_seed`).
        inner: number of training cases kept from fitting for the temperature.
        structures: what is segmented; empty without a segmentation head.
        targets: the classes of whole cases; empty without a classification head.
        regions: unions of structures that are measured too.
    """

    format: str = "decathlon"
    options: dict[str, Any] = Field(default_factory=dict)
    release: str | None = None
    folds: int = Field(default=5, ge=2)
    split_seed: int = 12345
    inner: int = Field(default=12, ge=1)
    modalities: tuple[ModalityConfig, ...] = Field(min_length=1)
    structures: tuple[StructureConfig, ...] = ()
    targets: tuple[TargetConfig, ...] = ()
    regions: tuple[RegionConfig, ...] = ()

    @field_validator("format")
    @classmethod
    def _format_exists(cls, name: str) -> str:
        from training.datasets import known_formats  # it needs this module

        if name not in known_formats():
            raise ValueError(f"expected one of {', '.join(known_formats())}")
        return name

    @model_validator(mode="after")
    def _options_are_the_formats(self) -> DataConfig:
        from training.datasets import check_options  # it needs this module

        check_options(self.format, self.options)
        return self


class AugmentConfig(Section):
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


class OptimiserConfig(Section):
    """Optimisation; the schedule is per step."""

    method: Literal["adamw", "muon"] = "adamw"
    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    gain_rate: float = Field(
        default=10.0,
        gt=0.0,
        description="learning rate of the gains that start at zero, over that of the rest; they do not decay",
    )
    schedule: Literal["cosine", "poly"] = "cosine"
    warmup_steps: int = 100
    gradient_clip: float = 12.0
    ema_decay: float = Field(default=0.999, ge=0.0, lt=1.0)
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    compile: bool = False


class LocaliserConfig(Section):
    """The model and structures that tell where to crop in a larger image."""

    model: str
    structures: tuple[str, ...]
    instances: Literal["left-right", "single"] = "single"
    margin_mm: float = 8.0
    minimum_ml: float = 0.3
    weight: float = Field(default=0.0, ge=0.0, le=1.0, description="of its log-odds beside the logits")


class AboutConfig(Section):
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


class TrainingConfig(Section):
    """Everything a fit depends on.

    Attributes:
        network: what is fitted.
        baseline: a plain peer that is fitted in the network's place, with about as many parameters.
        patch: voxels (i, j, k) that a step reads per row; (i, j, 1) for a network of two dimensions.
        window: voxels that inference reads at once; the patch if None.
        mirror_samples: whether every other sample of inference reads the image mirrored left to right.
        tasks: what the heads are fitted for.
        objective: the terms of the loss beside the tasks.
    """

    name: str = Field(pattern=r"^[a-z0-9-]+$")
    description: str
    anatomy: str = ""
    version: str = "0.1.0"
    licence: str = "CC-BY-SA-4.0"
    data: DataConfig
    network: NetworkConfig
    baseline: Literal["unet", "resnet18"] | None = None
    preprocess: PreprocessConfig = PreprocessConfig()
    patch: tuple[int, int, int]
    window: tuple[int, int, int] | None = None
    mirror_samples: bool = False
    augment: AugmentConfig = AugmentConfig()
    optimiser: OptimiserConfig
    tasks: TasksConfig = TasksConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    localiser: LocaliserConfig | None = None
    about: AboutConfig = AboutConfig()
    seed: int = 1
    validate_every: int = Field(default=500, ge=1)
    checkpoint_every: int = Field(default=250, ge=1)

    @model_validator(mode="after")
    def _parts_agree(self) -> TrainingConfig:
        check_agreement(self)
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
        sections["data"]["targets"] = len(self.data.targets)
        sections["data"].pop("regions")
        sections["data"]["structures"] = [structure.source_values for structure in self.data.structures]
        return sections


_DESCRIPTIVE = {
    "about",
    "anatomy",
    "checkpoint_every",
    "description",
    "licence",
    "localiser",
    "mirror_samples",
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
