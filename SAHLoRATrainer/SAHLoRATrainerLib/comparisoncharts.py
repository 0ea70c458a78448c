"""Results of a comparison as table, series and chart nodes: Dice over parameters, by rank, by stratum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _

from SAHLoRACoreLib.plots import drawSeries, paintable
from SAHLoRATrainerLib.charts import COLORS, addNode, removeNodes

PARAMETERS, RANK, STRATUM = "parameters", "rank", "stratum"
CHARTS = (PARAMETERS, RANK, STRATUM)
MADE_FOR = "SAHLoRA.comparison"
ALL = "all"  # the stratum of all cases
X, DICE, LABEL = "x", "Dice", "label"

Configuration = dict[str, Any]  # as in results.json
Point = tuple[str, float, float]  # label, x, mean Dice


def showComparison(configurations: Sequence[Configuration], chart: str, title: str) -> Any:
    """Show a chart of a comparison, in place of the one before, and return its node.

    Parameters
    ----------
    configurations : sequence of dict
        As `sahlora crossval` writes them to results.json.
    chart : str
        One of `CHARTS`.
    title : str
    """
    removeNodes(MADE_FOR)
    axis = {
        PARAMETERS: _("Trained parameters"),
        RANK: _("Rank"),
        STRATUM: _("Annotated volume (mL)"),
    }[chart]
    node = addNode("vtkMRMLPlotChartNode", title, MADE_FOR)
    node.SetTitle(title)
    node.SetXAxisTitle(axis)
    node.SetYAxisTitle(_("Mean Dice of the tested cases"))
    node.SetYAxisRangeAuto(False)
    node.SetYAxisRange(0.0, 1.0)
    series = [
        _series(name, points, COLORS[index % len(COLORS)], isBar=chart == STRATUM)
        for index, (name, points) in enumerate(pointsOf(configurations, chart).items())
    ]
    drawSeries(node, series)
    slicer.modules.plots.logic().ShowChartInLayout(node)
    return node


def pointsOf(configurations: Sequence[Configuration], chart: str) -> dict[str, list[Point]]:
    """Return the points of a chart by series; what has no result is left out."""
    found: dict[str, list[Point]] = {}
    for one in configurations:
        if chart == STRATUM:
            strata = [name for name in one["strata"] if name != ALL]
            points = [(name, float(n), meanDice(one, name)) for n, name in enumerate(strata)]
            name = one["name"]
        else:
            x = one.get(chart)
            points = [] if x is None else [(one["name"], float(x), meanDice(one))]
            name = one["method"]
        points = [(label, x, dice) for label, x, dice in points if dice is not None]
        if points:
            found.setdefault(name, []).extend(points)
    return {name: sorted(points, key=lambda point: point[1]) for name, points in found.items()}


def meanDice(configuration: Configuration, stratum: str = ALL) -> float | None:
    """Return the mean Dice of the cases of a stratum, or None if there is none."""
    return (configuration["strata"].get(stratum) or {}).get("measures", {}).get("dice", {}).get("mean")


def _series(
    name: str,
    points: Sequence[Point],
    color: tuple[float, float, float],
    *,
    isBar: bool,
) -> Any:
    table = addNode("vtkMRMLTableNode", name, MADE_FOR)
    labels = vtk.vtkStringArray()
    labels.SetName(LABEL)
    columns = [vtk.vtkDoubleArray() for _axis in (X, DICE)]
    for column, title in zip(columns, (X, DICE), strict=True):
        column.SetName(title)
    for label, *values in points if isBar else paintable(points):
        labels.InsertNextValue(label)
        for column, value in zip(columns, values, strict=True):
            column.InsertNextValue(value)
    for column in (labels, *columns):
        table.AddColumn(column)
    kind = slicer.vtkMRMLPlotSeriesNode
    series = addNode("vtkMRMLPlotSeriesNode", name, MADE_FOR)
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName(X)
    series.SetYColumnName(DICE)
    series.SetLabelColumnName(LABEL)
    series.SetPlotType(kind.PlotTypeBar if isBar else kind.PlotTypeScatter)
    series.SetMarkerStyle(kind.MarkerStyleCircle)
    series.SetColor(*color)
    return series
