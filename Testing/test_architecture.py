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
    "DIANetLib.acwi.review",
    "DIANetLib.bundle",
    "DIANetLib.cli",
]
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


def test_the_library_never_loads_slicer_or_the_training_code():
    loaded = top_level_imports_of(modules_of(DIANetLib))

    assert not loaded & SLICER
    assert "training" not in loaded


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_every_module_can_be_the_first_one_imported():
    # The heavy libraries are loaded once; each module then gets a copy of that process to itself.
    output = run_python(f"""
import os, sys, traceback
import torch, monai, SimpleITK
for name in {modules_of(DIANetLib) + modules_of(training)}:
    child = os.fork()
    if child == 0:
        try:
            __import__(name)
        except BaseException:
            print(name, traceback.format_exc(), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
""")
    assert output == ""
