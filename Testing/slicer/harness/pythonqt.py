"""The module ``qt`` as PythonQt serves it in Slicer, made of PySide6's classes.

What differs between the two bindings, and is translated here: properties are plain attributes, ``name`` is
the object name, ``connect`` takes a C++ signature, extra signal arguments are dropped, lists come back as
tuples, and a misspelled attribute or signal raises.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable
from typing import Any

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

VTK_POINTER = re.compile(r"vtk\w+\*")
LIBRARIES = (QtCore, QtGui, QtWidgets, QtUiTools)


class PythonQtObject:
    """Mixed into every QObject class of the namespace ``qt``: PythonQt's attributes and connections."""

    def __getattribute__(self, name: str) -> Any:
        spoken = {"connect": _connect, "disconnect": _disconnect, "className": _class_name}.get(name)
        if spoken is not None:
            return lambda *args: spoken(self, *args)
        if name in ("children", "findChildren"):
            return lambda *args: _family(self, name, *args)
        if name == "name":
            return QtCore.QObject.objectName(self)
        if not name.startswith("_") and _has_property(self, name):
            reading = self.__dict__.setdefault("_reading", set())
            if name not in reading:  # a virtual getter, as of QProgressBar.text, asks here for an override
                reading.add(name)
                try:
                    return QtCore.QObject.property(self, name)
                finally:
                    reading.discard(name)
        return super().__getattribute__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        name = "objectName" if name == "name" else name
        is_child = (
            isinstance(value, QtCore.QObject) and QtCore.QObject.objectName(value) == name
        )  # PySide's loader
        if name.startswith("_") or is_child:
            super().__setattr__(name, value)
        elif not _has_property(self, name):
            raise AttributeError(f"{_class_name(self)} has no property {name!r}")
        elif not QtCore.QObject.setProperty(self, name, value):
            raise ValueError(f"{_class_name(self)}.{name} can't be {value!r}")


def _has_property(widget: QtCore.QObject, name: str) -> bool:
    return QtCore.QObject.metaObject(widget).indexOfProperty(name) >= 0


def _class_name(widget: QtCore.QObject) -> str:
    return QtCore.QObject.metaObject(widget).className()


def _family(widget: QtCore.QObject, question: str, kind: type | None = None, *args: Any) -> tuple:
    if question == "children":
        return tuple(QtCore.QObject.children(widget))
    return tuple(QtCore.QObject.findChildren(widget, native(kind or QtCore.QObject), *args))


def _signal(sender: QtCore.QObject, signature: str) -> Any:
    normalized = bytes(QtCore.QMetaObject.normalizedSignature(signature).data()).decode()
    normalized = VTK_POINTER.sub("PyObject", normalized)
    meta = QtCore.QObject.metaObject(sender)
    if meta.indexOfSignal(normalized) < 0:
        raise ValueError(f"{meta.className()} has no signal {signature}")
    return object.__getattribute__(sender, normalized.partition("(")[0])


def _connect(sender: QtCore.QObject, signature: str, slot: Callable) -> bool:
    trimmed = _trimmed(slot, 0 if signature.rstrip().endswith("()") else signature.count(",") + 1)
    connections = sender.__dict__.setdefault("_connections", {})
    connections[signature, slot] = trimmed
    _signal(sender, signature).connect(trimmed)
    return True


def _disconnect(sender: QtCore.QObject, signature: str, slot: Callable) -> bool:
    _signal(sender, signature).disconnect(sender.__dict__["_connections"].pop((signature, slot)))
    return True


def _trimmed(slot: Callable, arguments: int) -> Callable:
    """Wrap a slot so that it gets as many of the signal's arguments as it takes, as PythonQt calls it."""
    try:
        parameters = inspect.signature(slot).parameters.values()
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        takes = sum(parameter.kind in positional for parameter in parameters)
        if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
            takes = arguments
    except ValueError:  # some functions written in C tell no signature
        takes = arguments
    # PySide passes as many arguments as the wrapper has parameters.
    return {
        0: lambda: slot(),
        1: lambda a: slot(*(a,)[:takes]),
        2: lambda a, b: slot(*(a, b)[:takes]),
    }[arguments]


def native(kind: type) -> type:
    """Return PySide6's class behind a class of the namespace ``qt``."""
    return kind.__mro__[2] if kind.__dict__.get("_speaks_pythonqt") else kind


def speaking(kind: type) -> type:
    """Return a class that speaks PythonQt for one of PySide6's QObject classes."""
    return type(kind.__name__, (PythonQtObject, kind), {"_speaks_pythonqt": True, "__module__": "qt"})


def make_module() -> types.ModuleType:
    """Return the flat module ``qt``; its classes are made when they are first asked for."""
    module = types.ModuleType("qt", "PySide6 behind PythonQt's interface")

    def lookup(name: str) -> Any:
        for library in LIBRARIES:
            if name in dir(library):
                found = getattr(library, name)
                is_object = isinstance(found, type) and issubclass(found, QtCore.QObject)
                setattr(module, name, speaking(found) if is_object else found)
                return module.__dict__[name]
        raise AttributeError(f"qt has no {name}")

    module.__getattr__ = lookup
    module.SIGNAL = "2{}".format  # Qt's own mark of a signal
    return module
