"""The pictures of the Trainer's panel: idle with cases, training, judged; see `screenshots`.

A fake command stands in for the real one: the figures mean nothing. The chart is drawn from its nodes with
VTK, as the harness has no plot view.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

PLOT_SIZE = (520, 400)


def draw_trainer(slicer: Any, folder: Path, data: Path, save: Any, darken: Any) -> None:
    """Draw the panel on made-up heads.

    Parameters
    ----------
    slicer : module
        The harness's.
    folder : Path
        Gets the pictures.
    data : Path
        For runs.
    save, darken : callable
        Of `screenshots`: save a picture of a panel; give the application dark colors.
    """
    import qt
    from harness.application import show_module
    from SAHLoRATrainer import SAHLoRATrainerLogic
    from SAHLoRATrainerLib.testdoubles import fakecommand
    from test_segmenter import Installed
    from test_trainer_training import add_head

    from SAHLoRACoreLib.childprocess import pythonExecutable
    from SAHLoRACoreLib.settings import Settings

    replace(Settings.load(), dataFolder=str(data)).save()
    os.environ["SAHLORA_FAKE_EPOCH_S"] = "0.01"
    slicer.mrmlScene.Clear(0)
    logic = SAHLoRATrainerLogic([pythonExecutable(), fakecommand.__file__])
    panel = show_module("SAHLoRATrainer", logic=logic, installer=Installed())
    for number in range(8):
        volume, segmentation, segment = add_head(slicer, number)
        volume.SetName(f"Head CT {number + 1}")
        panel.addCase(volume, segmentation, segment)
    panel.ui.holdOutButton.click()
    panel.ui.checkCasesButton.click()
    wait(slicer, lambda: not panel.occupation)
    panel.parts.adapter.count()
    wait(slicer, lambda: panel.ui.countLabel.text)
    panel.ui.casesTable.setCurrentCell(1, 0)
    sections = ("cases", "adapter", "training", "judgement")
    show(panel, sections[:3])
    save(slicer, panel, folder / "SAHLoRATrainer.png")

    show(panel, sections[2:3])
    panel.parameters.runName, panel.parameters.epochs = "first try", 30
    panel.ui.trainButton.click()
    wait(slicer, lambda: not panel.occupation)
    os.environ["SAHLORA_FAKE_EPOCH_S"] = "0.2"
    panel.parameters.runName, panel.parameters.rank = "rank 16", 16
    panel.ui.trainButton.click()
    for row in range(2):
        panel.ui.runsTable.item(row, 0).setCheckState(qt.Qt.Checked)
    wait(slicer, lambda: "epoch 1" in panel.ui.statusLabel.text and "1 of" not in panel.ui.statusLabel.text)
    save(slicer, panel, folder / "SAHLoRATrainer-training.png")
    panel.ui.showRunsChartButton.click()
    chart = folder / "chart.png"
    draw_chart(slicer, slicer.util.getNodesByClass("vtkMRMLPlotChartNode")[0], chart)
    put_beside(folder / "SAHLoRATrainer-training.png", chart)
    chart.unlink()
    wait(slicer, lambda: not panel.occupation)

    show(panel, sections[2:])
    panel.ui.judgeButton.click()
    wait(slicer, lambda: not panel.occupation)
    save(slicer, panel, folder / "SAHLoRATrainer-judged.png")
    darken()
    save(slicer, panel, folder / "SAHLoRATrainer-dark.png")
    panel.cleanup()
    Settings().save()


def show(panel: Any, sections: tuple[str, ...]) -> None:
    """Open these sections and close the others."""
    for name in ("cases", "adapter", "training", "judgement"):
        getattr(panel.ui, f"{name}CollapsibleButton").collapsed = name not in sections


def wait(slicer: Any, until: Any) -> None:
    """Process events until something holds."""
    while not until():
        slicer.app.processEvents()


def draw_chart(slicer: Any, node: Any, path: Path) -> None:
    """Draw a chart node with its series' tables, colors and line styles."""
    import vtk

    view = vtk.vtkContextView()
    view.GetRenderWindow().SetOffScreenRendering(True)
    view.GetRenderWindow().SetSize(*PLOT_SIZE)
    view.GetRenderer().SetBackground(1, 1, 1)
    chart = vtk.vtkChartXY()
    view.GetScene().AddItem(chart)
    chart.SetTitle(node.GetTitle())
    chart.SetShowLegend(True)
    chart.GetAxis(vtk.vtkAxis.BOTTOM).SetTitle(node.GetXAxisTitle())
    chart.GetAxis(vtk.vtkAxis.LEFT).SetTitle(node.GetYAxisTitle())
    for index in range(node.GetNumberOfPlotSeriesNodes()):
        series = node.GetNthPlotSeriesNode(index)
        plot = chart.AddPlot(vtk.vtkChart.LINE)
        plot.SetInputData(series.GetTableNode().GetTable(), series.GetXColumnName(), series.GetYColumnName())
        plot.SetColorF(*series.GetColor())
        plot.SetWidth(2.0)
        plot.SetLabel(series.GetName())
        dashed = series.GetLineStyle() == slicer.vtkMRMLPlotSeriesNode.LineStyleDash
        plot.GetPen().SetLineType(vtk.vtkPen.DASH_LINE if dashed else vtk.vtkPen.SOLID_LINE)
    view.GetRenderWindow().Render()
    capture = vtk.vtkWindowToImageFilter()
    capture.SetInput(view.GetRenderWindow())
    writer = vtk.vtkPNGWriter()
    writer.SetFileName(str(path))
    writer.SetInputConnection(capture.GetOutputPort())
    writer.Write()


def put_beside(path: Path, other: Path) -> None:
    """Put another picture to the right of one, on its background."""
    from PySide6.QtGui import QImage, QPainter

    left, right = QImage(str(path)), QImage(str(other))
    both = QImage(
        left.width() + right.width(), max(left.height(), right.height()), QImage.Format.Format_RGB32
    )
    both.fill(left.pixelColor(0, 0))
    painter = QPainter(both)
    painter.drawImage(0, 0, left)
    painter.drawImage(left.width(), 0, right)
    painter.end()
    both.save(str(path))
