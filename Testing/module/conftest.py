# SPDX-License-Identifier: Apache-2.0
"""What the tests of the Slicer module share."""

from __future__ import annotations

import subprocess
import sys

import pytest

from Testing.module.panel_bench import client, head, panel, slicerApp

__all__ = ["client", "head", "panel", "slicerApp"]  # fixtures of all tests of the panel


@pytest.fixture
def environment():
    """A fresh MRML scene with its logics; skips where there is no slicer-core."""
    from Testing.module.bootstrap import make_environment

    return make_environment()


@pytest.fixture(scope="session")
def offscreen():
    """Skips where VTK cannot draw without a screen: it then does not fail, it ends the process."""
    draw = "import vtk; w = vtk.vtkRenderWindow(); w.SetOffScreenRendering(True); w.Render()"
    done = subprocess.run([sys.executable, "-c", draw], capture_output=True, timeout=120)
    if done.returncode != 0:
        pytest.skip("needs OpenGL without a screen (Debian: sudo apt-get install libegl1 libosmesa6)")
