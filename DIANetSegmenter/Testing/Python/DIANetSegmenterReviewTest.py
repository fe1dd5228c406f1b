# SPDX-License-Identifier: Apache-2.0
"""Inside Slicer: a place is edited in the Segment Editor, and nothing else can be. Needs no torch."""

import tempfile
import unittest
from dataclasses import replace
from pathlib import Path

import numpy as np
import slicer

CORNER = np.s_[10:14, 10:14, 6:12]


class DIANetSegmenterReviewTest(unittest.TestCase):
    def setUp(self):
        from DIANetSegmenterModuleTest import makeResult, panel

        slicer.mrmlScene.Clear()
        slicer.app.processEvents()
        self.panel = panel()
        self.result, self.labels = makeResult(self.panel.environment)
        self.head = self.result.inputNodes()[0]
        slicer.util.setSliceViewerLayers(background=self.head, foreground=None)
        self.addPlace()
        self.panel.parameters.result = self.result.segmentationNode
        self.panel.ui.reviewerEdit.text = "A test"
        self.panel.ui.regionsTable.setCurrentCell(0, 0)

    def addPlace(self):
        """An error probability that is high in a box across the structure's surface, and its region."""
        from DIANetGui.LayerKeys import LayerKey
        from DIANetGui.Messages import structureOf

        from DIANetLib.acwi.review import find_regions, regions_to_json

        error = np.zeros(self.labels.array.shape, np.float32)
        error[CORNER] = 0.6
        probability = replace(self.labels, array=error)
        self.result.addLayer(LayerKey("error"), probability)
        structures = [structureOf(info) for info in self.result.record.structures]
        regions = find_regions(probability, self.labels, structures)
        self.assertEqual(len(regions), 1)
        self.result.setRegions(regions_to_json(regions))

    @property
    def editor(self):
        return slicer.util.getModuleWidget("SegmentEditor").editor

    @property
    def node(self):
        return slicer.mrmlScene.GetSingletonNode("SegmentEditor", "vtkMRMLSegmentEditorNode")

    def now(self):
        return self.result.labels(self.labels.geometry).array

    def backgrounds(self):
        composites = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
        return {composite.GetBackgroundVolumeID() for composite in composites}

    def edit(self):
        self.panel.ui.editButton.click()
        slicer.app.processEvents()
        return self.panel.logic.review.edit[1]

    def comeBack(self):
        slicer.util.selectModule("DIANetSegmenter")
        slicer.app.processEvents()

    def paint(self, mode="Add"):
        from DIANetGui.SelfTest import paint

        paint(self, mode)

    def test_theSegmentEditorOpensOnThePlace(self):
        self.edit()
        self.assertEqual(slicer.util.selectedModule(), "SegmentEditor")
        self.assertEqual(self.node.GetSegmentationNode(), self.result.segmentationNode)
        self.assertEqual(self.node.GetSelectedSegmentID(), "hippocampus")
        self.assertEqual(self.editor.currentSegmentID(), "hippocampus")
        self.assertIn("being edited", self.node.GetSourceVolumeNode().GetName())
        self.assertEqual(self.editor.sourceVolumeNode(), self.node.GetSourceVolumeNode())
        self.assertTrue(self.node.GetSourceVolumeIntensityMask())
        self.assertEqual(self.node.GetActiveEffectName(), "Paint")

    def test_theMaskStaysAsItWasSetWhileTheWidgetFollows(self):
        low, high = self.edit().range
        for _ in range(5):
            slicer.app.processEvents()
        self.assertEqual(tuple(self.node.GetSourceVolumeIntensityMaskRange()), (low, high))

    def test_theViewsKeepShowingTheImage(self):
        self.assertEqual(self.backgrounds(), {self.head.GetID()})
        self.edit()
        self.assertEqual(self.backgrounds(), {self.head.GetID()})
        self.comeBack()
        self.assertEqual(self.backgrounds(), {self.head.GetID()})
        self.assertTrue(self.editor.autoShowSourceVolumeNode)

    def test_strokesStayInThePlace(self):
        editable = self.edit().editable
        for mode in ("Add", "Remove", "Set"):
            self.paint(mode)
            changed = self.now() != self.labels.array
            self.assertTrue(changed.any(), mode)
            self.assertFalse(changed[~editable].any(), mode)

    def test_undoAndRedoWorkDuringTheEdit(self):
        self.edit()
        self.paint()
        painted = self.now()
        self.editor.undo()
        np.testing.assert_array_equal(self.now(), self.labels.array)
        self.editor.redo()
        np.testing.assert_array_equal(self.now(), painted)

    def test_undoWorksAfterTheEditAndBringsNoSegment(self):
        self.edit()
        self.paint()
        self.comeBack()
        slicer.util.selectModule("SegmentEditor")
        self.editor.undo()
        np.testing.assert_array_equal(self.now(), self.labels.array)
        self.assertEqual(self.result.segmentationNode.GetSegmentation().GetNumberOfSegments(), 1)

    def test_comingBackSetsStateAndEditor(self):
        volumes = len(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"))
        self.edit()
        self.paint()
        self.comeBack()
        region = self.panel.logic.regions()[0]
        self.assertEqual((region.state, region.reviewer), ("corrected", "A test"))
        self.assertEqual(self.node.GetSourceVolumeNode(), self.head)
        self.assertEqual(self.editor.sourceVolumeNode(), self.head)
        self.assertFalse(self.node.GetSourceVolumeIntensityMask())
        self.assertEqual(len(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")), volumes)
        self.assertEqual(len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")), 1)
        self.assertIsNone(self.editor.activeEffect())

    def test_theSegmentationStaysInItsFolder(self):
        folder = self.result.folderItem
        self.edit()
        self.paint()
        self.comeBack()
        self.assertEqual(self.result.folderItem, folder)
        self.assertNotEqual(folder, 0)

    def test_theCopyOfTheImageIsNotOfferedAsAnInput(self):
        self.edit()
        source = self.node.GetSourceVolumeNode().GetID()
        hidden = self.panel.ui.input1Selector.sortFilterProxyModel().hiddenNodeIDs
        self.assertIn(source, list(hidden))

    def test_aSceneSavedDuringAnEditIsPutRight(self):
        self.edit()
        self.paint()
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "scene.mrb")
            self.assertTrue(slicer.util.saveScene(path))
            slicer.mrmlScene.Clear()
            slicer.util.loadScene(path)
            self.comeBack()
        self.assertEqual(self.panel.logic.regions()[0].state, "corrected")
        self.assertFalse(self.node.GetSourceVolumeIntensityMask())
        names = [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")]
        self.assertFalse(any("being edited" in name for name in names))

    def test_closingTheSceneDuringAnEditLeavesNothing(self):
        self.edit()
        slicer.mrmlScene.Clear()
        self.comeBack()
        self.assertIsNone(self.panel.logic.result)
        self.assertIsNone(self.panel.logic.review.edit)

    def test_finishWritesThePackage(self):
        from DIANetLib.acwi.corrections import read_correction

        self.edit()
        self.paint()
        self.comeBack()
        with tempfile.TemporaryDirectory() as folder:
            written = self.panel.review.finish.write(Path(folder))
            package = read_correction(written)
        self.assertEqual(int(package.changed.sum()), int((self.now() != self.labels.array).sum()))
        self.assertEqual(package.reviewer, "A test")
        self.assertIn(str(written), self.panel.ui.finishLabel.text)


if __name__ == "__main__":
    unittest.main()
