"""Tables of the panels: columns as wide as what is in them, one that gets the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

ROW_HEIGHT = 22  # pixels


def setUpTable(table: Any, titles: Sequence[str], stretched: int = 0) -> None:
    """Give a table its titles; one column, by default the first with the names, gets the width that is left.

    Parameters
    ----------
    table : QTableWidget
    titles : sequence of str
        One a column.
    stretched : int
        Number of that column.
    """
    import qt

    table.setHorizontalHeaderLabels(list(titles))
    table.verticalHeader().setVisible(False)
    table.verticalHeader().setDefaultSectionSize(ROW_HEIGHT)
    header = table.horizontalHeader()
    header.setStretchLastSection(False)
    for column in range(len(titles)):
        isStretched = column == stretched
        header.setSectionResizeMode(
            column, qt.QHeaderView.Stretch if isStretched else qt.QHeaderView.ResizeToContents
        )
