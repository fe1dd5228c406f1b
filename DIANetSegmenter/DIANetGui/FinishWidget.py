# SPDX-License-Identifier: Apache-2.0
"""The end of the section Review: who reviews, and the correction package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import qt
import slicer

from DIANetLib.errors import InputError

from .Handlers import handler
from .Translate import tr as _

__all__ = ["COPY_SETTING", "PACKAGES_SETTING", "REVIEWER_SETTING", "FinishWidget"]

REVIEWER_SETTING = "DIANet/Reviewer"
PACKAGES_SETTING = "DIANet/PackageFolder"
COPY_SETTING = "DIANet/CopyImages"


class FinishWidget:
    """Asks for the reviewer's name and writes the package.

    Args:
        panel: The panel that it is part of.
    """

    def __init__(self, panel: Any) -> None:
        self._panel = panel
        self._ui = ui = panel.ui
        self._written = ""  # id of the result whose package was written last
        ui.reviewerEdit.text = slicer.util.settingsValue(REVIEWER_SETTING, "", str)
        ui.copyImagesCheckBox.setChecked(slicer.util.settingsValue(COPY_SETTING, "no", str) == "yes")
        ui.finishLabel.setVisible(False)
        panel.logic.review.reviewer = self.reviewer
        ui.reviewerEdit.connect("editingFinished()", self._onReviewer)
        ui.copyImagesCheckBox.connect("toggled(bool)", self._onCopy)
        ui.finishButton.connect("clicked()", self._onFinish)

    @property
    def reviewer(self) -> str:
        """Who reviews; empty while nobody has said."""
        return " ".join(str(self._ui.reviewerEdit.text).split())

    def update(self) -> None:
        """Follow the current result."""
        result = self._panel.logic.result
        self._ui.finishButton.enabled = result is not None
        if result is None or result.record.id != self._written:
            self._ui.finishLabel.setVisible(False)

    @handler
    def _onReviewer(self) -> None:
        self._keepReviewer()

    def _keepReviewer(self) -> None:
        self._panel.logic.review.reviewer = self.reviewer
        qt.QSettings().setValue(REVIEWER_SETTING, self.reviewer)

    @handler
    def _onCopy(self) -> None:
        qt.QSettings().setValue(COPY_SETTING, "yes" if self._ui.copyImagesCheckBox.checked else "no")

    @handler
    def _onFinish(self) -> None:
        from .Corrections import checkReviewed, writePackage

        panel, ui = self._panel, self._ui
        panel.review.endEdit()
        result = panel.logic.result
        if result is None:
            raise InputError(_("There is no result yet."), remedy=_("Click Segment first."))
        self._keepReviewer()  # the field may still have the cursor in it
        checkReviewed(result)
        if not self.reviewer:
            ui.reviewerEdit.setFocus(qt.Qt.OtherFocusReason)
            raise InputError(
                _("The package needs to say who reviewed."),
                remedy=_("Type your name beside Reviewer, and click Finish again; it is remembered."),
            )
        left = panel.logic.review.worklist().progress().open
        question = _("Places that nobody has judged yet: {count}. Finish all the same?").format(count=left)
        if left and not slicer.util.confirmYesNoDisplay(question, windowTitle="DIANet"):
            return
        start = slicer.util.settingsValue(PACKAGES_SETTING, "", str)
        folder = qt.QFileDialog.getExistingDirectory(panel.widget, _("Folder of correction packages"), start)
        if not folder:
            return
        package = writePackage(
            result,
            Path(folder),
            self.reviewer,
            comment=ui.commentEdit.text,
            copyImages=ui.copyImagesCheckBox.checked,
        )
        qt.QSettings().setValue(PACKAGES_SETTING, folder)
        self._written = result.record.id
        lines = [
            _("The correction package is in {folder} ({count} voxels changed).").format(
                folder=package.directory, count=package.changed
            ),
            *package.notes,
        ]
        ui.finishLabel.text = "\n".join(lines)
        ui.finishLabel.setVisible(True)
        ui.commentEdit.text = ""  # it was about this case
        slicer.util.infoDisplay("\n\n".join(lines), windowTitle="DIANet")
