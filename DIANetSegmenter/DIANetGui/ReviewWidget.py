# SPDX-License-Identifier: Apache-2.0
"""The section Review: the places where the segmentation is most likely wrong, one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import qt
import slicer

from DIANetLib.errors import InputError
from DIANetLib.worker.protocol import ReviewOptions

from .EditorModule import ModuleEditor
from .FinishWidget import FinishWidget
from .Handlers import handler
from .RegionsTable import RegionsTable
from .Translate import tr as _
from .Wording import outcomeText, progressText

if TYPE_CHECKING:
    from DIANetLib.acwi.review import Region, State
    from DIANetLib.acwi.worklist import Worklist

    from .Editing import Outcome

__all__ = ["ACCEPT_KEYS", "EDIT_KEYS", "NEXT_KEYS", "PREVIOUS_KEYS", "SKIP_KEYS", "ReviewWidget"]

# Alt and Ctrl with the arrows to the sides change the module, plain letters belong to the segment editor.
PREVIOUS_KEYS, NEXT_KEYS = "Ctrl+Up", "Ctrl+Down"
ACCEPT_KEYS, EDIT_KEYS, SKIP_KEYS = "Ctrl+Return", "Ctrl+E", "Ctrl+K"

_RERANK_MS = 300
_MESSAGE_MS = 8000


class ReviewWidget:
    """Lists the regions of the current result, leads to them, and takes what the reviewer says of them.

    Args:
        panel: The panel that it is part of.
        editor: The Segment Editor; the application's by default.
    """

    def __init__(self, panel: Any, editor: Any = None) -> None:
        self._panel = panel
        self._ui = ui = panel.ui
        self._editor = ModuleEditor() if editor is None else editor
        self._options: ReviewOptions | None = None
        self._hint = ""
        self._asked = False  # for the reviewer's name
        self._table = RegionsTable(ui.regionsTable)
        self.finish = FinishWidget(panel)
        ui.regionsTable.connect("itemSelectionChanged()", self._onSelection)
        ui.regionsTable.connect("cellClicked(int,int)", self._onSelection)
        for button, slot in (
            (ui.acceptButton, self._onAccept),
            (ui.editButton, self._onEdit),
            (ui.skipButton, self._onSkip),
            (ui.nextButton, self._onNext),
            (ui.previousButton, self._onPrevious),
            (ui.reopenButton, self._onReopen),
            (ui.explainPlaceButton, self._onExplain),
        ):
            button.connect("clicked()", slot)
        self._shortcuts = []
        for keys, button, slot in (
            (PREVIOUS_KEYS, ui.previousButton, self._onPrevious),
            (NEXT_KEYS, ui.nextButton, self._onNext),
            (ACCEPT_KEYS, ui.acceptButton, self._onAccept),
            (EDIT_KEYS, ui.editButton, self._onEdit),
            (SKIP_KEYS, ui.skipButton, self._onSkip),
        ):
            # A shortcut works while its parent is visible; `setActive` narrows that to the module being open.
            self._shortcuts.append(_shortcut(panel.widget, keys, slot))
            button.toolTip = f"{button.toolTip} ({_native(keys)})"
        # While the Segment Editor is open, the keys of Edit lead back.
        self._back = _shortcut(slicer.util.mainWindow() or panel.widget, EDIT_KEYS, self._onBack)
        self._timer = qt.QTimer(panel.widget)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_RERANK_MS)
        self._timer.connect("timeout()", self._onTimer)

    def setActive(self, active: bool) -> None:
        """Let the shortcuts work, or not; whoever comes back has done with the edit."""
        for shortcut in self._shortcuts:
            shortcut.setEnabled(active)
        self._back.setEnabled(not active and self._panel.logic.review.editing)
        if active:
            self.endEdit()

    def stop(self) -> None:
        """Ask for nothing more."""
        self._timer.stop()
        self._table.stop()
        for shortcut in (*self._shortcuts, self._back):
            shortcut.setEnabled(False)
        self._back.deleteLater()  # the main window would keep it

    def options(self) -> ReviewOptions:
        """How regions are looked for."""
        parameters = self._panel.parameters
        return ReviewOptions(
            threshold=parameters.reviewThreshold,
            minimum_mm3=parameters.reviewMinimum,
            maximum=parameters.reviewMaximum,
        )

    def onParameters(self) -> None:
        """Rank anew, soon, where the options are others than those of the list."""
        options = self.options()
        if self._options is None or self._panel.logic.result is None:
            self._options = options
        elif options != self._options:
            self._options = options
            self._timer.start()

    def onNewResult(self) -> None:
        """Forget what was said of another result."""
        self._hint = ""
        self.update()

    def update(self) -> None:
        """Show the regions of the current result."""
        result = self._panel.logic.result
        worklist, problem = self._worklist()
        names = {} if result is None else {s.key: s.name for s in result.record.structures}
        there = self._table.show(worklist.regions, names)
        if not there and result is not None:
            self._outline(None)
        if problem:
            text = problem
        elif result is None:
            text = _("Run a segmentation to see where to look.")
        elif not worklist.regions:
            text = _("No place reaches these thresholds.")
        else:
            text = progressText(worklist.progress())
        self._ui.reviewLabel.text = text
        self.finish.update()
        self.updateButtons()

    def lookAtWorst(self) -> None:
        """Lead the views to the worst place of a new result, if some of them show nothing of it."""
        from .Layers import jumpTo, resultInSight

        result, regions = self._panel.logic.result, self._worklist()[0].regions
        if result is not None and regions and not resultInSight(self._panel.environment, result):
            jumpTo(self._panel.environment, regions[0].centre)

    def current(self) -> Region | None:
        """The region that is chosen."""
        return self._table.current()

    def endEdit(self) -> None:
        """End the edit that is going on, if there is one, and say what it has changed."""
        review = self._panel.logic.review
        self.finish.keepReviewer()
        self._hint = ""
        if not review.editing:
            self._editor.leave()  # it may have gone with its segmentation or scene
            return
        try:
            outcome = review.endEdit()
        finally:
            self._editor.leave()
        if self._panel.logic.result is not None:
            self._outline(self.current())
        if outcome is not None:
            self.tell(outcome)

    def tell(self, outcome: Outcome) -> None:
        """Say what an edit has changed."""
        self._say(outcomeText(outcome))
        self.updateButtons()

    def tellSpared(self) -> None:
        """Say that the latest run has not replaced a result, if so."""
        name = self._panel.logic.spared
        if name:
            text = _("{name} was reviewed and not finished, so it is kept beside the new result.")
            self._say(text.format(name=name))
            self.updateButtons()

    def updateButtons(self) -> None:
        """Enable what can be done with the chosen region."""
        ui, region = self._ui, self.current()
        logic = self._panel.logic
        there = bool(ui.regionsTable.rowCount)
        ui.previousButton.enabled = there
        ui.nextButton.enabled = there and self._worklist()[0].following(None) is not None
        for button in (ui.acceptButton, ui.editButton, ui.skipButton):
            button.enabled = region is not None
        ui.reopenButton.enabled = region is not None and region.state != "open"
        ui.explainPlaceButton.enabled = region is not None and bool(region.structures) and not logic.busy
        ui.reviewHintLabel.text = self._hint
        ui.reviewHintLabel.setVisible(bool(self._hint))

    # --- helpers ---

    def _worklist(self) -> tuple[Worklist, str]:
        """The worklist of the current result; an empty one with a sentence where it cannot be read."""
        from DIANetLib.acwi.worklist import Worklist

        try:
            return self._panel.logic.review.worklist(), ""
        except InputError as error:
            return Worklist(()), str(error)

    def _say(self, text: str) -> None:
        """Say something that stays in sight until the next click."""
        self._hint = text
        slicer.util.showStatusMessage(text, _MESSAGE_MS)

    def _judge(self, state: State) -> None:
        self.endEdit()
        region = self.current()
        if region is None:
            return
        review = self._panel.logic.review
        if not review.reviewer and not self._asked:
            self._asked = True
            self._hint = _("Type your name beside Reviewer, and it is kept with what you judge.")
        review.judge(region.rank, state)
        if state != "open":
            self._next()

    def _next(self) -> None:
        region = self.current()
        following = self._panel.logic.review.worklist().following(None if region is None else region.rank)
        if following is None:
            self._hint = _("All places are judged. Click Finish to write the correction package.")
            self.updateButtons()
        else:
            self._table.choose(following.rank)

    def _outline(self, region: Region | None) -> None:
        from .Layers import outlineRegion

        outlineRegion(self._panel.environment, self._panel.logic.result, region)

    # --- what the user does ---

    @handler
    def _onSelection(self) -> None:
        from .Layers import jumpTo

        region = self.current()
        if region is not None and self._panel.logic.result is not None:
            jumpTo(self._panel.environment, region.centre)
            self._outline(region)
        self.updateButtons()

    @handler
    def _onPrevious(self) -> None:
        self.endEdit()
        self._table.chooseAbove()

    @handler
    def _onNext(self) -> None:
        self.endEdit()
        self._next()

    @handler
    def _onAccept(self) -> None:
        self._judge("accepted")

    @handler
    def _onSkip(self) -> None:
        self._judge("skipped")

    @handler
    def _onReopen(self) -> None:
        self._judge("open")

    @handler
    def _onEdit(self) -> None:
        self.endEdit()
        region = self.current()
        if region is None:
            return
        review = self._panel.logic.review
        result, edit = review.beginEdit(region.rank, self.options().threshold)
        try:
            self._editor.open(result, edit)
        except BaseException:
            review.endEdit()
            self._editor.leave()
            raise
        self._outline(None)  # the place itself is outlined now
        slicer.util.showStatusMessage(
            _(
                "Only place {rank} can be edited. {keys}, or the module DIANet Segmenter, ends the edit."
            ).format(rank=region.rank, keys=_native(EDIT_KEYS))
        )

    @handler
    def _onBack(self) -> None:
        self._editor.goHome()

    @handler
    def _onExplain(self) -> None:
        region = self.current()
        if region is not None:
            self._panel.layers.expect(self._panel.logic.review.explain(region.rank))

    @handler
    def _onTimer(self) -> None:
        if self._panel.parameters is not None and self._panel.logic.result is not None:
            self._panel.logic.review.find(self.options())


def _shortcut(parent: Any, keys: str, slot: Any) -> Any:
    shortcut = qt.QShortcut(parent)
    shortcut.setKey(qt.QKeySequence(keys))
    shortcut.setEnabled(False)
    shortcut.connect("activated()", slot)
    return shortcut


def _native(keys: str) -> str:
    return str(qt.QKeySequence(keys).toString(qt.QKeySequence.NativeText))
