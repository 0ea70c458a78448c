"""What to annotate next: a child ranks scans; a scan comes to the scene with the model's outline."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from SAHLoRACoreLib.childprocess import ChildError, makeFolder
from SAHLoRACoreLib.childwork import ChildWork
from SAHLoRACoreLib.events import Event
from SAHLoRACoreLib.scene import ExportedVolume, importSegmentation
from SAHLoRACoreLib.settings import deviceFor


@dataclass(frozen=True)
class RankSettings:
    """What the scans are ranked with.

    Parameters
    ----------
    model : str
        Name of an installed model, or the path of a model file.
    adapters : tuple of str
        Names or files of adapters of the model; several count as an ensemble. Empty: the model as it is.
    device : str
        auto, cpu, cuda, cuda:N or mps.
    """

    model: str
    adapters: tuple[str, ...] = ()
    device: str = "auto"

    def arguments(self) -> list[str]:
        """Return the options of ``sahlora cases rank`` for these settings."""
        options = ["--model", self.model, "--device", deviceFor(self.device)]
        for adapter in self.adapters:
            options += ["--adapter", adapter]
        return options


@dataclass(frozen=True)
class Suggestion:
    """A row of the ranking, as the command writes it; the figures are None for a scan it could not read."""

    rank: int | None
    scan: str
    score: float | None
    predicted_ml: float | None
    slice: int | None
    reason: str
    image: str
    proposal: str
    proposal_image: str


class Ranking(ChildWork):
    """A running or finished ranking of the scans in a folder.

    Parameters
    ----------
    command : sequence of str
        Beginning of the command line.
    scans : Path
        Folder of scans, or a list of them.
    settings : RankSettings

    Attributes
    ----------
    error : Signal
        Emits a `ChildError`; the scans that were done before stay in `suggestions`.
    suggestions : list of Suggestion
        Those ranked so far, the one to annotate first on top.

    Notes
    -----
    Outlines, and the slices of DICOM scans, lie in the child's folder until `close`.
    """

    def __init__(self, command: Sequence[str], scans: Path, settings: RankSettings) -> None:
        self.suggestions: list[Suggestion] = []
        folder = makeFolder()
        self._table = folder / "ranking.json"
        super().__init__(
            [*command, "cases", "rank", str(scans), "-o", str(self._table), *settings.arguments(),
             "--proposals", str(folder / "proposals")],
            folder,
        )  # fmt: skip

    def _onProgress(self, event: Event) -> None:
        if event["event"] == "metric":
            self._read()
        super()._onProgress(event)

    def _onFinished(self, result: Event) -> None:  # what can be opened stays, so nothing is closed
        self._read()
        self.result = result
        self.finished.emit(self)

    def _onError(self, error: ChildError) -> None:
        self._read()
        self.error.emit(error)

    def _read(self) -> None:
        """Read the table, of which every state on disk is whole."""
        names = [field.name for field in fields(Suggestion)]
        try:
            rows = json.loads(self._table.read_text(encoding="utf-8"))
            self.suggestions = [Suggestion(**{name: row[name] for name in names}) for row in rows]
        except (OSError, ValueError, KeyError, TypeError):
            return  # no scan is done yet


@dataclass(frozen=True)
class OpenedScan:
    """A scan in the scene with the model's outline to correct."""

    volumeNode: Any
    segmentationNode: Any

    @property
    def segmentID(self) -> str:
        """ID of the outlined segment."""
        return self.segmentationNode.GetSegmentation().GetNthSegmentID(0)

    def isPresent(self) -> bool:
        """Tell whether both are still in the scene."""
        nodes = (self.volumeNode, self.segmentationNode)
        return all(slicer.mrmlScene.IsNodePresent(node) for node in nodes)

    def position(self, number: int) -> tuple[float, float, float]:
        """Return the middle of a slice (world, RAS, mm), counted from 1 for the lowest."""
        from sahlora.imaging.geometry import Axes

        grid = vtk.vtkMatrix4x4()
        self.volumeNode.GetIJKToRASMatrix(grid)
        toWorld = slicer.util.arrayFromVTKMatrix(grid)
        directions = np.diag([-1.0, -1.0, 1.0]) @ toWorld[:3, :3] / self.volumeNode.GetSpacing()
        axes = Axes.of(directions)
        size = self.volumeNode.GetImageData().GetDimensions()[::-1]  # slices, rows, columns
        middle = (np.array(size) - 1) / 2
        across, last = axes.order[0], size[axes.order[0]] - 1
        fromBelow = min(number - 1, last)
        middle[across] = last - fromBelow if 0 in axes.flipped else fromBelow
        return tuple((toWorld @ (*middle[::-1], 1.0))[:3])


def openSuggestion(suggestion: Suggestion) -> OpenedScan:
    """Load a ranked scan and its outline into the scene; no earlier node is changed.

    Raises
    ------
    ValueError
        If the scan could not be ranked.
    RuntimeError
        If a file can't be read; the scene is then as it was.
    """
    if not suggestion.proposal:
        raise ValueError(suggestion.reason)
    path = suggestion.proposal_image
    name = slicer.mrmlScene.GenerateUniqueName(suggestion.scan)
    volumeNode = slicer.modules.volumes.logic().AddArchetypeVolume(path, name)
    if volumeNode is None:
        raise RuntimeError(_("Can't read the scan {path}.").format(path=path))
    if path != suggestion.image:  # its file goes with the ranking: a saved scene must hold the voxels itself
        slicer.mrmlScene.RemoveNode(volumeNode.GetStorageNode())
    try:
        volume = ExportedVolume(Path(path), volumeNode, volumeNode, keepsVoxels=True)
        return OpenedScan(volumeNode, importSegmentation(Path(suggestion.proposal), volume))
    except Exception:
        slicer.mrmlScene.RemoveNode(volumeNode)
        raise
