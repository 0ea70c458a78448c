"""The part of the panel that trains, shows how it goes, and lists the runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import slicer
from slicer.i18n import tr as _

from SAHLoRACoreLib.tableviews import setUpTable
from SAHLoRATrainerLib.charts import Curves, drawRuns, removeCurves, showRuns
from SAHLoRATrainerLib.parameters import settingsOf
from SAHLoRATrainerLib.runs import (
    CANCELED,
    DONE,
    ELSEWHERE,
    FAILED,
    INTERRUPTED,
    PAUSED,
    RUNNING,
    Run,
    allRuns,
    deleteRun,
)

REDRAW_S = 0.5  # curves are not drawn more often than this
NAME, ADAPTER, EPOCHS, DICE, STATE = range(5)


class TrainingPanel:
    """Starts, pauses and resumes trainings, and lists the runs of this computer.

    Parameters
    ----------
    ui : object
        The panel's widgets.
    panel : SAHLoRATrainerWidget
    """

    def __init__(self, ui: Any, panel: Any) -> None:
        self._ui, self._panel = ui, panel
        self._training: Any = None
        self._runs: list[Run] = []
        self._view = ""  # the one that is trained now
        self._curves: Curves | None = None
        self._charted: list[Run] = []  # the runs that the chart shows
        self._waiting: list[dict] = []  # epochs that are not drawn yet
        self._progress: dict = {}  # the last event of that name
        self._drawnAt = 0.0
        self._advice = ""
        ui.trainButton.connect("clicked(bool)", self.onTrain)
        ui.pauseButton.connect("clicked(bool)", self.onPause)
        ui.cancelButton.connect("clicked(bool)", self.onCancel)
        ui.resumeButton.connect("clicked(bool)", self.onResume)
        ui.showRunsChartButton.connect("clicked(bool)", self.onShowChart)
        ui.deleteRunButton.connect("clicked(bool)", self.onDelete)
        ui.runsTable.connect("itemSelectionChanged()", self._panel.refresh)
        titles = [_("Run"), _("Adapter"), _("Epochs"), _("Best Dice"), _("State")]
        setUpTable(ui.runsTable, titles)

    def use(self) -> None:
        """List the runs again; of a closed scene, no chart is left and nothing is told."""
        if self._panel.parameters is None:
            self._charted = []
            if self._training is None:
                self._forget()
        self.fill()
        if self._curves is not None and self._curves.isPresent():
            self._showRow()

    def close(self) -> None:
        """Pause what runs: Slicer, or the module, is about to end."""
        if self._training is not None:
            self._training.close()
            self._end()

    def selectedRun(self) -> Run | None:
        """Return the run that is selected in the list."""
        index = self._ui.runsTable.currentRow()
        return self._runs[index] if 0 <= index < len(self._runs) else None

    def obstacle(self) -> str:
        """Return why no training can be started now, or an empty string."""
        parts = self._panel.parts
        return self._panel.occupation or parts.cases.obstacle() or parts.adapter.obstacle()

    def refresh(self) -> None:
        """Show what can be done."""
        ui, run, free = self._ui, self.selectedRun(), not self._panel.occupation
        obstacle = self.obstacle()
        ui.trainButton.enabled = not obstacle
        ui.trainButton.toolTip = obstacle or _("Train in the background; Slicer stays free.")
        advice = self._offer() or obstacle
        if free and advice != self._advice:  # what was said of the last run stays until this changes
            self._advice = advice
            ui.statusLabel.text = advice
        ui.pauseButton.enabled = ui.cancelButton.enabled = self._training is not None
        ui.resumeButton.enabled = free and run is not None and run.isResumable
        ui.deleteRunButton.enabled = run is not None and run.state not in (RUNNING, ELSEWHERE)
        ui.showRunsChartButton.enabled = bool(self._runs)
        ui.runNoteLabel.text = run.message if run is not None else ""

    def fill(self) -> None:
        """Read the runs from their folders; selection and ticks stay."""
        import qt

        table, selected, ticked = self._ui.runsTable, self.selectedRun(), self._ticked()
        self._runs = allRuns()
        names = [run.folder.name for run in self._runs]
        wasBlocked = table.blockSignals(True)
        table.setRowCount(len(self._runs))
        for index, run in enumerate(self._runs):
            for column, text in enumerate(_cells(run)):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(run.message or run.created)
                if column == NAME:
                    item.setFlags(item.flags() | qt.Qt.ItemIsUserCheckable)
                    isTicked = run.folder.name in ticked
                    item.setCheckState(qt.Qt.Checked if isTicked else qt.Qt.Unchecked)
                table.setItem(index, column, item)
        if selected is not None and selected.folder.name in names:
            table.setCurrentCell(names.index(selected.folder.name), 0)
        elif self._runs:
            table.setCurrentCell(0, 0)
        table.blockSignals(wasBlocked)

    # ------------------------------------------------------------------------------------------- running

    def onTrain(self) -> None:
        """Train with the cases and settings of the panel."""
        panel = self._panel
        with slicer.util.tryWithErrorDisplay(_("The training could not be started.")):
            cases = [panel.cases.case(row) for row in panel.cases.enabledRows()]
            settings = settingsOf(panel.parameters)  # as they were at the click: the user goes on meanwhile
            if panel.ensureInstalled():
                self._follow(lambda: panel.logic.train(cases, settings))

    def onResume(self) -> None:
        """Go on with the selected run."""
        with slicer.util.tryWithErrorDisplay(_("The run could not go on.")):
            run = self.selectedRun()
            if self._panel.ensureInstalled():
                self._follow(lambda: self._panel.logic.resume(run))

    def onPause(self) -> None:
        """Stop after the present step."""
        self._sayStopping(_("Pausing after the present step…"))
        self._training.pause()

    def onCancel(self) -> None:
        """Stop and put the run aside."""
        self._sayStopping(_("Canceling…"))
        self._training.cancel()

    def onProgress(self, event: dict) -> None:
        """Show what the child says."""
        match event["event"]:
            case "stage":
                self._onStage(str(event.get("stage", "")))
            case "progress":
                self._ui.progressBar.setValue(round(1000 * event.get("fraction", 0)))
                self._progress = event
                if not self._draw():
                    self._showTimeLeft()
            case "metric" if "epoch" in event:
                self._waiting.append(event)
                self._draw()
            case "warning":
                self._log(f"{event.get('message', '')} {event.get('hint', '')}".strip())
            case "log":
                self._log(event["text"])

    def onFinished(self, training: Any) -> None:
        """Say what was gained."""
        self._end()
        self._ui.progressBar.setValue(1000)
        self._ui.statusLabel.text = _("Done. {message}").format(message=training.run.message)
        self._log(self._ui.statusLabel.text)
        self._select(training.run)

    def onError(self, error: Any) -> None:
        """Say why it ended."""
        run = self._training.run
        self._end()
        self._select(run)
        self._ui.statusLabel.text = str(error)
        self._log(f"{error}\n{error.details}".strip())
        if error.code not in (PAUSED, CANCELED):
            slicer.util.errorDisplay(str(error), detailedText=error.details)

    # ---------------------------------------------------------------------------------------- list of runs

    def onShowChart(self) -> None:
        """Show the ticked runs in one chart, or the selected one."""
        ticked = self._ticked()
        runs = [run for run in self._runs if run.folder.name in ticked]
        self._showChart(runs or [self.selectedRun()])

    def onDelete(self) -> None:
        """Delete the selected run if the user agrees."""
        run = self.selectedRun()
        question = _("Delete {name} ({folder}) with its adapter? This can't be undone.").format(
            name=run.settings.name, folder=run.folder.name
        )
        if slicer.util.confirmOkCancelDisplay(question):
            with slicer.util.tryWithErrorDisplay(_("The run could not be deleted.")):
                deleteRun(run)
                removeCurves(run)
                self._charted = [shown for shown in self._charted if shown.folder != run.folder]
            self.fill()
            self._panel.refresh()

    # ------------------------------------------------------------------------------------------- parts

    def _follow(self, start: Callable[[], Any]) -> None:
        """Start a training and show how it goes."""
        try:
            training = start()
        except Exception as failure:
            self._ui.statusLabel.text = str(failure)
            raise
        self._training, self._view, self._curves = training, "", None
        self._waiting, self._progress = [], {}
        self._ui.logText.clear()
        self._ui.progressBar.setValue(0)
        self._ui.bestLabel.text = ""
        self._ui.statusLabel.text = _("Starting…")
        training.progress.connect(self.onProgress)
        training.finished.connect(self.onFinished)
        training.error.connect(self.onError)
        self.fill()
        self._select(training.run)
        self._panel.occupy(_("A training is running."))

    def _end(self) -> None:
        self._draw(atOnce=True)
        self._training = self._curves = None
        self.fill()
        self._panel.release()

    def _forget(self) -> None:
        """Tell nothing of the last training any more."""
        self._advice = ""
        self._ui.statusLabel.text = self._ui.bestLabel.text = ""
        self._ui.progressBar.setValue(0)
        self._ui.logText.clear()

    def _select(self, run: Run) -> None:
        names = [other.folder.name for other in self._runs]
        if run.folder.name in names:
            self._ui.runsTable.setCurrentCell(names.index(run.folder.name), 0)

    def _onStage(self, stage: str) -> None:
        self._draw(atOnce=True)
        self._ui.progressBar.setValue(0)
        self._ui.statusLabel.text = _("Stage: {stage}").format(stage=stage)
        self._log(self._ui.statusLabel.text)
        if stage.startswith("training "):
            self._view, self._curves = stage.removeprefix("training "), None
            self._showChart([self._training.run])

    def _showChart(self, runs: list[Run]) -> None:
        self._charted = runs
        showRuns(runs)

    def _draw(self, atOnce: bool = False) -> bool:
        """Add the waiting epochs to the curves, at most twice a second, and every figure with them."""
        if not self._waiting or not (atOnce or time.monotonic() - self._drawnAt >= REDRAW_S):
            return False
        if self._curves is None or not self._curves.isPresent():  # the scene may have been closed
            self._curves = Curves(self._training.run, self._view)
        self._curves.append(self._waiting)
        self._waiting, self._drawnAt = [], time.monotonic()
        if self._training.run.folder in [run.folder for run in self._charted]:
            drawRuns(self._charted)
        self._showRow()
        self._showTimeLeft()
        best = self._curves.best()
        if best is not None:
            self._ui.bestLabel.text = _(
                "Best so far: Dice {dice:.3f} of the held-out slices, epoch {epoch}"
            ).format(dice=best[1], epoch=best[0])
        return True

    def _showRow(self) -> None:
        """Show how far the training is in its row, as the curves have it, so that all figures agree."""
        run = self._training.run
        names = [other.folder.name for other in self._runs]
        if run.folder.name in names:
            curves = [Curves(run, view) for view in run.settings.views]
            best = max((found[1] for found in (one.best() for one in curves) if found), default=None)
            cells = {EPOCHS: str(sum(one.epochs for one in curves)), DICE: _dice(best)}
            for column, text in cells.items():
                self._ui.runsTable.item(names.index(run.folder.name), column).setText(text)

    def _showTimeLeft(self) -> None:
        stage, seconds = self._progress.get("stage", ""), self._progress.get("eta_s")
        text = _("Stage: {stage}").format(stage=stage)
        if self._view and stage == f"training {self._view}":
            text = _("Training, {view}: epoch {epoch} of at most {total}").format(
                view=self._view,
                epoch=self._curves.epochs if self._curves is not None else 0,
                total=_epochs(self._training.run, self._view),
            )
        if seconds is not None:
            text += _(", about {time} left").format(time=duration(seconds))
        self._ui.statusLabel.text = text

    def _sayStopping(self, text: str) -> None:
        self._ui.statusLabel.text = text
        self._ui.pauseButton.enabled = self._ui.cancelButton.enabled = False

    def _offer(self) -> str:
        """Offer to go on with the newest run that is unfinished, if there is one."""
        unfinished = [run for run in self._runs if run.isResumable and run.state in (PAUSED, INTERRUPTED)]
        if not unfinished:
            return ""
        return _("{name} ({folder}) is unfinished: select it and click Resume to go on.").format(
            name=unfinished[0].settings.name, folder=unfinished[0].folder.name
        )

    def _ticked(self) -> set[str]:
        import qt

        table = self._ui.runsTable
        items = [(run, table.item(row, NAME)) for row, run in enumerate(self._runs)]
        return {run.folder.name for run, item in items if item and item.checkState() == qt.Qt.Checked}

    def _log(self, text: str) -> None:
        self._ui.logText.appendPlainText(text)


def duration(seconds: float) -> str:
    """Return a time for people."""
    if seconds < 90:
        return _("{seconds:.0f} s").format(seconds=seconds)
    if seconds < 5400:
        return _("{minutes:.0f} min").format(minutes=seconds / 60)
    return _("{hours:.1f} h").format(hours=seconds / 3600)


def _epochs(run: Run, view: str) -> int:
    """Return how many epochs are trained at most, as the command wrote it down."""
    try:
        text = (run.trainingFolder / view / "settings.json").read_text(encoding="utf-8")
        return int(json.loads(text)["epochs"])
    except (OSError, ValueError, KeyError):
        return max(1, run.settings.epochs)


def _cells(run: Run) -> tuple[str, ...]:
    states = {
        RUNNING: _("running"),
        PAUSED: _("paused"),
        CANCELED: _("canceled"),
        FAILED: _("failed"),
        DONE: _("done"),
        INTERRUPTED: _("interrupted"),
        ELSEWHERE: _("in another Slicer"),
    }
    lines = [line for view in run.metrics().values() for line in view]
    scores = [line["held_out_dice"] for line in lines if "held_out_dice" in line]
    best = _dice(max(scores, default=None))
    return run.settings.name, run.settings.words(), str(len(lines)), best, states.get(run.state, run.state)


def _dice(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
