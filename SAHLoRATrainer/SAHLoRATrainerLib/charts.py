"""Loss and held-out Dice of runs as table, series and chart nodes, which grow while a run trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _

from SAHLoRACoreLib.plots import drawSeries
from SAHLoRATrainerLib.runs import Run

COLORS = ((0.12, 0.47, 0.71), (0.84, 0.37, 0.0), (0.0, 0.62, 0.45), (0.8, 0.47, 0.65), (0.9, 0.62, 0.0))
RUN, VIEW = "SAHLoRA.run", "SAHLoRA.view"
EPOCH, LOSS, DICE = "Epoch", "Loss", "Held-out Dice"  # column names, by which series find their data
NAMES = {EPOCH: "epoch", LOSS: "loss", DICE: "held_out_dice"}


class Curves:
    """The curves of one view of a run: a table with a row an epoch, and a series each for loss and Dice.

    Rows are only ever added: an epoch costs the same at the end of a long training as at its beginning, and
    memory grows by three numbers.

    Parameters
    ----------
    run : Run
    view : str
        Nodes that the scene has for them are taken; otherwise they are made and filled from the run's files.
    """

    def __init__(self, run: Run, view: str) -> None:
        self._table = _find("vtkMRMLTableNode", run, view)
        if self._table is None:
            self._table = _add("vtkMRMLTableNode", run, view, _title(run, view))
            for name in NAMES:
                column = vtk.vtkDoubleArray()
                column.SetName(name)
                self._table.AddColumn(column)
            self.append(run.metrics().get(view, []))

    @property
    def table(self) -> Any:
        """The table node."""
        return self._table

    def isPresent(self) -> bool:
        """Tell whether the scene still has the table."""
        return slicer.mrmlScene.IsNodePresent(self._table)

    def append(self, metrics: Sequence[dict[str, Any]]) -> None:
        """Add epochs; those that are there already are left out."""
        table = self._table.GetTable()
        last = table.GetNumberOfRows()
        for metric in metrics:
            if int(metric["epoch"]) <= last:
                continue
            last = int(metric["epoch"])
            for name, key in NAMES.items():
                table.GetColumnByName(name).InsertNextValue(metric.get(key, float("nan")))
        table.Modified()
        self._table.Modified()

    @property
    def epochs(self) -> int:
        """How many epochs are drawn."""
        return self._table.GetTable().GetNumberOfRows()

    def best(self) -> tuple[int, float] | None:
        """Return epoch and Dice of the best epoch so far; None before the first."""
        table = self._table.GetTable()
        rows = range(table.GetNumberOfRows())
        scores = [(table.GetColumnByName(DICE).GetValue(row), -row) for row in rows]
        score, row = max(scores, default=(float("nan"), 0))
        return (1 - row, score) if score == score else None

    def series(self, run: Run, view: str, color: tuple[float, float, float]) -> list[Any]:
        """Return the series nodes of loss (dashed) and Dice."""
        made = []
        shown = {LOSS: (_("loss"), "LineStyleDash"), DICE: (_("held-out Dice"), "LineStyleSolid")}
        for name, (words, style) in shown.items():
            title = f"{_title(run, view)}: {words}"
            node = _find("vtkMRMLPlotSeriesNode", run, f"{view} {name}")
            node = node or _add("vtkMRMLPlotSeriesNode", run, f"{view} {name}", title)
            node.SetAndObserveTableNodeID(self._table.GetID())
            node.SetXColumnName(EPOCH)
            node.SetYColumnName(name)
            node.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
            node.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleNone)
            node.SetLineStyle(getattr(slicer.vtkMRMLPlotSeriesNode, style))
            node.SetColor(*color)
            made.append(node)
        return made


def drawRuns(runs: Sequence[Run]) -> Any:
    """Draw the curves of runs, as far as they have come, into one chart and return its node."""
    chart = slicer.mrmlScene.GetFirstNodeByName(_("Training"))
    if chart is None or not chart.IsA("vtkMRMLPlotChartNode"):
        chart = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotChartNode", _("Training"))
        chart.SetTitle(_("Training"))
        chart.SetXAxisTitle(_("Epoch"))
        chart.SetYAxisTitle(_("Loss (dashed), held-out Dice"))
    series = []
    for index, run in enumerate(runs):
        for view in run.settings.views:
            series += Curves(run, view).series(run, view, COLORS[index % len(COLORS)])
    drawSeries(chart, series)
    return chart


def showRuns(runs: Sequence[Run]) -> Any:
    """Show the curves of runs in one chart, in the layout, and return its node."""
    chart = drawRuns(runs)
    slicer.modules.plots.logic().ShowChartInLayout(chart)
    return chart


def addNode(kind: str, name: str, attribute: str) -> Any:
    """Add a node of a chart, marked by an attribute and not saved: what it shows is in a folder on disk."""
    node = slicer.mrmlScene.AddNewNodeByClass(kind)
    node.SetName(name)  # the legend shows it: no number behind it
    node.SetAttribute(attribute, "1")
    node.SetSaveWithScene(False)
    return node


def removeNodes(attribute: str) -> None:
    """Take the nodes that `addNode` marked from the scene."""
    for kind in ("vtkMRMLPlotChartNode", "vtkMRMLPlotSeriesNode", "vtkMRMLTableNode"):
        for node in slicer.util.getNodesByClass(kind):
            if node.GetAttribute(attribute):
                slicer.mrmlScene.RemoveNode(node)


def removeCurves(run: Run) -> None:
    """Take the curves of a run from the scene."""
    for kind in ("vtkMRMLPlotSeriesNode", "vtkMRMLTableNode"):
        for node in slicer.util.getNodesByClass(kind):
            if node.GetAttribute(RUN) == run.folder.name:
                slicer.mrmlScene.RemoveNode(node)


def _title(run: Run, view: str) -> str:
    several = f", {view}" if len(run.settings.views) > 1 else ""
    return f"{run.settings.name} ({run.folder.name}{several})"


def _find(kind: str, run: Run, view: str) -> Any:
    for node in slicer.util.getNodesByClass(kind):
        if (node.GetAttribute(RUN), node.GetAttribute(VIEW)) == (run.folder.name, view):
            return node
    return None


def _add(kind: str, run: Run, view: str, title: str) -> Any:
    node = slicer.mrmlScene.AddNewNodeByClass(kind, title)
    node.SetAttribute(RUN, run.folder.name)
    node.SetAttribute(VIEW, view)
    node.SetSaveWithScene(False)  # the run's folder has it all
    return node
