"""One segmentation: the CT goes to a child process, the results come back to the scene."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import slicer
from slicer.i18n import tr as _

from SAHLoRACoreLib.childprocess import ChildError, ChildFailedError, ChildProcess, makeFolder
from SAHLoRACoreLib.events import Event
from SAHLoRACoreLib.scene import exportVolume, importProbability, importSegmentation
from SAHLoRACoreLib.signals import Signal
from SAHLoRASegmenterLib.results import Result, keepPage
from SAHLoRASegmenterLib.settings import SegmentSettings
from SAHLoRASegmenterLib.tables import addChart, addTable, fillAreas, fillMeasurements


class SegmentationRun:
    """A running or finished segmentation of one volume.

    Parameters
    ----------
    command : sequence of str
        Beginning of the command line, e.g. ``[PythonSlicer, .../sahlora]``.
    volumeNode : vtkMRMLScalarVolumeNode
        The CT.
    settings : SegmentSettings
        How to segment it.

    Attributes
    ----------
    progress : Signal
        Emits the child's events.
    finished : Signal
        Emits this run once its results are in the scene.
    error : Signal
        Emits a `ChildError`; the scene is then as it was.
    segmentationNode, measurementsNode, probabilityNode
        The results; None before the end, and the last one unless it was asked for.
    segmentedResult : Result
        All nodes of the result; None before the end.
    result : dict
        The command's result event: segment, volume_ml, device, seconds and more.
    """

    def __init__(self, command: Sequence[str], volumeNode: Any, settings: SegmentSettings) -> None:
        folder = makeFolder()
        self._label = folder / "label.seg.nrrd"
        self._report = folder / "report.json"
        self._probability = folder / "probability.nrrd" if settings.keepProbability else None
        self._page = folder / "report.html" if settings.makePage else None
        self._minimumComponentMl = settings.minimumComponentMl
        self.progress, self.finished, self.error = Signal(), Signal(), Signal()
        self.segmentationNode = self.measurementsNode = self.probabilityNode = None
        self.segmentedResult: Result | None = None
        self.result: Event = {}
        arguments = [
            "segment",
            str(folder / "ct.nrrd"),
            "-o",
            str(self._label),
            "--report",
            str(self._report),
        ]
        if self._probability:
            arguments += ["--probability", str(self._probability)]
        if self._page:
            arguments += ["--page", str(self._page)]
        self._child = ChildProcess(
            [*command, *arguments, *settings.arguments(), "--progress", "json"], folder
        )
        self._child.progress.connect(self.progress.emit)
        self._child.finished.connect(self._bringBack)
        self._child.error.connect(self._giveUp)
        try:
            self._volume = exportVolume(volumeNode, folder / "ct.nrrd")
        except Exception:
            self.close()
            raise

    def start(self) -> None:
        """Start the child; the signals come from the event loop. Raises OSError if it can't be started."""
        try:
            self._child.start()
        except OSError:
            self.close()
            raise

    def isRunning(self) -> bool:
        """Tell whether the child still works."""
        return self._child.isRunning()

    def cancel(self) -> None:
        """Ask the child to stop; `error` follows within three seconds, with the code ``cancelled``."""
        self._child.cancel()

    def wait(self) -> None:
        """Process the application's events until the results are in the scene.

        Raises
        ------
        ChildFailedError
            If the child failed or was cancelled, or its results can't be used.
        """
        errors: list[ChildError] = []
        self.error.connect(errors.append)
        while self.isRunning():
            self._child.processOnce()
        if errors:
            raise ChildFailedError(errors[0])

    def close(self) -> None:
        """End the child if it runs and remove its files; the results in the scene stay."""
        self._child.close()

    def _bringBack(self, result: Event) -> None:
        try:
            if not slicer.mrmlScene.IsNodePresent(self._volume.node):
                self.error.emit(ChildError("volume-removed", _("The CT was removed while it was segmented.")))
                return
            self._importResults()
            self.result = result
        except (OSError, RuntimeError, ValueError, KeyError, TypeError) as failure:
            self._removeNodes()
            self.error.emit(
                ChildError("unreadable-result", _("The result can't be read."), details=str(failure))
            )
            return
        finally:
            self.close()
        self.finished.emit(self)

    def _importResults(self) -> None:
        report = json.loads(self._report.read_text(encoding="utf-8"))
        measured, volumeNode = report["measurements"], self._volume.node
        self.segmentationNode = importSegmentation(self._label, self._volume)
        if self._probability:
            self.probabilityNode = importProbability(self._probability, self._volume)
            self.probabilityNode.SetAttribute("SAHLoRA.probability", "1")  # no CT to choose as input
        name = volumeNode.GetName()
        self.measurementsNode = addTable(_("{volume} measurements").format(volume=name), volumeNode)
        areasNode = addTable(_("{volume} areas").format(volume=name), volumeNode)
        fillMeasurements(self.measurementsNode, measured)
        fillAreas(areasNode, measured)
        self.segmentedResult = Result(self.segmentationNode)
        self.segmentedResult.remember(
            float(report["settings"]["threshold"]),
            self._minimumComponentMl,
            keepPage(self._page) if self._page else None,
            volume=volumeNode,
            probability=self.probabilityNode,
            measurements=self.measurementsNode,
            areas=areasNode,
            chart=addChart(areasNode, _("{volume} area per slice").format(volume=name)),
        )

    def _removeNodes(self) -> None:
        for node in (self.segmentationNode, self.measurementsNode, self.probabilityNode):
            slicer.mrmlScene.RemoveNode(node)
        self.segmentationNode = self.measurementsNode = self.probabilityNode = None

    def _giveUp(self, error: ChildError) -> None:
        self.close()
        self.error.emit(error)
