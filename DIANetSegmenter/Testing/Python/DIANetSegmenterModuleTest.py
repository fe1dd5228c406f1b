# SPDX-License-Identifier: Apache-2.0
"""Inside Slicer: the module loads, its panel is built, its settings are kept, its layers are shown."""

import unittest
from pathlib import Path

import numpy as np
import slicer

API_LIST = Path(__file__).with_name("slicer_api.txt")


def panel():
    """The module's panel, opened."""
    slicer.util.selectModule("DIANetSegmenter")
    return slicer.util.getModuleWidget("DIANetSegmenter").panel


class DIANetSegmenterModuleTest(unittest.TestCase):
    def setUp(self):
        slicer.mrmlScene.Clear()
        slicer.app.processEvents()

    def test_moduleIsDeclared(self):
        module = slicer.util.getModule("DIANetSegmenter")
        self.assertEqual(module.title, "DIANet Segmenter")
        self.assertIn("Segmentation", list(module.categories))
        self.assertIn("research use only", module.helpText)

    def test_nothingHeavyIsImported(self):
        import sys

        panel()
        self.assertEqual({"torch", "monai", "pydantic"} & set(sys.modules), set())

    def test_panelIsBuiltWithItsSections(self):
        ui = panel().ui
        for name in ("inputsSection", "segmentSection", "layersSection", "reviewSection", "setupSection"):
            self.assertTrue(hasattr(ui, name), name)
        self.assertGreater(ui.modelSelector.count, 0)
        self.assertFalse(ui.segmentButton.enabled)

    def test_aVolumeIsTakenWhenItAppears(self):
        shown = panel()
        node = addVolume("Head T1")
        for _ in range(5):
            slicer.app.processEvents()
        self.assertEqual(shown.ui.input1Selector.currentNode(), node)

    def test_settingsSurviveTheScene(self):
        shown = panel()
        shown.ui.samplesSlider.setValue(7)
        shown.ui.opacitySlider.setValue(0.25)
        shown.ui.addResultCheckBox.setChecked(True)
        path = Path(slicer.app.temporaryPath) / "DIANetSettings.mrb"
        self.assertTrue(slicer.util.saveScene(str(path)))
        slicer.mrmlScene.Clear()
        self.assertEqual(shown.parameters.samples, 0)
        slicer.util.loadScene(str(path))
        self.assertEqual(shown.parameters.samples, 7)
        self.assertAlmostEqual(shown.ui.opacitySlider.value, 0.25)
        self.assertTrue(shown.ui.addResultCheckBox.checked)
        path.unlink()

    def test_layersOfAResultAreShown(self):
        from DIANetGui.LayerKeys import LayerKey

        shown = panel()
        result, labels = makeResult(shown.environment)
        for kind in ("total", "epistemic"):
            values = np.where(labels.array > 0, 0.15, 0.0).astype(np.float32)
            result.addLayer(LayerKey(kind), type(labels)(values, labels.geometry))
        shown.parameters.result = result.segmentationNode
        self.assertEqual(shown.logic.result, result)
        shown.ui.layerSelector.setCurrentIndex(shown.ui.layerSelector.findData("epistemic"))
        composite = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSliceCompositeNode")
        node = result.layerNode(LayerKey("epistemic"))
        self.assertEqual(composite.GetForegroundVolumeID(), node.GetID())
        hidden = shown.ui.input1Selector.sortFilterProxyModel().hiddenNodeIDs
        self.assertIn(node.GetID(), list(hidden))
        slicer.mrmlScene.RemoveNode(result.segmentationNode)
        self.assertIsNone(shown.logic.result)

    def test_everyNameThatTheModuleUsesIsThere(self):
        missing = [name for name in namesToCheck() if not isThere(name, panel().ui)]
        self.assertEqual(missing, [])


def namesToCheck():
    """The names of slicer_api.txt that every supported version has."""
    lines = API_LIST.read_text(encoding="utf-8").splitlines()
    entries = [line.split("\t") for line in lines if line.strip() and not line.startswith("#")]
    return [entry[0] for entry in entries if "optional" not in entry[2:]]


def isThere(name, ui):
    """Whether Slicer has a name; signals are those of the widget's own meta object."""
    import ctk
    import qt
    import SampleData

    roots = {"slicer": slicer, "qt": qt, "ctk": ctk, "SampleData": SampleData}
    path, _space, signal = name.partition(" ")
    first, *rest = path.split(".")
    if first in roots:
        found = roots[first]
    else:
        found = exampleOf(first, ui)
        if found is None:
            return True  # no object of it at hand
    for part in rest:
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    if signal:
        if isinstance(found, type):
            return True
        return found.metaObject().indexOfSignal(signal) >= 0
    return True


def exampleOf(className, ui):
    """An object of a class: a widget of the panel, or a new one."""
    import qt

    for widget in vars(ui).values():
        if type(widget).__name__ == className:
            return widget
    made = getattr(qt, className, None)
    if className in ("QProcess", "QTimer", "QSettings", "QTableWidgetItem"):
        return made()
    return None


def addVolume(name, size=(20, 24, 28)):
    """A volume node of noise."""
    array = np.random.default_rng(0).normal(size=size[::-1]).astype(np.float32)
    return slicer.util.addVolumeFromArray(array, name=name)


def makeResult(environment):
    """A result with one structure, without a worker."""
    from DIANetGui.Nodes import volumeFromNode
    from DIANetGui.Results import Result

    from DIANetLib.volume import Volume
    from DIANetLib.worker import protocol

    head = addVolume("Head")
    grid = volumeFromNode(head).geometry
    array = np.zeros(grid.shape, np.uint8)
    array[8:16, 8:16, 8:16] = 1
    labels = Volume(array, grid)
    anatomy = protocol.CodeInfo("SCT", "123037004", "Anatomical Structure")
    hippocampus = protocol.CodeInfo("SCT", "5366008", "Hippocampus")
    structure = protocol.StructureInfo(1, "hippocampus", "Hippocampus", (230, 120, 40), anatomy, hippocampus)
    nothing = protocol.SharedVolume("", "|u1", (1, 1, 1), (1.0,) * 3, (0.0,) * 3, (1.0,) * 9)
    payload = protocol.Segmented(
        labels=nothing,
        structures=(structure,),
        maps=(),
        summaries=(protocol.StructureSummary("hippocampus", 0.5, 0.9, 0.85),),
        regions="",
        warnings=(),
        device="cpu",
        timings={"segment": 1.0},
        samples=2,
        seed=0,
        model="hippocampus",
        model_version="0.1.0",
        model_sha256="0" * 64,
    )
    return Result.create(environment, "made-by-a-test", [head], payload, labels), labels


if __name__ == "__main__":
    unittest.main()
