"""What VTK and MRML complain about, which in Slicer goes to the error log and turns an icon red."""

from __future__ import annotations

from typing import Any

# Complaints that neither the modules nor Slicer cause, with where they come from.
NOT_OURS = {
    "vtkMRMLLabelMapVolumeDisplayNode: Warning, the color table node": (
        "slicer.util.arrayFromSegmentBinaryLabelmap, which tests use, leaves a display node in the scene"
    ),
    "ResolveUnresolvedItems": "the stand-in of the subject hierarchy's plugins can't merge two hierarchies",
    "ResolveSubjectHierarchy": "the same",
}


class Complaints:
    """Collects the errors and warnings of VTK from now on, in the place of its output window."""

    def __init__(self) -> None:
        import vtk

        self.texts: list[str] = []
        self._before = vtk.vtkOutputWindow.GetInstance()
        self._window = vtk.vtkStringOutputWindow()
        for event in ("ErrorEvent", "WarningEvent"):
            self._window.AddObserver(event, self._note)
        vtk.vtkOutputWindow.SetInstance(self._window)

    def take(self) -> list[str]:
        """Return what came since the last time."""
        texts, self.texts = self.texts, []
        return texts

    def close(self) -> None:
        """Give VTK its own output window back."""
        import vtk

        vtk.vtkOutputWindow.SetInstance(self._before)

    def _note(self, _window: Any, event: str, text: str = "") -> None:
        if not any(words in text for words in NOT_OURS):
            self.texts.append(f"{event}: {text.strip()}")

    _note.CallDataType = "string0"  # type: ignore[attr-defined]
