# SPDX-License-Identifier: Apache-2.0
"""The section Set-up and log, and the banner that stands above everything while packages are missing."""

from __future__ import annotations

import platform
import sys
from html import escape
from pathlib import Path
from typing import Any

import qt
import slicer

from DIANetLib import __version__
from DIANetLib.errors import DIANetError

from .Handlers import handler
from .Install import Dependency, dependencies, install, missing, sentence
from .Translate import tr as _
from .WorkerClient import chosenPython, workerPython

__all__ = ["FOLDER_SETTING", "SetupWidget"]

FOLDER_SETTING = "DIANet/WheelFolder"


class SetupWidget:
    """Says what is installed, installs the rest, and shows what the worker says.

    Args:
        panel: The panel that it is part of.
    """

    def __init__(self, panel: Any) -> None:
        self._panel = panel
        self._ui = panel.ui
        self._found: tuple[Dependency, ...] = ()
        self._problem = ""
        self._shownLines: list[str] = []
        self._opened = False
        ui = self._ui
        ui.setupBannerButton.connect("clicked()", self._onInstall)
        ui.installButton.connect("clicked()", self._onInstall)
        ui.offlineButton.connect("clicked()", self._onOffline)
        ui.checkButton.connect("clicked()", self._onCheck)
        ui.unloadButton.connect("clicked()", self._onUnload)
        ui.copyReportButton.connect("clicked()", self._onCopyReport)

    @property
    def lacking(self) -> str:
        """Why the worker cannot run, as a sentence; empty if it can."""
        return self._problem or sentence(missing(self._found), chosenPython())

    def look(self) -> None:
        """Look again for what is installed."""
        try:
            self._found, self._problem = dependencies(chosenPython()), ""
            workerPython()
        except DIANetError as error:
            self._problem = str(error)
        lines = [
            f"{d.name} {d.minimum}: " + (f"✓ {d.version}" if d.ok else f"<b>{d.version or _('missing')}</b>")
            for d in self._found
        ]
        if self._problem:
            lines.append(f"<b>{escape(self._problem)}</b>")
        self._ui.dependenciesLabel.text = "<br>".join(lines)
        lacking = self.lacking
        self._ui.setupBanner.setVisible(bool(lacking))
        self._ui.setupBannerLabel.text = lacking
        # Into another Python than Slicer's own nothing is installed from here.
        able = bool(missing(self._found)) and not chosenPython() and not self._problem
        for button in (self._ui.setupBannerButton, self._ui.installButton, self._ui.offlineButton):
            button.enabled = able
        self._ui.setupBannerButton.setVisible(able)
        if lacking and not self._opened:
            self._opened = True  # once: the user may close it again
            self._ui.setupSection.collapsed = False

    def update(self) -> None:
        """Follow the logic's state."""
        logic = self._panel.logic
        if logic.workerRunning:
            self._ui.workerLabel.text = _("The worker runs.")
        else:
            self._ui.workerLabel.text = _("The worker does not run; it is started when it is needed.")
        self._ui.unloadButton.enabled = logic.workerRunning and not logic.busy
        self._ui.checkButton.enabled = not logic.busy and not self.lacking

    def onLog(self) -> None:
        """Show what the worker has said since; the list keeps its latest lines only."""
        lines = list(self._panel.logic.log)
        known = len(self._shownLines)
        if lines[:known] == self._shownLines:
            for line in lines[known:]:
                self._ui.logText.appendPlainText(line)
        else:  # the oldest have been dropped
            self._ui.logText.setPlainText("\n".join(lines))
        self._shownLines = lines

    def onReport(self) -> None:
        """Show the answer to Check."""
        report = self._panel.logic.report
        if report is not None:
            self._ui.logText.appendPlainText(report.text)
            self._ui.setupSection.collapsed = False

    def report(self) -> str:
        """Versions, state and log, for a report of a fault; names of volumes may be among it."""
        logic = self._panel.logic
        app = slicer.app
        lines = [
            f"DIANet {__version__}",
            f"Slicer {app.applicationVersion} ({app.revision}), {app.os} {app.arch}",
            f"Python {sys.version.split()[0]}, {platform.platform()}",
            f"Worker's Python: {chosenPython() or 'Slicer'}",
            *(f"{d.name}: {d.version or 'missing'} (needs {d.minimum})" for d in self._found),
            f"State: {logic.state.value}; worker {'runs' if logic.workerRunning else 'does not run'}",
        ]
        if logic.lastError is not None:
            lines.append(f"Last error ({logic.lastError.kind}): {logic.lastError}")
        if logic.report is not None:
            lines += ["", logic.report.text]
        return "\n".join([*lines, "", "Log:", *logic.log]) + "\n"

    # --- what the user does ---

    def _install(self, folder: Path | None) -> None:
        done = install(missing(self._found), folder)
        self.look()
        self._panel.update()
        if done and not self.lacking:
            slicer.util.infoDisplay(_("Everything that DIANet needs is installed."), windowTitle="DIANet")

    @handler
    def _onInstall(self) -> None:
        self._install(None)

    @handler
    def _onOffline(self) -> None:
        settings = qt.QSettings()
        start = slicer.util.settingsValue(FOLDER_SETTING, "", str)
        title = _("Folder of wheels")
        folder = qt.QFileDialog.getExistingDirectory(self._panel.widget, title, start)
        if folder:
            settings.setValue(FOLDER_SETTING, folder)
            self._install(Path(folder))

    @handler
    def _onCheck(self) -> None:
        self.look()
        self._panel.logic.doctor()

    @handler
    def _onUnload(self) -> None:
        self._panel.logic.unload()

    @handler
    def _onCopyReport(self) -> None:
        slicer.app.clipboard().setText(self.report())
        slicer.util.showStatusMessage(_("The report is in the clipboard."), 3000)
