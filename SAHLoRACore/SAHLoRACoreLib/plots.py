"""Charts as Slicer's plot views draw them, without a complaint in the error log.

A plot view observes its chart node alone, and a series that stays in the chart keeps plot and axes: data that
changed are drawn only once the series was taken off and put on again. VTK logs an error when it has to paint
a line through fewer than two points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

FEWEST_POINTS = 2

Point = TypeVar("Point")


def drawSeries(chartNode: Any, seriesNodes: Sequence[Any]) -> None:
    """Show these series in a chart, and no others; lines through fewer than two points are left out."""
    for wanted in ((), [node for node in seriesNodes if _isPaintable(node)]):
        wasModifying = chartNode.StartModify()
        chartNode.RemoveAllPlotSeriesNodeIDs()
        for node in wanted:
            chartNode.AddAndObservePlotSeriesNodeID(node.GetID())
        chartNode.EndModify(wasModifying)


def redraw(chartNode: Any) -> None:
    """Draw the series of a chart anew: their data changed."""
    count = chartNode.GetNumberOfPlotSeriesNodes()
    drawSeries(chartNode, [chartNode.GetNthPlotSeriesNode(number) for number in range(count)])


def paintable(points: Sequence[Point]) -> list[Point]:
    """Return the points of a series, a single one twice."""
    return list(points) * (FEWEST_POINTS if len(points) == 1 else 1)


def _isPaintable(seriesNode: Any) -> bool:
    table = seriesNode.GetTableNode()
    isBar = seriesNode.GetPlotType() in (seriesNode.PlotTypeBar, seriesNode.PlotTypeScatterBar)
    return isBar or (table is not None and table.GetTable().GetNumberOfRows() >= FEWEST_POINTS)
