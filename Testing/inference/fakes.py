# SPDX-License-Identifier: Apache-2.0
"""Models with random weights and networks that do what a test needs, without any model folder."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from DIANetLib.acwi.error_calibration import ErrorCalibration
from DIANetLib.acwi.quality import QualityModel
from DIANetLib.bundle_schema import LocaliserSpec, ModalitySpec, OnePassSpec
from DIANetLib.inference.engine import FamiliarityJudge
from DIANetLib.inference.prediction import ModelRef
from DIANetLib.network import DIANet, DIANetOutput, LatentConfig, NetworkConfig, SegmentationOutput
from DIANetLib.network.one_pass import OnePassHead
from DIANetLib.preprocess import PreprocessConfig
from DIANetLib.structures import ANATOMICAL_STRUCTURE, Code, Structure
from DIANetLib.volume import Geometry, Volume

RAS = np.diag([-1.0, -1.0, 1.0])


def tiny_config(**changes) -> NetworkConfig:
    fields = {
        "classes": 3,
        "widths": (4, 6),
        "blocks": (0, 0),
        "strides": (2,),
        "latent": LatentConfig(channels=2),
        "dropout": 0.3,
        "deep_supervision": 0,
    }
    return NetworkConfig(**{**fields, **changes})


def tiny_network(config: NetworkConfig | None = None, seed: int = 0) -> DIANet:
    """Random weights everywhere, so that the latent, dropout and log-variance all matter."""
    torch.manual_seed(seed)
    network = DIANet(config or tiny_config())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return network.eval()


def structures(*keys: str) -> tuple[Structure, ...]:
    kind = Code("SCT", "5366008", "Hippocampal structure")
    return tuple(
        Structure(n, key, key.capitalize(), (200, 40 * n % 256, 10), ANATOMICAL_STRUCTURE, kind)
        for n, key in enumerate(keys, start=1)
    )


@dataclass
class FakeModel:
    net: nn.Module = field(default_factory=tiny_network)
    name: str = "tiny"
    structures: tuple[Structure, ...] = field(default_factory=lambda: structures("head", "tail"))
    modalities: tuple[ModalitySpec, ...] = (ModalitySpec(name="T1", aliases=("T1w",)),)
    window: tuple[int, int, int] = (16, 16, 16)
    temperature: float = 1.0
    mirror_samples: bool = False
    localiser: LocaliserSpec | None = None
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    localiser_model: FakeModel | None = None
    quality: QualityModel | None = None
    error_calibration: ErrorCalibration | None = None
    one_pass: OnePassSpec | None = None
    head: OnePassHead | None = None
    familiarity: FamiliarityJudge | None = None

    @property
    def ref(self) -> ModelRef:
        return ModelRef(self.name, "1.0.0", "0" * 64)

    def network(self, device="cpu"):
        return self.net

    def one_pass_head(self, device="cpu"):
        return self.head

    def load_localiser(self):
        return self.localiser_model


class ThresholdNetwork(nn.Module):
    """Says class 1 where the first channel is above a threshold; counts its passes and the largest batch."""

    def __init__(self, threshold: float = 1.0, config: NetworkConfig | None = None) -> None:
        super().__init__()
        self.config = config or tiny_config(classes=2, heteroscedastic=False)
        self.threshold = threshold
        self.layer = nn.Identity()
        self.encoded = self.decoded = self.rows = 0

    @property
    def divisor(self) -> tuple[int, ...]:
        return (self.config.divisor,) * self.config.spatial_dims

    def encode(self, x: Tensor, available: Tensor | None = None, heads=None) -> Tensor:
        self.encoded += 1
        return self.layer(x)

    def decode(self, encoded: Tensor, generators=None, heads=None) -> DIANetOutput:
        rows = len(generators) if generators is not None else 1
        self.decoded += rows
        self.rows = max(self.rows, rows)
        evidence = 8 * (encoded[:, 0] - self.threshold)
        others = [torch.full_like(evidence, -30.0)] * (self.config.classes - 2)
        logits = torch.stack([-evidence, evidence, *others], dim=1).repeat_interleave(rows, 0)
        return DIANetOutput(SegmentationOutput(logits))


def volume(shape=(20, 22, 24), *, spacing=(1.0, 1.0, 1.0), direction=RAS, seed=0, **fields) -> Volume:
    """Smooth noise (k, j, i)."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=[-(-n // 4) for n in shape])
    array = np.kron(coarse, np.ones((4, 4, 4)))[tuple(slice(n) for n in shape)] + 0.2 * rng.normal(size=shape)
    geometry = Geometry(shape[::-1], spacing, (5.0, -7.0, 9.0), direction)
    return Volume(array.astype(np.float32), geometry, **{"name": "image", **fields})
