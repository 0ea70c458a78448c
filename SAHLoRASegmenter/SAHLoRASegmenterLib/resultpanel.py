"""The part of the panel that shows a result: measurements, threshold, views, chart, report, correction."""

from __future__ import annotations

import shutil
from typing import Any

import slicer
from slicer.i18n import tr as _

from SAHLoRASegmenterLib.results import (
    Result,
    isShownIn3D,
    openInSegmentEditor,
    showChart,
    showIn3D,
    showInSlices,
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
        self._live: LiveThreshold | None = None
        ui.resultThresholdSlider.connect("valueIsChanging(double)", self.onThresholdMoving)
        ui.resultThresholdSlider.connect("valueChanged(double)", self.onThreshold)
        ui.showSlicesButton.connect("clicked(bool)", self.onShowSlices)
        ui.show3DButton.connect("clicked(bool)", self.onShow3D)
        ui.showChartButton.connect("clicked(bool)", self.onShowChart)
        ui.editButton.connect("clicked(bool)", self.onEdit)
        ui.openPageButton.connect("clicked(bool)", self.onOpenPage)
        ui.savePageButton.connect("clicked(bool)", self.onSavePage)
        ui.measurementsTable.setHorizontalHeaderLabels([_("Measurement"), _("Value"), _("Unit")])
        ui.measurementsTable.verticalHeader().setVisible(False)
        ui.measurementsTable.horizontalHeader().setStretchLastSection(True)

    def use(self, segmentationNode: Any) -> None:
        """Show this segmentation; None: none."""
        self._result = Result.of(segmentationNode)
        self._live = None
        self.refresh()

    def refresh(self) -> None:
        """Show what the result is and can."""
        ui, result = self._ui, self._result
        for button in (ui.showSlicesButton, ui.show3DButton, ui.showChartButton, ui.editButton):
            button.enabled = result is not None
        for button in (ui.openPageButton, ui.savePageButton):
            button.enabled = result is not None and result.page is not None
        ui.show3DButton.checked = result is not None and isShownIn3D(result)
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
            self._liveThreshold().apply(threshold)
            self._showMeasurements()

    def onThreshold(self, threshold: float) -> None:
        """Take the threshold that the user settled on."""
        if self._result is None:
            return
        with slicer.util.tryWithErrorDisplay(_("The threshold could not be changed.")):
            self._liveThreshold().finish(threshold)
        self.refresh()

    def onShowSlices(self) -> None:
        """Go to the slice of the largest area."""
        showInSlices(self._result)

    def onShow3D(self, visible: bool) -> None:
        """Make or remove the surface."""
        showIn3D(self._result, visible)
        self._live = None

    def onShowChart(self) -> None:
        """Show the areas."""
        showChart(self._result)

    def onEdit(self) -> None:
        """Go to the Segment Editor."""
        with slicer.util.tryWithErrorDisplay(_("The Segment Editor could not be opened.")):
            openInSegmentEditor(self._result)

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
        view.resizeColumnsToContents()
        view.resizeRowsToContents()
