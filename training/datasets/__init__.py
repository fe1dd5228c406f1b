# SPDX-License-Identifier: Apache-2.0
"""Data sets: one module a layout, named by `data.format` in the configuration.

A module of a data set has a function `find_cases(folder: Path, config: DataConfig) -> tuple[Case, ...]`, and
where its cases are not simply image files, `read_case(case: Case, config: DataConfig) -> SourceCase`. If it
has settings, they are its class `Options`, which `data.options` fills. `docs/training.md` shows how to write
one.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ValidationError

from DIANetLib.errors import InputError
from DIANetLib.network.config import describe_validation_error
from training.config import DataConfig, TrainingConfig
from training.datasets.base import (
    Case,
    PreparedCase,
    SourceCase,
    labels_on_grid,
    map_labels,
    prepare_case,
    read_files,
)
from training.datasets.decathlon import LAYOUTS
from training.datasets.split import Split, split_cases

__all__ = [
    "LAYOUTS",
    "Case",
    "PreparedCase",
    "SourceCase",
    "Split",
    "check_options",
    "find_cases",
    "known_formats",
    "labels_on_grid",
    "load_case",
    "map_labels",
    "prepare_case",
    "read_case",
    "split_cases",
]

#: Modules here that are no data sets.
_PARTS = {"base", "split"}


def known_formats() -> tuple[str, ...]:
    """What `data.format` can be, sorted."""
    modules = {module.name for module in pkgutil.iter_modules(__path__)} - _PARTS
    return tuple(sorted(name.replace("_", "-") for name in modules))


def check_options(format_name: str, options: Mapping[str, Any]) -> None:
    """Raise unless a data set takes these settings.

    Raises:
        ValueError: it names those that it takes.
    """
    kind: type[BaseModel] | None = getattr(_module(format_name), "Options", None)
    unknown = sorted(set(options) - set(kind.model_fields if kind else ()))
    if unknown:
        known = ", ".join(sorted(kind.model_fields)) if kind else "none"
        raise ValueError(
            f"options: expected settings of the format {format_name} ({known}), got {', '.join(unknown)}"
        )
    if kind is not None:
        try:
            kind.model_validate(options)
        except ValidationError as error:
            raise ValueError(f"options.{describe_validation_error(error)}") from error


def find_cases(folder: str | Path, config: DataConfig | None = None) -> tuple[Case, ...]:
    """List the cases of a data set, sorted by name.

    Args:
        folder: where the data set lies.
        config: format, modalities and structures; None reads images/ and labels/ of one modality.

    Raises:
        InputError: if the folder is not laid out as the format says, or holds no case.
    """
    module = _module("decathlon" if config is None else config.format)
    cases: tuple[Case, ...] = module.find_cases(Path(folder), config)
    names = [case.name for case in cases]
    if not names:
        raise InputError(f"{folder} holds no case of the format {module.__name__.rpartition('.')[2]}.")
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise InputError(f"{folder} holds several cases of the same name: {', '.join(twice[:3])}.")
    return tuple(sorted(cases, key=lambda case: case.name))


def read_case(case: Case, config: DataConfig) -> SourceCase:
    """Read a case, its label values mapped to class numbers.

    Raises:
        InputError: if a file cannot be read, or labels and image lie on different grids.
    """
    read = getattr(_module(config.format), "read_case", read_files)
    source: SourceCase = read(case, config)
    return source


def load_case(case: Case, config: TrainingConfig) -> PreparedCase:
    """Read and preprocess a case exactly as inference does."""
    return prepare_case(read_case(case, config.data), config)


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
