"""A segmentation in the scene and the nodes that belong to it, found again in a saved scene."""

from __future__ import annotations

import os
import shutil
import uuid
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import vtk_to_numpy

from SAHLoRACoreLib.scene import imageInWorld
from SAHLoRACoreLib.showing import editSegment, showOutlines, showVolume

SEGMENT, THRESHOLD, SMALLEST, OUTLINE, PAGE = (
    f"SAHLoRA.{name}" for name in ("segment", "threshold", "minimumComponentMl", "outline", "page")
)
ALGORITHM_TYPE, ALGORITHM_NAME = "DICOM.SegmentAlgorithmType", "DICOM.SegmentAlgorithmName"
SURFACE_NETS = "1"  # method of Slicer's conversion: half the time of its default one
DISAGREEMENT_FLOOR, LARGEST_DISAGREEMENT = 0.01, 0.5


class Result:
    """A segmentation made by SAHLoRA, with CT, probability map, tables and chart by node reference.

    Parameters
    ----------
    segmentationNode : vtkMRMLSegmentationNode
        With the attributes and references that `remember` wrote.
    """

    def __init__(self, segmentationNode: Any) -> None:
        self.segmentationNode = segmentationNode

    @classmethod
    def of(cls, segmentationNode: Any) -> Result | None:
        """Return the result a node stands for; None if SAHLoRA didn't make it or its CT is gone."""
        if segmentationNode is None or segmentationNode.GetAttribute(THRESHOLD) is None:
            return None
        result = cls(segmentationNode)
        return result if result.volumeNode is not None and result._segment is not None else None

    def remember(
        self, segmentID: str, threshold: float, minimumComponentMl: float, page: Path | None, **nodes: Any
    ) -> None:
        """Note how the segmentation was made and which nodes belong to it (volume, probability, ...)."""
        self.segmentationNode.SetAttribute(SEGMENT, segmentID)
        for role, node in nodes.items():  # None takes away what an earlier result of this node had
            self.segmentationNode.SetNodeReferenceID(f"SAHLoRA.{role}", node.GetID() if node else None)
        self.segmentationNode.SetAttribute(SMALLEST, repr(minimumComponentMl))
        self.segmentationNode.SetAttribute(PAGE, str(page) if page else None)
        self.rememberOutline(threshold)

    def rememberOutline(self, threshold: float) -> None:
        """Note the threshold and the outline it gave, so that a correction by hand is noticed."""
        self.segmentationNode.SetAttribute(THRESHOLD, repr(threshold))
        self.segmentationNode.SetAttribute(OUTLINE, self._outline())

    def nameAlgorithm(self, model: str) -> None:
        """Note who drew the outline, in the tags that Slicer's DICOM export writes into the file."""
        self._segment.SetTag(ALGORITHM_TYPE, "AUTOMATIC")
        self._segment.SetTag(ALGORITHM_NAME, model)

    def noteCorrection(self) -> None:
        """Note for DICOM export that a person corrects the outline."""
        self._segment.SetTag(ALGORITHM_TYPE, "SEMIAUTOMATIC")

    @property
    def volumeNode(self) -> Any:
        """The CT."""
        return self._node("volume")

    @property
    def probabilityNode(self) -> Any:
        """The probability map; None if it was not kept."""
        return self._node("probability")

    @property
    def disagreementNode(self) -> Any:
        """The disagreement of the averaged predictions; None if it was not kept."""
        return self._node("disagreement")

    @property
    def measurementsNode(self) -> Any:
        """The table of measurements."""
        return self._node("measurements")

    @property
    def areasNode(self) -> Any:
        """The table of areas per slice."""
        return self._node("areas")

    @property
    def chartNode(self) -> Any:
        """The chart of the areas."""
        return self._node("chart")

    @property
    def nodes(self) -> tuple[Any, ...]:
        """CT, maps, tables and chart; None in the place of one that is not there."""
        return (
            self.volumeNode,
            self.probabilityNode,
            self.disagreementNode,
            self.measurementsNode,
            self.areasNode,
            self.chartNode,
        )

    @property
    def threshold(self) -> float:
        """Probability from which on voxels are outlined."""
        return float(self.segmentationNode.GetAttribute(THRESHOLD))

    @property
    def minimumComponentMl(self) -> float:
        """Connected pieces smaller than this were dropped."""
        return float(self.segmentationNode.GetAttribute(SMALLEST))

    @property
    def page(self) -> Path | None:
        """The report page, if there is one still."""
        path = self.segmentationNode.GetAttribute(PAGE)
        return Path(path) if path and Path(path).is_file() else None

    @property
    def segmentID(self) -> str:
        """ID of the outlined segment."""
        return self.segmentationNode.GetAttribute(SEGMENT) or ""

    @property
    def segmentName(self) -> str:
        """Name of the outlined segment."""
        return self._segment.GetName()

    def isCorrected(self) -> bool:
        """Tell whether somebody changed the outline since SAHLoRA made it."""
        return self.segmentationNode.GetAttribute(OUTLINE) != self._outline()

    def largestSlicePosition(self) -> tuple[float, float, float] | None:
        """Return the middle of the outline in the slice of its largest area (world, RAS); None if empty."""
        from sahlora.imaging.geometry import Axes

        mask, toWorld = self._mask()
        if not mask.any():
            return None
        axes = Axes.of(directions(toWorld))
        canonical = axes.to_canonical(mask)
        largest = int(np.count_nonzero(canonical, axis=(1, 2)).argmax())
        plane = np.zeros_like(mask)
        axes.to_canonical(plane)[largest] = canonical[largest]
        k, j, i = np.argwhere(plane).mean(axis=0)
        return tuple((toWorld @ (i, j, k, 1.0))[:3])

    def slicePosition(self, number: int) -> tuple[float, float, float]:
        """Return the middle of a slice (world, RAS), counted from below as in the table of areas."""
        from sahlora.imaging.geometry import Axes

        image, _keepsVoxels = imageInWorld(self.volumeNode)
        toWorld = vtk.vtkMatrix4x4()
        image.GetIJKToRASMatrix(toWorld)
        axes = Axes.of(directions(slicer.util.arrayFromVTKMatrix(toWorld)))
        last = np.array(image.GetImageData().GetDimensions()[::-1]) - 1  # (slice, row, column) as stored
        voxel, along = last / 2, axes.order[0]
        voxel[along] = last[along] - number if 0 in axes.flipped else number
        return toWorld.MultiplyPoint((*voxel[::-1], 1.0))[:3]

    # ------------------------------------------------------------------------------------------- parts

    def _node(self, role: str) -> Any:
        return self.segmentationNode.GetNodeReference(f"SAHLoRA.{role}")

    @property
    def _segment(self) -> Any:
        return self.segmentationNode.GetSegmentation().GetSegment(self.segmentID)

    def _mask(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the outline (slice, row, column), cropped, and the matrix from its indices to the world."""
        image = self._segment.GetRepresentation(
            slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()
        )
        x0, x1, y0, y1, z0, z1 = image.GetExtent()
        shape = (z1 - z0 + 1, y1 - y0 + 1, x1 - x0 + 1)
        if min(shape) <= 0:
            return np.zeros((0, 0, 0), bool), np.eye(4)
        values = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(shape)
        toWorld, grid = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
        image.GetImageToWorldMatrix(grid)
        slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(
            self.segmentationNode.GetParentTransformNode(), None, toWorld
        )
        vtk.vtkMatrix4x4.Multiply4x4(toWorld, grid, toWorld)
        offset = np.eye(4)
        offset[:3, 3] = (x0, y0, z0)
        return values == self._segment.GetLabelValue(), slicer.util.arrayFromVTKMatrix(toWorld) @ offset

    def _outline(self) -> str:
        """Return a checksum of the outline that does not depend on how its image is cropped."""
        mask, _toWorld = self._mask()
        if not mask.any():
            return "empty"
        for axis in range(3):
            hits = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
            mask = mask.take(range(hits[0], hits[-1] + 1), axis)
        return f"{mask.shape} {zlib.crc32(np.packbits(mask).tobytes()):08x}"


def loadLibraries() -> None:
    """Import what measures a result while the panel is made: it takes a third of a second, once."""
    import sahlora.imaging.geometry
    import sahlora.report.measurements  # noqa: F401


def directions(toWorld: np.ndarray) -> np.ndarray:
    """Return the direction cosines of a grid's axes in LPS, as the core counts them."""
    axes = np.diag([-1.0, -1.0, 1.0]) @ toWorld[:3, :3]
    return axes / np.linalg.norm(axes, axis=0)


# -------------------------------------------------------------------------------------------- report pages


def keepPage(page: Path) -> Path:
    """Move a report page where it stays until the scene is closed, and return where that is."""
    folder = _pagesFolder()
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.move(page, folder / f"{uuid.uuid4().hex}.html"))


