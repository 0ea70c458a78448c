"""What else ``slicer`` has: the application, the scene, module logics, and loading of scripted modules."""

# ruff: noqa: N802, N815 - Slicer's names
from __future__ import annotations

import importlib
import os
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import pythonqt

ROOT = Path(__file__).resolve().parents[3]
MODULES = ("SAHLoRACore", "SAHLoRASegmenter", "SAHLoRATrainer")


class Application:
    """Stands in for ``slicer.app``; `answers` are what a user would click in message boxes."""

    applicationName = "Slicer harness"

    def __init__(self, folder: Path) -> None:
        import qt

        self._qt = qt.QApplication.instance() or qt.QApplication(["harness"])
        self.temporaryPath = str(folder)
        self._slots: dict[str, list[Callable]] = {"startupCompleted()": [], "aboutToQuit()": []}
        qt.QSettings.setDefaultFormat(qt.QSettings.IniFormat)
        qt.QSettings.setPath(qt.QSettings.IniFormat, qt.QSettings.UserScope, str(folder / "settings"))
        self._qt.setOrganizationName("SAHLoRA tests")

    def connect(self, signature: str, slot: Callable) -> None:
        if signature not in self._slots:
            raise ValueError(f"slicer.app has no signal {signature}")
        self._slots[signature].append(slot)

    def completeStartup(self) -> None:
        """Do what Slicer does once all modules are there."""
        for slot in self._slots["startupCompleted()"]:
            slot()

    def quit(self) -> None:
        """Do what Slicer does when it is about to end."""
        for slot in self._slots["aboutToQuit()"]:
            slot()

    def settingsDialog(self) -> Any:
        from .widgets import SettingsDialog

        self.settings = getattr(self, "settings", None) or SettingsDialog()
        return self.settings

    def testingEnabled(self) -> bool:
        return True

    def processEvents(self) -> None:
        self._qt.processEvents()

    def moduleManager(self) -> Any:
        return types.SimpleNamespace(connect=lambda *_: None, disconnect=lambda *_: None)

    def layoutManager(self) -> None:
        return None

    def setOverrideCursor(self, cursor: Any) -> None:
        self._qt.setOverrideCursor(cursor)

    def restoreOverrideCursor(self) -> None:
        self._qt.restoreOverrideCursor()


def start() -> types.ModuleType:
    """Set up ``qt``, ``ctk`` and ``slicer`` once and return ``slicer``."""
    import slicer

    if hasattr(slicer, "app"):
        return slicer
    sys.modules["qt"] = pythonqt.make_module()
    slicer.__path__.append(str(Path(__file__).parent / "standins"))
    import slicer.util

    folder = Path(tempfile.mkdtemp(prefix="SAHLoRA harness "))
    _put_launcher_on_path(folder / "bin")
    slicer.app = Application(folder)
    from . import widgets

    sys.modules["qt"].QUiLoader = widgets.QUiLoader
    sys.modules["ctk"] = widgets.make_ctk()
    widgets.add_to_slicer()
    slicer.util.mainWindow = lambda: None
    _make_scene(slicer)
    for name in MODULES:
        sys.path.insert(0, str(ROOT / name))  # as Slicer does when it registers a module, before loading any
    return slicer


def _put_launcher_on_path(folder: Path) -> None:
    """Provide PythonSlicer as Slicer does: a launcher that stays the parent of the Python it starts."""
    folder.mkdir()
    if sys.platform == "win32":
        (folder / "PythonSlicer.cmd").write_text(f'@"{sys.executable}" %*\n')
    else:
        launcher = folder / "PythonSlicer"
        launcher.write_text(f'#!/bin/sh\n"{sys.executable}" "$@"\nexit $?\n')
        launcher.chmod(0o755)
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"


