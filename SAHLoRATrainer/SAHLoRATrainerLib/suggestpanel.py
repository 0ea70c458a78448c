"""The part of the panel that ranks scans nobody annotated yet, and opens them to be corrected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from SAHLoRACoreLib.childprocess import ChildError
from SAHLoRACoreLib.events import Event
from SAHLoRACoreLib.models import InstalledModel, installedAdapters, installedModels
from SAHLoRACoreLib.showing import editSegment, showOutlines, showVolume
from SAHLoRACoreLib.tableviews import setUpTable
from SAHLoRATrainerLib.suggest import OpenedScan, Ranking, RankSettings, Suggestion, openSuggestion


class SuggestPanel:
    """Runs a ranking, shows its table, and brings scans to the scene.

    Parameters
    ----------
    ui : object
        The whole panel's widgets; its container ``suggestSection`` gets the widgets of this part.
    panel : SAHLoRATrainerWidget
    """

    def __init__(self, ui: Any, panel: Any) -> None:
        self._panel = panel
        widget = slicer.util.loadUI(panel.resourcePath("UI/SAHLoRATrainerSuggest.ui"))
        ui.suggestSection.layout().addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        self._ranking: Ranking | None = None
        self._shown: list[Suggestion] = []
        self._models: list[InstalledModel] = []
        self._adapters: list[InstalledModel] = []
        self._opened: dict[str, OpenedScan] = {}
        self._added: set[str] = set()
        self.ui.suggestFolderButton.connect("clicked(bool)", self.onFolder)
        self.ui.rankButton.connect("clicked(bool)", self.onRank)
        self.ui.rankCancelButton.connect("clicked(bool)", self.onCancel)
        self.ui.suggestTable.connect("itemSelectionChanged()", self.refresh)
        self.ui.suggestTable.connect("itemDoubleClicked(QTableWidgetItem*)", self.onOpen)
        self.ui.openSuggestionButton.connect("clicked(bool)", self.onOpen)
        self.ui.correctSuggestionButton.connect("clicked(bool)", self.onCorrect)
        self.ui.addSuggestionButton.connect("clicked(bool)", self.onAdd)
        setUpTable(self.ui.suggestTable, [_("Scan"), _("Disagreement"), _("mL"), _("State")])

    def use(self) -> None:
        """Read the models again, and forget the scans of a closed scene."""
        self._opened = {scan: opened for scan, opened in self._opened.items() if opened.isPresent()}
        self._models = installedModels("base")
        self._fillAdapters()
        self._showRows()

    def close(self) -> None:
        """End a running ranking, and delete the outlines that were not opened."""
        if self._ranking is not None:
            self._ranking.close()
            self._ranking = None
            self._showRows()

    def obstacle(self) -> str:
        """Return why nothing can be ranked now, or an empty string."""
        if self._panel.parameters is None:
            return _("The scene is being closed.")
        if self._panel.occupation:
            return self._panel.occupation
        if self._model() is None:
            return _("Choose a model.")
        if not self.ui.suggestFolderEdit.text:
            return _("Choose a folder with scans.")
        return ""

    def refresh(self, _caller: Any = None, _event: str = "") -> None:
        """Show what is chosen and can be done."""
        ui, model, row = self.ui, self._model(), self._selected()
        if model is not None and ui.suggestModelName.text != model.title:
            self._fillAdapters()
        obstacle, running = self.obstacle(), self._isRunning()
        ui.suggestModelName.text = model.title if model is not None else ""
        ui.rankButton.enabled = not obstacle
        ui.rankButton.toolTip = obstacle or _("Segment every scan several times and rank them.")
        ui.rankCancelButton.enabled = running
        ui.suggestFolderButton.enabled = ui.suggestAdaptersList.enabled = not running
        opened = self._openedScan(row)
        isOpen = opened is not None and self._panel.parameters is not None
        ui.openSuggestionButton.enabled = row is not None and bool(row.proposal)
        ui.correctSuggestionButton.enabled = ui.addSuggestionButton.enabled = isOpen
        ui.suggestReasonLabel.text = row.reason if row is not None else ""

    def onFolder(self) -> None:
        """Let the user choose the folder with the scans."""
        import qt

        path = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), _("Folder with scans"))
        if path:
            self.chooseFolder(Path(path))

    def chooseFolder(self, folder: Path) -> None:
        """Take this folder."""
        self.ui.suggestFolderEdit.text = str(folder)
        self.refresh()

    def onRank(self) -> None:
        """Start a new ranking; that before it is forgotten."""
        with slicer.util.tryWithErrorDisplay(_("The ranking could not be started.")):
            folder = Path(self.ui.suggestFolderEdit.text)
            settings = RankSettings(self._model().name, self._ticked(), self._panel.parameters.device)
            if not self._panel.ensureInstalled():
                return
            self.close()
            self._opened, self._added = {}, set()
            ranking = Ranking(self._panel.logic.command, folder, settings)
            ranking.progress.connect(self.onProgress)
            ranking.finished.connect(self.onFinished)
            ranking.error.connect(self.onError)
            ranking.start()
            self._ranking = ranking
            self.ui.rankProgressBar.setValue(0)
            self.ui.rankStatusLabel.text = _("Starting…")
            self._panel.occupy(_("Scans are being ranked."))

    def onCancel(self) -> None:
        """Stop; what is done stays."""
        self.ui.rankCancelButton.enabled = False
        self.ui.rankStatusLabel.text = _("Canceling…")
        self._ranking.cancel()

    def onProgress(self, event: Event) -> None:
        """Show how far the child is."""
        match event["event"]:
            case "progress":
                self.ui.rankProgressBar.setValue(round(1000 * event.get("fraction", 0)))
                self._showTimeLeft(event)
            case "metric":
                self._showRows()

    def onFinished(self, ranking: Ranking) -> None:
        """Show the whole ranking."""
        done = sum(row.score is not None for row in ranking.suggestions)
        self._end(
            _("{done} of {all} scans ranked. Open the first one.").format(
                done=done, all=len(ranking.suggestions)
            )
        )
        self.ui.rankProgressBar.setValue(1000)

    def onError(self, error: ChildError) -> None:
        """Say why it ended; the scans that are done can be opened."""
        done = sum(row.score is not None for row in self._ranking.suggestions)
        words = _("Canceled.") if error.code == "cancelled" else str(error)
        self._end(_("{words} {done} scans are ranked.").format(words=words, done=done) if done else words)
        if error.code != "cancelled":
            slicer.util.errorDisplay(str(error), detailedText=error.details)

    def onOpen(self) -> None:
        """Bring the selected scan with its outline to the scene, or show it again."""
        row = self._selected()
        if row is None:
            return
        with slicer.util.tryWithErrorDisplay(_("The scan could not be opened.")):
            opened = self._openedScan(row) or openSuggestion(row)
            self._opened[row.scan] = opened
            showOutlines([opened.segmentationNode], opened.volumeNode)
            showVolume(opened.volumeNode, opened.position(row.slice))
            self._showRows()

    def onCorrect(self) -> None:
        """Go to the Segment Editor with the outline."""
        opened = self._openedScan(self._selected())
        with slicer.util.tryWithErrorDisplay(_("The Segment Editor could not be opened.")):
            editSegment(opened.segmentationNode, opened.segmentID, opened.volumeNode)

    def onAdd(self) -> None:
        """Put the selected scan into the table of cases."""
        row = self._selected()
        opened = self._openedScan(row)
        with slicer.util.tryWithErrorDisplay(_("The case could not be added.")):
            self._panel.addCase(opened.volumeNode, opened.segmentationNode, opened.segmentID)
            self._added.add(row.scan)
            self._showRows()

    # ------------------------------------------------------------------------------------------- parts

    def _end(self, words: str) -> None:
        self.ui.rankStatusLabel.text = words
        self._showRows()
        self._panel.release()

    def _isRunning(self) -> bool:
        return self._ranking is not None and self._ranking.isRunning()

    def _selected(self) -> Suggestion | None:
        index = self.ui.suggestTable.currentRow()
        return self._shown[index] if 0 <= index < len(self._shown) else None

    def _openedScan(self, row: Suggestion | None) -> OpenedScan | None:
        opened = self._opened.get(row.scan) if row is not None else None
        return opened if opened is not None and opened.isPresent() else None

    def _model(self) -> InstalledModel | None:
        if self._panel.parameters is None:
            return None
        name = self._panel.parameters.model
        return next((model for model in self._models if model.name == name), None)

    def _fillAdapters(self) -> None:
        """List the adapters of the chosen model; ticks stay."""
        import qt

        ticked, model, view = self._ticked(), self._model(), self.ui.suggestAdaptersList
        self._adapters = installedAdapters(model) if model is not None else []
        view.clear()
        for adapter in self._adapters:
            item = qt.QListWidgetItem(adapter.title)
            item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsUserCheckable)
            item.setCheckState(qt.Qt.Checked if adapter.name in ticked else qt.Qt.Unchecked)
            view.addItem(item)

    def _ticked(self) -> tuple[str, ...]:
        import qt

        view = self.ui.suggestAdaptersList
        return tuple(
            adapter.name
            for row, adapter in enumerate(self._adapters)
            if view.item(row).checkState() == qt.Qt.Checked
        )

    def _showRows(self) -> None:
        """Show the ranking; the selected scan stays selected where it moves to."""
        import qt

        table, selected = self.ui.suggestTable, self._selected()
        self._shown = list(self._ranking.suggestions) if self._ranking is not None else []
        wasBlocked = table.blockSignals(True)
        table.setRowCount(len(self._shown))
        for index, row in enumerate(self._shown):
            for column, text in enumerate(self._cells(row)):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(row.reason)
                table.setItem(index, column, item)
        names = [row.scan for row in self._shown]
        if selected is not None and selected.scan in names:
            table.selectRow(names.index(selected.scan))
        table.blockSignals(wasBlocked)
        self.refresh()

    def _cells(self, row: Suggestion) -> tuple[str, str, str, str]:
        state = ""
        if row.score is None:
            state = _("not readable")
        elif row.scan in self._added:
            state = _("added")
        elif self._openedScan(row) is not None:
            state = _("open")
        score, ml = ("" if value is None else value for value in (row.score, row.predicted_ml))
        return row.scan, f"{score:.2f}" if score != "" else "", f"{ml:.1f}" if ml != "" else "", state

    def _showTimeLeft(self, event: Event) -> None:
        seconds = event.get("eta_s")
        if seconds is not None:
            self.ui.rankStatusLabel.text = _("Ranking, about {seconds:.0f} s left").format(seconds=seconds)
