# SPDX-License-Identifier: Apache-2.0
"""The section Layers: which maps of the current result are laid over the volume, and how they look."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import qt
import slicer

from DIANetLib.errors import DIANetError, InputError

from .Handlers import handler
from .LayerSource import EAGER_STRUCTURES
from .Translate import tr as _

if TYPE_CHECKING:
    from .LayerKeys import LayerKey

__all__ = ["LayersWidget"]


class LayersWidget:
    """Lists the layers of the current result and shows the chosen ones.

    Args:
        panel: The panel that it is part of.
    """

    def __init__(self, panel: Any) -> None:
        self._panel = panel
        self._ui = panel.ui
        self._listed: tuple[Any, ...] | None = None
        self._shown: tuple[Any, ...] | None = None
        self._surfaces: tuple[str, bool] | None = None
        self._wanted: str | None = None  # a layer that the worker was asked for
        ui = self._ui
        ui.resultSelector.addAttribute("vtkMRMLSegmentationNode", "DIANet.Result")
        ui.layerSelector.connect("currentIndexChanged(int)", self._onLayer)
        ui.secondLayerSelector.connect("currentIndexChanged(int)", self._onSecondLayer)
        ui.colorMapSelector.connect("currentIndexChanged(int)", self._onColorMap)
        ui.explainButton.connect("clicked()", self._onExplain)

    def fillColorMaps(self) -> None:
        """List the colour maps that there are."""
        from .ColorNodes import availableColorMaps

        selector = self._ui.colorMapSelector
        blocked = selector.blockSignals(True)
        selector.clear()
        for name in availableColorMaps(self._panel.environment):
            selector.addItem(_(name), name)
        selector.blockSignals(blocked)

    def update(self) -> None:
        """Follow the parameters and the current result."""
        from .Layers import canShowSeveral

        parameters = self._panel.parameters
        if parameters is None:
            return
        result = self._panel.logic.result
        self._list()
        ui = self._ui
        self._choose(ui.layerSelector, parameters.layer)
        self._choose(ui.secondLayerSelector, parameters.layer2)
        self._choose(ui.colorMapSelector, parameters.colorMap or ui.colorMapSelector.itemData(0))
        several = canShowSeveral(self._panel.environment)
        ui.secondLayerSelectorLabel.setVisible(several)
        ui.secondLayerSelector.setVisible(several)
        for widget in (ui.layerSelector, ui.secondLayerSelector, ui.explainButton):
            widget.enabled = result is not None
        ui.opacitySlider.enabled = ui.thresholdSlider.enabled = result is not None
        ui.colorMapSelector.enabled = ui.legendCheckBox.enabled = result is not None
        ui.surfacesCheckBox.enabled = result is not None
        self._show()
        self._showSurfaces()

    def onNewResult(self) -> None:
        """Show something of a result that has just become the current one."""
        parameters = self._panel.parameters
        self._listed = self._shown = None
        if parameters is None or self._panel.logic.result is None:
            return
        ids = {key.id for key in self._panel.logic.layerKeys()}
        if parameters.layer and parameters.layer not in ids:
            parameters.layer = "total" if "total" in ids else ""
        if parameters.layer2 and parameters.layer2 not in ids:
            parameters.layer2 = ""

    def showFirst(self) -> None:
        """Show the total uncertainty of a result that was just made, unless a layer is shown already.

        Surfaces are shown as well where they are few; those of a whole brain take seconds to make.
        """
        parameters, result = self._panel.parameters, self._panel.logic.result
        if parameters is None or result is None:
            return
        offered = any(key.id == "total" for key in self._panel.logic.layerKeys())
        if not parameters.layer and offered:
            parameters.layer = "total"
        if not parameters.surfaces and len(result.record.structures) <= EAGER_STRUCTURES:
            parameters.surfaces = True
            if slicer.app.layoutManager() is not None:
                slicer.util.resetThreeDViews()

    def onLayers(self) -> None:
        """The worker has given a layer, or has forgotten what it could give."""
        self._wanted = None
        self._listed = self._shown = None
        self.update()

    def forget(self) -> None:
        """The scene is gone: nothing is shown any more."""
        self._listed = self._shown = self._surfaces = self._wanted = None

    # --- lists ---

    def _list(self) -> None:
        from .LayerKeys import layerTitle

        logic = self._panel.logic
        result, keys = logic.result, logic.layerKeys()
        listed = (None if result is None else result.segmentationNode.GetID(), keys)
        if listed == self._listed:
            return
        self._listed = listed
        structures = () if result is None else result.record.structures
        for selector in (self._ui.layerSelector, self._ui.secondLayerSelector):
            blocked = selector.blockSignals(True)
            selector.clear()
            selector.addItem(_("None"), "")
            for key in keys:
                selector.addItem(layerTitle(key, structures), key.id)
            selector.blockSignals(blocked)

    def _choose(self, selector: Any, data: str | None) -> None:
        index = max(0, selector.findData(data)) if data else 0
        if selector.currentIndex != index:
            blocked = selector.blockSignals(True)
            selector.setCurrentIndex(index)
            selector.blockSignals(blocked)

    # --- showing ---

    def keys(self) -> list[LayerKey]:
        """The chosen layers of the current result, the lower one first."""
        parameters = self._panel.parameters
        chosen = [text for text in (parameters.layer, parameters.layer2) if text]
        known = {key.id: key for key in self._panel.logic.layerKeys()}
        return [known[text] for text in dict.fromkeys(chosen) if text in known]

    def _show(self) -> None:
        from .Layers import LayerStyle, showLayers

        panel, parameters = self._panel, self._panel.parameters
        result = panel.logic.result
        if result is None:
            self._shown = None
            return
        style = LayerStyle(
            opacity=parameters.opacity,
            threshold=parameters.threshold,
            colorMap=parameters.colorMap or LayerStyle().colorMap,
            legend=parameters.legend,
        )
        keys = self.keys()
        there = [key for key in keys if result.layerNode(key) is not None]
        nodes = tuple(result.layerNode(key).GetID() for key in there)
        shown = (result.segmentationNode.GetID(), nodes, style)
        if shown != self._shown:
            self._shown = shown
            showLayers(panel.environment, result, there, style)
        for key in keys:
            if key not in there:
                self._ask(key)

    def _showSurfaces(self) -> None:
        result = self._panel.logic.result
        if result is None:
            self._surfaces = None
            return
        wanted = (result.segmentationNode.GetID(), self._panel.parameters.surfaces)
        if wanted != self._surfaces:
            before, self._surfaces = self._surfaces, wanted
            # Another result's own state is left as it is until the user asks for a change.
            if wanted[1] or (before is not None and before[0] == wanted[0]):
                result.showSurfaces(wanted[1])

    def _ask(self, key: LayerKey) -> None:
        """Have a layer that has no node yet; the event "layers" brings it here again."""
        if self._wanted == key.id:
            return
        self._wanted = key.id
        try:
            self._panel.logic.requestLayer(key)
        except DIANetError:
            self._wanted = None
            parameters = self._panel.parameters
            for name in ("layer", "layer2"):
                if getattr(parameters, name) == key.id:
                    setattr(parameters, name, "")
            raise

    def expect(self, key: LayerKey) -> None:
        """Show a layer that the worker was asked for as soon as it comes."""
        self._wanted = key.id
        if self._panel.parameters is not None:
            self._panel.parameters.layer = key.id

    def onFailed(self) -> None:
        """A run has ended without giving what was asked for."""
        wanted, self._wanted = self._wanted, None
        parameters = self._panel.parameters
        if wanted is not None and parameters is not None:
            for name in ("layer", "layer2"):
                if getattr(parameters, name) == wanted:
                    setattr(parameters, name, "")

    # --- what the user does ---

    @handler
    def _onLayer(self) -> None:
        if self._panel.parameters is not None:
            self._panel.parameters.layer = self._ui.layerSelector.currentData or ""

    @handler
    def _onSecondLayer(self) -> None:
        if self._panel.parameters is not None:
            self._panel.parameters.layer2 = self._ui.secondLayerSelector.currentData or ""

    @handler
    def _onColorMap(self) -> None:
        if self._panel.parameters is not None:
            self._panel.parameters.colorMap = self._ui.colorMapSelector.currentData or ""

    @handler
    def _onExplain(self) -> None:
        from .LayerKeys import LayerKey

        result = self._panel.logic.result
        if result is None:
            raise InputError(_("There is no result yet."), remedy=_("Click Segment first."))
        crosshair = self._panel.environment.scene.GetSingletonNode("default", "vtkMRMLCrosshairNode")
        structure = None if crosshair is None else result.structureAt(crosshair.GetCrosshairRAS())
        if structure is None:
            raise InputError(
                _("The crosshair points at no structure of this result."),
                remedy=_("Hold Shift and move the mouse over a structure in a slice view, then click again."),
            )
        key = LayerKey("gradcam", structure.key)
        if all(key != known for known in self._panel.logic.layerKeys()):
            self._panel.logic.requestLayer(key)  # says why it cannot be had
        elif result.isPart(key):
            self._panel.logic.requestLayer(key)
            self.expect(key)
        self._panel.parameters.layer = key.id
        self._ui.layerSelector.setFocus(qt.Qt.OtherFocusReason)
