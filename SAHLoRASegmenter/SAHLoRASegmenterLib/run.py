"""One segmentation: the CT goes to a child process, the results come back to the scene."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from SAHLoRACoreLib.childprocess import ChildError, ChildFailedError, makeFolder
from SAHLoRACoreLib.childwork import ChildWork
from SAHLoRACoreLib.events import Event
from SAHLoRACoreLib.scene import busyCursor, exportVolume, importMap, importSegmentation, moveSegment
from SAHLoRASegmenterLib.results import Result, keepPage
from SAHLoRASegmenterLib.settings import SegmentSettings
from SAHLoRASegmenterLib.tables import Measured, addChart, addTable, fillAreas, fillMeasurements


class SegmentationRun(ChildWork):
    """A running or finished segmentation of one volume.

    Parameters
    ----------
    command : sequence of str
        Beginning of the command line, e.g. ``[PythonSlicer, .../sahlora]``.
    volumeNode : vtkMRMLScalarVolumeNode
        The CT.
    settings : SegmentSettings
        How to segment it.
    outputNode : vtkMRMLSegmentationNode, optional
        Gets the outline as one more segment; by default a new node is made. Nothing in it is overwritten.

    Attributes
    ----------
    finished : Signal
        Emits this run once its results are in the scene.
    error : Signal
        Emits a `ChildError`; the scene is then as it was.
    segmentationNode, measurementsNode, probabilityNode, disagreementNode
        The results; None before the end, and the last two unless they were asked for.
    segmentedResult : Result
        All nodes of the result; None before the end.
    result : dict
        The command's result event: segment, volume_ml, device, seconds and more.
    """

    def __init__(
        self, command: Sequence[str], volumeNode: Any, settings: SegmentSettings, outputNode: Any = None
    ) -> None:
        folder = makeFolder()
        self._label = folder / "label.seg.nrrd"
        self._report = folder / "report.json"
        self._probability = folder / "probability.nrrd" if settings.keepProbability else None
        self._disagreement = folder / "disagreement.nrrd" if settings.keepDisagreement else None
        self._page = folder / "report.html" if settings.makePage else None
        self._outputNode = outputNode
        self._minimumComponentMl = settings.minimumComponentMl
        self.segmentationNode = self.measurementsNode = None
        self.probabilityNode = self.disagreementNode = None
        self.segmentedResult: Result | None = None
        self._added: list[Any] = []  # nodes to take away again if bringing back the results fails
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
        if self._disagreement:
            arguments += ["--disagreement", str(self._disagreement)]
        if self._page:
            arguments += ["--page", str(self._page)]
        super().__init__([*command, *arguments, *settings.arguments()], folder)
        try:
            with busyCursor():
                self._volume = exportVolume(volumeNode, folder / "ct.nrrd")
            self._requireFitting(outputNode)
        except Exception:
            self.close()
            raise

    def _onFinished(self, result: Event) -> None:
        """Bring the results to the scene in steps of the event loop; then this is finished."""
        superior = super()._onFinished
        self._takeSteps(self._importResults(), lambda _none: superior(result), self._onUnreadable)

    def _requireFitting(self, outputNode: Any) -> None:
        """Refuse a segmentation that the outline can't be added to, before the child starts."""
        if outputNode is None:
            return
        segmentation = outputNode.GetSegmentation()
        labelmap = slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()
        if segmentation.GetNumberOfSegments() and segmentation.GetSourceRepresentationName() != labelmap:
            raise ValueError(
                _('Choose a new segmentation: "{name}" holds surfaces.').format(name=outputNode.GetName())
            )
        transform = self._volume.node.GetParentTransformNode() if self._volume.keepsVoxels else None
        if outputNode.GetParentTransformNode() is not transform:
            raise ValueError(
                _('Choose a new segmentation: "{name}" is not under the transform of the CT.').format(
                    name=outputNode.GetName()
                )
            )

    def _importResults(self) -> Generator[float, None, None]:
        """Add all results to the scene, or none; yields after each part of the work."""
        if not slicer.mrmlScene.IsNodePresent(self._volume.node):
            removed = ChildError("volume-removed", _("The CT was removed while it was segmented."))
            raise ChildFailedError(removed)
        try:
            with busyCursor():
                report = json.loads(self._report.read_text(encoding="utf-8"))
                self.segmentationNode = self._note(importSegmentation(self._label, self._volume))
                yield 0.2
                self.probabilityNode = self._importMap("probability", self._probability)
                yield 0.4
                self.disagreementNode = self._importMap("disagreement", self._disagreement)
                yield 0.6
                tables = self._addTables(report["measurements"])
                yield 0.8
                self._remember(report, tables)
        except BaseException:  # also if it is closed halfway
            self._removeNodes()
            raise

    def _importMap(self, kind: str, path: Path | None) -> Any:
        if path is None:
            return None
        title = {"probability": _("{volume} probability"), "disagreement": _("{volume} disagreement")}[kind]
        return self._note(
            importMap(path, self._volume, title.format(volume=self._volume.node.GetName()), kind)
        )

    def _addTables(self, measured: Measured) -> dict[str, Any]:
        """Add the tables and the chart, and return them by their roles."""
        volumeNode = self._volume.node
        name = volumeNode.GetName()
        measurementsNode = self._note(addTable(_("{volume} measurements").format(volume=name), volumeNode))
        areasNode = self._note(addTable(_("{volume} areas").format(volume=name), volumeNode))
        fillMeasurements(measurementsNode, measured)
        fillAreas(areasNode, measured)
        chartNode, seriesNode = addChart(areasNode, _("{volume} area per slice").format(volume=name))
        self._note(chartNode)
        self._note(seriesNode)
        self.measurementsNode = measurementsNode
        return {"measurements": measurementsNode, "areas": areasNode, "chart": chartNode}

    def _remember(self, report: dict[str, Any], tables: dict[str, Any]) -> None:
        """Note in the segmentation how it was made, and what belongs to it."""
        segmentID = self._placeSegment()
        self.segmentedResult = Result(self.segmentationNode)
        self.segmentedResult.remember(
            segmentID,
            float(report["settings"]["threshold"]),
            self._minimumComponentMl,
            keepPage(self._page) if self._page else None,
            volume=self._volume.node,
            probability=self.probabilityNode,
            disagreement=self.disagreementNode,
            **tables,
        )
        self.segmentedResult.nameAlgorithm(str(report.get("model", {}).get("name") or "SAHLoRA"))

    def _placeSegment(self) -> str:
        """Return the ID of the outline's segment, moved into the chosen node if that is still there."""
        if self._outputNode is None or not slicer.mrmlScene.IsNodePresent(self._outputNode):
            return self.segmentationNode.GetSegmentation().GetNthSegmentID(0)
        source, self.segmentationNode = self.segmentationNode, self._outputNode
        self._added.remove(source)
        return moveSegment(source, self._outputNode)

    def _note(self, node: Any) -> Any:
        self._added.append(node)
        return node

    def _removeNodes(self) -> None:
        for node in self._added:
            slicer.mrmlScene.RemoveNode(node)
        self.segmentationNode = self.measurementsNode = None
        self.probabilityNode = self.disagreementNode = None

    def _onProgress(self, event: Event) -> None:
        words = {name: self._named(event[name]) for name in ("message", "hint", "text") if name in event}
        super()._onProgress({**event, **words})

    def _onError(self, error: ChildError) -> None:
        message, details = self._named(error.message), self._named(error.details)
        super()._onError(replace(error, message=message, details=details))

    def _named(self, text: Any) -> str:
        """Put the volume's name in the place of its temporary file, which says nothing to the user."""
        return str(text).replace(str(self._volume.path), f'"{self._volume.node.GetName()}"')
