# SPDX-License-Identifier: Apache-2.0
"""The section Review: the places where the segmentation is most likely wrong, one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import qt

from DIANetLib.worker.protocol import ReviewOptions

from .Handlers import handler
from .Translate import tr as _

if TYPE_CHECKING:
    from DIANetLib.acwi.review import Region

__all__ = ["NEXT_KEYS", "PREVIOUS_KEYS", "ReviewWidget"]

# Alt and Ctrl with the arrows to the sides change the module, plain letters belong to the segment editor.
PREVIOUS_KEYS, NEXT_KEYS = "Ctrl+Up", "Ctrl+Down"

_RERANK_MS = 300
_RANK, _STRUCTURE, _SIZE, _ERROR, _STATE = range(5)


class ReviewWidget:
    """Lists the regions of the current result, jumps to them and outlines them.

    Args:
        panel: The panel that it is part of.
    """

    def __init__(self, panel: Any) -> None:
        self._panel = panel
        self._ui = panel.ui
        self._regions: tuple[Region, ...] = ()
        self._options: ReviewOptions | None = None
        self._rowsWait = self._stopped = False
        ui = self._ui
        header = ui.regionsTable.horizontalHeader()
        header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(_STRUCTURE, qt.QHeaderView.Stretch)
        header.connect("sectionResized(int,int,int)", self._onColumnResized)
        ui.regionsTable.connect("itemSelectionChanged()", self._onSelection)
        ui.regionsTable.connect("cellClicked(int,int)", self._onSelection)
        ui.previousButton.connect("clicked()", self._onPrevious)
        ui.nextButton.connect("clicked()", self._onNext)
        self._shortcuts = []
        for keys, button, slot in (
            (PREVIOUS_KEYS, ui.previousButton, self._onPrevious),
            (NEXT_KEYS, ui.nextButton, self._onNext),
        ):
            # A shortcut works while its parent is visible; `setActive` narrows that to the module being open.
            shortcut = qt.QShortcut(panel.widget)
            shortcut.setKey(qt.QKeySequence(keys))
            shortcut.setEnabled(False)
            shortcut.connect("activated()", slot)
            button.toolTip = qt.QKeySequence(keys).toString(qt.QKeySequence.NativeText)
            self._shortcuts.append(shortcut)
        self._timer = qt.QTimer(panel.widget)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_RERANK_MS)
        self._timer.connect("timeout()", self._onTimer)

    def setActive(self, active: bool) -> None:
        """Let the shortcuts work, or not."""
        for shortcut in self._shortcuts:
            shortcut.setEnabled(active)

    def stop(self) -> None:
        """Ask for nothing more."""
        self._stopped = True
        self._timer.stop()
        self.setActive(False)

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

    def update(self) -> None:
        """Show the regions of the current result."""
        logic = self._panel.logic
        kept = self._ui.regionsTable.currentRow()
        kept = self._regions[kept] if 0 <= kept < len(self._regions) else None
        result, regions = logic.result, logic.regions()
        self._regions = regions
        table = self._ui.regionsTable
        blocked = table.blockSignals(True)
        table.clearSelection()
        table.setRowCount(len(regions))
        names = {} if result is None else {s.key: s.name for s in result.record.structures}
        for row, region in enumerate(regions):
            self._fillRow(row, region, names)
        same = [n for n, region in enumerate(regions) if kept is not None and region.centre == kept.centre]
        if same:
            table.setCurrentCell(same[0], _RANK)
        else:
            table.setCurrentCell(-1, -1)
        table.blockSignals(blocked)
        self._onColumnResized()
        if not same and result is not None:
            self._outline(None)
        open_ = sum(region.state == "open" for region in regions)
        if result is None:
            text = _("Run a segmentation to see where to look.")
        elif not regions:
            text = _("No place reaches these thresholds.")
        else:
            text = _("{count} places to look at, {open} of them open.").format(count=len(regions), open=open_)
        self._ui.reviewLabel.text = text
        self._ui.previousButton.enabled = self._ui.nextButton.enabled = bool(regions)

    def lookAtWorst(self) -> None:
        """Lead the views to the worst place of a new result, if some of them show nothing of it."""
        from .Layers import jumpTo, resultInSight

        result, regions = self._panel.logic.result, self._panel.logic.regions()
        if result is not None and regions and not resultInSight(self._panel.environment, result):
            jumpTo(self._panel.environment, regions[0].centre)

    def current(self) -> Region | None:
        """The region that is chosen."""
        row = self._ui.regionsTable.currentRow()
        return self._regions[row] if 0 <= row < len(self._regions) else None

    def step(self, by: int) -> None:
        """Go on by some regions; after the last comes the first."""
        if not self._regions:
            return
        row = self._ui.regionsTable.currentRow()
        target = (row + by) % len(self._regions) if row >= 0 else (0 if by > 0 else len(self._regions) - 1)
        self._ui.regionsTable.setCurrentCell(target, _RANK)

    def _fillRow(self, row: int, region: Region, names: dict[str, str]) -> None:
        structures = self._structuresOf(region, names, "\n")
        states = {
            "open": _("open"),
            "accepted": _("accepted"),
            "corrected": _("corrected"),
            "skipped": _("skipped"),
        }
        cells = {
            _RANK: str(region.rank),
            _STRUCTURE: structures,
            _SIZE: f"{region.volume_mm3:.0f}",
            _ERROR: f"{region.expected_error_mm3:.1f}",
            _STATE: states.get(region.state, region.state),
        }
        tip = _("{structures}: {size} mm³, of which {error} mm³ are expected to be wrong").format(
            structures=self._structuresOf(region, names), size=cells[_SIZE], error=cells[_ERROR]
        )
        for column, text in cells.items():
            item = qt.QTableWidgetItem(text)
            item.setToolTip(tip)
            if column in (_RANK, _SIZE, _ERROR):
                item.setTextAlignment(int(qt.Qt.AlignRight) | int(qt.Qt.AlignVCenter))
            self._ui.regionsTable.setItem(row, column, item)

    def _structuresOf(self, region: Region, names: dict[str, str], between: str = " / ") -> str:
        return between.join(names.get(key, key) for key in region.structures) or _("nothing found")

    def _outline(self, region: Region | None) -> None:
        from .Layers import outlineRegion

        outlineRegion(self._panel.environment, self._panel.logic.result, region)

    @handler
    def _onSelection(self) -> None:
        from .Layers import jumpTo

        region = self.current()
        if region is not None and self._panel.logic.result is not None:
            jumpTo(self._panel.environment, region.centre)
            self._outline(region)

    @handler
    def _onColumnResized(self) -> None:
        # Names break elsewhere now; once all columns have their width.
        if not self._rowsWait:
            self._rowsWait = True
            qt.QTimer.singleShot(0, self._resizeRows)

    @handler
    def _resizeRows(self) -> None:
        self._rowsWait = False
        if not self._stopped:
            self._ui.regionsTable.resizeRowsToContents()

    @handler
    def _onPrevious(self) -> None:
        self.step(-1)

    @handler
    def _onNext(self) -> None:
        self.step(1)

    @handler
    def _onTimer(self) -> None:
        if self._panel.parameters is not None and self._panel.logic.result is not None:
            self._panel.logic.review(self.options())
