# SPDX-License-Identifier: Apache-2.0
"""What a DIANet is made of: one validated, serialisable description (paper, section 3.3).

The description travels in the model bundle as JSON; two equal configurations build networks with
equal state dictionaries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from DIANetLib.errors import ConfigError


class LatentConfig(BaseModel):
    """The Gaussian latent at the bottleneck, equations (10, 12, 13, 31)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: int = Field(default=32, ge=1, description="d, latent channels per bottleneck position")
    path_dropout: float = Field(
        default=0.0, ge=0.0, lt=1.0, description="how often a random pass reads h alone, without the features"
    )
    skip_dropout: float = Field(
        default=0.0,
        ge=0.0,
        lt=1.0,
        description="how often a random pass segments without the skips of all but the finest scale",
    )
    rank: int = Field(default=0, ge=0, description="r of Sigma = diag(sigma^2) + U U^T; 0: diagonal")
    anatomy: bool = Field(
        default=False, description="whether a class distribution P(h) is decoded from h alone, (11, 14)"
    )


class FusionConfig(BaseModel):
    """Modality stems and their fusion, equation (5)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: int = Field(default=8, ge=1, description="feature channels of each modality's stem")


class CodeBookConfig(BaseModel):
    """Soft matching of h to learned prototypes; paper, section 3.3."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    codes: int = Field(default=64, ge=2, description="K, prototypes")
    temperature: float = Field(
        default=0.25, gt=0.0, description="of the assignment, in mean squared difference per channel"
    )
    decay: float = Field(default=0.99, ge=0.0, lt=1.0, description="of the moving average of each code's use")
    revive_below: float = Field(
        default=0.05, ge=0.0, lt=1.0, description="share of uniform use below which a code is moved; 0: never"
    )


class DiffuserConfig(BaseModel):
    """Self-attention over the tokens of h; paper, section 3.3."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: int = Field(default=1, ge=1)
    heads: int = Field(default=4, ge=1, description="attention heads; they divide the latent's channels")
    temporal: bool = Field(default=False, description="whether sequences of time points are aligned")


class PyramidConfig(BaseModel):
    """Feature pyramid fusion with learned scale weights, equations (7, 8)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: int = Field(default=16, ge=1, description="P, the common width of all scales")


class AttentionConfig(BaseModel):
    """Attention per scale, equation (9), with a local and a global path."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: int = Field(default=32, ge=1, description="width of the tokens of the global path")
    heads: int = Field(default=4, ge=1, description="attention heads of the global path")
    grid: int = Field(default=4, ge=2, le=8, description="tokens along each axis, at most")

    @model_validator(mode="after")
    def _heads_divide(self) -> AttentionConfig:
        if self.channels % self.heads:
            raise ValueError(
                f"expected channels divisible by heads, got {self.channels} channels and {self.heads} heads"
            )
        return self


class ReliablePathConfig(BaseModel):
    """Fusion of the head's paths by how sure each is; paper, section 3.4."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sharpness: float = Field(
        default=4.0, gt=0.0, description="how fast a path's weight falls with its entropy, 1/nats, at step 0"
    )


class ClassificationConfig(BaseModel):
    """Classification head, equations (16-18)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: int = Field(ge=2, description="C, classes of a whole image")
    dropout: float = Field(default=0.2, ge=0.0, lt=1.0, description="Monte-Carlo dropout of h's channels")


class ReconstructionConfig(BaseModel):
    """Reconstruction head, equations (20, 21)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: int | None = Field(default=None, ge=1, description="of the image; None: as many as modalities")
    resolutions: int = Field(default=2, ge=1, description="scales whose image is put out in training")
    residual: bool = Field(default=True, description="whether the observed image is added")
    width_factor: float = Field(
        default=1.0, gt=0.0, description="width of the decoder's scales over `widths`"
    )


