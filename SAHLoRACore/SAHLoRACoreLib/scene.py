"""From MRML nodes to the child's files and back: CT out; segmentation and probability map in.

A CT under a transform is computed on as it lies in the world. Where the transformed voxel grid is still
orthogonal the very voxels are exported, the result comes back on them and goes under the CT's own
transform. A sheared or non-linear transform (as Slicer gives a DICOM series with gantry tilt or uneven
slices) leaves no grid that a file could hold: there the CT is resampled on an even grid in world space and
the result stays in world space.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import vtk_to_numpy

from SAHLoRACoreLib.volumes import MAP, hasVoxels

AIR_HU = -1024
# Of a second and further outline beside the first, told apart by people who confuse red and green, too.
FURTHER_COLORS = ((0.8, 0.47, 0.65), (0.9, 0.62, 0.0), (0.0, 0.45, 0.7), (0.0, 0.62, 0.45))
ORTHOGONAL_WITHIN = (
    1e-4  # cosine between two axes; SimpleITK and MRML accept less deviation than this in files
)


@contextmanager
def busyCursor() -> Iterator[None]:
    """Show the waiting cursor; unlike slicer.util.WaitCursor, no event is processed meanwhile."""
    import qt

    slicer.app.setOverrideCursor(qt.Qt.WaitCursor)
    try:
        yield
    finally:
        slicer.app.restoreOverrideCursor()


@dataclass(frozen=True)
class ExportedVolume:
    """A CT in a file, and what is needed to bring results back to it.

    Parameters
    ----------
    path : Path
        The NRRD file, in world space.
    node : vtkMRMLScalarVolumeNode
        The node it was made of.
    image : vtkMRMLScalarVolumeNode
        What the file holds, outside of any scene.
    keepsVoxels : bool
        Whether the file has the node's own voxels, so that results go under the node's transform.
    """

    path: Path
    node: Any
    image: Any
    keepsVoxels: bool


def exportVolume(node: Any, path: Path) -> ExportedVolume:
    """Write a volume node (of a sequence: its present frame) to a file in world space.

    Raises
    ------
    ValueError
        If the node has no voxels or more than one value a voxel.
    RuntimeError
        If the file can't be written.
    """
    volume = volumeInWorld(node, path)
    writeImage(volume.image, path)
    return volume


def volumeInWorld(node: Any, path: Path) -> ExportedVolume:
    """Return what `exportVolume` would write to a path, which is not written yet."""
    if not hasVoxels(node):
        raise ValueError(_('The volume "{name}" is empty.').format(name=node.GetName()))
    if node.GetImageData().GetNumberOfScalarComponents() != 1:
        raise ValueError(_('The volume "{name}" is a color picture, not a CT.').format(name=node.GetName()))
    image, keepsVoxels = imageInWorld(node)
    return ExportedVolume(path, node, image, keepsVoxels)


def writeImage(image: Any, path: Path) -> None:
    """Write an image outside of any scene to a file; raise RuntimeError if not all of it is there then."""
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(path))
    storage.SetUseCompression(0)
    # The writer doesn't notice a disk that fills up, but what is written uncompressed has a known size.
    voxels = image.GetImageData()
    expected = voxels.GetNumberOfPoints() * voxels.GetScalarSize()
    if not storage.WriteData(image) or not path.is_file() or path.stat().st_size < expected:
        raise RuntimeError(_("Can't write the volume to {path}. Is the disk full?").format(path=path))


def segmentOn(segmentationNode: Any, segmentID: str, image: Any) -> Any:
    """Return a segment (0 and 1) on the grid of an image in world space, outside of any scene.

    The segment may have another grid, share a layer with others, or lie under a transform of its own: every
    voxel gets what the segment has at its center.

    Raises
    ------
    ValueError
        If there is no such segment, it has no voxels of its own, or nothing of it lies on the image.
    """
    segment, source = _labelmap(segmentationNode, segmentID)
    label = slicer.vtkMRMLScalarVolumeNode()
    label.CopyOrientation(image)
    values = vtk.vtkImageData()
    values.SetDimensions(image.GetImageData().GetDimensions())
    values.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    vtk_to_numpy(values.GetPointData().GetScalars()).fill(0)
    label.SetAndObserveImageData(values)
    grids = [vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()]
    source.GetImageToWorldMatrix(grids[0])
    image.GetIJKToRASMatrix(grids[1])
    sampling = _sampling(grids[0], segmentationNode.GetParentTransformNode(), grids[1])
    first, last = _covered(source.GetExtent(), sampling, np.array(values.GetDimensions()))
    isEmpty = True
    if np.all(first <= last):
        plain = vtk.vtkImageData()  # in voxels: the transform has the geometry
        plain.ShallowCopy(source)
        plain.SetOrigin(0, 0, 0)
        plain.SetSpacing(1, 1, 1)
        plain.SetDirectionMatrix(1, 0, 0, 0, 1, 0, 0, 0, 1)
        reslice = _reslice(plain, sampling, first, last, background=0)
        reslice.SetInterpolationModeToNearestNeighbor()
        reslice.Update()
        found = vtk_to_numpy(reslice.GetOutput().GetPointData().GetScalars())
        found = found.reshape((last - first + 1)[::-1])
        part = tuple(slice(low, high + 1) for low, high in zip(first[::-1], last[::-1], strict=True))
        outline = found == segment.GetLabelValue()  # segments of one layer differ by their value
        slicer.util.arrayFromVolume(label)[part] = outline
        isEmpty = not outline.any()
    if isEmpty and _isOutlined(segment, source):
        raise ValueError(
            _("{name} does not lie on the CT. Choose the segmentation of this CT.").format(
                name=segmentationNode.GetName()
            )
        )
    return label


def imageInWorld(node: Any) -> tuple[Any, bool]:
    """Return a volume as it lies in the world, outside of any scene, and whether it has the node's voxels."""
    transform = node.GetParentTransformNode()
    if transform is None:
        return _copy(node), True
    if transform.IsTransformToWorldLinear() and _isOrthogonal(_worldGrid(node)):
        image = _copy(node)
        image.ApplyTransformMatrix(_matrixToWorld(transform))
        return image, True
    return _resampledInWorld(node), False


