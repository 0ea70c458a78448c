"""Showing nodes where Slicer shows such things: the slice views, the Segment Editor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import slicer
from slicer.i18n import tr as _


def showVolume(volumeNode: Any, position: Sequence[float] | None = None) -> None:
    """Show a volume in the slice views, at a position (world, RAS, mm) if one is given."""
    logic = slicer.app.applicationLogic()
    logic.GetSelectionNode().SetActiveVolumeID(volumeNode.GetID())
    logic.PropagateVolumeSelection(0)
    if position is not None:
        slicer.vtkMRMLSliceNode.JumpAllSlices(
            slicer.mrmlScene, *position, slicer.vtkMRMLSliceNode.OffsetJumpSlice
        )


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
