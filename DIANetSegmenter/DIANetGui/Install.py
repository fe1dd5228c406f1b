# SPDX-License-Identifier: Apache-2.0
"""Which packages the worker needs, which of them are there, and how the others get there.

Looked up without importing anything. Nothing is installed unasked; Slicer's own numpy, scipy and SimpleITK
stay as they are. The lower bounds are those of pyproject.toml, which a test compares.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import slicer

from DIANetLib.errors import DependencyError, InputError

from .Translate import tr as _

__all__ = [
    "HELD",
    "PACKAGES",
    "Dependency",
    "dependencies",
    "install",
    "missing",
    "sentence",
]

#: Distributions that the worker needs, with their lower bounds.
PACKAGES: Mapping[str, str] = {
    "torch": "2.8",
    "monai": "1.5.1",
    "SimpleITK": "2.3",
    "numpy": "1.26",
    "scipy": "1.11",
    "safetensors": "0.4.3",
    "pydantic": "2.5",
    "pillow": "10",
}
#: What Slicer brings and other modules rely on; never installed in another version.
HELD = ("numpy", "scipy", "SimpleITK")

_MODULES = {"pillow": "PIL"}
_TITLE = "DIANet"
_LOOK_SECONDS = 30

# Runs in another Python; prints the versions of the distributions that it is given.
_LOOK = """
import importlib.metadata as m, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = m.version(name)
    except m.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Dependency:
    """A package that the worker needs.

    Attributes:
        name: Name of the distribution.
        minimum: Oldest version that works.
        version: The version that is there; None if it is not.
    """

    name: str
    minimum: str
    version: str | None

    @property
    def ok(self) -> bool:
        """Whether it is there and new enough."""
        return self.version is not None and _numbers(self.version) >= _numbers(self.minimum)

    @property
    def requirement(self) -> str:
        """As pip wants it."""
        return f"{self.name}>={self.minimum}"


def dependencies(python: str = "") -> tuple[Dependency, ...]:
    """What the worker needs and what of it is there.

    Args:
        python: The interpreter that the worker runs in, where it is not Slicer's own.

    Raises:
        InputError: That interpreter could not be asked.
    """
    versions = _versionsIn(python) if python else {name: _version(name) for name in PACKAGES}
    return tuple(Dependency(name, minimum, versions.get(name)) for name, minimum in PACKAGES.items())


def missing(found: Sequence[Dependency]) -> tuple[Dependency, ...]:
    """Those that are not there or too old."""
    return tuple(dependency for dependency in found if not dependency.ok)


def sentence(lacking: Sequence[Dependency], python: str = "") -> str:
    """What is missing, and what to do about it; empty if nothing is."""
    if not lacking:
        return ""
    names = ", ".join(f"{d.name} {d.minimum}" for d in lacking)
    if python:
        return _(
            "Packages are missing in the worker's Python, {python}: {names}. Install them there."
        ).format(python=python, names=names)
    return _("Packages that DIANet needs are missing: {names}. Click Install.").format(names=names)


def install(lacking: Sequence[Dependency], folder: Path | None = None) -> bool:
    """Install what is missing into Slicer's Python, after asking.

    Args:
        lacking: What to install.
        folder: Folder of wheels to install from, without network.

    Returns:
        Whether it was done; False if the user said no.

    Raises:
        DependencyError: It could not be installed.
    """
    held = [d.name for d in lacking if d.name in HELD]
    if held:
        raise DependencyError(
            _("This Slicer has {names} too old for DIANet.").format(names=", ".join(held)),
            remedy=_("Install Slicer 5.10 or later."),
        )
    if not lacking:
        return True
    if slicer.app.testingEnabled():  # where questions answer themselves with yes
        return False
    try:
        done = _fromFolder(lacking, folder) if folder is not None else _fromNetwork(lacking)
    except (OSError, RuntimeError, subprocess.SubprocessError, ImportError) as error:
        raise DependencyError(
            _("The packages could not be installed: {reason}.").format(reason=error),
            remedy=_("The Python console says more. Without a network, choose From folder."),
        ) from error
    importlib.invalidate_caches()
    return done


