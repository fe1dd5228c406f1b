# SPDX-License-Identifier: Apache-2.0
"""Errors that a person can act on: what went wrong, what was met, what was expected, what to do.

Everything that DIANet raises on purpose derives from `DIANetError`. Its `kind` is a stable word for programs,
its text is a sentence for people.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import ClassVar


class DIANetError(Exception):
    """An error with a sentence for the user and, where there is one, the way out.

    Args:
        message: What went wrong, what was met and what was expected, as a sentence.
        remedy: What the user can do about it, as a sentence.
    """

    kind: ClassVar[str] = "error"

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return self.message if self.remedy is None else f"{self.message} {self.remedy}"


class InputError(DIANetError):
    """What the user handed in (an image, an option, a value) cannot be used."""

    kind = "input"


class ConfigError(DIANetError):
    """A configuration is inconsistent or has values out of range."""

    kind = "config"


class BundleError(DIANetError):
    """A model folder is missing, incomplete, tampered with, or made for something else."""

    kind = "bundle"


class DeviceError(DIANetError):
    """The device asked for does not exist or cannot do the work."""

    kind = "device"


class OutputError(DIANetError):
    """A result could not be written."""

    kind = "output"


class DependencyError(DIANetError):
    """An optional package that a feature needs is not installed."""

    kind = "dependency"


class WorkerError(DIANetError):
    """The worker process died or broke its protocol."""

    kind = "worker"


class Cancelled(DIANetError):  # noqa: N818 (an outcome the user asked for, not a fault)
    """The user asked to stop; nothing was written."""

    kind = "cancelled"

    def __init__(self, message: str = "The run was cancelled.", *, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)


def optional_import(module: str, *, feature: str, extra: str, version: str) -> ModuleType:
    """Import a package that only some features need.

    Args:
        module: Name to import, such as `"slicerio"` or `"matplotlib.pyplot"`.
        feature: What the user asked for, as a noun phrase: `"the browser viewer"`.
        extra: The extra of the distribution `dianet` that brings the package.
        version: The versions that work, such as `">=1.1"`.

    Returns:
        The imported module.

    Raises:
        DependencyError: The package is not installed. Where it is there but lacks a dependency of its own,
            that dependency is named.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or module).split(".")[0]
        wanted = f"{package} {version}" if package == module.split(".")[0] else package
        raise DependencyError(
            f"Missing package for {feature}: {wanted} is not installed.",
            remedy=f'Install it with: pip install "dianet[{extra}]"',
        ) from error
