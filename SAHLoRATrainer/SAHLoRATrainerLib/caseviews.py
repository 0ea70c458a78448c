"""Showing cases in the slice views; cases in files are loaded when they are shown, and then only once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from SAHLoRACoreLib.scene import importSegmentation, volumeInWorld
from SAHLoRACoreLib.showing import showOutlines, showVolume
from SAHLoRATrainerLib.cases import FileCase, SceneCase
from SAHLoRATrainerLib.export import caseAttribute, isAt, placeOf


def showCase(case: SceneCase | FileCase, name: str, others: Collection[Any] = ()) -> None:
    """Show CT and outline of a case, and hide the outlines of others.

    Parameters
    ----------
    case : SceneCase or FileCase
    name : str
        What its CT is called if it is loaded now.
    others : collection of vtkMRMLSegmentationNode
        Outlines of the other cases; those of another CT are hidden in any case.

    Raises
    ------
    RuntimeError
        If a file can't be read; the message says what to do.
    """
    if isinstance(case, FileCase):
        volumeNode = volumeOf(str(case.image), name)
        segmentationNode = _outlineOf(case, volumeNode)
    else:
        volumeNode, segmentationNode = case.volumeNode, case.segmentationNode
    showOutlines([segmentationNode], volumeNode, others)
    showVolume(volumeNode, center([segmentationNode]))


def volumesInScene(image: str) -> list[Any]:
    """Return the CTs in the scene that a file was written from or read to, wherever they lie now."""
    nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    return [node for node in nodes if node.GetAttribute(caseAttribute(image))]


def volumeOf(image: str, name: str) -> Any:
    """Return the CT of a file; it is read if the scene has none that lies where the file's does."""
    there = volumesInScene(image)
    for node in there:
        if isAt(node, node.GetAttribute(caseAttribute(image))):
            return node
    node = None
    if Path(image).is_file():
        if there:
            name = _("{name}, before it was moved").format(name=there[0].GetName())
        node = slicer.modules.volumes.logic().AddArchetypeVolume(image, name)  # which makes it unique
    if node is None:
        raise RuntimeError(
            _("Can't load {path} here. DICOM is loaded in the module DICOM.").format(path=image)
        )
    node.SetAttribute(caseAttribute(image), placeOf(node))
    return node


def center(segmentationNodes: Sequence[Any]) -> tuple[float, ...] | None:
    """Return the middle of the first segment that is not empty, in world space; None if all are."""
    for node in segmentationNodes:
        bounds = np.zeros(6)
        node.GetRASBounds(bounds)
        if bounds[0] <= bounds[1]:
            return tuple((bounds[0::2] + bounds[1::2]) / 2)
    return None


def _outlineOf(case: FileCase, volumeNode: Any) -> Any:
    """Return the outline of a case in files, loaded once."""
    path = str(case.label)
    for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        if node.GetAttribute(caseAttribute(path)):
            return node
    name = _("{volume} outline").format(volume=volumeNode.GetName())
    node = importSegmentation(case.label, volumeInWorld(volumeNode, case.label), name)
    node.SetAttribute(caseAttribute(path), "1")
    return node
