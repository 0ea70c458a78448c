"""Another threshold on a kept probability map, at once and without running the model again."""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import vtk_to_numpy

from SAHLoRACoreLib.plots import redraw
from SAHLoRACoreLib.scene import imageInWorld
from SAHLoRASegmenterLib.results import Result, directions, isShownIn3D, showIn3D
from SAHLoRASegmenterLib.tables import fillAreas, fillMeasurements

LOWEST = 0.01  # of the slider: what stays below everywhere along z is left out of the work


class LiveThreshold:
    """Outlines the voxels of a probability map from a threshold on, and measures them as the command does.

    While the threshold moves only slices, tables and chart follow; the surface in the 3D view, which takes
    longest, is taken away and made anew by `finish`.

    Parameters
    ----------
    result : Result
        With a probability map.

    Raises
    ------
    ValueError
        If the CT no longer has the voxels it was segmented with.
    """

    def __init__(self, result: Result) -> None:
        from sahlora.imaging.geometry import Axes
        from sahlora.imaging.volume import Volume

        self._result = result
        self._hasSurface = isShownIn3D(result)
        image, _keepsVoxels = imageInWorld(result.volumeNode)
        hu = slicer.util.arrayFromVolume(image)
        probability = slicer.util.arrayFromVolume(result.probabilityNode)
        if hu.shape != probability.shape:
            raise ValueError(_("The CT was changed since it was segmented. Segment it again."))
        toWorld = vtk.vtkMatrix4x4()
        image.GetIJKToRASMatrix(toWorld)
        self._axes = Axes.of(directions(slicer.util.arrayFromVTKMatrix(toWorld)))
        self._box = _support(probability, self._axes.order[0])
        self._probability = np.ascontiguousarray(probability[self._box])
        spacing = tuple(image.GetSpacing()[2 - axis] for axis in self._axes.order)
        self._volume = Volume.from_array(self._axes.to_canonical(np.rint(hu[self._box])), spacing)

    def apply(self, threshold: float) -> None:
        """Outline and measure from this probability on."""
        from sahlora.report.measurements import measure, remove_small_components

        if self._hasSurface:
            showIn3D(self._result, False)
        label = self._axes.to_canonical(self._probability >= threshold)
        if self._result.minimumComponentMl > 0:
            label = remove_small_components(label, self._volume, self._result.minimumComponentMl)
        self._write(self._axes.to_stored(label))
        measured = measure(label, self._volume).to_dict()
        if self._result.measurementsNode is not None:  # a removed table is not made anew
            fillMeasurements(self._result.measurementsNode, measured)
        if self._result.areasNode is not None:
            fillAreas(self._result.areasNode, measured)
            if self._result.chartNode is not None:
                redraw(self._result.chartNode)

    def finish(self, threshold: float) -> None:
        """Apply the threshold that was settled on, remember it, and make the surface anew."""
        self.apply(threshold)
        self._result.rememberOutline(threshold)
        if self._hasSurface:
            showIn3D(self._result, True)

    def _write(self, mask: np.ndarray) -> None:
        """Put a mask (slice, row, column) of the box into the segment."""
        z, y, x = self._box
        image = slicer.vtkOrientedImageData()
        image.SetExtent(x.start, x.stop - 1, y.start, y.stop - 1, z.start, z.stop - 1)
        image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
        vtk_to_numpy(image.GetPointData().GetScalars()).reshape(mask.shape)[:] = mask
        grid = vtk.vtkMatrix4x4()
        self._result.probabilityNode.GetIJKToRASMatrix(grid)
        image.SetImageToWorldMatrix(grid)
        slicer.vtkSlicerSegmentationsModuleLogic.SetBinaryLabelmapToSegment(
            image, self._result.segmentationNode, self._result.segmentID
        )


def _support(probability: np.ndarray, along: int) -> tuple[slice, slice, slice]:
    """Return the box of all slices along an axis around whatever any threshold may outline."""
    footprint = probability.max(axis=along, keepdims=True) >= LOWEST
    box = [slice(0, size) for size in probability.shape]
    for axis in {0, 1, 2} - {along}:
        hits = np.flatnonzero(footprint.any(axis=tuple({0, 1, 2} - {axis})))
        box[axis] = slice(int(hits[0]), int(hits[-1]) + 1) if hits.size else slice(0, 1)
    return box[0], box[1], box[2]
