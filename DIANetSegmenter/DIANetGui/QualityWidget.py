# SPDX-License-Identifier: Apache-2.0
"""The limits of the traffic light that the result's text shows beside each structure."""

from __future__ import annotations

from typing import Any

import qt
import slicer

from DIANetLib.acwi.quality import LightLimits

from .Handlers import handler

__all__ = ["AMBER_SETTING", "GREEN_SETTING", "QualityWidget"]

GREEN_SETTING, AMBER_SETTING = "DIANet/LightGreen", "DIANet/LightAmber"


class QualityWidget:
    """Asks from which expected Dice on a structure is green or amber, and remembers it.

    Args:
        panel: The panel that it is part of.
    """

    def __init__(self, panel: Any) -> None:
        self._panel = panel
        self._ui = ui = panel.ui
        usual = LightLimits()
        green, amber = _share(GREEN_SETTING, usual.green), _share(AMBER_SETTING, usual.amber)
        ui.greenSpinBox.setValue(green)
        ui.amberSpinBox.setValue(min(amber, green))
        ui.greenSpinBox.connect("valueChanged(double)", self._onGreen)
        ui.amberSpinBox.connect("valueChanged(double)", self._onAmber)

    def limits(self) -> LightLimits:
        """What is set."""
        return LightLimits(self._ui.greenSpinBox.value, self._ui.amberSpinBox.value)

    def _keep(self) -> None:
        settings, limits = qt.QSettings(), self.limits()
        settings.setValue(GREEN_SETTING, limits.green)
        settings.setValue(AMBER_SETTING, limits.amber)
        self._panel.update()

    # Each limit takes the other along, so that amber never begins above green.

    @handler
    def _onGreen(self) -> None:
        ui = self._ui
        if ui.amberSpinBox.value > ui.greenSpinBox.value:
            ui.amberSpinBox.setValue(ui.greenSpinBox.value)
        self._keep()

    @handler
    def _onAmber(self) -> None:
        ui = self._ui
        if ui.greenSpinBox.value < ui.amberSpinBox.value:
            ui.greenSpinBox.setValue(ui.amberSpinBox.value)
        self._keep()


def _share(setting: str, usual: float) -> float:
    """A setting, which anybody may have written, as a number from 0 to 1."""
    try:
        value = float(slicer.util.settingsValue(setting, usual))
    except (TypeError, ValueError):
        return usual
    return value if 0.0 <= value <= 1.0 else usual