def importSegmentation(path: Path, volume: ExportedVolume, name: str = "") -> Any:
    """Add the segmentation of a ``.seg.nrrd`` file or label map to the scene, beside its CT; return its node.

    Names, colors and terminology are the file's; an earlier segmentation stays as it is.

    Parameters
    ----------
    path : Path
    volume : ExportedVolume
        The CT that the file belongs to.
    name : str
        Of the node; by default made of the CT's.

    Raises
    ------
    RuntimeError
        If the file can't be read.
    """
    node = slicer.vtkMRMLSegmentationNode()
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(str(path))
    name = name or _("{volume} segmentation").format(volume=volume.node.GetName())
    node.SetName(slicer.mrmlScene.GenerateUniqueName(name))
    slicer.mrmlScene.AddNode(node)
    if not (path.is_file() and storage.ReadData(node)):  # VTK would log an error of a missing file
        slicer.mrmlScene.RemoveNode(node)
        raise RuntimeError(_("Can't read the segmentation {path}.").format(path=path))
    segmentation = node.GetSegmentation()
    for index in range(segmentation.GetNumberOfSegments()):
        segment = segmentation.GetNthSegment(index)
        segment.SetNameAutoGenerated(False)
        segment.SetColorAutoGenerated(False)
    _place(node, volume)
    _referToDicom(node, volume.node)
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume.node)
    if not volume.keepsVoxels:
        grid = vtk.vtkMatrix4x4()
        volume.image.GetIJKToRASMatrix(grid)
        geometry = slicer.vtkSegmentationConverter.SerializeImageGeometry(grid, volume.image.GetImageData())
        name = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
        segmentation.SetConversionParameter(name, geometry)
    node.CreateDefaultDisplayNodes()
    return node


def importMap(path: Path, volume: ExportedVolume, name: str, kind: str) -> Any:
    """Add a map of one value a voxel ("probability", "disagreement") beside its CT; return its node."""
    node = slicer.vtkMRMLScalarVolumeNode()
    node.SetAttribute(MAP, kind)  # no CT to choose as input
    # The NRRD reader keeps the voxel order, where the archetype reader may turn axes.
    storage = slicer.vtkMRMLNRRDStorageNode()
    storage.SetFileName(str(path))
    node.SetName(slicer.mrmlScene.GenerateUniqueName(name))
    slicer.mrmlScene.AddNode(node)
    if not (path.is_file() and storage.ReadData(node)):
        slicer.mrmlScene.RemoveNode(node)
        raise RuntimeError(_("Can't read the result {path}.").format(path=path))
    _place(node, volume)
    _displayMap(node)
    return node


