"""Stand-ins for the CTK and MRML widgets that the panels use, and the loader of their .ui files."""

# ruff: noqa: N801, N802, N803, N815 - Qt's names
from __future__ import annotations

import types
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

import qt
import shiboken6
import slicer
from PySide6 import QtCore, QtUiTools, QtWidgets

from .pythonqt import PythonQtObject


def _stored(kind: type | str, name: str, default: Any) -> QtCore.Property:
    """Return a property that is only kept."""

    def get(self: Any) -> Any:
        return self.__dict__.get(f"_{name}", default)

    def put(self: Any, value: Any) -> None:
        self.__dict__[f"_{name}"] = value

    return QtCore.Property(kind, get, put)


class qMRMLWidget(PythonQtObject, QtWidgets.QWidget):
    mrmlSceneChanged = QtCore.Signal(object)

    def mrmlScene(self) -> Any:
        return self.__dict__.get("_scene")

    def setMRMLScene(self, scene: Any) -> None:
        self._scene = scene
        self.mrmlSceneChanged.emit(scene)


class _NodeFilter:
    """The part of qMRMLSortFilterProxyModel that the panels use."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._hidden: list[str] = []
        self._changed = changed

    @property
    def hiddenNodeIDs(self) -> tuple[str, ...]:
        return tuple(self._hidden)

    @hiddenNodeIDs.setter
    def hiddenNodeIDs(self, identifiers: list[str]) -> None:
        self._hidden = list(identifiers)
        self._changed()


class qMRMLNodeComboBox(PythonQtObject, QtWidgets.QWidget):
    currentNodeChanged = QtCore.Signal(object)
    currentNodeIDChanged = QtCore.Signal(str)
    nodeActivated = QtCore.Signal(object)

    nodeTypes = _stored("QStringList", "nodeTypes", [])
    hideChildNodeTypes = _stored("QStringList", "hideChildNodeTypes", [])
    showChildNodeTypes = _stored(bool, "showChildNodeTypes", True)
    addEnabled = _stored(bool, "addEnabled", True)
    removeEnabled = _stored(bool, "removeEnabled", True)
    renameEnabled = _stored(bool, "renameEnabled", False)
    noneEnabled = _stored(bool, "noneEnabled", False)
    noneDisplay = _stored(str, "noneDisplay", "None")
    showHidden = _stored(bool, "showHidden", False)
    selectNodeUponCreation = _stored(bool, "selectNodeUponCreation", True)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._box = qt.QComboBox(self)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._box)
        self._ids: list[str | None] = []
        self._scene: Any = None
        self._filter = _NodeFilter(self._refill)
        self._box.connect("currentIndexChanged(int)", self._announce)

    def setMRMLScene(self, scene: Any) -> None:
        self._scene = scene
        for event in (slicer.vtkMRMLScene.NodeAddedEvent, slicer.vtkMRMLScene.NodeRemovedEvent):
            scene.AddObserver(event, lambda *_: shiboken6.isValid(self) and self._refill())
        self._refill()

    def sortFilterProxyModel(self) -> _NodeFilter:
        return self._filter

    def activate(self, node: Any) -> None:
        """Do what happens when a user picks a node from the list."""
        self.setCurrentNode(node)
        self.nodeActivated.emit(node)

    def currentNode(self) -> Any:
        return self._scene.GetNodeByID(self.currentNodeID) if self._scene and self.currentNodeID else None

    def setCurrentNode(self, node: Any) -> None:
        self.setCurrentNodeID(node.GetID() if node else None)

    def setCurrentNodeID(self, identifier: str | None) -> None:
        self._box.setCurrentIndex(
            self._ids.index(identifier or None) if (identifier or None) in self._ids else -1
        )

    def _current_id(self) -> str:
        index = self._box.currentIndex
        return (self._ids[index] or "") if 0 <= index < len(self._ids) else ""

    currentNodeID = QtCore.Property(str, _current_id, setCurrentNodeID)

    def _refill(self) -> None:
        if self._scene is None:
            return
        before = self._current_id()
        nodes = [n for kind in self.nodeTypes for n in slicer.util.getNodesByClass(kind, self._scene)]
        nodes = [node for node in nodes if self.showHidden or not node.GetHideFromEditors()]
        nodes = [node for node in nodes if self._is_offered(node)]
        self._box.blockSignals(True)
        self._box.clear()
        self._ids = [None] * self.noneEnabled + [node.GetID() for node in nodes]
        self._box.addItems([self.noneDisplay] * self.noneEnabled + [node.GetName() for node in nodes])
        # Qt's combo box, like the real widget, takes the first node when nothing was selected before.
        self._box.setCurrentIndex(
            self._ids.index(before) if before in self._ids else min(0, len(self._ids) - 1)
        )
        self._box.blockSignals(False)
        if self._current_id() != before:
            self._announce()

    def _is_offered(self, node: Any) -> bool:
        is_child = node.GetClassName() not in self.nodeTypes
        is_hidden_child = any(node.IsA(kind) for kind in self.hideChildNodeTypes)
        return not (
            (is_child and not self.showChildNodeTypes)
            or is_hidden_child
            or node.GetID() in self._filter.hiddenNodeIDs
        )

    def _announce(self) -> None:
        self.currentNodeIDChanged.emit(self._current_id())
        self.currentNodeChanged.emit(self.currentNode())


class ctkCollapsibleButton(PythonQtObject, QtWidgets.QWidget):
    contentsCollapsed = QtCore.Signal(bool)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._text, self._collapsed = "", False
        self.setContentsMargins(2, 26, 2, 2)
        # As CTK's: it never gets narrower than its contents would like to be, wrapped labels on one line too.
        self.setSizePolicy(QtWidgets.QSizePolicy.Minimum, QtWidgets.QSizePolicy.Preferred)

    def _set_text(self, text: str) -> None:
        self._text = text

    def _set_collapsed(self, collapsed: bool) -> None:
        self._collapsed = collapsed
        self.setMaximumHeight(26 if collapsed else 16777215)
        self.contentsCollapsed.emit(collapsed)

    text = QtCore.Property(str, lambda self: self._text, _set_text)
    collapsed = QtCore.Property(bool, lambda self: self._collapsed, _set_collapsed)

    def paintEvent(self, event: Any) -> None:
        from PySide6 import QtGui

        painter = QtGui.QPainter(self)
        bar = QtCore.QRect(0, 0, self.width, 24)
        painter.fillRect(bar, self.palette.button().color().darker(108))
        arrow = "\u25b8" if self._collapsed else "\u25be"
        painter.drawText(bar.adjusted(8, 0, 0, 0), QtCore.Qt.AlignVCenter, f"{arrow}  {self._text}")
        painter.end()


class ctkSliderWidget(PythonQtObject, QtWidgets.QWidget):
    """Without tracking, `valueIsChanging` follows the slider and `valueChanged` comes when it is released."""

    valueChanged = QtCore.Signal(float)
    valueIsChanging = QtCore.Signal(float)

    tracking = _stored(bool, "tracking", True)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._slider = qt.QSlider(QtCore.Qt.Horizontal, self)
        self._box = qt.QDoubleSpinBox(self)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider)
        layout.addWidget(self._box)
        self._slider.setRange(0, 1000)
        self._box.connect("valueChanged(double)", self._show)
        self._slider.connect("sliderMoved(int)", self._slide)
        self._slider.connect("sliderReleased()", self._release)

    def _show(self, value: float) -> None:
        span = self._box.maximum - self._box.minimum
        self._slider.setValue(round(1000 * (value - self._box.minimum) / span) if span else 0)
        changing = self._slider.sliderDown and not self.tracking
        (self.valueIsChanging if changing else self.valueChanged).emit(value)

    def _release(self) -> None:
        if not self.tracking:
            self.valueChanged.emit(self._box.value)

    def _slide(self, position: int) -> None:
        self._box.setValue(self._box.minimum + (self._box.maximum - self._box.minimum) * position / 1000)

    value = QtCore.Property(float, lambda self: self._box.value, lambda self, x: self._box.setValue(x))
    minimum = QtCore.Property(float, lambda self: self._box.minimum, lambda self, x: self._box.setMinimum(x))
    maximum = QtCore.Property(float, lambda self: self._box.maximum, lambda self, x: self._box.setMaximum(x))
    singleStep = QtCore.Property(
        float, lambda self: self._box.singleStep, lambda self, x: self._box.setSingleStep(x)
    )
    decimals = QtCore.Property(int, lambda self: self._box.decimals, lambda self, x: self._box.setDecimals(x))
    suffix = QtCore.Property(str, lambda self: self._box.suffix, lambda self, x: self._box.setSuffix(x))


class ctkSettingsPanel(PythonQtObject, QtWidgets.QWidget):
    """Keeps properties in the settings at every change, as CTK's does until the dialog is cancelled."""

    def registerProperty(self, key: str, widget: Any, name: str, signal: str) -> None:
        settings = qt.QSettings()
        if settings.contains(key):
            setattr(widget, name, type(getattr(widget, name))(settings.value(key)))
        widget.connect(signal.lstrip("2"), lambda: qt.QSettings().setValue(key, getattr(widget, name)))


