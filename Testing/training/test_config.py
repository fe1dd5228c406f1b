# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from DIANetLib.errors import ConfigError
from Testing.training.tiny import config, write_config
from training.__main__ import parse_setting
from training.config import load_config
from training.licences import LICENCES

AXES = r"augment.mirror_axes: expected axes of \(k, j, i\) out of \[1, 2\] .* got 0"
ADVERSARIAL = {"adversarial": {"weight": 0.1}}
THREE_SCALES = {"network__widths": [6, 8, 8], "network__blocks": [0, 0, 0], "network__strides": [2, 1]}
WITHOUT_LATENT = {"network__latent": None}
RECONSTRUCTS = {"network__reconstruction": {"resolutions": 1}}
CONFIGS = Path(__file__).resolve().parents[2] / "training" / "configs"


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_configurations_are_valid_and_carry_the_name_of_their_file(file: Path):
    loaded = load_config(file)

    assert loaded.name == file.stem
    assert loaded.licence in LICENCES
    assert loaded.about.data
    assert loaded.about.attribution
    values = [value for structure in loaded.data.structures for value in structure.source_values]
    assert len(values) == len(set(values)), "a label value belongs to two structures"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"network__classes": 4}, r"network.classes: expected 3 \(2 structures and background\), got 4"),
        ({"network__modalities": 2}, "network.modalities: expected 1"),
        ({"patch": [16, 15, 12]}, r"patch: every side must be divisible by 2, got \[16, 15, 12\]"),
        (
            {"network__spatial_dims": 2},
            r"patch: expected \[i, j, 1\] for a network of two dim.* \[16, 16, 12\]",
        ),
        ({"network__spatial_dims": 2, "patch": [16, 16, 1], "augment": {"mirror_axes": [0]}}, AXES),
        (
            {"augment": {"mirror_axes": [1]}, "mirror_samples": True},
            r"mirror_samples: expected a fit that saw images mirrored .* got \[1\]",
        ),
        (
            {"preprocess": {"orientation": "source"}, "mirror_samples": True},
            "mirror_samples: expected images whose axes are known",
        ),
        ({"network__widths": [6]}, r"config.*c.yaml: network.widths: expected at least 2 scales, got 1$"),
        (
            {"network__classification": {"classes": 2}},
            "network.classification.classes: expected 0 as in data.tar",
        ),
        (
            {"network__reconstruction": {"resolutions": 1}, "network__modalities": 1},
            "tasks.reconstruction: expected one beside",
        ),
        (
            {"tasks": {"reconstruction": {}}},
            "network.reconstruction: expected one beside tasks.reconstruction",
        ),
        (
            {"tasks": {"reconstruction": {"sigma": [0.3, 0.1]}}},
            r"tasks.reconstruction.sigma: .* \[0.3, 0.1\]",
        ),
        ({"tasks": {"reconstruction": {"accelerations": [20]}}}, "centre_fraction: expected at most 1/20"),
        (
            {**RECONSTRUCTS, "tasks": {"reconstruction": {"complex": True}}},
            "modalities: expected 2 .the parts of",
        ),
        ({"objective": {"domain_l2": 1}}, "objective.domain_l2: expected network.latent.anatomy"),
        ({"objective": {"anatomy": 1}}, "objective.anatomy: expected network.latent.anatomy"),
        ({"objective": {"total_correlation": 1}}, "objective.total_correlation: .*rank above 0.*got rank 0"),
        ({**WITHOUT_LATENT, "objective": ADVERSARIAL}, "objective.adversarial: expected a network.latent"),
        (
            {"objective": {"cut": {"weight": 1, "structures": ["front", "top"]}}},
            "out of front, back, got top",
        ),
        (
            {"objective": {"cut": {"weight": 1, "structures": ["front"]}}},
            "objective.cut.structures.1 is missing",
        ),
        (
            {"data__regions": [{"key": "all", "name": "All", "structures": ["top"]}]},
            r"\(all\): expected struc",
        ),
        ({"data__format": "nifty"}, "data.format: expected one of .*decathlon.*, got 'nifty'"),
        ({"baseline": "resnet18"}, "baseline: resnet18 takes classification alone, got segmentation"),
        (
            {"baseline": "unet", **THREE_SCALES, "objective": ADVERSARIAL},
            "baseline: expected no term of the objective beside",
        ),
        ({"baseline": "unet"}, "baseline: unet takes 3 network.widths or more, got 2"),
        ({"baseline": "vnet"}, "baseline: .*'unet' or 'resnet18', got 'vnet'"),
        ({"optimiser__steps": 0}, "optimiser.steps: .*greater than or equal to 1, got 0"),
        ({"optimiser__speed": 3}, "optimiser.speed: .*not permitted"),
        ({"optimiser__schedule": "linear"}, "optimiser.schedule: .*'cosine' or 'poly'"),
        ({"data__folds": 1}, "data.folds"),
    ],
)
def test_a_wrong_configuration_is_told_in_a_sentence(tmp_path: Path, changes: dict[str, Any], sentence: str):
    with pytest.raises(ConfigError, match=sentence):
        load_config(write_config(tmp_path / "c.yaml", **changes))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [1", "no valid YAML"),
        ("- 1\n", "expected a mapping of names to values, got list"),
        ("", "NoneType"),
    ],
)
def test_a_file_that_is_no_configuration_is_told_in_a_sentence(tmp_path: Path, text: str, sentence: str):
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")

    with pytest.raises(ConfigError, match=sentence):
        load_config(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_config(tmp_path / "none.yaml")


def test_settings_of_the_command_line_replace_those_of_the_file(tmp_path: Path):
    file = write_config(tmp_path / "c.yaml")

    loaded = load_config(file, dict([parse_setting("optimiser.steps=7"), parse_setting("patch=[8, 8, 8]")]))

    assert (loaded.optimiser.steps, loaded.patch) == (7, (8, 8, 8))
    with pytest.raises(ConfigError, match="name is 'two-balls', which has no parts"):
        load_config(file, {"name.first": 1})


@pytest.mark.parametrize("text", ["steps", "=3", "optimiser.=3"])
def test_a_setting_of_another_form_is_refused(text: str):
    with pytest.raises(ConfigError, match=r"not of the form section\.name=value"):
        parse_setting(text)


def test_words_do_not_make_another_fit_but_numbers_do():
    first = config()
    renamed = config(description="Other words.", licence="CC-BY-4.0", data__modalities=[{"name": "MR"}])

    assert renamed.signature() == first.signature()
    assert config(augment__noise=0.5).signature() != first.signature()
    assert config(seed=2).signature() != first.signature()