def moveSegment(source: Any, target: Any) -> str:
    """Move the first segment of a node into another beside what that holds, and return its ID there.

    Beside a segment of the same name it gets a number, and a color of its own. The emptied node is removed.
    Both must be under the same transform.
    """
    segmentation, segmentID = target.GetSegmentation(), source.GetSegmentation().GetNthSegmentID(0)
    free = segmentation.GenerateUniqueSegmentID(segmentID)
    segment = source.GetSegmentation().GetSegment(segmentID)
    _tellApart(segment, segmentation)
    segmentation.AddSegment(segment, free)
    slicer.mrmlScene.RemoveNode(source)
    return free


def _tellApart(segment: Any, segmentation: Any) -> None:
    """Give a segment a name that a segmentation does not have yet, and with it another color."""
    count = segmentation.GetNumberOfSegments()
    taken = {segmentation.GetNthSegment(number).GetName() for number in range(count)}
    name, number = segment.GetName(), 1
    while segment.GetName() in taken:
        number += 1
        segment.SetName(f"{name} {number}")
        segment.SetColor(*FURTHER_COLORS[number % len(FURTHER_COLORS)])


def placeInStudy(node: Any, sibling: Any) -> None:
    """Put a node beside another in the subject hierarchy."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    parent = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(sibling))
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(node), parent)


# ----------------------------------------------------------------------------------------------- parts


def _displayMap(node: Any) -> None:
    """Give a map a display with the window of its values; finding one takes Slicer longer than reading it."""
    display = slicer.vtkMRMLScalarVolumeDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(0.0, 1.0)
    slicer.mrmlScene.AddNode(display)
    display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")
    node.SetAndObserveDisplayNodeID(display.GetID())


def _labelmap(segmentationNode: Any, segmentID: str) -> tuple[Any, Any]:
    """Return a segment and the label map it is in."""
    segment = segmentationNode.GetSegmentation().GetSegment(segmentID)
    if segment is None:
        raise ValueError(_('"{name}" has no such segment any more.').format(name=segmentationNode.GetName()))
    name = slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()
    labelmap = segment.GetRepresentation(name)
    if labelmap is None:
        raise ValueError(
            _('The segment "{name}" is a surface. Make its binary labelmap in the module Segmentations.')
            .format(name=segment.GetName())
        )  # fmt: skip
    return segment, labelmap


def _isOutlined(segment: Any, labelmap: Any) -> bool:
    scalars = labelmap.GetPointData().GetScalars()
    return scalars is not None and bool((vtk_to_numpy(scalars) == segment.GetLabelValue()).any())


def _copy(node: Any) -> Any:
    copy = slicer.vtkMRMLScalarVolumeNode()
    copy.CopyOrientation(node)
    copy.SetAndObserveImageData(node.GetImageData())
    return copy


def _matrixToWorld(transform: Any) -> vtk.vtkMatrix4x4:
    matrix = vtk.vtkMatrix4x4()
    transform.GetMatrixTransformToWorld(matrix)
    return matrix


def _worldGrid(node: Any) -> np.ndarray:
    """Return the 4×4 matrix from voxel indices to world, for a node under a linear transform."""
    grid = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(grid)
    vtk.vtkMatrix4x4.Multiply4x4(_matrixToWorld(node.GetParentTransformNode()), grid, grid)
    return slicer.util.arrayFromVTKMatrix(grid)


def _isOrthogonal(grid: np.ndarray) -> bool:
    axes = grid[:3, :3] / np.linalg.norm(grid[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() < ORTHOGONAL_WITHIN)


def _resampledInWorld(node: Any) -> Any:
    """Return the volume on an even grid along the world's axes that holds all of it, interpolated."""
    local = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(local)
    directions = slicer.util.arrayFromVTKMatrix(local)[:3, :3] / node.GetSpacing()
    spacing = np.array(node.GetSpacing())[np.abs(directions).argmax(axis=1)]
    bounds = np.zeros(6)
    node.GetRASBounds(bounds)
    low, high = bounds[0::2], bounds[1::2]
    size = np.ceil((high - low) / spacing - 1e-6).astype(int)
    grid = np.diag([*spacing, 1.0])
    grid[:3, 3] = low + spacing / 2
    toWorld = slicer.util.vtkMatrixFromArray(grid)

    source = vtk.vtkImageData()
    source.ShallowCopy(node.GetImageData())
    source.SetOrigin(0, 0, 0)
    source.SetSpacing(1, 1, 1)
    sampling = _sampling(local, node.GetParentTransformNode(), toWorld)
    reslice = _reslice(source, sampling, np.zeros(3, int), size - 1, AIR_HU)
    reslice.SetInterpolationModeToLinear()
    reslice.Update()
    image = slicer.vtkMRMLScalarVolumeNode()
    image.SetAndObserveImageData(reslice.GetOutput())
    image.SetIJKToRASMatrix(toWorld)
    return image


