"""Which row of a table the user wants to see: one clicked, or reached by keys, but not one only ticked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from SAHLoRACoreLib.timers import Timer

SETTLE_MS = 200  # after the last key: who runs through the rows doesn't want to see each


class RowPicking:
    """Tells of the row that is clicked, or reached by keys.

    A press selects the row, a release on a tick changes the item, and only then comes the click; so a
    selection without a press is one by keys, and a click after a change is a tick.

    Parameters
    ----------
    table : QTableWidget
    pick : callable
        Gets the number of the row.
    """

    def __init__(self, table: Any, pick: Callable[[int], None]) -> None:
        self._table, self._pick = table, pick
        self._isTick = False
        self._timer = Timer(SETTLE_MS)
        table.connect("itemSelectionChanged()", self._onSelected)
        table.connect("itemPressed(QTableWidgetItem*)", self._onPressed)
        table.connect("itemChanged(QTableWidgetItem*)", self._onChanged)
        table.connect("itemClicked(QTableWidgetItem*)", self._onClicked)

    def stop(self) -> None:
        """Forget a row that was reached just now."""
        self._timer.stop()

    def _onSelected(self) -> None:
        self._timer.start(self._onSettled)

    def _onPressed(self) -> None:
        self._timer.stop()
        self._isTick = False

    def _onChanged(self) -> None:
        self._isTick = True

    def _onClicked(self, item: Any) -> None:
        if not self._isTick:
            self._pick(item.row())

    def _onSettled(self) -> None:
        self._timer.stop()
        if self._table.selectedItems():
            self._pick(self._table.currentRow())
