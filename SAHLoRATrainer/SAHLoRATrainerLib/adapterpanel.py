"""The part of the panel that chooses model, method and settings, and says what they cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from SAHLoRACoreLib.childprocess import ChildProcess
from SAHLoRACoreLib.choices import DeviceSelector, describe, methods, presets, scopes, targets
from SAHLoRACoreLib.models import InstalledModel, installedModels
from SAHLoRACoreLib.timers import Timer
from SAHLoRATrainerLib.casejobs import TimeEstimate
from SAHLoRATrainerLib.parameters import settingsOf
from SAHLoRATrainerLib.settings import TARGETS, TrainSettings
from SAHLoRATrainerLib.trainingpanel import duration

COUNT_DELAY_MS = 1000  # after the panel is entered
HEADER_BYTES = 3600  # card and names in an adapter file, measured


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
        self._counts: dict[Path, dict[str, Any]] = {}  # what the command counted, by model file
        self._counting: ChildProcess | None = None
        self._estimating: TimeEstimate | None = None
        self._estimated: TrainSettings | None = None  # the settings that the shown time is of
        self._timer = Timer(COUNT_DELAY_MS)
        self._devices = DeviceSelector(ui.deviceSelector, self._onDevice)
        ui.modelSelector.connect("currentIndexChanged(int)", self._onModel)
        ui.estimateButton.connect("clicked(bool)", self.onEstimate)

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
        if self._panel.parameters is not None:
            self._describeChoices()
        self._timer.start(self.count)

    def close(self) -> None:
        """End what runs."""
        self._timer.stop()
        if self._counting is not None:
            self._counting.close()
            self._counting = None
        if self._estimating is not None:
            self._estimating.close()
            self._endEstimate()

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
        ui, settings = self._ui, settingsOf(parameters)
        self._devices.show(parameters.device)
        ui.methodExplanationLabel.text = methods()[parameters.method].explanation
        ui.rankSpinBox.enabled = parameters.method != "standard"
        ui.countLabel.text = self._countText(settings)
        if self._estimating is None and settings != self._estimated:
            ui.estimateLabel.text = _("Time: not estimated yet.")
        obstacle = self._panel.parts.training.obstacle()
        ui.estimateButton.enabled = not obstacle
        ui.estimateButton.toolTip = obstacle or _(
            "Train for ten seconds in the background and tell the time."
        )

    def count(self) -> None:
        """Ask the command how many parameters each method trains, once for each model."""
        self._timer.stop()
        model = self._model()
        if model is None or model.path in self._counts or self._counting is not None:
            return
        command = [*self._panel.logic.command, "adapters", "count", "--model", str(model.path)]
        self._counting = ChildProcess([*command, "--progress", "json"])
        self._counting.finished.connect(lambda result: self._onCounted(model.path, result))
        self._counting.error.connect(lambda _error: self._onCounted(model.path, {}))
        try:
            self._counting.start()
        except OSError:
            self._onCounted(model.path, {})

    def onEstimate(self) -> None:
        """Find out how long the training would take."""
        panel = self._panel
        with slicer.util.tryWithErrorDisplay(_("The time could not be estimated.")):
            cases = [panel.cases.case(row) for row in panel.cases.enabledRows()]
            settings = settingsOf(panel.parameters)
            if not panel.ensureInstalled():
                return
            self._estimated = settings
            self._estimating = TimeEstimate(panel.logic.command, cases, settings)
            self._estimating.finished.connect(self._onEstimated)
            self._estimating.error.connect(self._onNotEstimated)
            self._estimating.start()
            self._ui.estimateLabel.text = _("Time: being estimated…")
            panel.occupy(_("The time is being estimated."))

    # ------------------------------------------------------------------------------------------- parts

    def _describeChoices(self) -> None:
        """Put words into the lists that the connection of the parameters filled with values."""
        ui = self._ui
        describe(ui.methodSelector, methods())
        describe(ui.presetSelector, presets())
        describe(ui.scopeSelector, scopes())
        describe(ui.targetSelector, targets(TARGETS[0]))

    def _onDevice(self, device: str) -> None:
        if self._panel.parameters is not None:
            self._panel.parameters.device = device

    def _model(self) -> InstalledModel | None:
        index = self._ui.modelSelector.currentIndex
        return self._models[index] if 0 <= index < len(self._models) else None

    def _onCounted(self, path: Path, result: dict[str, Any]) -> None:
        self._counts[path] = result
        if self._counting is not None:
            self._counting.close()
            self._counting = None
        self._panel.refresh()

    def _countText(self, settings: TrainSettings) -> str:
        """Say how many parameters are trained and how large the file gets."""
        model = self._model()
        counts = self._counts.get(model.path) if model is not None else None
        if counts is None:
            return ""
        if not counts:
            return _("The number of parameters is known once the packages are installed.")
        found = counts["scopes"][settings.scope][settings.method]
        parameters = found["parameters"] + (settings.rank - counts["rank"]) * found["each_rank"]
        views = len(settings.views)
        size = HEADER_BYTES + 4 * parameters * views
        text = _("{parameters:,} parameters ({share:.1%} of the model)").format(
            parameters=parameters, share=parameters / counts["base"]
        )
        if views > 1:
            text += _(" for each of {views} views").format(views=views)
        return text + _(", a file of about {size:.0f} kB.").format(size=size / 1000)

    def _onEstimated(self, _result: dict[str, Any]) -> None:
        seconds = self._estimating.seconds
        self._endEstimate()
        self._ui.estimateLabel.text = _("Time: about {time} on this device, less if it stops early.").format(
            time=duration(seconds)
        )

    def _onNotEstimated(self, error: Any) -> None:
        self._endEstimate()
        self._ui.estimateLabel.text = str(error)

    def _endEstimate(self) -> None:
        self._estimating = None
        self._panel.release()

    def _onModel(self, index: int) -> None:
        if self._panel.parameters is not None and 0 <= index < len(self._models):
            self._panel.parameters.model = self._models[index].name
            self._timer.start(self.count)
