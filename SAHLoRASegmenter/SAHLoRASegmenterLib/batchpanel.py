"""The part of the panel that segments many scans and shows what became of each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from SAHLoRACoreLib.tableviews import setUpTable
from SAHLoRACoreLib.volumes import possibleCTs
from SAHLoRASegmenterLib.batch import (
    CANCELLED,
    DONE,
    FAILED,
    RUNNING,
    WAITING,
    BatchRow,
    BatchRun,
    folderJobs,
    volumeJobs,
    writeCsv,
)


class BatchPanel:
    """Lists the loaded volumes, runs batches, and shows their table.

    Parameters
    ----------
    ui : object
        The panel's widgets.
    logic : SAHLoRASegmenterLogic
        Segments.
    prepare : callable
        Returns the settings to segment with; None if the packages are not there, which was then said.
    setBusy : callable
        Called with True when a batch starts and with False when it ended.
    showResult : callable
        Called with the segmentation of the scan that was done last, if a batch brought any to the scene.
    """

    def __init__(
        self,
        ui: Any,
        logic: Any,
        prepare: Callable[[], Any],
        setBusy: Callable[[bool], None],
        showResult: Callable[[Any], None],
    ) -> None:
        self._ui, self._logic, self._prepare, self._setBusy = ui, logic, prepare, setBusy
        self._showResult = showResult
        self._volumeIDs: list[str] = []
        self._batch: BatchRun | None = None
        self._canStart = False
        ui.batchVolumesButton.connect("clicked(bool)", self.onVolumes)
        ui.batchFolderButton.connect("clicked(bool)", self.onFolder)
        ui.batchCancelButton.connect("clicked(bool)", self.onCancel)
        ui.batchSaveButton.connect("clicked(bool)", self.onSave)
        ui.batchList.connect("itemChanged(QListWidgetItem*)", self._refresh)
        setUpTable(ui.batchTable, [_("Scan"), _("State"), _("Volume (mL)"), _("Time (s)")])

    @property
    def isRunning(self) -> bool:
        """Whether a batch is being worked on."""
        return self._batch is not None and self._batch.isRunning()

    def fill(self) -> None:
        """List the loaded volumes; ticks stay."""
        import qt

        ticked = {node.GetID() for node in self._ticked()}
        nodes = possibleCTs()
        view = self._ui.batchList
        wasBlocked = view.blockSignals(True)
        view.clear()
        self._volumeIDs = [node.GetID() for node in nodes]
        for node in nodes:
            item = qt.QListWidgetItem(node.GetName())
            item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsUserCheckable)
            item.setCheckState(qt.Qt.Checked if node.GetID() in ticked else qt.Qt.Unchecked)
            view.addItem(item)
        view.blockSignals(wasBlocked)
        self._refresh()

    def allow(self, canStart: bool) -> None:
        """Say whether the settings can be run and nothing else runs."""
        self._canStart = canStart
        self._refresh()

    def onVolumes(self) -> None:
        """Segment the ticked volumes."""
        settings = self._prepare()
        if settings is not None:
            self._run(BatchRun(volumeJobs(self._logic, self._ticked(), settings)))

    def onFolder(self) -> None:
        """Ask for two folders and segment all scans of the first into the second."""
        import qt

        window = slicer.util.mainWindow()
        folder = qt.QFileDialog.getExistingDirectory(window, _("Folder with scans"))
        output = folder and qt.QFileDialog.getExistingDirectory(window, _("Folder for the results"))
        if output:
            with slicer.util.tryWithErrorDisplay(_("The folder could not be segmented.")):
                self.segmentFolder(Path(folder), Path(output))

    def segmentFolder(self, folder: Path, output: Path) -> None:
        """Segment all scans of a folder into another; raise ValueError if that can't be done."""
        if output == folder or folder in output.parents:
            raise ValueError(_("Choose a folder for the results outside the folder with the scans."))
        if any(output.iterdir()):
            raise ValueError(_("Choose an empty folder for the results."))
        settings = self._prepare()
        if settings is None:
            return
        jobs = folderJobs(self._logic.command, folder, output, settings)
        if not jobs:
            raise ValueError(_("There is no scan in {folder}.").format(folder=folder))
        self._run(BatchRun(jobs, output / "results.csv"))

    def onCancel(self) -> None:
        """Stop; what is done stays."""
        self._ui.batchCancelButton.enabled = False
        self._batch.cancel()

    def onSave(self) -> None:
        """Write the table where the user wants it."""
        import qt

        path = qt.QFileDialog.getSaveFileName(
            slicer.util.mainWindow(), _("Save the table"), "results.csv", _("Table (*.csv)")
        )
        if path:
            with slicer.util.tryWithErrorDisplay(_("The table could not be saved.")):
                writeCsv(Path(path), self._batch.rows)

    def close(self) -> None:
        """End a running batch."""
        if self.isRunning:
            self._batch.close()
            self._setBusy(False)
            self._refresh()

    def clear(self) -> None:
        """Forget the batch, whose table names patients."""
        self._batch = None
        self._ui.batchTable.setRowCount(0)
        self._refresh()

    # ------------------------------------------------------------------------------------------- parts

    def _run(self, batch: BatchRun) -> None:
        self._batch = batch
        batch.changed.connect(self._showRows)
        batch.finished.connect(self._onFinished)
        self._setBusy(True)
        batch.start()
        self._refresh()

    def _onFinished(self, batch: BatchRun) -> None:
        self._setBusy(False)
        self._refresh()
        last = slicer.mrmlScene.GetNodeByID(batch.lastResultID) if batch.lastResultID else None
        if last is not None:
            self._showResult(last)

    def _ticked(self) -> list:
        import qt

        view = self._ui.batchList
        ids = [i for row, i in enumerate(self._volumeIDs) if view.item(row).checkState() == qt.Qt.Checked]
        nodes = [slicer.mrmlScene.GetNodeByID(identifier) for identifier in ids]
        return [node for node in nodes if node is not None]

    def _refresh(self) -> None:
        ui = self._ui
        ui.batchVolumesButton.enabled = self._canStart and bool(self._ticked())
        ui.batchFolderButton.enabled = self._canStart
        ui.batchCancelButton.enabled = self.isRunning
        ui.batchSaveButton.enabled = self._batch is not None and not self.isRunning

    def _showRows(self, batch: BatchRun) -> None:
        import qt

        table = self._ui.batchTable
        table.setRowCount(len(batch.rows))
        for index, row in enumerate(batch.rows):
            for column, text in enumerate(_cells(row)):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(row.message)
                table.setItem(index, column, item)


def _cells(row: BatchRow) -> tuple[str, str, str, str]:
    states = {
        WAITING: _("waiting"),
        RUNNING: _("running"),
        DONE: _("done"),
        FAILED: _("failed"),
        CANCELLED: _("canceled"),
    }
    figures = ["" if value is None else f"{value:.1f}" for value in (row.volume_ml, row.seconds)]
    return row.case, states[row.state], figures[0], figures[1]
