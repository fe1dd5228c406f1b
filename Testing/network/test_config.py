# SPDX-License-Identifier: Apache-2.0
"""The network's description: what it accepts, and the sentence for what it doesn't."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from DIANetLib.errors import ConfigError
from DIANetLib.network import DIANet, LatentConfig, NetworkConfig
from Testing.network.tiny import config

SHIPPED = Path(__file__).parents[2] / "training" / "configs"
SMALL: dict[str, Any] = {
    "classes": 3,
    "widths": [4, 6, 8],
    "blocks": [1, 1, 1],
    "strides": [2, 2],
    "deep_supervision": 1,
}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"spatial_dims": 4}, "spatial_dims: .* less than or equal to 3, got 4"),
        ({"spatial_dims": 1}, "spatial_dims: .* greater than or equal to 2, got 1"),
        ({"modalities": 0}, "modalities: .* greater than or equal to 1, got 0"),
        ({"classes": 1}, r"classes: expected 2 or more .background and a structure., or 0 .*, got 1"),
        ({"classes": -2}, "classes: .* greater than or equal to 0, got -2"),
        ({"classes": 0}, r"expected a head .classes for segmentation, .* or reconstruction., got none"),
        ({"classification": {}}, "classification.classes is missing"),
        ({"classification": {"classes": 1}}, "classification.classes: .* or equal to 2, got 1"),
        ({"classification": {"classes": 3, "dropout": 1}}, "classification.dropout: .* less than 1, got 1"),
        ({"latent": {"rank": -1}}, "latent.rank: .* greater than or equal to 0, got -1"),
        (
            {"classes": 0, "classification": {"classes": 2}, "latent": {"anatomy": True}},
            "latent.anatomy: expected a segmentation head for it to act on, got classes 0",
        ),
        (
            {"classes": 0, "classification": {"classes": 2}, "reliable_path": {}},
            "reliable_path: expected a segmentation head for it to act on, got classes 0",
        ),
        (
            {"reliable_path": {}, "deep_supervision": 0},
            "reliable_path: expected a second path .*, got the head's full path alone",
        ),
        ({"reliable_path": {"sharpness": 0}}, "reliable_path.sharpness: .* greater than 0, got 0"),
        (
            {"modalities": 2, "reconstruction": {"channels": 1}},
            "reconstruction.channels: expected 2, as many as modalities, .* got 1; set residual to false",
        ),
        (
            {"reconstruction": {"resolutions": 3}},
            "reconstruction.resolutions: at most 2 decoder scales exist, got 3",
        ),
        ({"reconstruction": {"width_factor": -1}}, "reconstruction.width_factor: .* than 0, got -1"),
        ({"classes": "many"}, "classes: .* valid integer.*, got 'many'"),
        ({"widths": [4]}, "widths: expected at least 2 scales, got 1"),
        ({"widths": [4, 0, 8]}, r"widths: expected positive channel counts, got \[4, 0, 8\]"),
        ({"blocks": [1, 1]}, r"blocks: expected 3 counts of at least 0 .one per width., got \[1, 1\]"),
        ({"blocks": [1, -1, 1]}, r"blocks: expected 3 counts of at least 0 .*, got \[1, -1, 1\]"),
        ({"strides": [2]}, r"strides: expected 2 factors of at least 1 .one less than widths., got \[2\]"),
        ({"strides": [2, 0]}, r"strides: expected 2 factors of at least 1 .*, got \[2, 0\]"),
        ({"latent": {"channels": 0}}, "latent.channels: .* greater than or equal to 1, got 0"),
        ({"latent": {"size": 3}}, "latent.size: Extra inputs are not permitted, got 3"),
        ({"dropout": 1.0}, "dropout: .* less than 1, got 1.0"),
        ({"dropout": -0.1}, "dropout: .* greater than or equal to 0, got -0.1"),
        ({"decoder_dropout": 1.5}, "decoder_dropout: .* less than 1, got 1.5"),
        ({"heteroscedastic": "perhaps"}, "heteroscedastic: .* valid boolean.*, got 'perhaps'"),
        ({"deep_supervision": 2}, "deep_supervision: at most 1 coarser decoder scales exist, got 2"),
        ({"deep_supervision": -1}, "deep_supervision: .* greater than or equal to 0, got -1"),
        (
            {"latent": None, "codebook": {}},
            "codebook: expected a latent for it to act on, got latent None",
        ),
        (
            {"latent": None, "diffuser": {}},
            "diffuser: expected a latent for it to act on, got latent None",
        ),
        (
            {"latent": {"channels": 6}, "diffuser": {}},
            "diffuser.heads: expected a divisor of the latent's 6 channels, got 4",
        ),
        ({"codebook": {"codes": 1}}, "codebook.codes: .* greater than or equal to 2, got 1"),
        ({"codebook": {"temperature": 0}}, "codebook.temperature: .* greater than 0, got 0"),
        ({"codebook": {"revive_below": 1.0}}, "codebook.revive_below: .* less than 1, got 1.0"),
        ({"diffuser": {"layers": 0}}, "diffuser.layers: .* greater than or equal to 1, got 0"),
        ({"diffuser": {"depth": 2}}, "diffuser.depth: Extra inputs are not permitted, got 2"),
        ({"pyramid": {"channels": 0}}, "pyramid.channels: .* greater than or equal to 1, got 0"),
        ({"pyramid": {"width": 3}}, "pyramid.width: Extra inputs are not permitted, got 3"),
        ({"attention": {"grid": 9}}, "attention.grid: .* less than or equal to 8, got 9"),
        ({"attention": {"heads": 0}}, "attention.heads: .* greater than or equal to 1, got 0"),
        (
            {"attention": {"channels": 6, "heads": 4}},
            "attention: expected channels divisible by heads, got 6 channels and 4 heads",
        ),
        ({"width": [4]}, r"width: Extra inputs are not permitted, got \[4\]"),
    ],
)
def test_each_bad_field_is_named(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"^network configuration: {sentence}$"):
        NetworkConfig.parse({**SMALL, **changes})


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^network configuration: classification.classes is missing$"):
        NetworkConfig.parse({"classification": {}})


def test_every_problem_is_named_in_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"spatial_dims: .*; modalities: .*, got 0$"):
        NetworkConfig.parse({**SMALL, "spatial_dims": 4, "modalities": 0})


@pytest.mark.parametrize("latent", [True, False])
def test_a_description_survives_json(latent: bool) -> None:
    setup = config(2, latent=latent, modalities=2, heteroscedastic=False)
    assert NetworkConfig.parse(json.loads(setup.model_dump_json())) == setup


def test_equal_descriptions_build_equal_state_dictionaries() -> None:
    shapes = [{n: w.shape for n, w in DIANet(config()).state_dict().items()} for _ in range(2)]
    assert shapes[0] == shapes[1]


def test_the_divisor_is_the_product_of_the_strides() -> None:
    assert NetworkConfig.parse({**SMALL, "strides": [2, 3]}).divisor == 6


def test_a_description_cannot_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        config().classes = 5  # type: ignore[misc]
    assert LatentConfig() == LatentConfig(channels=32)


@pytest.mark.parametrize(
    ("name", "parameters", "divisor"), [("hippocampus", 2_576_668, 8), ("brain-structures", 4_831_557, 16)]
)
def test_the_shipped_networks_have_the_parameters_that_their_pages_name(
    name: str, parameters: int, divisor: int
) -> None:
    fit = yaml.safe_load((SHIPPED / f"{name}.yaml").read_text(encoding="utf-8"))
    setup = NetworkConfig.parse(fit["network"])
    assert setup.classes == 1 + len(fit["data"]["structures"])
    assert all(size % setup.divisor == 0 for size in (*fit["patch"], *fit["window"]))
    assert setup.divisor == divisor
    assert DIANet(setup).parameter_count() == parameters
