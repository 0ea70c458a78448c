"""Measurements as nodes: a table of values with units, a table of areas per slice and its chart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import vtk_to_numpy

from SAHLoRACoreLib.plots import drawSeries
from SAHLoRACoreLib.scene import placeInStudy

Measured = Mapping[str, Any]  # as in a report's "measurements": volume_ml, components_ml, slices, ...


def addTable(name: str, volumeNode: Any) -> Any:
    """Add an empty table node beside a volume."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", slicer.mrmlScene.GenerateUniqueName(name))
    placeInStudy(node, volumeNode)
    return node


def fillMeasurements(node: Any, measured: Measured) -> None:
    """Write measurements into a table of name, value and unit; what is not there gets a dash."""
    node.RemoveAllColumns()
    columns = zip((_("Measurement"), _("Value"), _("Unit")), zip(*_rows(measured), strict=True), strict=True)
    for title, values in columns:
        column = vtk.vtkStringArray()
        column.SetName(title)
        for value in values:
            column.InsertNextValue(_cell(value))
        node.AddColumn(column)


def fillAreas(node: Any, measured: Measured) -> None:
    """Write position and area of every slice into a table, inferior to superior.

    Columns that are there with as many rows get other values: a plot that shows them must not miss them.
    """
    slices, table = measured["slices"], node.GetTable()
    columns = {
        _("Position (mm)"): np.array([row["position_mm"] for row in slices], float),
        _("Area (mm²)"): np.array([row["area_mm2"] for row in slices], float),
    }
    if table.GetNumberOfRows() == len(slices) and all(table.GetColumnByName(title) for title in columns):
        for title, values in columns.items():
            vtk_to_numpy(table.GetColumnByName(title))[:] = values
            table.GetColumnByName(title).Modified()
        table.Modified()
        node.Modified()
    else:
        slicer.util.updateTableFromArray(node, list(columns.values()), list(columns))


def addChart(areasNode: Any, name: str) -> tuple[Any, Any]:
    """Add a chart of the area per slice, and return its node and that of its series."""
    series = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", _("Area"))
    series.SetAndObserveTableNodeID(areasNode.GetID())
    series.SetXColumnName(_("Position (mm)"))
    series.SetYColumnName(_("Area (mm²)"))
    series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
    series.SetColor(188 / 255, 65 / 255, 28 / 255)  # Slicer's color of hemorrhage
    chart = slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLPlotChartNode", slicer.mrmlScene.GenerateUniqueName(name)
    )
    chart.SetTitle(name)
    chart.SetXAxisTitle(_("Position above the lowest slice (mm)"))
    chart.SetYAxisTitle(_("Area (mm²)"))
    chart.SetLegendVisibility(False)
    drawSeries(chart, [series])
    return chart, series


def _rows(measured: Measured) -> list[tuple[str, float | int | None, str]]:
    extent = measured["extent"] or {}
    largest = measured["largest_slice"]
    area = None if largest is None else measured["slices"][largest]["area_mm2"]
    return [
        (_("Volume"), measured["volume_ml"], _("mL")),
        *(
            (_("Component {number}").format(number=number), milliliters, _("mL"))
            for number, milliliters in enumerate(measured["components_ml"], start=1)
        ),
        (_("Largest area"), area, _("mm²")),
        (_("Largest slice, from below"), None if largest is None else largest + 1, ""),
        (_("Mean intensity"), measured["mean_hu"], _("HU")),
        (_("Extent right to left"), extent.get("right_left_mm"), _("mm")),
        (_("Extent anterior to posterior"), extent.get("anterior_posterior_mm"), _("mm")),
        (_("Extent inferior to superior"), extent.get("inferior_superior_mm"), _("mm")),
    ]


def _cell(value: float | int | str | None) -> str:
    if value is None:
        return "\N{EN DASH}"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