def removePages() -> None:
    """Delete the report pages of this Slicer: they show the patient's CT."""
    shutil.rmtree(_pagesFolder(), ignore_errors=True)


def _pagesFolder() -> Path:
    return Path(slicer.app.temporaryPath) / f"SAHLoRA-reports-{os.getpid()}"


# ------------------------------------------------------------------------------------------------- showing


def showInSlices(result: Result) -> None:
    """Show CT and outline in the slice views, at the slice of the largest area, without other outlines."""
    showOutlines([result.segmentationNode], result.volumeNode)
    showVolume(result.volumeNode, result.largestSlicePosition())


def showDisagreement(result: Result, visible: bool) -> None:
    """Lay the disagreement over the CT in all slice views, or take it away."""
    node = result.disagreementNode
    if visible:
        node.CreateDefaultDisplayNodes()
        display = node.GetDisplayNode()
        display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeIron")
        display.SetAutoWindowLevel(False)
        display.SetWindowLevelMinMax(0.0, LARGEST_DISAGREEMENT)
        display.SetThreshold(DISAGREEMENT_FLOOR, LARGEST_DISAGREEMENT)
        display.SetAutoThreshold(False)
        display.SetApplyThreshold(True)
        slicer.util.setSliceViewerLayers(background=result.volumeNode, foreground=node, foregroundOpacity=0.5)
    elif isDisagreementShown(result):
        slicer.util.setSliceViewerLayers(foreground=None)


