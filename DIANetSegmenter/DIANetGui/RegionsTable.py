# SPDX-License-Identifier: Apache-2.0
"""The table of places that the section Review shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import qt

from .Handlers import handler
from .Translate import tr as _
from .Wording import saidText, stateText

if TYPE_CHECKING:
    from DIANetLib.acwi.review import Region

__all__ = ["RegionsTable"]

_RANK, _STRUCTURE, _SIZE, _ERROR, _STATE = range(5)


class RegionsTable:
    """Shows regions, one a row.

    Args:
        table: The QTableWidget.
    """

    def __init__(self, table: Any) -> None:
        self._table = table
        self._regions: tuple[Region, ...] = ()
        self._rowsWait = self._stopped = False
        header = table.horizontalHeader()
        header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(_STRUCTURE, qt.QHeaderView.Stretch)
        header.connect("sectionResized(int,int,int)", self._onColumnResized)

    def stop(self) -> None:
        """Leave the table alone from now on."""
        self._stopped = True

    def show(self, regions: Sequence[Region], names: Mapping[str, str]) -> bool:
        """Show regions, the chosen one still chosen if it is among them.

        Args:
            regions: In the order of their ranks.
            names: Of the structures, by key.

        Returns:
            Whether the chosen region is still there.
        """
        kept = self.current()
        self._regions = tuple(regions)
        table = self._table
        blocked = table.blockSignals(True)
        table.clearSelection()
        table.setRowCount(len(self._regions))
        for row, region in enumerate(self._regions):
            self._fillRow(row, region, names)
        same = [n for n, region in enumerate(regions) if kept is not None and region.centre == kept.centre]
        table.setCurrentCell(same[0] if same else -1, _RANK if same else -1)
        table.blockSignals(blocked)
        self._onColumnResized()
        return bool(same)

    def current(self) -> Region | None:
        """The region that is chosen."""
        row = self._table.currentRow()
        return self._regions[row] if 0 <= row < len(self._regions) else None

    def choose(self, rank: int) -> None:
        """Choose the region of a rank."""
        for row, region in enumerate(self._regions):
            if region.rank == rank:
                self._table.setCurrentCell(row, _RANK)

    def chooseAbove(self) -> None:
        """Choose the region above the chosen one; above the first comes the last."""
        if self._regions:
            row = self._table.currentRow()
            self._table.setCurrentCell((row if row > 0 else len(self._regions)) - 1, _RANK)

    def _fillRow(self, row: int, region: Region, names: Mapping[str, str]) -> None:
        structures = [names.get(key, key) for key in region.structures] or [_("nothing found")]
        cells = {
            _RANK: str(region.rank),
            _STRUCTURE: "\u00a0/\n".join(structures),
            _SIZE: f"{region.volume_mm3:.0f}",
            _ERROR: f"{region.expected_error_mm3:.1f}",
            _STATE: stateText(region.state),
        }
        tip = _("{structures}: {size} mm³, of which {error} mm³ are expected to be wrong").format(
            structures=" / ".join(structures), size=cells[_SIZE], error=cells[_ERROR]
        )
        said = saidText(region)
        if said:
            tip = f"{tip}\n{said}"
        for column, text in cells.items():
            item = qt.QTableWidgetItem(text)
            item.setToolTip(tip)
            if column in (_RANK, _SIZE, _ERROR):
                item.setTextAlignment(int(qt.Qt.AlignRight) | int(qt.Qt.AlignVCenter))
            self._table.setItem(row, column, item)

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
            self._table.resizeRowsToContents()
