# SPDX-License-Identifier: Apache-2.0
"""What the worker needs is found without importing it, and installed without touching what Slicer brings."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

pytest.importorskip("slicer_core", reason="needs slicer-core")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def slicerApp(monkeypatch, environment, tmp_path):
    from Testing.module.fakes.application import Application

    return Application(monkeypatch, environment, tmp_path)


@pytest.fixture
def install(slicerApp, monkeypatch):
    return slicerApp.importGui("Install")


@pytest.fixture
def pip(slicerApp, monkeypatch):
    """Arguments of each call of pip, with the text of its constraints."""
    import slicer

    calls = []

    def record(arguments):
        path = arguments[arguments.index("--constraint") + 1]
        calls.append((arguments, Path(path).read_text(encoding="utf-8"), path))

    monkeypatch.setattr(slicer.util, "pip_install", record)
    return calls


def lacking(install, *names):
    return [install.Dependency(name, install.PACKAGES[name], None) for name in names]


def test_the_lower_bounds_are_those_of_the_project(install):
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = dict(re.findall(r'"([\w-]+)>=([\d.]+)"', project.partition("dependencies = [")[2]))

    assert {name: listed[name] for name in install.PACKAGES} == dict(install.PACKAGES)


def test_looking_imports_nothing():
    code = (
        "import sys, types\n"
        "slicer = types.ModuleType('slicer'); slicer.util = types.ModuleType('slicer.util')\n"
        "sys.modules.update({'slicer': slicer, 'slicer.util': slicer.util})\n"
        "from DIANetGui import Install\n"
        "found = Install.dependencies()\n"
        "print(sorted({'torch', 'monai', 'pydantic', 'scipy'} & set(sys.modules)), len(found))\n"
    )
    environment = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "DIANetSegmenter"))), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)

    assert done.stdout.strip() == "[] 8", done.stderr


@pytest.mark.parametrize(
    ("version", "ok"),
    [("2.8.0", True), ("2.8", True), ("2.10.1+cu128", True), ("2.7.9", False), ("3", True), (None, False)],
)
def test_versions_are_compared_as_numbers(install, version, ok):
    assert install.Dependency("torch", "2.8", version).ok is ok


def test_another_python_is_asked_itself(install):
    found = {d.name: d.version for d in install.dependencies(sys.executable)}

    assert found["numpy"] is not None
    assert set(found) == set(install.PACKAGES)


def test_a_python_that_cannot_be_asked_is_told_as_a_sentence(install):
    from DIANetLib.errors import InputError

    with pytest.raises(InputError, match="/no/such/python"):
        install.dependencies("/no/such/python")


def test_what_slicer_brings_is_held_by_constraints_that_are_gone_afterwards(install, pip, monkeypatch):
    versions = {"numpy": "2.1.0", "scipy": "1.14.0", "SimpleITK": "2.4.0.dev12+gabc"}
    monkeypatch.setattr(install, "_version", versions.get)

    assert install.install(lacking(install, "monai", "pydantic"))

    (arguments, constraints, path) = pip[0]
    assert arguments[:2] == ["monai>=1.5.1", "pydantic>=2.5"]
    assert constraints.splitlines() == ["numpy==2.1.0", "scipy==1.14.0"]
    assert not Path(path).exists()


def test_torch_goes_through_the_pytorch_extension(install, pip, monkeypatch):
    asked = []

    class PyTorchUtilsLogic:
        def installTorch(self, **options):
            asked.append(options)
            return object()

    extension = types.ModuleType("PyTorchUtils")
    extension.PyTorchUtilsLogic = PyTorchUtilsLogic
    extension.__spec__ = ModuleSpec("PyTorchUtils", None)
    monkeypatch.setitem(sys.modules, "PyTorchUtils", extension)

    assert install.install(lacking(install, "torch"))
    assert asked == [{"askConfirmation": True, "torchVersionRequirement": ">=2.8"}]
    assert pip == []


def test_without_the_extension_the_user_hears_of_it_before_pip_is_used(install, pip, slicerApp):
    slicerApp.answer = False
    assert not install.install(lacking(install, "torch"))
    assert "Extensions Manager" in slicerApp.messages[0]
    assert pip == []

    slicerApp.answer = True
    assert install.install(lacking(install, "torch"))
    assert pip[0][0][0] == "torch>=2.8"


def test_newer_slicers_install_through_pip_ensure(install, pip, monkeypatch):
    calls = []
    packaging = types.ModuleType("slicer.packaging")
    packaging.pip_ensure = lambda names, **options: calls.append((names, options))
    packaging.__spec__ = ModuleSpec("slicer.packaging", None)
    monkeypatch.setitem(sys.modules, "slicer.packaging", packaging)

    assert install.install(lacking(install, "monai"))
    ((names, options),) = calls
    assert names == ["monai>=1.5.1"]
    assert options["prompt_install"] is False  # it was asked already
    assert pip == []


def test_a_folder_of_wheels_is_used_without_network(install, pip, tmp_path):
    (tmp_path / "monai-1.5.1-py3-none-any.whl").touch()
    assert install.install(lacking(install, "torch", "monai"), tmp_path)

    arguments = pip[0][0]
    assert arguments[:3] == ["--no-index", "--find-links", str(tmp_path)]
    assert {"torch>=2.8", "monai>=1.5.1"} <= set(arguments)


def test_a_folder_without_wheels_says_how_to_fill_it(install, tmp_path):
    from DIANetLib.errors import InputError

    with pytest.raises(InputError, match="pip download"):
        install.install(lacking(install, "monai"), tmp_path)


def test_a_failed_installation_is_told_as_a_sentence(install, monkeypatch):
    import slicer

    from DIANetLib.errors import DependencyError

    def fail(arguments):
        raise subprocess.CalledProcessError(1, "pip")

    monkeypatch.setattr(slicer.util, "pip_install", fail)
    with pytest.raises(DependencyError, match="could not be installed"):
        install.install(lacking(install, "monai"))


def test_a_slicer_that_is_too_old_is_not_repaired(install, pip):
    from DIANetLib.errors import DependencyError

    with pytest.raises(DependencyError, match="numpy too old"):
        install.install(lacking(install, "numpy", "monai"))
    assert pip == []


def test_nothing_is_installed_in_a_test_run(install, pip, slicerApp):
    slicerApp.testing = True

    assert not install.install(lacking(install, "monai"))
    assert pip == []


class TestChoosingThePython:
    @pytest.fixture
    def client(self, slicerApp, monkeypatch):
        module = slicerApp.importGui("WorkerClient")
        monkeypatch.delenv(module.PYTHON_VARIABLE, raising=False)
        monkeypatch.setenv("PATH", str(slicerApp.home / "elsewhere"))
        return module

    def program(self, path: Path) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
        return str(path)

    def test_it_is_slicers_own_unless_another_is_named(self, client, slicerApp, monkeypatch):
        real = self.program(slicerApp.home / "bin" / "python-real")
        assert client.workerPython() == real
        launcher = self.program(slicerApp.home / "bin" / "PythonSlicer")
        assert client.workerPython() == launcher

        chosen = self.program(slicerApp.home / "chosen")
        slicerApp.settings[client.PYTHON_SETTING] = chosen
        assert client.workerPython() == chosen
        other = self.program(slicerApp.home / "other")
        monkeypatch.setenv(client.PYTHON_VARIABLE, other)
        assert client.workerPython() == other

    def test_one_that_is_no_program_is_told_with_where_it_was_named(self, client, monkeypatch):
        from DIANetLib.errors import WorkerError

        monkeypatch.setenv(client.PYTHON_VARIABLE, "/no/such/python")
        with pytest.raises(WorkerError, match=r"/no/such/python.*DIANET_PYTHON"):
            client.workerPython()

    def test_none_at_all_is_told_with_what_to_do(self, client):
        from DIANetLib.errors import WorkerError

        with pytest.raises(WorkerError, match="DIANET_PYTHON"):
            client.workerPython()
