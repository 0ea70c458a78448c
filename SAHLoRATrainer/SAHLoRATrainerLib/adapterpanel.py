"""The part of the panel that chooses model, method and settings, and says what they cost."""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _

from SAHLoRACoreLib.models import InstalledModel, installedModels
from SAHLoRATrainerLib.parameters import settingsOf
from SAHLoRATrainerLib.settings import explanation


class AdapterPanel:
    """Keeps the choice in step with the parameters.

    Parameters
    ----------
    ui : object
        The panel's widgets.
    panel : SAHLoRATrainerWidget
    """

    def __init__(self, ui: Any, panel: Any) -> None:
        self._ui, self._panel = ui, panel
        self._models: list[InstalledModel] = []
        ui.modelSelector.connect("currentIndexChanged(int)", self._onModel)

    def use(self) -> None:
        """List the models again."""
        self._models = installedModels("base")
        chosen = self._panel.parameters.model if self._panel.parameters is not None else ""
        names, selector = [model.name for model in self._models], self._ui.modelSelector
        wasBlocked = selector.blockSignals(True)
        selector.clear()
        selector.addItems([model.title for model in self._models])
        selector.setCurrentIndex(names.index(chosen) if chosen in names else -1)
        selector.blockSignals(wasBlocked)

    def close(self) -> None:
        """Nothing runs here."""

    def obstacle(self) -> str:
        """Return why the settings can't be trained with, or an empty string."""
        if self._panel.parameters is None:
            return _("The scene is being closed.")
        if self._ui.modelSelector.currentIndex < 0:
            return _("Choose a model.")
        return settingsOf(self._panel.parameters).isValid()[1]

    def refresh(self) -> None:
        """Show what is chosen."""
        parameters = self._panel.parameters
        if parameters is None:
            return
        self._ui.methodExplanationLabel.text = explanation(parameters.method)
        self._ui.rankSpinBox.enabled = parameters.method != "standard"

    # ------------------------------------------------------------------------------------------- parts

    def _onModel(self, index: int) -> None:
        if self._panel.parameters is not None and 0 <= index < len(self._models):
            self._panel.parameters.model = self._models[index].name