def _fromNetwork(lacking: Sequence[Dependency]) -> bool:
    torch = next((d for d in lacking if d.name == "torch"), None)
    if torch is not None and not _installTorch(torch):
        return False
    others = [d.requirement for d in lacking if d is not torch]
    if not others:
        return True
    if not _agreed(others):
        return False
    with _heldVersions() as constraints:
        if importlib.util.find_spec("slicer.packaging") is not None:  # Slicer 5.12 and later
            from slicer.packaging import pip_ensure

            pip_ensure(others, constraints=constraints, prompt_install=False, requester=_TITLE)
        else:
            slicer.util.pip_install([*others, "--constraint", constraints])
    return True


def _installTorch(torch: Dependency) -> bool:
    """Through the PyTorch extension, which picks the build for this machine's graphics card."""
    if importlib.util.find_spec("PyTorchUtils") is not None:
        import PyTorchUtils

        logic = PyTorchUtils.PyTorchUtilsLogic()
        # The module itself is what it gives, or None where the user said no.
        return (
            logic.installTorch(askConfirmation=True, torchVersionRequirement=f">={torch.minimum}") is not None
        )
    question = _(
        "Slicer's extension PyTorch, which picks the build for this computer's graphics card, is missing."
        " It is the better way: open the Extensions Manager, install PyTorch, and restart Slicer."
        "\n\nInstall PyTorch's standard build with pip instead?"
    )
    if not slicer.util.confirmYesNoDisplay(question, windowTitle=_TITLE):
        return False
    with _heldVersions() as constraints:
        slicer.util.pip_install([torch.requirement, "--constraint", constraints])
    return True


def _fromFolder(lacking: Sequence[Dependency], folder: Path) -> bool:
    if not any(folder.glob("*.whl")):
        raise InputError(
            _("The folder {folder} holds no wheels.").format(folder=folder),
            remedy=_("Fill it on a computer with network: pip download --dest FOLDER {names}").format(
                names=" ".join(f'"{d.requirement}"' for d in lacking)
            ),
        )
    requirements = [d.requirement for d in lacking]
    if not _agreed(requirements):
        return False
    with _heldVersions() as constraints:
        slicer.util.pip_install(
            ["--no-index", "--find-links", str(folder), *requirements, "--constraint", constraints]
        )
    return True


def _agreed(requirements: Sequence[str]) -> bool:
    question = _("DIANet needs packages that will be installed into Slicer's Python:\n\n{names}").format(
        names="\n".join(requirements)
    )
    return slicer.util.confirmOkCancelDisplay(question, windowTitle=_TITLE)


@contextlib.contextmanager
def _heldVersions() -> Iterator[str]:
    """Path of a file of constraints that keep pip from replacing what Slicer brings."""
    handle, path = tempfile.mkstemp(prefix="dianet-constraints-", suffix=".txt", text=True)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            for name in HELD:
                version = _version(name)
                # A version of Slicer's own making ("2.4.0.dev123+g...") is none that pip could compare.
                if version is not None and re.fullmatch(r"\d+(\.\d+)*", version):
                    file.write(f"{name}=={version}\n")
        yield path
    finally:
        os.unlink(path)


def _version(name: str) -> str | None:
    # Both: a distribution may have left its metadata behind, and SimpleITK comes without any in some builds.
    if importlib.util.find_spec(_MODULES.get(name, name)) is None:
        return None
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return PACKAGES[name] if name in HELD else None


def _versionsIn(python: str) -> dict[str, str]:
    # Not with Slicer's own paths, which would show its packages instead.
    environment = slicer.util.startupEnvironment()
    flags = subprocess.CREATE_NO_WINDOW if sys.platform == "win32" else 0
    try:
        answer = subprocess.run(
            [python, "-c", _LOOK, *PACKAGES],
            capture_output=True,
            text=True,
            timeout=_LOOK_SECONDS,
            env=environment,
            creationflags=flags,
            check=True,
        )
        found: dict[str, str] = json.loads(answer.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise InputError(
            _("The Python that was chosen for the worker, {path}, could not be asked: {reason}.").format(
                path=python, reason=error
            )
        ) from error
    return found


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, for comparison: 2.8.0+cu128 is (2, 8, 0)."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(part) for part in found.group().split(".")] if found else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