class SettingsDialog:
    """Notes the pages that modules add to ctkSettingsDialog."""

    def __init__(self) -> None:
        self.panels: dict[str, Any] = {}

    def addPanel(self, label: str, panel: Any) -> None:
        if not isinstance(panel, ctkSettingsPanel):
            raise TypeError(f"{panel!r} is no ctkSettingsPanel")
        self.panels[label] = panel


CUSTOM_WIDGETS = {
    kind.__name__: kind for kind in (qMRMLWidget, qMRMLNodeComboBox, ctkCollapsibleButton, ctkSliderWidget)
}


class QUiLoader(PythonQtObject, QtUiTools.QUiLoader):
    """Loads a .ui file with the stand-ins; unlike Qt's, it raises on a widget class it doesn't know."""

    def load(self, file: QtCore.QFile) -> QtWidgets.QWidget:
        root = ElementTree.fromstring(bytes(file.readAll().data()))
        connections = root.find("connections")
        for tag in ("connections", "customwidgets"):
            for element in root.findall(tag):
                root.remove(element)
        buffer = QtCore.QBuffer()
        buffer.setData(ElementTree.tostring(root))
        buffer.open(QtCore.QIODevice.ReadOnly)
        self._made: list[QtCore.QObject] = []
        widget = QtUiTools.QUiLoader.load(self, buffer)
        widget._made = self._made  # Shiboken forgets the Python side of objects nobody refers to
        for connection in connections if connections is not None else ():
            _connect(
                widget, *(connection.findtext(part) for part in ("sender", "signal", "receiver", "slot"))
            )
        return widget

    def createWidget(self, className: str, parent: QtWidgets.QWidget | None = None, name: str = "") -> Any:
        made = (CUSTOM_WIDGETS.get(className) or getattr(qt, className))(parent)
        made.setObjectName(name)
        self._made.append(made)
        return made

    def createLayout(self, className: str, parent: QtCore.QObject | None = None, name: str = "") -> Any:
        made = QtUiTools.QUiLoader.createLayout(self, className, parent, name)
        self._made.append(made)
        return made


def _connect(root: QtWidgets.QWidget, sender: str, signal: str, receiver: str, slot: str) -> None:
    named = {widget.name: widget for widget in root._made if isinstance(widget, PythonQtObject)}
    named[sender].connect(signal, getattr(named[receiver], slot.partition("(")[0]))


def make_ctk() -> types.ModuleType:
    """Return the module ``ctk``."""
    module = types.ModuleType("ctk", "CTK's widgets, as far as the panels use them")
    module.__dict__.update({name: kind for name, kind in CUSTOM_WIDGETS.items() if name.startswith("ctk")})
    module.ctkMessageBox = qt.QMessageBox
    module.ctkSettingsPanel = ctkSettingsPanel
    return module


def add_to_slicer() -> None:
    """Put the MRML widgets where Slicer has them."""
    for name, kind in CUSTOM_WIDGETS.items():
        if name.startswith("qMRML"):
            setattr(slicer, name, kind)
