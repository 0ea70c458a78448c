"""The part of the panel that keeps adapters, shows what they are, takes them in and gives them away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from SAHLoRACoreLib.childprocess import ChildError
from SAHLoRACoreLib.childwork import ChildWork
from SAHLoRACoreLib.models import SUFFIX, InstalledModel, cardText, installedModels, removeModel
from SAHLoRATrainerLib.runs import DONE, Run, allRuns
from SAHLoRATrainerLib.share import (
    LICENSES,
    CardWords,
    baseOf,
    contentText,
    exportAdapter,
    freeName,
    importCommand,
    installedNames,
    requireBase,
)


class SharePanel:
    """Keeps the list of adapters in step with the files.

    Parameters
    ----------
    ui : object
        The whole panel's widgets; its container ``shareSection`` gets the widgets of this part.
    panel : SAHLoRATrainerWidget
    """

    def __init__(self, ui: Any, panel: Any) -> None:
        self._panel = panel
        widget = slicer.util.loadUI(panel.resourcePath("UI/SAHLoRATrainerShare.ui"))
        ui.shareSection.layout().addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        self._runs: list[Run] = []
        self._adapters: list[InstalledModel] = []
        self._taken: set[str] = set()
        self._wasOccupied = False
        self._importing: ChildWork | None = None
        self.ui.keepLicenseSelector.addItems(list(LICENSES))
        self.ui.keepRunSelector.connect("currentIndexChanged(int)", self._onRun)
        self.ui.keepNameEdit.connect("textChanged(QString)", self.refresh)
        self.ui.keepTitleEdit.connect("textChanged(QString)", self.refresh)
        self.ui.keepButton.connect("clicked(bool)", self.onKeep)
        self.ui.shareAdapterSelector.connect("currentIndexChanged(int)", self._showAdapter)
        self.ui.shareContentButton.connect("toggled(bool)", self._showAdapter)
        self.ui.importAdapterButton.connect("clicked(bool)", self.onImport)
        self.ui.exportAdapterButton.connect("clicked(bool)", self.onExport)
        self.ui.removeAdapterButton.connect("clicked(bool)", self.onRemove)

    def use(self) -> None:
        """Read runs and adapters again."""
        self._taken = installedNames()
        self._fillRuns()
        self._fillAdapters()

    def close(self) -> None:
        """End a running import."""
        if self._importing is not None:
            self._importing.close()
            self._importing = None

    def obstacle(self) -> str:
        """Return why the chosen run can't be kept, or an empty string."""
        if self._panel.occupation:
            return self._panel.occupation
        if self._run() is None:
            return _("Train an adapter first.")
        if not self.ui.keepTitleEdit.text.strip():
            return _("Give the adapter a title.")
        if self.ui.keepNameEdit.text != freeName(self.ui.keepNameEdit.text, self._taken):
            return _("This name is taken or can't be a file's. Use letters, digits, . _ and -.")
        return ""

    def refresh(self, _caller: Any = None, _event: str = "") -> None:
        """Show runs that came to an end, and what can be done."""
        ended, self._wasOccupied = self._wasOccupied, bool(self._panel.occupation)
        if ended and not self._wasOccupied:
            self._fillRuns()
        ui, obstacle, adapter = self.ui, self.obstacle(), self._adapter()
        ui.keepButton.enabled = not obstacle
        ui.keepButton.toolTip = obstacle or _("Put it where the Segmenter finds it, with these words.")
        ui.importAdapterButton.enabled = not self._panel.occupation
        ui.exportAdapterButton.enabled = ui.shareContentButton.enabled = adapter is not None
        ui.removeAdapterButton.enabled = adapter is not None and not adapter.isShipped

    def onKeep(self) -> None:
        """Put the adapter of the chosen run among the installed ones, with the words of the form."""
        ui = self.ui
        words = CardWords(
            *(edit.text for edit in (ui.keepTitleEdit, ui.keepSummaryEdit, ui.keepAuthorEdit)),
            ui.keepLicenseSelector.currentText,
        )
        self._install(self._run().adapter, ui.keepNameEdit.text, words, ui.keepStrengthSpinBox.value)

    def onImport(self) -> None:
        """Let the user choose a file and take it in."""
        import qt

        path = qt.QFileDialog.getOpenFileName(
            slicer.util.mainWindow(), _("Import an adapter"), "", _("Adapters (*.safetensors)")
        )
        if path:
            self.importFile(Path(path))

    def importFile(self, path: Path) -> None:
        """Check an adapter file and add it; one of a model that is not here is refused."""
        with slicer.util.tryWithErrorDisplay(_("The adapter could not be imported.")):
            requireBase(path)
            self._install(path, freeName(path.name.removesuffix(SUFFIX), self._taken), CardWords())

    def onExport(self) -> None:
        """Let the user choose where to and write the adapter there."""
        import qt

        adapter = self._adapter()
        path = qt.QFileDialog.getSaveFileName(
            slicer.util.mainWindow(),
            _("Export the adapter"),
            f"{adapter.name}{SUFFIX}",
            _("Adapters (*.safetensors)"),
        )
        if path:
            with slicer.util.tryWithErrorDisplay(_("The adapter could not be exported.")):
                exportAdapter(adapter, Path(path))
                self.ui.shareStatusLabel.text = _("Wrote {path}.").format(path=path)

    def onRemove(self) -> None:
        """Delete the chosen adapter, if the user agrees."""
        adapter = self._adapter()
        question = _("Delete {title} ({path})?").format(title=adapter.title, path=adapter.path)
        if not slicer.util.confirmOkCancelDisplay(question):
            return
        with slicer.util.tryWithErrorDisplay(_("The adapter could not be removed.")):
            removeModel(adapter)
            self.ui.shareStatusLabel.text = _("Removed {title}.").format(title=adapter.title)
        self._panel.enter()

    # ------------------------------------------------------------------------------------------- parts

    def _install(self, file: Path, name: str, words: CardWords, strength: float | None = None) -> None:
        with slicer.util.tryWithErrorDisplay(_("The adapter could not be added.")):
            if not self._panel.ensureInstalled():
                return
            importing = ChildWork(importCommand(self._panel.logic.command, file, name, words, strength))
            importing.finished.connect(self._onInstalled)
            importing.error.connect(self._onError)
            importing.start()
            self._importing = importing
            self.ui.shareStatusLabel.text = _("Checking the file…")
            self._panel.occupy(_("An adapter is being checked."))

    def _onInstalled(self, importing: ChildWork) -> None:
        self._importing = None
        name = str(importing.result.get("name", ""))
        self._panel.release()
        self._panel.enter()  # every part lists the adapters again
        names = [adapter.name for adapter in self._adapters]
        self.ui.shareAdapterSelector.setCurrentIndex(names.index(name) if name in names else -1)
        adapter = self._adapter()
        if adapter is not None:
            self.ui.shareStatusLabel.text = _(
                "{title} is installed; the Segmenter offers it with its model."
            ).format(title=adapter.title)

    def _onError(self, error: ChildError) -> None:
        self._importing = None
        self.ui.shareStatusLabel.text = str(error)
        self._panel.release()
        slicer.util.errorDisplay(str(error), detailedText=error.details)

    def _run(self) -> Run | None:
        index = self.ui.keepRunSelector.currentIndex
        return self._runs[index] if 0 <= index < len(self._runs) else None

    def _adapter(self) -> InstalledModel | None:
        index = self.ui.shareAdapterSelector.currentIndex
        return self._adapters[index] if 0 <= index < len(self._adapters) else None

    def _fillRuns(self) -> None:
        """List the runs that are done; a choice stays."""
        chosen, self._runs = self._run(), doneRuns()
        folders = [run.folder for run in self._runs]
        selector = self.ui.keepRunSelector
        wasBlocked = selector.blockSignals(True)
        selector.clear()
        selector.addItems(
            [
                _("{name}: {words}, {date}").format(
                    name=run.settings.name, words=run.settings.words(), date=run.created[:10]
                )
                for run in self._runs
            ]
        )
        stays = chosen is not None and chosen.folder in folders
        selector.setCurrentIndex(folders.index(chosen.folder) if stays else min(0, len(folders) - 1))
        selector.blockSignals(wasBlocked)
        if not stays:
            self._onRun()

    def _onRun(self) -> None:
        """Propose name, title and strength of the chosen run's adapter."""
        run = self._run()
        if run is not None:
            self.ui.keepNameEdit.text = freeName(run.settings.name, self._taken)
            self.ui.keepTitleEdit.text = run.settings.name
            self.ui.keepStrengthSpinBox.value = 1.0
        self.refresh()

    def _fillAdapters(self) -> None:
        """List the adapters on this computer; a choice stays."""
        chosen, self._adapters = self._adapter(), installedModels("adapter")
        names = [adapter.name for adapter in self._adapters]
        selector = self.ui.shareAdapterSelector
        wasBlocked = selector.blockSignals(True)
        selector.clear()
        selector.addItems([adapter.title for adapter in self._adapters])
        stays = chosen is not None and chosen.name in names
        selector.setCurrentIndex(names.index(chosen.name) if stays else min(0, len(names) - 1))
        selector.blockSignals(wasBlocked)
        self._showAdapter()

    def _showAdapter(self) -> None:
        """Show the chosen adapter's card, or all that its file holds, and whether its model is here."""
        ui, adapter = self.ui, self._adapter()
        ui.shareCardText.setPlainText("")
        ui.shareBaseLabel.text = ""
        if adapter is not None:
            base = baseOf(adapter)
            ui.shareBaseLabel.text = (
                _("For the model {title}.").format(title=base.title)
                if base is not None
                else _('Can\'t be used here: its model "{title}" is not installed.').format(
                    title=adapter.card.get("base_title", "")
                )
            )
            with slicer.util.tryWithErrorDisplay(_("The file can't be shown.")):
                ui.shareCardText.setPlainText(
                    contentText(adapter) if ui.shareContentButton.checked else cardText(adapter)
                )
        self.refresh()


def doneRuns() -> list[Run]:
    """Return the runs that have an adapter to keep, newest first."""
    return [run for run in allRuns() if run.state == DONE and run.adapter.is_file()]
