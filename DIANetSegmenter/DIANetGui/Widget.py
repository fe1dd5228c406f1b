# SPDX-License-Identifier: Apache-2.0
"""The module's panel: maps the parameter node, the scene's events and the logic's events onto widgets.

What is decided here is what is shown and enabled. What a click does is the logic's.
"""

from __future__ import annotations

from typing import Any

import qt
import slicer
import vtk

from .Handlers import handler, showError
from .InputsWidget import MODEL_SETTING, InputsWidget
from .LayersWidget import LayersWidget
from .Logic import Logic, State
from .Parameters import INPUTS, Parameters, parameterNode
from .QualityWidget import QualityWidget
from .ReviewWidget import ReviewWidget
from .Settings import Settings
from .SetupWidget import SetupWidget
from .Translate import tr as _
from .Wording import activityText, memoryText, resultText

__all__ = ["Panel"]

_ESTIMATE_MS = 600


class Panel:
    """Everything that the module shows.

    Args:
        owner: The module's widget: ScriptedLoadableModuleWidget with VTKObservationMixin.
        logic: What the module does; a new one by default.

    Attributes:
        widget: The panel's outermost widget.
        ui: All named widgets as attributes.
        logic: What the module does.
        parameters: The scene's settings; None while a scene is closed.
    """

    def __init__(self, owner: Any, logic: Any = None) -> None:
        self._owner = owner
        self.logic = Logic() if logic is None else logic
        self.parameters: Parameters | None = None
        self._guiTag: int | None = None
        self._entered = False
        self._closed = False
        self._estimatedFor: tuple[Any, ...] | None = None
        self.widget = slicer.util.loadUI(owner.resourcePath("UI/DIANetSegmenter.ui"))
        review = slicer.util.loadUI(owner.resourcePath("UI/Review.ui"))
        slicer.util.findChild(self.widget, "reviewSection").layout().addWidget(review)
        owner.layout.addWidget(self.widget)
        self.ui = slicer.util.childWidgetVariables(self.widget)
        self.widget.setMRMLScene(slicer.mrmlScene)
        self.inputs = InputsWidget(self)
        self.layers = LayersWidget(self)
        self.review = ReviewWidget(self)
        self.setup = SetupWidget(self)
        self.quality = QualityWidget(self)
        self._timer = qt.QTimer(self.widget)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_ESTIMATE_MS)
        self._timer.connect("timeout()", self._onEstimateTimer)
        self._connect()
        self.setup.look()
        self.layers.fillColorMaps()
        self._openParameters()
        self.inputs.fill()
        self.review.update()
        self._onSceneThere()
        self.update()

    # --- what the sections use ---

    @property
    def environment(self) -> Any:
        """Scene and logics."""
        return self.logic.environment

    def activeVolume(self) -> Any:
        """The volume that the slice views show; None if there is none."""
        selection = slicer.app.applicationLogic().GetSelectionNode()
        return slicer.mrmlScene.GetNodeByID(selection.GetActiveVolumeID() or "")

    def settings(self) -> Settings:
        """What the panel says."""
        parameters = self.parameters
        if parameters is None:
            return Settings()
        return Settings(
            model=self.inputs.model,
            inputs=self.inputs.inputs(),
            roi=parameters.roi,
            device=parameters.device,
            samples=int(parameters.samples) or None,
            replace=None if parameters.addResult else self.logic.result,
            review=self.review.options(),
        )

    # --- what Slicer says ---

    @handler
    def enter(self) -> None:
        """The module is shown."""
        self._entered = True
        self._openParameters()
        self.setup.look()
        self.inputs.guess()
        self.review.setActive(True)
        self.update()

    def exit(self) -> None:
        """Another module is shown; a run goes on."""
        self._entered = False
        self.review.setActive(False)
        self._timer.stop()

    def cleanup(self) -> None:
        """The panel is taken away for good."""
        if self._closed:
            return
        self._closed = True
        self.review.stop()
        self._timer.stop()
        self._removeListener()
        self._closeParameters()
        self.logic.stop()

    def _connect(self) -> None:
        ui = self.ui
        ui.segmentButton.connect("clicked()", self._onSegment)
        ui.cancelButton.connect("clicked()", self._onCancel)
        ui.deviceSelector.connect("currentIndexChanged(int)", self._onDevice)
        self._removeListener = self.logic.addListener(self._onLogic)
        scene, owner = slicer.mrmlScene, self._owner
        owner.addObserver(scene, scene.StartCloseEvent, self._onSceneStartClose)
        owner.addObserver(scene, scene.EndCloseEvent, self._onSceneEndClose)
        owner.addObserver(scene, scene.EndImportEvent, self._onSceneEndImport)
        owner.addObserver(scene, scene.NodeAddedEvent, self._onNodeAdded)
        owner.addObserver(scene, scene.NodeAboutToBeRemovedEvent, self._onNodeAboutToBeRemoved)

    def _openParameters(self) -> None:
        if self.parameters is not None or self._closed:
            return
        self.parameters = parameterNode(slicer.mrmlScene)
        self._guiTag = self.parameters.connectGui(self.ui)
        self._owner.addObserver(
            self.parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self._onParameters
        )
        self.inputs.hideLayers()
        self._useResult()

    def _closeParameters(self) -> None:
        parameters, self.parameters = self.parameters, None
        if parameters is not None:
            self._owner.removeObserver(
                parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self._onParameters
            )
            parameters.disconnectGui(self._guiTag)
            self._guiTag = None

    @handler
    def _onSceneStartClose(self) -> None:
        self.logic.sceneClosed()
        self._closeParameters()
        self.layers.forget()
        self.inputs.forgetGuesses()

    @handler
    def _onSceneEndClose(self) -> None:
        self.layers.fillColorMaps()  # user colours went with the scene
        self._openParameters()
        self.inputs.update()
        self.update()

    @handler
    def _onSceneEndImport(self) -> None:
        # What was loaded may have brought its own settings and results.
        self._closeParameters()
        self._openParameters()
        self._onSceneThere()
        self.inputs.update()
        self.inputs.guess()
        self.update()

    @handler
    def _onSceneThere(self) -> None:
        """End what was going on when a scene was saved, or when this panel's forerunner was closed."""
        outcome = self.logic.review.sceneLoaded()
        if outcome is not None:
            self.review.tell(outcome)

    @handler
    def _onNodeAdded(self) -> None:
        # The new node gets its name and its image later: look when it has them.
        if self._entered and not slicer.mrmlScene.IsBatchProcessing():
            qt.QTimer.singleShot(0, self._onNodesSettled)

    @handler
    def _onNodesSettled(self) -> None:
        if self.parameters is not None and not self._closed:
            self.inputs.guess()
            self.update()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onNodeAboutToBeRemoved(self, _caller: Any, _event: str, node: Any) -> None:
        try:
            self.inputs.forgetGuess(node)
            self.logic.inputRemoved(node)
            result = self.logic.result
            self.logic.review.segmentationRemoved(node)
            if result is not None and node is result.segmentationNode:
                self.logic.resultRemoved()
        except Exception as error:
            showError(error)

    @handler
    def _onParameters(self) -> None:
        if self.parameters is not None and not self._closed:
            self.inputs.update()
            self._useResult()
            self.review.onParameters()
            self.update()

    def _useResult(self) -> None:
        """Make the chosen segmentation the logic's current result."""
        node = self.parameters.result
        current = self.logic.result
        if node is (None if current is None else current.segmentationNode):
            return
        from .Results import Result

        self.logic.useResult(None if node is None else Result.fromNode(self.environment, node))

    # --- what the logic says ---

    def _onLogic(self, event: str) -> None:
        if self._closed:
            return
        try:
            self._follow(event)
        except Exception as error:
            self._tellSoon(error)

    def _follow(self, event: str) -> None:
        if event == "activity":
            self._updateProgress()
        elif event == "log":
            self.setup.onLog()
        elif event == "report":
            self.setup.onReport()
        elif event == "estimate":
            self._updateDevices()
        elif event == "models":
            self.inputs.fill()
        elif event == "regions":
            self.inputs.hideLayers()
            self.review.update()
        elif event == "layers":
            self.inputs.hideLayers()
            self.layers.onLayers()
        elif event == "result":
            self._onResult()
        elif event == "error":
            self.layers.onFailed()
            self._tellSoon(self.logic.lastError)
        elif event == "state":
            if self.logic.state is State.IDLE and self.logic.lastOutcome == "cancelled":
                self.layers.onFailed()
            self.update()

    def _onResult(self) -> None:
        result = self.logic.result
        self.inputs.hideLayers()
        self.layers.onNewResult()
        self.review.onNewResult()
        if self.parameters is not None:
            node = None if result is None else result.segmentationNode
            if self.parameters.result is not node:
                self.parameters.result = node
                self.layers.showFirst()
                self.review.lookAtWorst()
                self.review.tellSpared()
        self.update()

    def _tellSoon(self, error: Exception | None) -> None:
        """Not at once: a dialog in the middle of the worker's signal would keep the rest of it waiting."""
        if error is not None:
            qt.QTimer.singleShot(0, lambda: showError(error))

    # --- showing ---

    def update(self) -> None:
        """Bring everything in line with parameters and logic."""
        if self._closed:
            return
        self._updateSegment()
        self._updateProgress()
        self._updateDevices()
        self.layers.update()
        self.review.updateButtons()
        self.setup.update()
        self._estimateSoon()

    def missing(self) -> str:
        """Why Segment is disabled, as a sentence; empty if it is not."""
        return self.setup.lacking or self.logic.whatIsMissing(self.settings())

    def _updateSegment(self) -> None:
        missing, busy = self.missing(), self.logic.state is not State.IDLE
        ui = self.ui
        ui.segmentButton.enabled = not missing and not busy
        ui.missingLabel.text = missing
        ui.missingLabel.setVisible(bool(missing) and not busy)
        for name in ("modelSelector", "roiSelector", "deviceSelector", "samplesSlider", "addResultCheckBox"):
            getattr(ui, name).enabled = not busy
        for name in INPUTS:
            getattr(ui, f"{name}Selector").enabled = not busy
        result = self.logic.result
        ui.resultLabel.setVisible(result is not None)
        ui.resultLabel.text = "" if result is None else resultText(result.record, self.quality.limits())

    def _updateProgress(self) -> None:
        ui, activity = self.ui, self.logic.activity
        busy = self.logic.state is not State.IDLE
        ui.progressWidget.setVisible(busy)
        ui.cancelButton.enabled = busy and self.logic.state is not State.CANCELLING
        if activity is None:
            ui.stageLabel.text = ""
            return
        ui.stageLabel.text = activityText(activity)
        # A bar from 0 to 0 moves to and fro: busy, nobody knows how long.
        ui.progressBar.setRange(0, 0 if activity.fraction is None else 100)
        if activity.fraction is not None:
            ui.progressBar.setValue(round(100 * activity.fraction))

    def _updateDevices(self) -> None:
        if self.parameters is None:
            return
        estimates, selector = self.logic.estimated, self.ui.deviceSelector
        choices = [("auto", _("Automatic"))]
        choices += [(e.device, e.description) for e in estimates] or [("cpu", _("CPU"))]
        chosen = self.parameters.device
        if all(device != chosen for device, _text in choices):
            choices.append((chosen, chosen))
        shown = [selector.itemData(index) for index in range(selector.count)]
        blocked = selector.blockSignals(True)
        if shown != [device for device, _text in choices]:
            selector.clear()
            for device, text in choices:
                selector.addItem(text, device)
        selector.setCurrentIndex(max(0, selector.findData(chosen)))
        selector.blockSignals(blocked)
        text = memoryText(estimates, chosen)
        self.ui.memoryLabel.text = text
        self.ui.memoryLabel.setVisible(bool(text))

    def _estimateSoon(self) -> None:
        """Ask for the memory that a run would need, where what it depends on has changed."""
        if not self._entered or self.logic.state is not State.IDLE or self.missing():
            return
        settings = self.settings()
        nodes = tuple(node.GetID() for node in settings.inputNodes)
        roi = None if settings.roi is None else settings.roi.GetID()
        wanted = (settings.model.name, nodes, roi, settings.samples)
        if wanted != self._estimatedFor:
            self._estimatedFor = wanted
            self._timer.start()

    # --- what the user does ---

    @handler
    def _onSegment(self) -> None:
        if self.logic.state is State.IDLE:  # the second of two quick clicks does nothing
            self._timer.stop()
            self.review.endEdit()
            self.logic.segment(self.settings())
            qt.QSettings().setValue(MODEL_SETTING, self.parameters.model)

    @handler
    def _onCancel(self) -> None:
        self.logic.cancel()

    @handler
    def _onDevice(self) -> None:
        if self.parameters is not None:
            self.parameters.device = self.ui.deviceSelector.currentData or "auto"

    @handler
    def _onEstimateTimer(self) -> None:
        if not self._closed and self.logic.state is State.IDLE and not self.missing():
            self.logic.estimate(self.settings())
