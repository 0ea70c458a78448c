"""Runs the extension's modules without the Slicer application: real MRML, real Qt widgets, thin stand-ins.

`slicer-core` brings the real MRML scene and segmentation core, PySide6 the real Qt; this package speaks
PythonQt on top of PySide6 and stands in for the few Slicer classes that neither brings. Testing/harness.md
says what this proves and what it can't.
"""

from __future__ import annotations

import os
import sys


def unavailable() -> str:
    """Return why the harness can't run here, or an empty string."""
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")
    for package, load in (("PySide6-Essentials", _load_qt), ("slicer-core", _load_slicer)):
        try:
            load()
        except ImportError as error:
            return f"{package} can't be loaded here: {error}"
    return ""


def _load_qt() -> None:
    import PySide6
    import PySide6.QtUiTools

    if PySide6.__version_info__[:2] == (6, 12) and sys.version_info < (3, 12):
        raise ImportError(
            "PySide6 6.12 frees True, False and None with every signal on Python before 3.12; use 6.11"
        )


def _load_slicer() -> None:
    import slicer

    if not hasattr(slicer, "vtkMRMLScene"):
        raise ImportError("the package named slicer has no vtkMRMLScene")
