"""The part of the panel that says what the model will run on, and about how long it will take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from sahlora.imaging.planes import THICK_SLICE_MM, VIEWS
from SAHLoRACoreLib.childprocess import ChildError
from SAHLoRACoreLib.choices import DeviceSelector
from SAHLoRACoreLib.devices import DeviceSearch, rememberedDevice, rememberedDevices

MINUTE_S = 60.0


class DevicePanel:
    """Finds devices and describes the chosen one.

    Parameters
    ----------
    ui : object
        The panel's widgets.
    command : sequence of str
        Beginning of the command line.
    ensureInstalled : callable
        Returns whether the packages are there; asks before it installs any.
    views : callable
        Returns the views that the chosen model or adapter was made for.
    """

    def __init__(
        self,
        ui: Any,
        command: list[str],
        ensureInstalled: Callable[[], bool],
        views: Callable[[], tuple[str, ...]],
    ) -> None:
        self._ui, self._command, self._ensureInstalled, self._views = ui, command, ensureInstalled, views
        self._search: DeviceSearch | None = None
        self._parameters: Any = None
        self._selector = DeviceSelector(ui.deviceSelector, self._onChosen)
        ui.findDevicesButton.connect("clicked(bool)", self.onFind)

    def use(self, parameters: Any) -> None:
        """Describe the device of these parameters; None: none."""
        self._parameters = parameters
        self.refresh()

    def refresh(self) -> None:
        """List and describe what was found."""
        if self._parameters is not None:
            self._selector.show(self._parameters.device)
        self._ui.findDevicesButton.enabled = self._search is None
        if self._search is None:
            self._ui.deviceNoteLabel.text = self._note()

    def onFind(self) -> None:
        """Look for devices in a child."""
        with slicer.util.tryWithErrorDisplay(_("The devices could not be looked for.")):
            if self._ensureInstalled():
                self._search = DeviceSearch(self._command)
                self._search.finished.connect(self._onFound)
                self._search.error.connect(self._onError)
                self._search.start()
                self._ui.deviceNoteLabel.text = _("Looking…")
        self.refresh()

    def close(self) -> None:
        """End the search."""
        if self._search is not None:
            self._search.close()
            self._search = None

    def _onChosen(self, device: str) -> None:
        if self._parameters is not None:
            self._parameters.device = device

    def _onFound(self, _search: DeviceSearch) -> None:
        self._search = None
        self.refresh()

    def _onError(self, error: ChildError) -> None:
        self._search = None
        self.refresh()
        self._ui.deviceNoteLabel.text = str(error)

    def _note(self) -> str:
        if not rememberedDevices():
            return _("Not looked for yet.")
        device = self._parameters and rememberedDevice(self._parameters.device)
        if device is None:
            return _("No such device was found here.")
        seconds = self._seconds(device.secondsPerSlice)
        return f"{device.description}; {seconds}" if seconds else device.description

    def _seconds(self, perSlice: float) -> str:
        node = self._parameters.inputVolume
        if node is None or node.GetImageData() is None:
            return ""
        seconds = perSlice * slicesToRun(node, self._parameters, self._views())
        if seconds < MINUTE_S:
            return _("about {seconds:.0f} s for this CT").format(seconds=max(1.0, seconds))
        return _("about {minutes:.0f} min for this CT").format(minutes=np.ceil(seconds / MINUTE_S))


def viewsToRun(volumeNode: Any, parameters: Any, modelViews: tuple[str, ...]) -> list[str]:
    """Return the views that the command will run, automatic ones included."""
    if parameters.adapter:
        return list(modelViews)
    if not parameters.automaticViews:
        return [view for view in VIEWS if getattr(parameters, view)]
    thick = slicesAlongBody(volumeNode)[1] > THICK_SLICE_MM and "axial" in modelViews
    return ["axial"] if thick else list(modelViews)


def passesOf(view: str, parameters: Any) -> int:
    """Return how often a view is run: no sagittal slice has left and right to mirror."""
    return 2 if parameters.flip and view != "sagittal" else 1


def slicesToRun(volumeNode: Any, parameters: Any, modelViews: tuple[str, ...]) -> float:
    """Return how many slices of a head the model runs; coronal and sagittal ones count by their area."""
    count, spacing = slicesAlongBody(volumeNode)
    slices = {"axial": count, "coronal": count * spacing, "sagittal": count * spacing}
    views = viewsToRun(volumeNode, parameters, modelViews)
    return sum(slices[view] * passesOf(view, parameters) for view in views)


def slicesAlongBody(volumeNode: Any) -> tuple[int, float]:
    """Return number and distance (mm) of the slices along the axis that is nearest to the body's."""
    grid = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(grid)
    axis = int(np.abs(slicer.util.arrayFromVTKMatrix(grid)[2, :3] / volumeNode.GetSpacing()).argmax())
    return volumeNode.GetImageData().GetDimensions()[axis], volumeNode.GetSpacing()[axis]
