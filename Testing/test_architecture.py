# SPDX-License-Identifier: Apache-2.0
"""Who may import whom, as it really happens in a fresh process.

The same rules are written for import-linter in pyproject.toml. That reads the code; this runs it, and so also
sees what a package's `__init__` pulls in and modules that cannot be imported first because of a cycle.
"""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import DIANetLib
import training

ROOT = Path(__file__).resolve().parent.parent

# What Slicer's own process may import, and what has to answer quickly.
LIGHT_MODULES = [
    "DIANetLib",
    "DIANetLib.errors",
    "DIANetLib.volume",
    "DIANetLib.structures",
    "DIANetLib.formats.image",
    "DIANetLib.formats.dicom",
    "DIANetLib.formats.segmentation",
    "DIANetLib.acwi.quality",
    "DIANetLib.acwi.corrections",
    "DIANetLib.acwi.regions",
    "DIANetLib.acwi.review",
    "DIANetLib.acwi.worklist",
    "DIANetLib.bundle",
    "DIANetLib.cli",
]
# What a client of the worker needs, before anything is installed.
STANDARD_LIBRARY_MODULES = [
    "DIANetLib.catalogue",
    "DIANetLib.modalities",
    "DIANetLib.worker.codec",
    "DIANetLib.worker.connection",
    "DIANetLib.worker.processes",
    "DIANetLib.worker.protocol",
]
NUMPY_MODULES = ["DIANetLib.worker.client", "DIANetLib.worker.exchange"]
HEAVY = {"torch", "monai", "nilearn", "matplotlib", "tensorboard"}
SLICER = {"slicer", "qt", "ctk", "vtk", "mrml"}


def modules_of(package) -> list[str]:
    found = pkgutil.walk_packages(package.__path__, package.__name__ + ".")
    return [package.__name__, *(module.name for module in found if not module.name.endswith("__main__"))]


def run_python(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def top_level_imports_of(modules: list[str]) -> set[str]:
    imports = "\n".join(f"import {name}" for name in modules)
    output = run_python(f"import sys\n{imports}\nprint(*{{name.partition('.')[0] for name in sys.modules}})")
    return set(output.split())


@pytest.mark.parametrize("module", LIGHT_MODULES)
def test_a_light_module_loads_no_deep_learning_library(module):
    assert not top_level_imports_of([module]) & HEAVY


def third_party(names: set[str]) -> set[str]:
    own = {"DIANetLib", "__main__", "sitecustomize"}
    return {name for name in names if not name.startswith("_") and name not in sys.stdlib_module_names | own}


@pytest.mark.parametrize("module", STANDARD_LIBRARY_MODULES)
def test_a_module_for_clients_needs_nothing_but_python(module):
    # What the interpreter's start-up has loaded (hooks of editable installations) is not the module's doing.
    assert third_party(top_level_imports_of([module]) - top_level_imports_of([])) == set()


@pytest.mark.parametrize("module", NUMPY_MODULES)
def test_a_module_for_clients_needs_nothing_but_python_and_numpy(module):
    assert third_party(top_level_imports_of([module]) - top_level_imports_of([])) <= {"numpy"}


@pytest.fixture(scope="module")
def report_of_every_module() -> str:
    """A line for each module that fails as the first one imported, or that loads what it must not."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    # The heavy libraries are loaded once; each module then gets a copy of that process to itself.
    return run_python(f"""
import os, sys, traceback
import monai, SimpleITK, torch
for name in {modules_of(DIANetLib) + modules_of(training)}:
    child = os.fork()
    if child == 0:
        try:
            __import__(name)
            loaded = {{module.partition(".")[0] for module in sys.modules}}
            wrong = loaded & ({SLICER} if name.startswith("training") else {SLICER | {"training"}})
            for module in wrong:
                print(name, "loads", module, flush=True)
        except BaseException:
            print(name, "fails:", traceback.format_exc(), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
""")


def test_every_module_can_be_the_first_one_imported(report_of_every_module):
    assert "fails:" not in report_of_every_module


def test_no_module_loads_slicer_and_none_of_the_library_loads_training(report_of_every_module):
    assert " loads " not in report_of_every_module
