# SPDX-License-Identifier: Apache-2.0
"""Model folders with random weights, small enough for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from DIANetLib.bundle import make_metadata, save_bundle
from DIANetLib.bundle_schema import BundleMetadata, DianetSection, LocaliserSpec, ModalitySpec
from DIANetLib.network import DIANet, NetworkConfig
from DIANetLib.structures import ANATOMICAL_STRUCTURE, Code, Structure

CONFIG = NetworkConfig(classes=3, widths=(4, 6), blocks=(0, 0), strides=(2,), deep_supervision=0)


def structures(*keys: str) -> tuple[Structure, ...]:
    kind = Code("SCT", "5366008", "Hippocampal structure")
    return tuple(
        Structure(i + 1, key, key.capitalize(), (200, 40 * i, 10), ANATOMICAL_STRUCTURE, kind)
        for i, key in enumerate(keys)
    )


def section(name: str = "tiny", **changes: Any) -> DianetSection:
    fields: dict[str, Any] = {
        "name": name,
        "network": CONFIG.model_dump(mode="json"),
        "preprocess": {"spacing_mm": (1.0, 1.0, 1.0)},
        "window": (8, 12, 10),
        "structures": structures("head", "tail"),
        "modalities": (ModalitySpec(name="T1", aliases=("T1w",)),),
        "temperature": 1.5,
    }
    return DianetSection(**{**fields, **changes})


def metadata(part: DianetSection) -> BundleMetadata:
    return make_metadata(part, version="1.0.0", task="Test", description="A network with random weights.")


def network(seed: int = 0, config: NetworkConfig = CONFIG) -> DIANet:
    torch.manual_seed(seed)
    return DIANet(config).eval()


def write_bundle(folder: Path, name: str = "tiny", *, seed: int = 0, **changes: Any) -> Path:
    part = section(name, **changes)
    state = network(seed, NetworkConfig(**part.network)).state_dict()
    return save_bundle(folder / name, metadata(part), state, card="# Tiny\n", licence="Apache-2.0\n")


def localiser(model: str = "where") -> LocaliserSpec:
    return LocaliserSpec(model=model, structures=("head",), instances="left-right")
