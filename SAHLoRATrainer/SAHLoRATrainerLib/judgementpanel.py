"""The part of the panel that compares base and adapter on the held-out cases, and says what to make of it."""

from __future__ import annotations

from typing import Any

import slicer
from slicer.i18n import tr as _

from SAHLoRACoreLib.tableviews import setUpTable
from SAHLoRATrainerLib.judgement import (
    JudgedCase,
    Verdict,
    removeOutlines,
    showJudged,
    shownName,
    showStrata,
    verdictOf,
)
from SAHLoRATrainerLib.rowpicking import RowPicking
from SAHLoRATrainerLib.runs import DONE, Run


class JudgementPanel:
    """Judges the run that is selected in the list of runs.

    Parameters
    ----------
    ui : object
        The panel's widgets.
    panel : SAHLoRATrainerWidget
    """

    def __init__(self, ui: Any, panel: Any) -> None:
        self._ui, self._panel = ui, panel
        self._judging: Any = None
        self._run: Run | None = None
        self._verdict: Verdict | None = None
        ui.judgeButton.connect("clicked(bool)", self.onJudge)
        ui.cancelJudgeButton.connect("clicked(bool)", self.onCancel)
        ui.showStrataButton.connect("clicked(bool)", self.onShowStrata)
        ui.openEvaluationButton.connect("clicked(bool)", self.onOpenPage)
        self._picking = RowPicking(ui.judgementTable, self.onCase)
        titles = [
            _("Case"),
            _("mL\nannotated"),
            _("Dice\nbase"),
            _("Dice\nadapter"),
            _("mL\nbase"),
            _("mL\nadapter"),
        ]
        setUpTable(ui.judgementTable, titles)

    def use(self) -> None:
        """Forget what was shown."""
        self._run = None

    def close(self) -> None:
        """End what runs."""
        self._picking.stop()
        if self._judging is not None:
            self._judging.close()
            self._end()

    def refresh(self) -> None:
        """Show the judgement of the selected run."""
        ui, run = self._ui, self._panel.parts.training.selectedRun()
        if run != self._run:
            self._run = run
            self._show(verdictOf(run) if run is not None else None)
        isDone = run is not None and run.state == DONE
        ui.judgeButton.enabled = isDone and not self._panel.occupation
        ui.judgeButton.toolTip = (
            _("Segment the held-out cases with the base and with the adapter, in the background.")
            if isDone
            else _("Select a run that is done.")
        )
        ui.cancelJudgeButton.enabled = self._judging is not None
        ui.showStrataButton.enabled = ui.openEvaluationButton.enabled = self._verdict is not None

    def onJudge(self) -> None:
        """Judge the selected run."""
        with slicer.util.tryWithErrorDisplay(_("The judgment could not be started.")):
            run = self._run
            if not self._panel.ensureInstalled():
                return
            self._judging = self._panel.logic.judge(run)
            self._judging.progress.connect(self.onProgress)
            self._judging.finished.connect(self.onFinished)
            self._judging.error.connect(self.onError)
            self._ui.verdictLabel.text = _("Segmenting the held-out cases…")
            self._panel.occupy(_("A judgment is running."))

    def onCancel(self) -> None:
        """Stop."""
        self._ui.cancelJudgeButton.enabled = False
        self._judging.cancel()

    def onProgress(self, event: dict) -> None:
        """Show how far it is."""
        if event["event"] == "progress":
            self._ui.judgeProgressBar.setValue(round(1000 * event.get("fraction", 0)))

    def onFinished(self, judging: Any) -> None:
        """Show the verdict."""
        self._end()
        self._show(judging.verdict)
        self._panel.refresh()

    def onError(self, error: Any) -> None:
        """Say why there is none."""
        self._end()
        self._show(verdictOf(self._run) if self._run is not None else None)
        self._ui.verdictLabel.text = str(error)
        if error.code != "cancelled":
            slicer.util.errorDisplay(str(error), detailedText=error.details)

    def onCase(self, index: int) -> None:
        """Show the case of a row with both outlines."""
        cases = self._verdict.cases if self._verdict is not None else ()
        if self._run is not None and index < len(cases):
            with slicer.util.tryWithErrorDisplay(_("The case could not be shown.")):
                showJudged(self._run, cases[index].name)

    def onShowStrata(self) -> None:
        """Show Dice over annotated volume."""
        showStrata(self._run, self._verdict)

    def onOpenPage(self) -> None:
        """Show the page of the evaluation in the browser."""
        import qt

        page = self._run.evaluationFolder / "evaluation.html"
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(page)))

    # ------------------------------------------------------------------------------------------- parts

    def _end(self) -> None:
        self._judging = None
        self._ui.judgeProgressBar.setValue(0)
        self._panel.release()

    def _show(self, verdict: Verdict | None) -> None:
        import qt

        ui, self._verdict = self._ui, verdict
        removeOutlines()
        ui.verdictLabel.text = self._sentence(verdict)
        ui.strataLabel.text = verdict.strataText() if verdict is not None else ""
        cases = verdict.cases if verdict is not None else ()
        ui.judgementTable.setRowCount(len(cases))
        for index, case in enumerate(cases):
            for column, text in enumerate(_cells(case, shownName(self._run, case.name))):
                ui.judgementTable.setItem(index, column, qt.QTableWidgetItem(text))

    def _sentence(self, verdict: Verdict | None) -> str:
        if verdict is None:
            return ""
        text = verdict.sentence()
        if verdict.failures:
            text += " " + _("Left out, as they could not be read: {names}.").format(
                names=", ".join(verdict.failures)
            )
        if self._run is not None and self._run.settings.preset != "paper":
            text += " " + _("The held-out cases also chose the epoch, which flatters the adapter a little.")
        return text


def _cells(case: JudgedCase, name: str) -> tuple[str, ...]:
    dice = ["\N{EN DASH}" if value is None else f"{value:.3f}" for value in (case.baseDice, case.adaptedDice)]
    ml = [f"{value:.1f}" for value in (case.annotatedMl, case.baseMl, case.adaptedMl)]
    return name, ml[0], *dice, *ml[1:]
