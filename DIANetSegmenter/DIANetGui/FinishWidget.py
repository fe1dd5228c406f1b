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

    def write(self, folder: Path) -> Path:
        """Write the package of the current result, and say where it is.

        Args:
            folder: Folder of packages.

        Returns:
            The package's own folder.

        Raises:
            DIANetError: As for `DIANetGui.Corrections.writePackage`.
        """
        from .Corrections import writePackage

        ui, result = self._ui, self._panel.logic.result
        package = writePackage(
            result,
            folder,
            self.reviewer,
            comment=ui.commentEdit.text,
            copyImages=ui.copyImagesCheckBox.checked,
        )
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
        return package.directory

    def keepReviewer(self) -> None:
        """Take the name as it stands in the field; where buttons take no focus, the cursor is still in it."""
        review = self._panel.logic.review
        if review.reviewer != self.reviewer:
            review.reviewer = self.reviewer
            qt.QSettings().setValue(REVIEWER_SETTING, self.reviewer)

    @handler
    def _onReviewer(self) -> None:
        self.keepReviewer()

    @handler
    def _onCopy(self) -> None:
        qt.QSettings().setValue(COPY_SETTING, "yes" if self._ui.copyImagesCheckBox.checked else "no")

    @handler
    def _onFinish(self) -> None:
        from .Corrections import checkReviewed

        panel, ui = self._panel, self._ui
        panel.review.endEdit()
        result = panel.logic.result
        if result is None:
            raise InputError(_("There is no result yet."), remedy=_("Click Segment first."))
        self.keepReviewer()
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
        self.write(Path(folder))
        qt.QSettings().setValue(PACKAGES_SETTING, folder)
        slicer.util.infoDisplay(ui.finishLabel.text, windowTitle="DIANet")