def _make_scene(slicer: Any) -> None:
    scene = slicer.vtkMRMLScene()
    cache = slicer.vtkCacheManager()  # without, a scene bundle can't be read
    cache_folder = Path(slicer.app.temporaryPath) / "cache"
    cache_folder.mkdir()
    (cache_folder / ".slicer-cache").touch()  # tells VTK that it may delete files there
    cache.SetRemoteCacheDirectory(str(cache_folder))
    inputs_outputs = slicer.vtkDataIOManager()
    inputs_outputs.SetCacheManager(cache)
    scene.SetCacheManager(cache)
    scene.SetDataIOManager(inputs_outputs)
    application_logic = slicer.vtkSlicerApplicationLogic()
    application_logic.SetMRMLScene(scene)
    slicer.mrmlScene, slicer.modules = scene, types.SimpleNamespace()
    slicer.app.applicationLogic = lambda: application_logic
    kinds = {
        "colors": slicer.vtkMRMLColorLogic,
        "volumes": slicer.vtkSlicerVolumesLogic,
        "segmentations": slicer.vtkSlicerSegmentationsModuleLogic,
        "tables": slicer.vtkSlicerTablesLogic,
        "plots": slicer.vtkSlicerPlotsLogic,
    }
    for name, kind in kinds.items():
        logic = kind()
        logic.SetMRMLApplicationLogic(application_logic)
        logic.SetMRMLScene(scene)
        application_logic.SetModuleLogic(name.capitalize(), logic)
        setattr(slicer.modules, name, types.SimpleNamespace(logic=lambda logic=logic: logic))
    _list_in_subject_hierarchy(scene)


def _list_in_subject_hierarchy(scene: Any) -> None:
    """Give every data node its item in the subject hierarchy while it is there, as Slicer's Qt plugins do."""
    import slicer
    import vtk

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def add_item(_scene: Any, _event: str, node: Any) -> None:
        is_data = node.IsA("vtkMRMLDisplayableNode") or node.IsA("vtkMRMLTableNode")
        if is_data and not scene.IsImporting():  # a loaded scene brings its hierarchy with it
            hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
            hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)

    def add_what_is_missing(*_: Any) -> None:
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        for number in range(scene.GetNumberOfNodes()):
            node = scene.GetNthNode(number)
            is_data = node.IsA("vtkMRMLDisplayableNode") or node.IsA("vtkMRMLTableNode")
            if is_data and not hierarchy.GetItemByDataNode(node):
                hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def remove_item(_scene: Any, _event: str, node: Any) -> None:
        hierarchy = scene.GetFirstNodeByClass("vtkMRMLSubjectHierarchyNode")
        if hierarchy is None or scene.IsClosing() or scene.IsImporting():
            return
        item = hierarchy.GetItemByDataNode(node)
        if item:
            hierarchy.RemoveItem(item, False, False)

    scene.AddObserver(slicer.vtkMRMLScene.NodeAddedEvent, add_item)
    scene.AddObserver(slicer.vtkMRMLScene.EndImportEvent, add_what_is_missing)
    scene.AddObserver(slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent, remove_item)


def load_module(name: str) -> Any:
    """Instantiate a scripted module as Slicer's factory does and return its ``parent``."""
    import slicer

    python_module = importlib.import_module(name)
    path = ROOT / name / f"{name}.py"
    parent = types.SimpleNamespace(path=str(path), name=name, hidden=False, icon=None)
    setattr(slicer.modules, name.lower(), types.SimpleNamespace(path=str(path), parent=parent))
    setattr(slicer.modules, f"{name}Instance", getattr(python_module, name)(parent))
    return parent


def show_module(name: str, **parts: Any) -> Any:
    """Create a module's panel (its class takes the given parts, e.g. a logic), enter it, and return it."""
    import qt
    import slicer

    parent = slicer.qMRMLWidget()
    parent.setLayout(qt.QVBoxLayout())
    parent.setMRMLScene(slicer.mrmlScene)
    widget = getattr(importlib.import_module(name), f"{name}Widget")(parent, **parts)
    widget.setup()
    if hasattr(widget, "enter"):
        widget.enter()
    return widget
