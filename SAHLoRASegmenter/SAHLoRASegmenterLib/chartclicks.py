"""Clicks on the points of a chart, which Slicer's plot views announce."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer

SIGNAL = "dataSelected(vtkStringArray*, vtkCollection*)"


class ChartClicks:
    """Tells which point of which series was clicked in any plot view.

    Parameters
    ----------
    clicked : callable
        Gets the ID of the series node and the row of its table.
    """

    def __init__(self, clicked: Callable[[str, int], None]) -> None:
        self._clicked = clicked
        self._views: list[Any] = []

    def listen(self) -> None:
        """Listen to the plot views there are now; call it whenever a chart is shown, for new ones."""
        for view in plotViews():
            if view not in self._views:
                view.connect(SIGNAL, self._onSelected)
                self._views.append(view)

    def close(self) -> None:
        """Listen no more."""
        for view in self._views:
            view.disconnect(SIGNAL, self._onSelected)
        self._views = []

    def _onSelected(self, seriesIDs: Any, selections: Any) -> None:
        for number in range(seriesIDs.GetNumberOfValues()):
            rows = selections.GetItemAsObject(number)
            if rows is not None and rows.GetNumberOfValues():
                self._clicked(seriesIDs.GetValue(number), rows.GetValue(0))


def plotViews() -> list[Any]:
    """Return the plot views of the layout; none without a main window."""
    layout = slicer.app.layoutManager()
    return [layout.plotWidget(index).plotView() for index in range(layout.plotViewCount)] if layout else []
