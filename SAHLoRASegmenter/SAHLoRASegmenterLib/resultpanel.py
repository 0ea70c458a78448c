"""The part of the panel that shows a result: measurements, threshold, views, chart, report, correction."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import slicer
from slicer.i18n import tr as _

from SAHLoRACoreLib.scene import busyCursor
from SAHLoRACoreLib.showing import showVolume
from SAHLoRACoreLib.steps import Steps
from SAHLoRACoreLib.tableviews import setUpTable
from SAHLoRASegmenterLib.chartclicks import ChartClicks
from SAHLoRASegmenterLib.results import (
    Result,
    isDisagreementShown,
    isShownIn3D,
    openInSegmentEditor,
    showChart,
    showDisagreement,
    showIn3D,
    showInSlices,
    useAsTrainingCase,
)
from SAHLoRASegmenterLib.threshold import LiveThreshold


class ResultPanel:
    """Shows the chosen segmentation, if SAHLoRA made it.

    Parameters
    ----------
    ui : object
        The panel's widgets.
    """

    def __init__(self, ui: Any) -> None:
        self._ui = ui
        self._result: Result | None = None
        self._nodes: tuple[Any, ...] = ()  # of the result, as they were when it was shown
        self._live: LiveThreshold | None = None
        self._showing: Steps | None = None
        self._chartClicks = ChartClicks(self.onChartClick)
        ui.resultThresholdSlider.connect("valueIsChanging(double)", self.onThresholdMoving)
        ui.resultThresholdSlider.connect("valueChanged(double)", self.onThreshold)
        ui.showSlicesButton.connect("clicked(bool)", self.onShowSlices)
        ui.show3DButton.connect("clicked(bool)", self.onShow3D)
        ui.showDisagreementButton.connect("clicked(bool)", self.onShowDisagreement)
        ui.showChartButton.connect("clicked(bool)", self.onShowChart)
        ui.editButton.connect("clicked(bool)", self.onEdit)
        ui.useAsCaseButton.connect("clicked(bool)", self.onUseAsCase)
        ui.openPageButton.connect("clicked(bool)", self.onOpenPage)
        ui.savePageButton.connect("clicked(bool)", self.onSavePage)
        setUpTable(ui.measurementsTable, [_("Measurement"), _("Value"), _("Unit")])

    def use(self, segmentationNode: Any) -> None:
        """Show this segmentation; None: none."""
        if self._result is not None and segmentationNode is not self._result.segmentationNode:
            self._endShowing()
        self._result = Result.of(segmentationNode)
        self._nodes = self._result.nodes if self._result is not None else ()
        self._live = None
        self.refresh()

    def onNodeRemoved(self) -> None:
        """Show what is left of the result if it was one of its nodes."""
        if self._result is not None and self._result.nodes != self._nodes:
            self.use(self._result.segmentationNode)

    def close(self) -> None:
        """Listen to the chart no more."""
        self._endShowing()
        self._chartClicks.close()

    def refresh(self) -> None:
        """Show what the result is and can."""
        ui, result = self._ui, self._result
        buttons = (
            ui.showSlicesButton,
            ui.show3DButton,
            ui.editButton,
            ui.useAsCaseButton,
        )
        for button in buttons:
            button.enabled = result is not None
        ui.showChartButton.enabled = result is not None and None not in (result.chartNode, result.areasNode)
        for button in (ui.openPageButton, ui.savePageButton):
            button.enabled = result is not None and result.page is not None
        ui.show3DButton.checked = result is not None and isShownIn3D(result)
        ui.showDisagreementButton.enabled = result is not None and result.disagreementNode is not None
        ui.showDisagreementButton.checked = result is not None and isDisagreementShown(result)
        obstacle = self._thresholdObstacle()
        ui.resultThresholdSlider.enabled = result is not None and not obstacle
        ui.resultThresholdSlider.toolTip = obstacle or _("Probability from which on a voxel is outlined.")
        ui.resultNoteLabel.text = obstacle
        if result is not None:
            wasBlocked = ui.resultThresholdSlider.blockSignals(True)
            ui.resultThresholdSlider.value = result.threshold
            ui.resultThresholdSlider.blockSignals(wasBlocked)
        self._showMeasurements()

    def onThresholdMoving(self, threshold: float) -> None:
        """Follow the slider."""
        if self._result is not None:
            with self._changingThreshold():
                self._liveThreshold().apply(threshold)
            self._showMeasurements()

    def onThreshold(self, threshold: float) -> None:
        """Take the threshold that the user settled on."""
        if self._result is not None:
            with self._changingThreshold():
                self._liveThreshold().finish(threshold)
            self.refresh()

    def showAll(self, then: Callable[[], None] = lambda: None) -> None:
        """Show a result that just came, in slices and then in 3D, and go on with `then`."""

        def finish(_value: Any) -> None:
            self._showing = None
            self.refresh()
            then()

        self._endShowing()
        self._showing = Steps(self._show())
        self._showing.finished.connect(finish)
        self._showing.error.connect(finish)
        self._showing.start()

    def _endShowing(self) -> None:
        if self._showing is not None:
            self._showing.close()
            self._showing = None

    def _show(self) -> Generator[float, None, None]:
        with busyCursor():
            self.onShowSlices()
            yield 0.5
            self.onShow3D(visible=True)
            yield 1.0

    def onShowSlices(self) -> None:
        """Go to the slice of the largest area."""
        showInSlices(self._result)

    def onShow3D(self, visible: bool) -> None:
        """Make or remove the surface."""
        showIn3D(self._result, visible)
        self._live = None

    def onShowDisagreement(self, visible: bool) -> None:
        """Lay the disagreement over the slices, or take it away."""
        showDisagreement(self._result, visible)

    def onShowChart(self) -> None:
        """Show the areas; a click on a point goes to its slice."""
        showChart(self._result)
        self._chartClicks.listen()

    def onChartClick(self, seriesID: str, row: int) -> None:
        """Go to the slice of a point of the chart."""
        chart = self._result and self._result.chartNode
        if chart is not None and chart.GetNthPlotSeriesNodeID(0) == seriesID:
            showVolume(self._result.volumeNode, self._result.slicePosition(row))

    def onEdit(self) -> None:
        """Go to the Segment Editor."""
        with slicer.util.tryWithErrorDisplay(_("The Segment Editor could not be opened.")):
            openInSegmentEditor(self._result)

    def onUseAsCase(self) -> None:
        """Hand CT and outline to the Trainer."""
        with slicer.util.tryWithErrorDisplay(_("The case could not be handed to SAHLoRA Trainer.")):
            useAsTrainingCase(self._result)

    def onOpenPage(self) -> None:
        """Show the report page in the browser."""
        import qt

        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(self._result.page)))

    def onSavePage(self) -> None:
        """Copy the report page to where the user wants it."""
        import qt

        path = qt.QFileDialog.getSaveFileName(
            slicer.util.mainWindow(), _("Save the report page"), "report.html", _("Report page (*.html)")
        )
        if path:
            with slicer.util.tryWithErrorDisplay(_("The report page could not be saved.")):
                shutil.copyfile(self._result.page, path)

    # ------------------------------------------------------------------------------------------- parts

    @contextmanager
    def _changingThreshold(self) -> Iterator[None]:
        """Tell why it can't be changed, and put the slider back to the threshold of the outline."""
        try:
            with slicer.util.tryWithErrorDisplay(_("The threshold could not be changed.")):
                yield
        except Exception:
            self.refresh()
            raise

    def _liveThreshold(self) -> LiveThreshold:
        if self._live is None:
            self._live = LiveThreshold(self._result)
        return self._live

    def _thresholdObstacle(self) -> str:
        if self._result is None:
            return ""
        if self._result.probabilityNode is None:
            return _("To change the threshold here, turn on the probability map and segment again.")
        if self._result.isCorrected():
            return _("This outline was corrected by hand: threshold and measurements stay as they are.")
        return ""

    def _showMeasurements(self) -> None:
        import qt

        view, node = self._ui.measurementsTable, self._result and self._result.measurementsNode
        view.setRowCount(node.GetNumberOfRows() if node else 0)
        for row in range(view.rowCount):
            for column in range(3):
                view.setItem(row, column, qt.QTableWidgetItem(node.GetCellText(row, column)))
        view.resizeRowsToContents()