def _sampling(local: vtk.vtkMatrix4x4, transformNode: Any, grid: vtk.vtkMatrix4x4) -> Any:
    """Return the way from the voxels of a grid in world space to those of an image under a transform."""
    localFromVoxel = vtk.vtkMatrix4x4()
    vtk.vtkMatrix4x4.Invert(local, localFromVoxel)
    if transformNode is None or transformNode.IsTransformToWorldLinear():
        sampling = vtk.vtkTransform()  # many times faster than a general one
        sampling.Concatenate(localFromVoxel)
        if transformNode is not None:
            fromWorld = _matrixToWorld(transformNode)
            fromWorld.Invert()
            sampling.Concatenate(fromWorld)
    else:
        sampling, fromWorld = vtk.vtkGeneralTransform(), vtk.vtkGeneralTransform()
        slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(None, transformNode, fromWorld)
        sampling.Concatenate(localFromVoxel)
        sampling.Concatenate(fromWorld)
    sampling.Concatenate(grid)
    return sampling


def _covered(extent: Any, sampling: Any, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and the last voxel (x, y, z) of a grid that can get something of an image's extent."""
    first, last = np.zeros(3, int), size - 1
    if any(low > high for low, high in zip(extent[0::2], extent[1::2], strict=True)):
        return first, first - 1
    if not isinstance(sampling, vtk.vtkTransform):
        return first, last
    corners = np.array(np.meshgrid(extent[0:2], extent[2:4], extent[4:6])).reshape(3, -1).T
    way = sampling.GetInverse()
    reached = np.array([way.TransformPoint(corner) for corner in corners.astype(float)])
    return (
        np.maximum(first, np.floor(reached.min(axis=0)).astype(int) - 1),
        np.minimum(last, np.ceil(reached.max(axis=0)).astype(int) + 1),
    )


def _reslice(
    source: Any, sampling: Any, first: np.ndarray, last: np.ndarray, background: float
) -> vtk.vtkImageReslice:
    """Return a filter that samples an image on a grid's voxels from `first` to `last`; both in voxels."""
    reslice = vtk.vtkImageReslice()
    reslice.SetInputData(source)
    reslice.SetResliceTransform(sampling)
    reslice.SetBackgroundLevel(background)
    reslice.SetOutputOrigin(0, 0, 0)
    reslice.SetOutputSpacing(1, 1, 1)
    reslice.SetOutputExtent(*(int(n) for pair in zip(first, last, strict=True) for n in pair))
    return reslice


def _referToDicom(node: Any, volumeNode: Any) -> None:
    """Note the DICOM images that an outline was drawn on, as Slicer does and its DICOM export looks for."""
    uids = volumeNode.GetAttribute("DICOM.instanceUIDs")
    if uids:
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
        name = slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMReferencedInstanceUIDsAttributeName()
        hierarchy.SetItemAttribute(hierarchy.GetItemByDataNode(node), name, uids)


def _place(node: Any, volume: ExportedVolume) -> None:
    """Put a result read in world space into its CT's study and, if it has the CT's voxels, transform."""
    transform = volume.node.GetParentTransformNode()
    if volume.keepsVoxels and transform is not None:
        fromWorld = _matrixToWorld(transform)
        fromWorld.Invert()
        node.ApplyTransformMatrix(fromWorld)
        node.SetAndObserveTransformNodeID(transform.GetID())
    placeInStudy(node, volume.node)
