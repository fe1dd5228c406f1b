# SPDX-License-Identifier: Apache-2.0
"""Values of the arguments of `python -m training`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import yaml

from DIANetLib.errors import ConfigError

if TYPE_CHECKING:
    from training.config import TrainingConfig


def parse_setting(text: str) -> tuple[str, Any]:
    """Read `optimiser.steps=100`; the value is YAML.

    Raises:
        ConfigError: if it has another form.
    """
    name, equals, value = text.partition("=")
    if not equals or not all(name.split(".")):
        raise ConfigError(f"the setting '{text}' is not of the form section.name=value.")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"the value of the setting '{text}' is no valid YAML.") from error


def configured(options: argparse.Namespace) -> TrainingConfig:
    """The configuration that the arguments `config` and `--set` describe."""
    from training.config import load_config

    return load_config(options.config, dict(parse_setting(text) for text in options.set))


def count(text: str) -> int:
    """A whole number of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected 0 or more, got {value}")
    return value


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {value}")
    return value
