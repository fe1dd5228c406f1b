# SPDX-License-Identifier: Apache-2.0
"""The self-test: everything that a user does, once, in the running application, by the panel's own signals.

Takes the T1-weighted head that the environment variable DIANET_TEST_IMAGE names, else Slicer's sample head.
The variables DIANET_TEST_MODEL and DIANET_TEST_SECONDS name another model and another patience.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer

from .Logic import State
from .Results import Result
from .Samples import SAMPLE, registerSamples

__all__ = ["loadHead", "paint", "run"]

_SECONDS = float(os.environ.get("DIANET_TEST_SECONDS", "900"))


def run(test: Any) -> None:
    """Run it.

    Args:
        test: The test case, whose assertions and messages are used.
    """
    slicer.mrmlScene.Clear()
    slicer.util.selectModule("DIANetSegmenter")
    panel = slicer.util.getModuleWidget("DIANetSegmenter").panel
    if panel.setup.lacking:
        test.skipTest(panel.setup.lacking)
    test.delayDisplay("Load a head")
    head = loadHead()
    panel.ui.modelSelector.setCurrentIndex(
        panel.ui.modelSelector.findData(os.environ.get("DIANET_TEST_MODEL", "hippocampus"))
    )
    panel.parameters.input1 = head
    panel.parameters.samples = 2
    _until(lambda: panel.ui.segmentButton.enabled)

    test.delayDisplay("Cancel a run")
    panel.ui.segmentButton.click()
    test.assertNotEqual(panel.logic.state, State.IDLE)
    panel.ui.cancelButton.click()
    _until(lambda: panel.logic.state is State.IDLE)
    test.assertIsNone(panel.logic.result)

    test.delayDisplay("Segment")
    panel.ui.segmentButton.click()
    seen: set[int] = set()
    _until(lambda: seen.add(panel.ui.progressBar.value) or panel.logic.state is State.IDLE)
    test.assertEqual(panel.logic.lastOutcome, "done", panel.logic.lastError)
    test.assertGreater(len(seen), 2, "the progress bar did not move")
    result = panel.logic.result
    segmentation = result.segmentationNode.GetSegmentation()
    test.assertGreater(segmentation.GetNumberOfSegments(), 0)
    test.assertEqual(panel.parameters.result, result.segmentationNode)

    test.delayDisplay("Show every layer")
    for key in panel.logic.layerKeys():
        panel.ui.layerSelector.setCurrentIndex(panel.ui.layerSelector.findData(key.id))
        _until(lambda key=key: result.layerNode(key) is not None and panel.logic.state is State.IDLE)
        test.assertEqual(_foreground(), result.layerNode(key).GetID(), key.id)
    panel.ui.opacitySlider.setValue(0.3)
    test.assertAlmostEqual(_composite().GetForegroundOpacity(), 0.3)
    panel.ui.layerSelector.setCurrentIndex(0)
    test.assertIsNone(_foreground())
    panel.ui.layerSelector.setCurrentIndex(panel.ui.layerSelector.findData("total"))

    test.delayDisplay("Review")
    panel.ui.reviewThresholdSlider.setValue(0.1)
    _wait(1.5)
    for _ in range(min(3, len(panel.logic.regions()))):
        panel.ui.nextButton.click()
        _atCentre(test, panel.review.current())
    _correct(test, panel)

    test.delayDisplay("Save, close and open again")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scene.mrb"
        test.assertTrue(slicer.util.saveScene(str(path)))
        slicer.mrmlScene.Clear()
        test.assertIsNone(panel.logic.result)
        slicer.util.loadScene(str(path))
        _wait(0.5)
    test.assertEqual(len(Result.all(panel.environment)), 1)
    test.assertEqual(panel.logic.result.record.id, result.record.id)
    test.assertEqual(panel.ui.layerSelector.currentData, "total")
    test.assertEqual(_foreground(), panel.logic.result.layerNode(panel.layers.keys()[0]).GetID())
    test.delayDisplay("Passed")


def _correct(test: Any, panel: Any) -> None:
    """Accept a place, edit another with a stroke of the brush, and finish."""
    places = panel.logic.regions()
    if len(places) < 2:
        return
    test.delayDisplay("Accept one place and edit another")
    panel.ui.regionsTable.setCurrentCell(0, 0)
    panel.ui.acceptButton.click()
    region = panel.review.current()
    test.assertEqual(region.rank, places[1].rank)
    result = panel.logic.result
    before = result.labels().array
    panel.ui.editButton.click()
    editable = panel.logic.review.edit[1].editable
    paint(test)
    after = result.labels().array
    test.assertTrue((before != after).any())
    test.assertFalse((before != after)[~editable].any(), "something changed beyond the place")
    slicer.util.selectModule("DIANetSegmenter")
    states = [place.state for place in panel.logic.regions()]
    test.assertEqual(states[:2], ["accepted", "corrected"])

    test.delayDisplay("Finish")
    from DIANetLib.acwi.corrections import read_correction

    panel.ui.reviewerEdit.text = "Self-test"
    with tempfile.TemporaryDirectory() as folder:
        package = read_correction(panel.review.finish.write(Path(folder)))
    test.assertEqual(int(package.changed.sum()), int((before != after).sum()))
    test.assertEqual([place.state for place in package.regions][:2], ["accepted", "corrected"])


def paint(test: Any, mode: str = "Add") -> None:
    """Fill the whole image with the brush that the Segment Editor has in hand: masks have to hold it back."""
    editor = slicer.util.getModuleWidget("SegmentEditor").editor
    effect = editor.activeEffect()
    test.assertEqual(effect.name, "Paint")
    effect.saveStateForUndo()
    modifier = effect.defaultModifierLabelmap()
    modifier.GetPointData().GetScalars().Fill(1)
    modes = slicer.qSlicerSegmentEditorAbstractEffect
    effect.modifySelectedSegmentByLabelmap(modifier, getattr(modes, f"ModificationMode{mode}"))


def loadHead() -> Any:
    """The volume node of a T1-weighted head."""
    path = os.environ.get("DIANET_TEST_IMAGE")
    if path:
        return slicer.util.loadVolume(path)
    import SampleData

    registerSamples()
    return SampleData.downloadSample(SAMPLE)


def _until(done: Callable[[], Any]) -> None:
    """Let the application go on until something is so."""
    deadline = time.monotonic() + _SECONDS
    while not done():
        if time.monotonic() > deadline:
            raise AssertionError(f"It has not come to that within {_SECONDS:g} s.")
        slicer.app.processEvents()
        time.sleep(0.02)


def _wait(seconds: float) -> None:
    until = time.monotonic() + seconds
    _until(lambda: time.monotonic() > until)


def _composite() -> Any:
    return slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSliceCompositeNode")


def _foreground() -> str | None:
    return _composite().GetForegroundVolumeID() or None


def _atCentre(test: Any, region: Any) -> None:
    """Each slice view's plane goes through the region's centre."""
    left, posterior, superior = region.centre
    ras = (-left, -posterior, superior)
    for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
        matrix = node.GetSliceToRAS()
        distance = sum(matrix.GetElement(row, 2) * (ras[row] - matrix.GetElement(row, 3)) for row in range(3))
        test.assertLess(abs(distance), 1.0, node.GetName())