class NetworkConfig(BaseModel):
    """Every choice that shapes the network; paper, Figure 1.

    Attributes:
        spatial_dims: 2 for images, 3 for volumes.
        modalities: M, input channels.
        classes: K of the segmentation head, background included; 0 for a network without that head.
        widths: feature channels per encoder scale, finest first; its length is L.
        blocks: residual blocks per encoder scale, after the (strided) entry convolution.
        strides: down-sampling factor from scale l to l+1, the same along every axis (L - 1 of them).
        latent: the Gaussian latent (10), or None for the plain encoder-decoder.
        dropout: Monte-Carlo dropout rate at the bottleneck; whole channels are dropped.
        decoder_dropout: Monte-Carlo dropout rate after each decoder scale but the finest.
        heteroscedastic: predict a per-voxel logit log-variance beside the logit mean (32).
        deep_supervision: number of coarser decoder scales with a training-time head.
        modality_fusion: stems of the modalities and their fusion (5), or None.
        pyramid: fusion of the scales with learned weights (7, 8), or None.
        attention: attention per scale (9), channel weights, local and global path, or None.
        codebook: matching of h to prototypes, or None; needs the latent.
        diffuser: self-attention over the positions of h, or None; needs the latent.
        reliable_path: fusion of the segmentation head's paths, or None.
        classification: classes of whole images (16-18), or None.
        reconstruction: image from the features (20, 21), or None.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    spatial_dims: int = Field(default=3, ge=2, le=3)
    modalities: int = Field(default=1, ge=1)
    classes: int = Field(default=0, ge=0)
    widths: tuple[int, ...] = (32, 64, 128, 160)
    blocks: tuple[int, ...] = (1, 1, 1, 1)
    strides: tuple[int, ...] = (2, 2, 2)
    latent: LatentConfig | None = LatentConfig()
    dropout: float = Field(default=0.2, ge=0.0, lt=1.0)
    decoder_dropout: float = Field(default=0.1, ge=0.0, lt=1.0)
    heteroscedastic: bool = True
    deep_supervision: int = Field(default=2, ge=0)
    modality_fusion: FusionConfig | None = None
    pyramid: PyramidConfig | None = None
    attention: AttentionConfig | None = None
    codebook: CodeBookConfig | None = None
    diffuser: DiffuserConfig | None = None
    reliable_path: ReliablePathConfig | None = None
    classification: ClassificationConfig | None = None
    reconstruction: ReconstructionConfig | None = None

    @model_validator(mode="after")
    def _heads_have_a_task(self) -> NetworkConfig:
        if self.classes == 1:
            raise ValueError(
                "classes: expected 2 or more (background and a structure), or 0 for no segmentation, got 1"
            )
        if not self.classes and self.classification is None and self.reconstruction is None:
            raise ValueError(
                "expected a head (classes for segmentation, classification or reconstruction), got none"
            )
        needing = {
            "reliable_path": self.reliable_path is not None,
            "latent.anatomy": self.latent is not None and self.latent.anatomy,
        }
        for name, wanted in needing.items():
            if wanted and not self.classes:
                raise ValueError(f"{name}: expected a segmentation head for it to act on, got classes 0")
        if self.reliable_path is not None and not (self.deep_supervision or needing["latent.anatomy"]):
            raise ValueError(
                "reliable_path: expected a second path (deep_supervision of 1 or more, or latent.anatomy), "
                "got the head's full path alone"
            )
        head = self.reconstruction
        if head is not None:
            if head.residual and head.channels not in (None, self.modalities):
                raise ValueError(
                    f"reconstruction.channels: expected {self.modalities}, as many as modalities, for a "
                    f"residual of the observed image, got {head.channels}; set residual to false"
                )
            if head.resolutions > len(self.widths) - 1:
                raise ValueError(
                    f"reconstruction.resolutions: at most {len(self.widths) - 1} decoder scales exist, "
                    f"got {head.resolutions}"
                )
        return self

    @model_validator(mode="after")
    def _scales_agree(self) -> NetworkConfig:
        if self.modality_fusion is not None and self.modalities < 2:
            raise ValueError(
                f"modality_fusion: expected at least 2 modalities to fuse, got {self.modalities}"
            )
        for name, block in (("codebook", self.codebook), ("diffuser", self.diffuser)):
            if block is not None and self.latent is None:
                raise ValueError(f"{name}: expected a latent for it to act on, got latent None")
        if self.diffuser and self.latent and self.latent.channels % self.diffuser.heads:
            raise ValueError(
                f"diffuser.heads: expected a divisor of the latent's {self.latent.channels} channels, "
                f"got {self.diffuser.heads}"
            )
        scales = len(self.widths)
        if scales < 2:
            raise ValueError(f"widths: expected at least 2 scales, got {scales}")
        if any(width < 1 for width in self.widths):
            raise ValueError(f"widths: expected positive channel counts, got {list(self.widths)}")
        if len(self.blocks) != scales or any(block < 0 for block in self.blocks):
            raise ValueError(
                f"blocks: expected {scales} counts of at least 0 (one per width), got {list(self.blocks)}"
            )
        if len(self.strides) != scales - 1 or any(stride < 1 for stride in self.strides):
            raise ValueError(
                f"strides: expected {scales - 1} factors of at least 1 (one less than widths), "
                f"got {list(self.strides)}"
            )
        if self.deep_supervision > scales - 2:
            raise ValueError(
                f"deep_supervision: at most {scales - 2} coarser decoder scales exist, "
                f"got {self.deep_supervision}"
            )
        return self

    @property
    def divisor(self) -> int:
        """What every spatial size of the input must be divisible by."""
        return math.prod(self.strides)

    @classmethod
    def parse(cls, data: dict[str, Any]) -> NetworkConfig:
        """Validate a plain dictionary.

        Raises:
            ConfigError: naming each offending field, what it got and what it expects.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError(f"network configuration: {describe_validation_error(error)}") from error


def describe_validation_error(error: ValidationError) -> str:
    """Turn pydantic's report into one sentence, a clause per problem.

    What was got is said for single settings; a section as a whole would fill the screen.
    """
    clauses = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        text = str(problem["msg"]).removeprefix("Value error, ")
        whole = isinstance(problem["input"], Mapping | BaseModel)
        if problem["type"] == "missing":
            clauses.append(f"{where} is missing")
        elif problem["type"] == "value_error" and whole:
            # a check of a section as a whole may name the field that is wrong in it
            names_field = text.split(" ", 1)[0].endswith(":")
            clauses.append(f"{where}{'.' if names_field else ': '}{text}" if where else text)
        elif whole:
            clauses.append(f"{where}: {text}, got a section")
        else:
            clauses.append(f"{where}: {text}, got {problem['input']!r}")
    return "; ".join(clauses)
