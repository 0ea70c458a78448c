"""A plot view that redraws when Slicer's does, on VTK's own charts: it observes the chart node alone.

What Slicer's view does on every change of the chart: a series that stays keeps its plot and its axes, one
that is no longer in the chart goes, a new one is added. So data that change under a series move no axis, and
complaints of VTK's charts come as they do in Slicer.
"""

from __future__ import annotations

from typing import Any

import slicer
import vtk

SIZE = (400, 300)


class PlotView:
    """Shows the chart that the plots logic shows in the layout.

    Parameters
    ----------
    scene : vtkMRMLScene
    """

    def __init__(self, scene: Any) -> None:
        self.chart = vtk.vtkChartXY()
        self.added = 0  # how many times a series was drawn anew
        self._scene = scene
        self._node = scene.AddNode(slicer.vtkMRMLPlotViewNode())
        self._plots: dict[str, Any] = {}  # by the ID of their series
        self._drawn: dict[str, int] = {}  # points, as they were when the plot was added
        self._observed: tuple[Any, int] | None = None
        self._view = vtk.vtkContextView()
        self._view.GetScene().AddItem(self.chart)
        self._window = self._view.GetRenderWindow()
        self._window.SetOffScreenRendering(True)
        self._window.SetSize(*SIZE)
        self._tag = self._node.AddObserver(vtk.vtkCommand.ModifiedEvent, self._on_view_changed)

    @property
    def points(self) -> dict[str, int]:
        """How many points of each series were drawn, by its name."""
        self.render()
        return {self._scene.GetNodeByID(series).GetName(): self._drawn[series] for series in self._plots}

    def render(self) -> None:
        """Draw what is in the view now, as happens on any movement of the mouse."""
        self._window.Render()

    def close(self) -> None:
        """Observe nothing any more."""
        self._node.RemoveObserver(self._tag)
        self._observe(None)

    def _on_view_changed(self, *_: Any) -> None:
        self._observe(self._node.GetPlotChartNode())
        self._update()

    def _observe(self, chart: Any) -> None:
        if self._observed is not None:
            self._observed[0].RemoveObserver(self._observed[1])
        self._observed = None
        if chart is not None:
            self._observed = chart, chart.AddObserver(vtk.vtkCommand.ModifiedEvent, self._update)

    def _update(self, *_: Any) -> None:
        chart = self._observed[0] if self._observed is not None else None
        count = chart.GetNumberOfPlotSeriesNodes() if chart is not None else 0
        wanted = [chart.GetNthPlotSeriesNodeID(number) for number in range(count)]
        usable = {series: found for series in wanted if (found := _columns(self._scene, series)) is not None}
        for series in set(self._plots) - set(usable):
            self.chart.RemovePlotInstance(self._plots.pop(series))
        for series, (table, x, y) in usable.items():
            if series not in self._plots:
                self._plots[series] = plot = self._new_plot(series)
                plot.SetInputData(table, x, y)
                self.chart.AddPlot(plot)
                self.added += 1
                self._drawn[series] = table.GetNumberOfRows()
        self.render()

    def _new_plot(self, series_id: str) -> Any:
        series = self._scene.GetNodeByID(series_id)
        is_bar = series.GetPlotType() in (series.PlotTypeBar, series.PlotTypeScatterBar)
        return vtk.vtkPlotBar() if is_bar else vtk.vtkPlotLine()


def _columns(scene: Any, series_id: str) -> tuple[Any, str, str] | None:
    """Return table and column names of a series; None if it can't be drawn."""
    series = scene.GetNodeByID(series_id)
    table = series and series.GetTableNode() and series.GetTableNode().GetTable()
    names = (series.GetXColumnName(), series.GetYColumnName()) if series else ()
    if not table or any(not name or table.GetColumnByName(name) is None for name in names):
        return None
    return table, *names
