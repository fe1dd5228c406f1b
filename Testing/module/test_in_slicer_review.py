# SPDX-License-Identifier: Apache-2.0
"""The in-Slicer test of the review, run with stand-ins for the application, for its own code to be right.

What it says of Slicer's widgets, only Slicer can show.
"""

from __future__ import annotations

import importlib.util
import sys
import unittest
from pathlib import Path

import numpy as np
import pytest

from DIANetLib.volume import Geometry, Volume
from Testing.module.bootstrap import read_bundle, save_bundle
from Testing.module.panel_bench import finish, places

pytest.importorskip("slicer_core", reason="needs slicer-core")

FOLDER = Path(__file__).resolve().parents[2] / "DIANetSegmenter" / "Testing" / "Python"


def load(monkeypatch, name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def methods():
    text = (FOLDER / "DIANetSegmenterReviewTest.py").read_text(encoding="utf-8")
    return [line.split("(")[0].split()[1] for line in text.splitlines() if line.startswith("    def test_")]


@pytest.fixture
def slicerUtil(monkeypatch, slicerApp, panel, environment):
    """What the test uses of slicer.util beyond what the module does."""
    import slicer

    scene = environment.scene
    for name in ("Red", "Green"):
        composite = scene.CreateNodeByClass("vtkMRMLSliceCompositeNode")
        composite.UnRegister(None)
        composite.SetSingletonTag(name)
        composite.SetLayoutName(name)
        scene.AddNode(composite)

    def addVolumeFromArray(array, name=None):
        from DIANetGui.Nodes import nodeFromVolume

        k, j, i = array.shape
        grid = Geometry((i, j, k), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.diag([-1.0, -1.0, 1.0]))
        return nodeFromVolume(environment, Volume(array, grid), name)

    def setSliceViewerLayers(background, foreground):
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            composite.SetBackgroundVolumeID(background.GetID())
            composite.SetForegroundVolumeID(foreground)

    def saveScene(path):
        save_bundle(environment, Path(path))
        return True

    for name, function in {
        "addVolumeFromArray": addVolumeFromArray,
        "setSliceViewerLayers": setSliceViewerLayers,
        "selectedModule": lambda: slicerApp.module,
        "saveScene": saveScene,
        "loadScene": lambda path: read_bundle(environment, Path(path)),
    }.items():
        monkeypatch.setattr(slicer.util, name, function, raising=False)
    modes = slicer.vtkSlicerSegmentEditorLogic
    monkeypatch.setattr(slicer, "qSlicerSegmentEditorAbstractEffect", modes, raising=False)
    # Closing the scene takes the singleton with it here; Slicer's module makes it anew.
    monkeypatch.setattr(slicer.util, "selectModule", lambda name: slicerApp.selectModule(name))


@pytest.mark.parametrize("method", methods())
def test_it_passes_with_stand_ins(monkeypatch, slicerUtil, method):
    load(monkeypatch, "DIANetSegmenterModuleTest")
    script = load(monkeypatch, "DIANetSegmenterReviewTest")
    result = unittest.TestResult()
    script.DIANetSegmenterReviewTest(method).run(result)

    assert [text for _test, text in (*result.errors, *result.failures)] == []
    assert result.testsRun == 1


def test_there_are_methods():
    assert len(methods()) > 10


def test_the_self_tests_part_on_corrections_passes_with_stand_ins(
    slicerUtil, slicerApp, panel, head, client, monkeypatch
):
    class Test(unittest.TestCase):
        def delayDisplay(self, text):
            said.append(text)

    said = []
    slicerApp.importGui("SelfTest")
    panel.ui.segmentButton.click()
    finish(client, regions=places())
    slicerApp.importGui("SelfTest")._correct(Test(), panel)

    assert said == ["Accept one place and edit another", "Finish"]
