# SPDX-License-Identifier: Apache-2.0
"""Puts the stand-ins where the module imports them from, and takes them away again."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path
from typing import Any

from Testing.module.fakes import loader, objects, parameters
from Testing.module.fakes.segment_editor import SegmentEditorWidget

MODULE_FOLDER = Path(__file__).resolve().parents[3] / "DIANetSegmenter"
_GUI = "DIANetGui"
# What must be imported anew, as it takes hold of Qt or of `slicer`'s missing parts.
_FRESH = (
    "EditorModule",
    "FinishWidget",
    "Handlers",
    "InputsWidget",
    "Install",
    "LayersWidget",
    "Parameters",
    "QualityWidget",
    "RegionsTable",
    "ReviewWidget",
    "Samples",
    "SelfTest",
    "SetupWidget",
    "Widget",
    "Wording",
    "WorkerClient",
)


class Application:
    """Slicer, as far as the panel sees it; what it shows in dialogs is kept in lists.

    Attributes:
        errors: Texts of error dialogs.
        messages: Texts of other dialogs and of the status bar.
        answer: What questions are answered with.
        installed: Arguments of each installation with pip.
        clipboardText: What was copied.
        settings: The application's settings.
        module: Name of the module that is shown.
        panel: What is told when the module DIANetSegmenter is opened and left; set by a test.
        segmentEditor: The Segment Editor's widget, once its module was opened.
    """

    def __init__(self, monkeypatch: Any, environment: Any, tmp_path: Path) -> None:
        import slicer

        self.environment = environment
        self.errors: list[str] = []
        self.messages: list[str] = []
        self.answer = True
        self.installed: list[list[str]] = []
        self.clipboardText = ""
        self.settings: dict[str, Any] = {}
        self.module = "DIANetSegmenter"
        self.panel: Any = None
        self.segmentEditor: SegmentEditorWidget | None = None
        self.testing = False
        self.home = tmp_path
        self._slicer = slicer
        environment.scene.RegisterNodeClass(slicer.vtkMRMLScriptedModuleNode())
        objects.QTimer.waiting = []
        objects.QShortcut.made = []
        self._place(monkeypatch)

    def importGui(self, name: str) -> Any:
        """A module of the package, made with the stand-ins."""
        return importlib.import_module(f"{_GUI}.{name}")

    def processEvents(self) -> None:
        """Let single-shot timers go off."""
        waiting, objects.QTimer.waiting = objects.QTimer.waiting, []
        for function in waiting:
            function()

    def selectModule(self, name: str) -> None:
        """Show a module."""
        before, self.module = self.module, name
        if self.panel is not None and before != name:
            if before == "DIANetSegmenter":
                self.panel.exit()
            if name == "DIANetSegmenter":
                self.panel.enter()
        if before == "SegmentEditor" and self.segmentEditor is not None:
            self.segmentEditor.setActiveEffect(None)
        if name == "SegmentEditor" and self.segmentEditor is None:
            self.segmentEditor = SegmentEditorWidget(self.environment)

    def getModuleWidget(self, name: str) -> Any:
        """What slicer.util gives for the Segment Editor and for DIANet's module."""
        if name == "DIANetSegmenter":
            return types.SimpleNamespace(panel=self.panel)
        assert name == "SegmentEditor"
        return types.SimpleNamespace(editor=self.segmentEditor)

    def _place(self, monkeypatch: Any) -> None:
        slicer = self._slicer
        package = importlib.import_module(_GUI)
        for name in _FRESH:
            monkeypatch.delitem(sys.modules, f"{_GUI}.{name}", raising=False)
            # Registered, so that what is imported during the test goes again at its end.
            monkeypatch.setitem(sys.modules, f"{_GUI}.{name}", None)
            del sys.modules[f"{_GUI}.{name}"]
            monkeypatch.delattr(package, name, raising=False)
        modules = {
            "qt": self._qt(),
            "ctk": types.ModuleType("ctk"),
            "slicer.util": self._util(),
            "slicer.parameterNodeWrapper": types.ModuleType("slicer.parameterNodeWrapper"),
            "slicer.ScriptedLoadableModule": self._scripted(),
        }
        modules["slicer.parameterNodeWrapper"].parameterNodeWrapper = parameters.parameterNodeWrapper
        modules["slicer.parameterNodeWrapper"].WithinRange = parameters.WithinRange
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)
            if name.startswith("slicer."):
                monkeypatch.setattr(slicer, name.partition(".")[2], module, raising=False)
        monkeypatch.setattr(slicer, "mrmlScene", self.environment.scene, raising=False)
        monkeypatch.setattr(slicer, "app", self._app(), raising=False)

    def _app(self) -> Any:
        return types.SimpleNamespace(
            applicationLogic=lambda: self.environment.applicationLogic,
            applicationVersion="5.10.0",
            revision="34000",
            os="linux",
            arch="amd64",
            slicerHome=str(self.home),
            testingEnabled=lambda: self.testing,
            processEvents=self.processEvents,
            layoutManager=lambda: types.SimpleNamespace(resetThreeDViews=lambda: None),
            clipboard=lambda: types.SimpleNamespace(setText=lambda t: setattr(self, "clipboardText", t)),
        )

    def _qt(self) -> Any:
        module = types.ModuleType("qt")
        for name in ("QTimer", "QShortcut", "QKeySequence", "QTableWidgetItem", "QHeaderView"):
            setattr(module, name, getattr(objects, name))
        module.Qt = types.SimpleNamespace(ToolTipRole=3, AlignRight=2, AlignVCenter=128, OtherFocusReason=7)
        settings = self.settings
        module.QSettings = lambda: types.SimpleNamespace(setValue=settings.__setitem__)
        module.QFileDialog = types.SimpleNamespace(
            getExistingDirectory=lambda parent, title, start: settings.get("chosen folder", "")
        )
        return module

    def _util(self) -> Any:
        module = types.ModuleType("slicer.util")
        scene = self.environment.scene

        def findChild(widget: Any, name: str) -> Any:
            return next(found for found in loader.walk(widget) if found.objectName == name)

        def childWidgetVariables(widget: Any) -> Any:
            ui = types.SimpleNamespace()
            for found in loader.walk(widget):
                if found.objectName:
                    setattr(ui, found.objectName, found)
            return ui

        def getNodesByClass(name: str) -> list[Any]:
            return [scene.GetNthNodeByClass(n, name) for n in range(scene.GetNumberOfNodesByClass(name))]

        def errorDisplay(text: str, windowTitle: str | None = None, detailedText: str = "") -> None:
            self.errors.append(text)

        def infoDisplay(text: str, windowTitle: str | None = None) -> None:
            self.messages.append(text)

        def ask(text: str, windowTitle: str | None = None) -> bool:
            self.messages.append(text)
            return self.answer

        module.loadUI = loader.load
        module.findChild = findChild
        module.childWidgetVariables = childWidgetVariables
        module.getNodesByClass = getNodesByClass
        module.errorDisplay, module.infoDisplay = errorDisplay, infoDisplay
        module.confirmOkCancelDisplay = module.confirmYesNoDisplay = ask
        module.showStatusMessage = lambda text, milliseconds=0: self.messages.append(text)
        module.mainWindow = lambda: None
        module.selectModule, module.getModuleWidget = self.selectModule, self.getModuleWidget
        module.resetThreeDViews = lambda: None
        module.settingsValue = lambda key, default, converter=str: self.settings.get(key, default)
        module.startupEnvironment = dict
        module.pip_install = lambda arguments: self.installed.append(list(arguments))
        module.VTKObservationMixin = VTKObservationMixin
        return module

    def _scripted(self) -> Any:
        module = types.ModuleType("slicer.ScriptedLoadableModule")
        for name in ("ScriptedLoadableModule", "ScriptedLoadableModuleWidget", "ScriptedLoadableModuleTest"):
            setattr(module, name, type(name, (), {}))
        return module


class VTKObservationMixin:
    """Observers that can be removed by what they are."""

    def __init__(self) -> None:
        self._tags: dict[Any, int] = {}

    def addObserver(self, node: Any, event: Any, method: Any) -> None:
        assert (node, event, method) not in self._tags
        self._tags[node, event, method] = node.AddObserver(event, method)

    def removeObserver(self, node: Any, event: Any, method: Any) -> None:
        node.RemoveObserver(self._tags.pop((node, event, method)))

    def removeObservers(self) -> None:
        for (node, _event, _method), tag in self._tags.items():
            node.RemoveObserver(tag)
        self._tags.clear()


class Owner(VTKObservationMixin):
    """The module's widget, which the panel lives in."""

    def __init__(self) -> None:
        super().__init__()
        self.layout = objects.QLayout(objects.QWidget())

    def resourcePath(self, name: str) -> str:
        return str(MODULE_FOLDER / "Resources" / name)
