# SPDX-License-Identifier: Apache-2.0
"""What `configs/metadata.json` of a model folder holds, as pydantic models.

The outer keys are those of the MONAI Bundle specification (its JSON schema of 2024-07-25), so that other
tools can read them; everything that DIANet itself needs lies under the key `"dianet"`. Nothing here imports
torch: listing models stays fast, and the two parts that belong to other modules (network, preprocessing) are
turned into their own classes only when asked for.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from DIANetLib.acwi.error_calibration import ErrorCalibration
from DIANetLib.acwi.familiarity import FamiliarityScale
from DIANetLib.acwi.quality import QualityModel
from DIANetLib.model_folders import FORMAT_VERSION
from DIANetLib.structures import Code, Structure, check_unique

if TYPE_CHECKING:
    from DIANetLib.network import NetworkConfig
    from DIANetLib.preprocess import PreprocessConfig

__all__ = [
    "FORMAT_VERSION",
    "METADATA_SCHEMA_URL",
    "AtlasSpec",
    "BundleMetadata",
    "ClassSpec",
    "DianetSection",
    "FamiliaritySpec",
    "LocaliserSpec",
    "ModalitySpec",
    "OnePassSpec",
    "ReconstructionSpec",
]

#: Where MONAI publishes the schema of the outer keys.
METADATA_SCHEMA_URL = "https://project-monai.github.io/schema/meta_schema_20240725.json"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_KEY = r"^[a-z0-9]+(_[a-z0-9]+)*$"
_SHA256 = "^[0-9a-f]{64}$"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModalitySpec(_Frozen):
    """One input of a model.

    Attributes:
        name: What it is called in messages and in `--modality NAME=PATH`, such as `"T1"`.
        required: Whether the model needs it; of those it does not need, any may be missing.
        aliases: Other names under which it is accepted.
    """

    name: str = Field(min_length=1)
    required: bool = True
    aliases: tuple[str, ...] = ()

    def matches(self, name: str) -> bool:
        """Whether `name` means this modality, whatever the case of its letters."""
        return name.casefold() in {self.name.casefold(), *(alias.casefold() for alias in self.aliases)}


class LocaliserSpec(_Frozen):
    """Which other model finds the region that this one looks at.

    Attributes:
        model: Name of the other model; looked for beside this one first.
        structures: Keys of the other model's structures to crop around.
        instances: `"left-right"` for one region per side of the body, `"single"` for one region.
        margin_mm: What the region is grown by on every side, mm.
        minimum_ml: Smaller finds are taken for noise, ml.
        weight: How much what it believes counts beside what is segmented there: its log-odds, times this, are
            added to the logits of the structures. 0: it only says where to look.
    """

    model: str
    structures: tuple[str, ...] = Field(min_length=1)
    instances: Literal["left-right", "single"] = "single"
    margin_mm: float = Field(default=10.0, ge=0.0)
    minimum_ml: float = Field(default=0.1, ge=0.0)
    weight: float = Field(default=0.0, ge=0.0, le=1.0)

    @field_validator("model")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        return _plain_name(value)


class ClassSpec(_Frozen):
    """One class that whole images are told apart by, equations (16-18).

    Attributes:
        key: Name for files and programs: lower case letters, digits, single underscores.
        name: Name for people.
        code: Coded term, where there is one.
        temperature: Divides the logit of this class (calibration); fitted as `DianetSection.temperature` is.
    """

    key: str = Field(pattern=_KEY)
    name: str = Field(min_length=1)
    code: Code | None = None
    temperature: float = Field(default=1.0, gt=0.0)


class ReconstructionSpec(_Frozen):
    """What the reconstruction head is for, equations (3, 4, 20, 21).

    Attributes:
        task: `"denoising"` reads a noisy image; `"k-space"` reads what undersampled k-space looks like.
    """

    task: Literal["denoising", "k-space"] = "denoising"


class AtlasSpec(_Frozen):
    """The file `models/atlas.safetensors`: where in the image each class is expected to be.

    Attributes:
        spacing_mm: Voxel size (i, j, k), mm.
        sha256: Hash of the file, hexadecimal.
        size_bytes: Length of the file.
    """

    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    sha256: str = Field(default="0" * 64, pattern=_SHA256)
    size_bytes: int = Field(default=0, ge=0)


class OnePassSpec(_Frozen):
    """The file `models/one_pass.safetensors`: a head that tells from one pass what samples would have told.

    Attributes:
        channels: Of the head's layers.
        depth: Its convolutions.
        error_calibration: What corrects the head's error probability class by class, if it was fitted.
        quality: What turns the maps of one pass into expected Dice, if it was fitted.
        sha256: Hash of the file, hexadecimal.
        size_bytes: Length of the file.
    """

    channels: int = Field(ge=1)
    depth: int = Field(ge=0)
    error_calibration: ErrorCalibration | None = None
    quality: QualityModel | None = None
    sha256: str = Field(default="0" * 64, pattern=_SHA256)
    size_bytes: int = Field(default=0, ge=0)


class FamiliaritySpec(_Frozen):
    """The file `models/familiarity.safetensors`: what the encoder saw on the cases that were fitted.

    Attributes:
        levels: Turns a distance from them into words.
        rest: Inverse of the variance along all directions without an axis of their own.
        cases: How many cases there were.
        sha256: Hash of the file, hexadecimal.
        size_bytes: Length of the file.
    """

    levels: FamiliarityScale
    rest: float = Field(gt=0.0)
    cases: int = Field(default=0, ge=0)
    sha256: str = Field(default="0" * 64, pattern=_SHA256)
    size_bytes: int = Field(default=0, ge=0)


class DianetSection(_Frozen):
    """What DIANet needs to run a model.

    Attributes:
        format_version: Version of this section.
        name: Name of the model, and of its folder.
        network: Fields of `NetworkConfig`.
        preprocess: Fields of `PreprocessConfig`.
        window: Voxels (i, j, k) of the sliding window, on the model's own grid.
        structures: What the output channels 1, 2, ... of the segmentation head stand for, in this order;
            channel 0 is background. Empty for a network without that head.
        classes: What the logits of the classification head stand for, in this order. Empty without that head.
        reconstruction: What the reconstruction head is for; None where there is none to use.
        atlas: The atlas that the weights were fitted with, if one was.
        modalities: What the input channels stand for, in this order.
        temperature: Divides the logits (calibration); fitted on cases that the weights weren't fitted on.
        error_calibration: What corrects the error probability class by class, if it was fitted.
        localiser: Which model finds the region to look at, if one is needed.
        quality: What turns the agreement of samples into expected Dice, if it was fitted.
        one_pass: The head that stands for the samples in one pass, if there is one.
        familiarity: What tells whether an image is like those fitted, if it was fitted.
        mirror_samples: Whether every other sample reads the image mirrored left to right, as it was fitted.
        training: How the weights came about: data, split, steps, seed.
        figures: Measured on cases not trained on.
        sha256: Hash of the weight file, hexadecimal.
        size_bytes: Length of the weight file.
    """

    format_version: int = Field(default=FORMAT_VERSION, ge=1)
    name: str
    network: dict[str, Any]
    preprocess: dict[str, Any]
    window: tuple[int, int, int]
    structures: tuple[Structure, ...] = ()
    classes: tuple[ClassSpec, ...] = ()
    reconstruction: ReconstructionSpec | None = None
    atlas: AtlasSpec | None = None
    modalities: tuple[ModalitySpec, ...] = Field(min_length=1)
    temperature: float = Field(default=1.0, gt=0.0)
    error_calibration: ErrorCalibration | None = None
    localiser: LocaliserSpec | None = None
    quality: QualityModel | None = None
    one_pass: OnePassSpec | None = None
    familiarity: FamiliaritySpec | None = None
    mirror_samples: bool = False
    training: dict[str, Any] = Field(default_factory=dict)
    figures: dict[str, Any] = Field(default_factory=dict)
    sha256: str = Field(default="0" * 64, pattern=_SHA256)
    size_bytes: int = Field(default=0, ge=0)

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        return _plain_name(value)

    @field_validator("window")
    @classmethod
    def _is_positive(cls, value: tuple[int, int, int]) -> tuple[int, int, int]:
        if min(value) < 1:
            raise ValueError(f"expected three positive numbers of voxels, got {value}")
        return value

    @model_validator(mode="after")
    def _is_consistent(self) -> DianetSection:
        check_unique(self.structures)
        values = [structure.value for structure in self.structures]
        if values != list(range(1, len(values) + 1)):
            raise ValueError(f"expected the structures' values to be 1, 2, ... in order, got {values}")
        if not (self.structures or self.classes or self.reconstruction):
            raise ValueError("expected structures, classes or a reconstruction, got none of them")
        if len(self.classes) == 1 or len({entry.key for entry in self.classes}) < len(self.classes):
            keys = ", ".join(entry.key for entry in self.classes)
            raise ValueError(f"expected two or more classes, each with a key of its own, got {keys}")
        if self.one_pass is not None and not self.structures:
            raise ValueError("expected structures beside a one-pass head, got none")
        self._check_told(self.quality, self.error_calibration)
        if self.one_pass is not None:
            self._check_told(self.one_pass.quality, self.one_pass.error_calibration)
        names = [name.casefold() for m in self.modalities for name in (m.name, *m.aliases)]
        if len(set(names)) != len(names):
            raise ValueError("expected every name and alias of a modality to be there once")
        if self.localiser is not None and self.localiser.model == self.name:
            raise ValueError("a model cannot be its own localiser")
        return self

    def _check_told(self, quality: QualityModel | None, correction: ErrorCalibration | None) -> None:
        """Compare an estimate of quality and a correction of the error probability with the structures."""
        unknown = set(() if quality is None else quality.structures)
        unknown -= {structure.key for structure in self.structures}
        if unknown:
            raise ValueError(f"expected quality of the structures alone, got {', '.join(sorted(unknown))}")
        classes = len(self.structures) + 1
        if correction is not None and correction.classes != classes:
            raise ValueError(f"expected an error calibration of {classes} classes, got {correction.classes}")

    def network_config(self) -> NetworkConfig:
        """The network's configuration (imports the network, and with it torch).

        Raises:
            pydantic.ValidationError: A field is unknown or out of range.
        """
        from DIANetLib.network import NetworkConfig

        return NetworkConfig(**self.network)

    def preprocess_config(self) -> PreprocessConfig:
        """How an image is prepared for this model.

        Raises:
            pydantic.ValidationError: A field is unknown or out of range.
        """
        from DIANetLib.preprocess import PreprocessConfig

        return PreprocessConfig(**self.preprocess)


class BundleMetadata(BaseModel):
    """All of `configs/metadata.json`: MONAI's keys and DIANet's section. Further keys are kept.

    `required_packages_version` is MONAI's newer name of `optional_packages_version`; the rest is
    described in the MONAI Bundle specification.
    """

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False, populate_by_name=True)

    schema_url: str = Field(default=METADATA_SCHEMA_URL, alias="schema")
    version: str = Field(min_length=1)
    changelog: dict[str, str] = Field(default_factory=dict)
    monai_version: str
    pytorch_version: str
    numpy_version: str
    required_packages_version: dict[str, str] = Field(default_factory=dict)
    task: str
    description: str
    authors: str
    copyright: str
    intended_use: str = ""
    data_source: str = ""
    references: tuple[str, ...] = ()
    network_data_format: dict[str, Any]
    dianet: DianetSection

    def to_json(self) -> str:
        """The text of `configs/metadata.json`."""
        return self.model_dump_json(by_alias=True, indent=2) + "\n"


def _plain_name(value: str) -> str:
    # A name becomes a folder's name: no separators, no "..".
    if not _NAME.fullmatch(value):
        raise ValueError(f"expected a name of letters, digits, '.', '_' and '-', got {value!r}")
    return value