def isDisagreementShown(result: Result) -> bool:
    """Tell whether a slice view shows the disagreement."""
    node = result.disagreementNode
    views = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    return node is not None and any(view.GetForegroundVolumeID() == node.GetID() for view in views)


def showIn3D(result: Result, visible: bool) -> None:
    """Make the surface of the outline for the 3D view, or remove it."""
    if visible:
        rule = slicer.vtkBinaryLabelmapToClosedSurfaceConversionRule
        result.segmentationNode.GetSegmentation().SetConversionParameter(
            rule.GetConversionMethodParameterName(), SURFACE_NETS
        )
        result.segmentationNode.CreateClosedSurfaceRepresentation()
    else:
        result.segmentationNode.RemoveClosedSurfaceRepresentation()


def isShownIn3D(result: Result) -> bool:
    """Tell whether the outline has a surface."""
    name = slicer.vtkSegmentationConverter.GetClosedSurfaceRepresentationName()
    return result.segmentationNode.GetSegmentation().ContainsRepresentation(name)


def showChart(result: Result) -> None:
    """Show the area per slice in a plot view."""
    slicer.modules.plots.logic().ShowChartInLayout(result.chartNode)


def openInSegmentEditor(result: Result) -> None:
    """Go to the Segment Editor with this outline and its CT.

    Raises
    ------
    RuntimeError
        If this application has no main window to show it in.
    """
    editSegment(result.segmentationNode, result.segmentID, result.volumeNode)
    result.noteCorrection()


def useAsTrainingCase(result: Result) -> None:
    """Hand CT and outline to the module SAHLoRA Trainer, and go there.

    Raises
    ------
    RuntimeError
        If this application has no main window to show it in.
    ValueError
        If the Trainer can't use them.
    """
    if not hasattr(slicer.util, "selectModule") or slicer.util.mainWindow() is None:
        raise RuntimeError(_("SAHLoRA Trainer needs Slicer's main window."))
    slicer.util.selectModule("SAHLoRATrainer")
    trainer = slicer.util.getModuleWidget("SAHLoRATrainer")
    trainer.addCase(result.volumeNode, result.segmentationNode, result.segmentID)
