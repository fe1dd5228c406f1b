# SPDX-License-Identifier: Apache-2.0
"""The module as Slicer finds it: what it is called and what it is for. What it does is in `DIANetGui`."""

import os
import sys

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin


def findLibrary():
    """Let `DIANetGui` and `DIANetLib` be imported, in a built extension and in a source tree."""
    here = os.path.dirname(os.path.abspath(__file__))
    root = os.path.dirname(here)
    for folder in (here, root) if os.path.isdir(os.path.join(root, "DIANetLib")) else (here,):
        if folder not in sys.path:
            sys.path.append(folder)  # at the end: nothing in it may hide what Slicer brings


def registerSamples():
    """Offer the module's sample data."""
    from DIANetGui.Samples import registerSamples as register

    register()


class DIANetSegmenter(ScriptedLoadableModule):
    """Declares the module."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        findLibrary()
        parent.title = _("DIANet Segmenter")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = ["Segmentations", "Colors", "Markups", "SubjectHierarchy"]
        parent.contributors = ["The DIANet contributors"]
        parent.helpText = _(
            "Segments medical images and shows, voxel by voxel, how sure the model is and where it looked."
            " <b>For research use only. Not a medical device.</b>"
        )
        parent.acknowledgementText = _(
            "DIANet is free software under the Apache License 2.0; each model says its own licence. Builds on"
            " 3D Slicer, PyTorch, MONAI, VTK and ITK."
        )
        slicer.app.connect("startupCompleted()", registerSamples)


class DIANetSegmenterWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Hands what Slicer says to the panel, which is made when the module is opened for the first time."""

    def __init__(self, parent=None):
        self.panel = self.logic = None
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)

    def setup(self):  # noqa: D102 (Slicer's own, as are the following)
        ScriptedLoadableModuleWidget.setup(self)
        findLibrary()
        from DIANetGui.Widget import Panel

        self.panel = Panel(self)
        self.logic = self.panel.logic

    def enter(self):  # noqa: D102
        self.panel.enter()

    def exit(self):  # noqa: D102
        self.panel.exit()

    def cleanup(self):  # noqa: D102
        if self.panel is not None:
            self.panel.cleanup()
        self.panel = self.logic = None
        self.removeObservers()

    def onReload(self):  # noqa: D102
        self.cleanup()
        for name in [n for n in sys.modules if n.partition(".")[0] in ("DIANetGui", "DIANetLib")]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)


class DIANetSegmenterTest(ScriptedLoadableModuleTest):
    """The self-test: the whole way from a head to layers, in `DIANetGui.SelfTest`."""

    def test_fromAHeadToLayers(self):
        """Load, segment with the button, show layers, review, save and open again."""
        findLibrary()
        from DIANetGui.SelfTest import run

        run(self)
