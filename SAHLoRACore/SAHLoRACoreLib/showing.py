"""Showing nodes where Slicer shows such things: the slice views, the Segment Editor."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import slicer
from slicer.i18n import tr as _

from SAHLoRACoreLib.volumes import MAP

BRAIN_WINDOW_HU, BRAIN_LEVEL_HU = 80.0, 40.0
MADE_HERE = "SAHLoRA."  # begins the names of attributes of what the modules made


def showVolume(volumeNode: Any, position: Sequence[float] | None = None) -> None:
    """Show a CT in the slice views, at a position (world, RAS, mm) if one is given."""
    useBrainWindowAtFirst(volumeNode)
    _takeAwayMaps(volumeNode)
    logic = slicer.app.applicationLogic()
    logic.GetSelectionNode().SetActiveVolumeID(volumeNode.GetID())
    logic.PropagateBackgroundVolumeSelection(0)
    if position is not None:
        slicer.vtkMRMLSliceNode.JumpAllSlices(
            slicer.mrmlScene, *position, slicer.vtkMRMLSliceNode.OffsetJumpSlice
        )


def useBrainWindow(volumeNode: Any) -> None:
    """Show a CT so that blood can be told from brain."""
    display = volumeNode.GetDisplayNode()
    if display is not None:
        display.SetAutoWindowLevel(False)
        display.SetWindowLevel(BRAIN_WINDOW_HU, BRAIN_LEVEL_HU)


def useBrainWindowAtFirst(volumeNode: Any) -> bool:
    """Do so unless somebody, or the scan itself, chose a window; return whether it has a window by now."""
    display = volumeNode.GetDisplayNode()
    if display is not None and display.GetAutoWindowLevel():
        useBrainWindow(volumeNode)
    return display is not None


def showOutlines(segmentationNodes: Collection[Any], volumeNode: Any, others: Collection[Any] = ()) -> None:
    """Show these outlines on a CT, and no others that would lie over them.

    Hidden are outlines that SAHLoRA made, those drawn on another CT, and the given `others`. What else was
    drawn on this CT stays as it is.
    """
    for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        isShown = node in segmentationNodes
        if isShown and node.GetDisplayNode() is None:  # somebody removed it
            node.CreateDefaultDisplayNodes()
        isHidden = node in others or _isMadeHere(node) or not _isDrawnOn(node, volumeNode)
        if node.GetDisplayNode() is not None and (isShown or isHidden):
            node.GetDisplayNode().SetVisibility(isShown)


def editSegment(segmentationNode: Any, segmentID: str, volumeNode: Any) -> None:
    """Go to the Segment Editor with a segment and the volume it was drawn on.

    Raises
    ------
    RuntimeError
        If this application has no main window to show it in.
    """
    if not hasattr(slicer.util, "selectModule") or slicer.util.mainWindow() is None:
        raise RuntimeError(_("The Segment Editor needs Slicer's main window."))
    slicer.util.selectModule("SegmentEditor")
    editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
    editor.setSegmentationNode(segmentationNode)
    editor.setSourceVolumeNode(volumeNode)
    editor.setCurrentSegmentID(segmentID)


def _isMadeHere(node: Any) -> bool:
    return any(name.startswith(MADE_HERE) for name in node.GetAttributeNames())


def _isDrawnOn(segmentationNode: Any, volumeNode: Any) -> bool:
    """Tell whether a segmentation may have been drawn on a volume; one that tells of none may."""
    role = segmentationNode.GetReferenceImageGeometryReferenceRole()
    return segmentationNode.GetNodeReference(role) in (None, volumeNode)


def _takeAwayMaps(volumeNode: Any) -> None:
    """Take our maps of another CT from the slice views."""
    for view in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        shown = slicer.mrmlScene.GetNodeByID(view.GetForegroundVolumeID() or "")
        if (
            shown is not None
            and shown.GetAttribute(MAP) is not None
            and view.GetBackgroundVolumeID() != volumeNode.GetID()
        ):
            view.SetForegroundVolumeID(None)
