"""The part of the panel that chooses model and adapter, shows their cards, adds and removes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from SAHLoRACoreLib.models import (
    InstalledModel,
    addModel,
    cardText,
    installedAdapters,
    installedModels,
    removeModel,
)


class ModelPanel:
    """Keeps the two lists in step with the files and with the parameters.

    Parameters
    ----------
    ui : object
        The panel's widgets.
    changed : callable
        Called when the choice changed.
    """

    def __init__(self, ui: Any, changed: Callable[[], None]) -> None:
        self._ui, self._changed = ui, changed
        self._parameters: Any = None
        self._models: list[InstalledModel] = []
        self._adapters: list[InstalledModel] = []
        ui.modelSelector.connect("currentIndexChanged(int)", self._onModel)
        ui.adapterSelector.connect("currentIndexChanged(int)", self._onAdapter)
        ui.addModelButton.connect("clicked(bool)", self.onAdd)
        ui.removeModelButton.connect("clicked(bool)", self.onRemove)
        ui.cardButton.connect("toggled(bool)", self._showCard)

    def use(self, parameters: Any) -> None:
        """Show and change these parameters; None: none."""
        self._parameters = parameters
        self.fill()

    def fill(self) -> None:
        """Read the folders again."""
        self._models = installedModels("base")
        chosen = self._parameters.model if self._parameters else ""
        _fill(self._ui.modelSelector, self._models, chosen)
        self._fillAdapters()

    def obstacle(self) -> str:
        """Return why the choice can't be run, or an empty string."""
        if self._model() is None:
            return self._missing(self._parameters and self._parameters.model) or _("Choose a model.")
        if self._parameters.adapter and self._adapter() is None:
            return self._missing(self._parameters.adapter)
        return ""

    def views(self) -> tuple[str, ...]:
        """Return the views that the chosen adapter, else the model, was made for."""
        chosen = self._adapter() or self._model()
        if chosen is None:
            return ()
        made = chosen.card.get("adapters") or chosen.card.get("preprocessing", {}).get("views")
        return tuple(made or ("axial",))

    def decidesViews(self) -> bool:
        """Tell whether an adapter is chosen, whose views are then used."""
        return self._adapter() is not None

    def refresh(self) -> None:
        """Show what is chosen."""
        ui, chosen = self._ui, self._adapter() or self._model()
        ui.modelDescriptionLabel.text = self._description()
        ui.cardText.setPlainText(cardText(chosen) if chosen else "")
        ui.cardButton.enabled = chosen is not None
        ui.removeModelButton.enabled = chosen is not None and not chosen.isShipped

    def onAdd(self) -> None:
        """Let the user choose a file and add it."""
        import qt

        path = qt.QFileDialog.getOpenFileName(
            slicer.util.mainWindow(),
            _("Add a model or adapter"),
            "",
            _("Model files (*.safetensors)"),
        )
        if path:
            with slicer.util.tryWithErrorDisplay(_("The file could not be added.")):
                self.add(Path(path))

    def add(self, path: Path) -> None:
        """Add a file and choose it if it can be used with the chosen model."""
        added = addModel(path)
        if self._parameters is not None and added.kind == "base":
            self._parameters.model, self._parameters.adapter = added.name, ""
        self.fill()
        if added.kind == "adapter" and self._parameters is not None:
            if added in self._adapters:
                self._parameters.adapter = added.name
            else:
                slicer.util.infoDisplay(
                    _("{title} was added. Choose its model “{base}” to use it.").format(
                        title=added.title, base=added.card.get("base_title", "")
                    )
                )
        self.fill()
        self._changed()

    def onRemove(self) -> None:
        """Delete the chosen adapter, else the chosen model, if the user agrees."""
        chosen = self._adapter() or self._model()
        question = _("Delete {title} ({path})?").format(title=chosen.title, path=chosen.path)
        if not slicer.util.confirmOkCancelDisplay(question):
            return
        with slicer.util.tryWithErrorDisplay(_("The file could not be removed.")):
            removeModel(chosen)
        if chosen.kind == "adapter":
            self._parameters.adapter = ""
        self.fill()
        self._changed()

    # ------------------------------------------------------------------------------------------- parts

    @staticmethod
    def _missing(name: str | None) -> str:
        """Say that a model or adapter, e.g. of a scene from elsewhere, can't be used here."""
        if not name:
            return ""
        return _("“{name}” can't be used here: add its file, or choose another.").format(name=name)

    def _model(self) -> InstalledModel | None:
        return _named(self._models, self._parameters.model if self._parameters else "")

    def _adapter(self) -> InstalledModel | None:
        return _named(self._adapters, self._parameters.adapter if self._parameters else "")

    def _fillAdapters(self) -> None:
        model = self._model()
        self._adapters = installedAdapters(model) if model is not None else []
        chosen = self._parameters.adapter if self._parameters else ""
        _fill(self._ui.adapterSelector, self._adapters, chosen, none=_("None: the model as it is"))
        self.refresh()

    def _onModel(self, index: int) -> None:
        if self._parameters is not None and 0 <= index < len(self._models):
            self._parameters.model, self._parameters.adapter = self._models[index].name, ""
            self._fillAdapters()
            self._changed()

    def _onAdapter(self, index: int) -> None:
        if self._parameters is not None and index >= 0:
            self._parameters.adapter = self._adapters[index - 1].name if index > 0 else ""
            self.refresh()
            self._changed()

    def _showCard(self, visible: bool) -> None:
        self._ui.cardText.visible = visible

    def _description(self) -> str:
        if not self._models:
            return _("No model is installed.")
        chosen = self._adapter() or self._model()
        if chosen is None:
            return ""
        return _("Outlines: {target}. {summary} License: {license}.").format(
            target=chosen.target, summary=chosen.summary, license=chosen.license or _("not stated")
        )


def _named(models: list[InstalledModel], name: str) -> InstalledModel | None:
    return next((model for model in models if model.name == name), None)


def _fill(selector: Any, models: list[InstalledModel], chosen: str, none: str = "") -> None:
    """Put models into a combo box, after a first entry for none of them if that has a text."""
    names = [""] * bool(none) + [model.name for model in models]
    wasBlocked = selector.blockSignals(True)
    selector.clear()
    selector.addItems([none] * bool(none) + [model.title for model in models])
    selector.setCurrentIndex(names.index(chosen) if chosen in names else -1)
    selector.blockSignals(wasBlocked)
