"""The part of the panel that compares methods by cross-validation, and shows what came out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import slicer
from slicer.i18n import tr as _

from SAHLoRACoreLib.childprocess import ChildError
from SAHLoRACoreLib.choices import comparedMethods
from SAHLoRACoreLib.events import Event
from SAHLoRACoreLib.tableviews import setUpTable
from SAHLoRATrainerLib.comparisoncharts import CHARTS, PARAMETERS, RANK, STRATUM, meanDice, showComparison
from SAHLoRATrainerLib.comparisons import (
    ALL,
    HELD_OUT,
    KEPT,
    METHODS,
    SPLITS,
    Comparison,
    CrossValidation,
    CrossvalSettings,
    allComparisons,
    deleteComparison,
    newComparison,
    parseRanks,
)
from SAHLoRATrainerLib.parameters import settingsOf

DASH = "\N{EN DASH}"


class CrossvalPanel:
    """Runs comparisons and lists those of this computer.

    Parameters
    ----------
    ui : object
        The whole panel's widgets; its container ``crossvalSection`` gets the widgets of this part.
    panel : SAHLoRATrainerWidget
    """

    def __init__(self, ui: Any, panel: Any) -> None:
        import qt

        self._panel = panel
        widget = slicer.util.loadUI(panel.resourcePath("UI/SAHLoRATrainerCrossval.ui"))
        ui.crossvalSection.layout().addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        self._running: CrossValidation | None = None
        self._comparisons: list[Comparison] = []
        words = comparedMethods()
        for method in METHODS:
            item = qt.QListWidgetItem(words[method].title)
            item.setToolTip(words[method].explanation)
            item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsUserCheckable)
            ticked = method in CrossvalSettings.methods
            item.setCheckState(qt.Qt.Checked if ticked else qt.Qt.Unchecked)
            self.ui.crossvalMethodsList.addItem(item)
        splits = {
            ALL: _("Folds of all cases"),
            KEPT: _("Folds; held-out cases are kept for a last test"),
            HELD_OUT: _("No folds: test on the held-out cases"),
        }
        self.ui.crossvalSplitSelector.addItems([splits[split] for split in SPLITS])
        self.ui.crossvalChartSelector.addItems([_chartTitle(chart) for chart in CHARTS])
        self.ui.crossvalMethodsList.connect("itemChanged(QListWidgetItem*)", self.refresh)
        self.ui.crossvalRanksEdit.connect("textChanged(QString)", self.refresh)
        self.ui.crossvalSplitSelector.connect("currentIndexChanged(int)", self.refresh)
        self.ui.crossvalFoldsSpinBox.connect("valueChanged(int)", self.refresh)
        self.ui.compareButton.connect("clicked(bool)", self.onCompare)
        self.ui.crossvalCancelButton.connect("clicked(bool)", self.onCancel)
        self.ui.continueButton.connect("clicked(bool)", self.onContinue)
        self.ui.deleteComparisonButton.connect("clicked(bool)", self.onDelete)
        self.ui.comparisonSelector.connect("currentIndexChanged(int)", self._showResults)
        self.ui.crossvalChartButton.connect("clicked(bool)", self.onChart)
        self.ui.crossvalPageButton.connect("clicked(bool)", self.onPage)
        titles = [_("Method"), _("Parameters"), _("Dice"), _("Gain")]
        setUpTable(self.ui.crossvalTable, titles)

    def use(self) -> None:
        """List the comparisons again."""
        self._fill()
        self.refresh()

    def close(self) -> None:
        """End what runs; it can be continued."""
        if self._running is not None:
            self._running.close()
            self._running = None

    def settings(self) -> CrossvalSettings:
        """Return what is chosen."""
        import qt

        ui = self.ui
        ticked = [
            method
            for row, method in enumerate(METHODS)
            if ui.crossvalMethodsList.item(row).checkState() == qt.Qt.Checked
        ]
        return CrossvalSettings(
            tuple(ticked),
            parseRanks(ui.crossvalRanksEdit.text),
            SPLITS[ui.crossvalSplitSelector.currentIndex],
            ui.crossvalFoldsSpinBox.value,
            replace(settingsOf(self._panel.parameters), name="cross-validation"),
        )

    def obstacle(self) -> str:
        """Return why nothing can be compared now, or an empty string."""
        if self._panel.parameters is None:
            return _("The scene is being closed.")
        if self._panel.occupation:
            return self._panel.occupation
        settings = self.settings()
        valid, reason = settings.isValid()
        return self._casesObstacle(settings) if valid else reason

    def refresh(self, _caller: Any = None, _event: str = "") -> None:
        """Show what is chosen and can be done."""
        ui, obstacle, chosen = self.ui, self.obstacle(), self._chosen()
        free = not self._panel.occupation
        ui.compareButton.enabled = not obstacle
        ui.compareButton.toolTip = obstacle or _("Train and test every method.")
        ui.crossvalCancelButton.enabled = self._running is not None
        ui.crossvalFoldsSpinBox.enabled = SPLITS[ui.crossvalSplitSelector.currentIndex] != HELD_OUT
        ui.continueButton.enabled = (
            free and chosen is not None and bool(chosen.cases) and not chosen.page.is_file()
        )
        ui.deleteComparisonButton.enabled = free and chosen is not None
        ui.crossvalPageButton.enabled = chosen is not None and chosen.page.is_file()
        ui.crossvalChartButton.enabled = chosen is not None and ui.crossvalTable.rowCount > 0
        if self._panel.parameters is not None:
            ui.crossvalCountLabel.text = obstacle or _("Trainings: {n}").format(n=self.settings().trainings())

    def onCompare(self) -> None:
        """Start a new comparison of the cases in the table."""
        with slicer.util.tryWithErrorDisplay(_("The comparison could not be started.")):
            table, settings = self._panel.cases, self.settings()
            cases = [table.case(row) for row in table.enabledRows()]
            if self._panel.ensureInstalled():
                self._start(CrossValidation(self._panel.logic.command, newComparison(settings), cases))

    def onContinue(self) -> None:
        """Go on with the chosen comparison."""
        with slicer.util.tryWithErrorDisplay(_("The comparison could not be continued.")):
            chosen = self._chosen()
            if self._panel.ensureInstalled():
                self._start(CrossValidation(self._panel.logic.command, chosen))

    def onDelete(self) -> None:
        """Delete the chosen comparison with its cached slices, if the user agrees."""
        chosen = self._chosen()
        question = _("Delete this comparison ({path}) with all its results?").format(path=chosen.folder)
        if slicer.util.confirmOkCancelDisplay(question):
            with slicer.util.tryWithErrorDisplay(_("The comparison could not be deleted.")):
                deleteComparison(chosen)
            self._fill()

    def onCancel(self) -> None:
        """Stop after the present step."""
        self.ui.crossvalCancelButton.enabled = False
        self.ui.crossvalStatusLabel.text = _("Canceling…")
        self._running.cancel()

    def onProgress(self, event: Event) -> None:
        """Show how far it is."""
        match event["event"]:
            case "stage":
                self.ui.crossvalStatusLabel.text = _("Stage: {stage}").format(stage=event.get("stage", ""))
            case "progress":
                self.ui.crossvalProgressBar.setValue(round(1000 * event.get("fraction", 0)))
                if event.get("eta_s") is not None:
                    self.ui.crossvalProgressBar.toolTip = _("About {seconds:.0f} s left").format(
                        seconds=event["eta_s"]
                    )
            case "metric" if "state" in event:
                self.ui.crossvalStatusLabel.text = _job(event)

    def onFinished(self, crossValidation: CrossValidation) -> None:
        """Show what came out."""
        configurations = crossValidation.comparison.configurations()
        failed = sum(len(one["failed"]) for one in configurations)
        words = _("Done.") if not failed else _("Done; {n} trainings failed, see the page.").format(n=failed)
        self.ui.crossvalProgressBar.setValue(1000)
        self._end(words)

    def onError(self, error: ChildError) -> None:
        """Say why it ended."""
        isCanceled = error.code == "cancelled"
        self._end(_("Canceled. Continue it below.") if isCanceled else str(error))
        if not isCanceled:
            slicer.util.errorDisplay(str(error), detailedText=error.details)

    def onChart(self) -> None:
        """Show the chosen chart."""
        chart = CHARTS[self.ui.crossvalChartSelector.currentIndex]
        showComparison(self._chosen().configurations(), chart, self.ui.crossvalChartSelector.currentText)

    def onPage(self) -> None:
        """Show the page in the browser."""
        import qt

        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(self._chosen().page)))

    # ------------------------------------------------------------------------------------------- parts

    def _start(self, crossValidation: CrossValidation) -> None:
        crossValidation.progress.connect(self.onProgress)
        crossValidation.finished.connect(self.onFinished)
        crossValidation.error.connect(self.onError)
        crossValidation.start()
        self._running = crossValidation
        self.ui.crossvalProgressBar.setValue(0)
        self.ui.crossvalStatusLabel.text = _("Starting…")
        self._panel.occupy(_("Methods are being compared."))

    def _end(self, words: str) -> None:
        folder = self._running.comparison.folder if self._running is not None else None
        self._running = None
        self.ui.crossvalStatusLabel.text = words
        self._fill()
        folders = [comparison.folder for comparison in self._comparisons]
        if folder in folders:
            self.ui.comparisonSelector.setCurrentIndex(folders.index(folder))
        self._showResults()
        self._panel.release()

    def _casesObstacle(self, settings: CrossvalSettings) -> str:
        if settings.split == HELD_OUT:
            return self._panel.parts.cases.obstacle()
        rows = self._panel.cases.enabledRows()
        for row in rows:
            try:
                self._panel.cases.case(row)
            except ValueError as error:
                return str(error)
        used = [row for row in rows if settings.split == ALL or not row.heldOut]
        patients = {row.patient or row.key for row in used}
        if len(patients) < settings.folds:
            return _("{folds} folds need as many patients; there are {n}. Add cases.").format(
                folds=settings.folds, n=len(patients)
            )
        return ""

    def _chosen(self) -> Comparison | None:
        index = self.ui.comparisonSelector.currentIndex
        return self._comparisons[index] if 0 <= index < len(self._comparisons) else None

    def _fill(self) -> None:
        """List the comparisons; a choice stays."""
        chosen, self._comparisons = self._chosen(), allComparisons()
        folders = [comparison.folder for comparison in self._comparisons]
        selector = self.ui.comparisonSelector
        wasBlocked = selector.blockSignals(True)
        selector.clear()
        selector.addItems([_title(comparison) for comparison in self._comparisons])
        stays = chosen is not None and chosen.folder in folders
        selector.setCurrentIndex(folders.index(chosen.folder) if stays else min(0, len(folders) - 1))
        selector.blockSignals(wasBlocked)
        self._showResults()

    def _showResults(self) -> None:
        """Show what came out of the chosen comparison."""
        import qt

        chosen, table = self._chosen(), self.ui.crossvalTable
        configurations = chosen.configurations() if chosen is not None else []
        table.setRowCount(len(configurations))
        for index, one in enumerate(configurations):
            for column, text in enumerate(_cells(one)):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(
                    "\n".join(failed["message"] for failed in one["failed"]) or _test(one) or text
                )
                table.setItem(index, column, item)
        self.refresh()


def _title(comparison: Comparison) -> str:
    settings = comparison.settings
    state = "" if comparison.page.is_file() else _(" (not done)")
    return _("{date}: {methods}, rank {ranks}{state}").format(
        date=comparison.created[:10],
        methods=", ".join(settings.methods),
        ranks=", ".join(map(str, settings.ranks)),
        state=state,
    )


def _cells(one: dict[str, Any]) -> tuple[str, str, str, str]:
    """Return the cells of one configuration; a figure never stands without its n."""
    parameters = DASH if one["parameters"] is None else f"{one['parameters']:,}"
    dice, gain = DASH, DASH
    if meanDice(one) is not None:
        measured = one["strata"]["all"]["measures"]["dice"]
        sd = DASH if measured["sd"] is None else f"{measured['sd']:.2f}"
        dice = _("{mean:.2f} ± {sd}, n = {n}").format(mean=measured["mean"], sd=sd, n=measured["n"])
    test = one["against_none"]
    if test is not None and test["mean_difference"] is not None:
        gain = _("{gain:+.2f}, n = {n}").format(gain=test["mean_difference"], n=test["n"])
    failed = _(", {n} failed").format(n=len(one["failed"])) if one["failed"] else ""
    return f"{one['name']}{failed}", parameters, dice, gain


def _test(one: dict[str, Any]) -> str:
    """Say what the test against the model as it is found; empty if there is none."""
    test = one["against_none"]
    if test is None or test["p_value"] is None:
        return ""
    return _(
        "Mean gain in Dice over the model as it is: {gain:+.3f} (n = {n} patients, Wilcoxon's p = {p:.3f})"
    ).format(gain=test["mean_difference"], n=test["n"], p=test["p_value"])


def _chartTitle(chart: str) -> str:
    return {
        PARAMETERS: _("Dice by parameters"),
        RANK: _("Dice by rank"),
        STRATUM: _("Dice by volume"),
    }[chart]


def _job(event: Event) -> str:
    """Say how one training came out."""
    rank = f" {event['rank']}" if event.get("rank") is not None else ""
    dice = DASH if event.get("dice") is None else f"{event['dice']:.3f}"
    return _("{done} of {all}: {method}{rank}, fold {fold}: Dice {dice}").format(
        done=event.get("jobs_done"),
        all=event.get("jobs"),
        method=event.get("method"),
        rank=rank,
        fold=int(event.get("fold", 0)) + 1,
        dice=dice if event.get("state") == "done" else _("failed"),
    )
