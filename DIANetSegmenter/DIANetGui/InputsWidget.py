# SPDX-License-Identifier: Apache-2.0
"""The section Inputs: a model, a volume for each of its modalities, and where to look."""

from __future__ import annotations

from typing import Any

import qt
import slicer

from DIANetLib.worker.protocol import ModelInfo

from .Handlers import handler
from .Parameters import INPUTS
from .Translate import tr as _
from .Wording import modelText

__all__ = ["MODEL_SETTING", "InputsWidget"]

#: The model of the latest run, which a new scene begins with.
MODEL_SETTING = "DIANet/Model"


class InputsWidget:
    """Shows the catalogue and asks for the volumes that the chosen model needs.

    Args:
        panel: The panel that it is part of.
    """

    def __init__(self, panel: Any) -> None:
        self._panel = panel
        self._ui = panel.ui
        self._shown: str | None = None
        self._guessed: set[str] = set()  # nodes that have been looked at by the guess
        self._ui.modelSelector.connect("currentIndexChanged(int)", self._onModel)

    @property
    def model(self) -> ModelInfo | None:
        """The model that is chosen."""
        wanted = self._panel.parameters.model if self._panel.parameters is not None else ""
        return next((m for m in self._panel.logic.models() if m.name == wanted), None)

    def inputs(self) -> dict[str, Any]:
        """The chosen volume node, or None, by the name of its modality."""
        model = self.model
        if model is None:
            return {}
        nodes = (getattr(self._panel.parameters, name) for name in INPUTS)
        return {modality.name: node for modality, node in zip(model.modalities, nodes, strict=False)}

    def volumes(self) -> list[Any]:
        """Volume nodes that may be an input, the latest first."""
        return [node for node in reversed(_volumes()) if not _isOwn(node)]

    def fill(self) -> None:
        """Read the catalogue anew."""
        selector = self._ui.modelSelector
        blocked = selector.blockSignals(True)
        selector.clear()
        for model in self._panel.logic.models():
            selector.addItem(model.name, model.name)
            selector.setItemData(selector.count - 1, model.description, qt.Qt.ToolTipRole)
        selector.blockSignals(blocked)
        self.update()

    def update(self) -> None:
        """Follow the parameters: the model's text, and one selector for each of its modalities."""
        parameters = self._panel.parameters
        if parameters is None:
            return
        models = self._panel.logic.models()
        if self.model is None and models:
            usable = [m.name for m in models if m.problem is None] or [m.name for m in models]
            latest = slicer.util.settingsValue(MODEL_SETTING, "", str)
            # This comes back here by the parameter node's event.
            parameters.model = latest if latest in usable else usable[0]
            return
        selector = self._ui.modelSelector
        index = selector.findData(parameters.model)
        if selector.currentIndex != index:
            blocked = selector.blockSignals(True)
            selector.setCurrentIndex(index)
            selector.blockSignals(blocked)
        if parameters.model != self._shown:
            self._shown = parameters.model
            self._showModel()

    def guess(self) -> None:
        """Fill the inputs that are still empty with the volumes that their names speak of.

        A volume is offered once: what the user has emptied stays empty.
        """
        model, parameters = self.model, self._panel.parameters
        if model is None or parameters is None:
            return
        from .Modalities import guessModality

        volumes = self.volumes()
        fresh = {node.GetID() for node in volumes} - self._guessed
        if not fresh:
            return
        self._guessed |= fresh
        chosen = [getattr(parameters, name) for name in INPUTS]
        taken = {node.GetID() for node in chosen if node is not None}
        free = [node for node in volumes if node.GetID() not in taken]
        found = guessModality(free, model.modalities, self._panel.activeVolume())
        for name, modality in zip(INPUTS, model.modalities, strict=False):
            if getattr(parameters, name) is None and found.get(modality.name) is not None:
                setattr(parameters, name, found[modality.name])

    def hideLayers(self) -> None:
        """Leave DIANet's own volumes, such as layers, out of the lists: they are never an input."""
        hidden = [node.GetID() for node in _volumes() if _isOwn(node)]
        for name in INPUTS:
            self._selector(name).sortFilterProxyModel().hiddenNodeIDs = hidden

    def forgetGuesses(self) -> None:
        """Offer every volume again: the scene or the model is another."""
        self._guessed.clear()

    def forgetGuess(self, node: Any) -> None:
        """A node is going: the next one to get its id is another volume."""
        self._guessed.discard(node.GetID())

    def _showModel(self) -> None:
        model = self.model
        self._ui.modelDescriptionLabel.text = modelText(model) if model is not None else ""
        modalities = model.modalities if model is not None else ()
        self._ui.modelDescriptionLabel.toolTip = model.intended_use if model is not None else ""
        for index, name in enumerate(INPUTS):
            used = index < len(modalities)
            label, selector = getattr(self._ui, f"{name}Label"), self._selector(name)
            label.setVisible(used)
            selector.setVisible(used)
            if used:
                modality = modalities[index]
                label.text = f"{modality.name}:"
                selector.noneDisplay = _("Choose a volume") if modality.required else _("None (optional)")
                selector.toolTip = _("The {modality} volume.").format(modality=modality.name)
            elif getattr(self._panel.parameters, name) is not None:
                setattr(self._panel.parameters, name, None)
        self.forgetGuesses()
        self.guess()

    def _selector(self, name: str) -> Any:
        return getattr(self._ui, f"{name}Selector")

    @handler
    def _onModel(self) -> None:
        if self._panel.parameters is not None:
            self._panel.parameters.model = self._ui.modelSelector.currentData or ""


def _volumes() -> list[Any]:
    return list(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"))


def _isOwn(node: Any) -> bool:
    """Whether a volume node is DIANet's own: a layer of a result, or what an edit needs."""
    return any(node.GetAttribute(name) is not None for name in ("DIANet.Layer", "DIANet.EditSource"))
