"""Stands in for slicer.parameterNodeWrapper: typed attributes kept in a parameter node and bound to widgets.

Plain types (bool, int, float, str) and MRML nodes only. Like the real one it refuses a widget that it has
no connector for, a combo box without `Choice` and a slider without `WithinRange`; stricter than the real
one, it wants `WithinRange` for a spin box, too, which would otherwise be given infinite bounds.
"""

# ruff: noqa: N802, N803, N815 - Slicer's names
from __future__ import annotations

import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import vtk


@dataclass(frozen=True)
class Choice:
    choices: list


@dataclass(frozen=True)
class WithinRange:
    minimum: float
    maximum: float


@dataclass(frozen=True)
class Default:
    value: Any


@dataclass(frozen=True)
class _Parameter:
    name: str
    kind: type
    annotations: tuple
    default: Any

    @property
    def is_node(self) -> bool:
        return issubclass(self.kind, vtk.vtkObject)

    def annotation(self, kind: type) -> Any:
        return next((a for a in self.annotations if isinstance(a, kind)), None)

    def check(self, value: Any) -> None:
        """Raise what the validators of the real wrapper raise."""
        choice, within = self.annotation(Choice), self.annotation(WithinRange)
        if choice is not None and value not in choice.choices:
            raise ValueError(f"{self.name}: {value!r} is not one of {choice.choices}")
        if within is not None and not within.minimum <= value <= within.maximum:
            raise ValueError(f"{self.name}: {value!r} is not within {within.minimum} and {within.maximum}")


def parameterNodeWrapper(description: type) -> type:
    """Turn a class of annotated attributes into a wrapper of a parameter node."""
    parameters = {}
    for name, hint in typing.get_type_hints(description, include_extras=True).items():
        kind, *annotations = typing.get_args(hint) if typing.get_origin(hint) is typing.Annotated else (hint,)
        default = getattr(description, name, None if issubclass(kind, vtk.vtkObject) else kind())
        default = next((a.value for a in annotations if isinstance(a, Default)), default)
        parameters[name] = _Parameter(name, kind, tuple(annotations), default)
    members = {name: _property(parameter) for name, parameter in parameters.items()}
    return type(description.__name__, (_Wrapper,), {**members, "allParameters": parameters})


def _property(parameter: _Parameter) -> property:
    return property(
        lambda self: _read(self.parameterNode, parameter),
        lambda self, value: _write(self.parameterNode, parameter, value),
    )


def _read(node: Any, parameter: _Parameter) -> Any:
    if parameter.is_node:
        return node.GetNodeReference(parameter.name)
    text = node.GetParameter(parameter.name)
    return text == "True" if parameter.kind is bool else parameter.kind(text)


def _write(node: Any, parameter: _Parameter, value: Any) -> None:
    if parameter.is_node:
        node.SetNodeReferenceID(parameter.name, value.GetID() if value else None)
        return
    if not isinstance(value, parameter.kind):
        raise TypeError(f"{parameter.name} is a {parameter.kind.__name__}, not {value!r}")
    parameter.check(value)
    node.SetParameter(parameter.name, str(value))


class _Wrapper:
    allParameters: typing.ClassVar[dict[str, _Parameter]]

    def __init__(self, parameterNode: Any) -> None:
        self.parameterNode = parameterNode
        self._guis: dict[int, list[tuple[_Parameter, _Connector]]] = {}
        self._observers: dict[int, int] = {}
        self._updating = False
        for parameter in self.allParameters.values():
            if not parameter.is_node and not parameterNode.GetParameter(parameter.name):
                _write(parameterNode, parameter, parameter.default)

    def AddObserver(self, event: int, callback: Callable) -> int:
        return self.parameterNode.AddObserver(event, callback)

    def RemoveObserver(self, tag: int) -> None:
        self.parameterNode.RemoveObserver(tag)

    def connectGui(self, gui: Any) -> int:
        """Bind every widget with the property SlicerParameterName and return a tag."""
        bound = []
        for widget in vars(gui).values():
            name = widget.property("SlicerParameterName")
            if name:
                parameter = self.allParameters[name]
                bound.append((parameter, _connector(widget, parameter)))
        tag = len(self._guis)
        self._guis[tag] = bound
        for parameter, connector in bound:
            connector.write(getattr(self, parameter.name))
            connector.on_change(partial(self._store, parameter, connector))
        self._observers[tag] = self.parameterNode.AddObserver(vtk.vtkCommand.ModifiedEvent, self._show)
        return tag

    def disconnectGui(self, tag: int) -> None:
        self.parameterNode.RemoveObserver(self._observers.pop(tag))
        for _parameter, connector in self._guis.pop(tag):
            connector.on_change(None)

    def _store(self, parameter: _Parameter, connector: _Connector) -> None:
        if not self._updating:
            setattr(self, parameter.name, connector.read())

    def _show(self, *_: Any) -> None:
        if self._updating:
            return
        self._updating = True
        for bound in self._guis.values():
            for parameter, connector in bound:
                connector.write(getattr(self, parameter.name))
        self._updating = False


@dataclass
class _Connector:
    widget: Any
    signal: str
    read: Callable[[], Any]
    write: Callable[[Any], None]
    slot: Callable | None = None

    def on_change(self, slot: Callable | None) -> None:
        if self.slot is not None:
            self.widget.disconnect(self.signal, self.slot)
        if slot is not None:
            self.widget.connect(self.signal, slot)
        self.slot = slot


def _connector(widget: Any, parameter: _Parameter) -> _Connector:
    """Return the connector of the real wrapper for this pair of widget and type."""
    within = parameter.annotation(WithinRange)

    def put(name: str) -> Callable[[Any], None]:
        return lambda value: setattr(widget, name, value)

    match widget.className(), parameter.kind.__name__:
        case "QCheckBox", "bool":
            return _Connector(widget, "toggled(bool)", lambda: widget.checked, put("checked"))
        case "QLineEdit", "str":
            return _Connector(widget, "textChanged(QString)", lambda: widget.text, put("text"))
        case "QSpinBox", "int":
            return _Connector(widget, "valueChanged(int)", lambda: widget.value, put("value"))
        case "QDoubleSpinBox" | "ctkSliderWidget", "float" if within is not None:
            widget.minimum, widget.maximum = within.minimum, within.maximum
            return _Connector(widget, "valueChanged(double)", lambda: widget.value, put("value"))
        case "QComboBox", "str" if parameter.annotation(Choice) is not None:
            choices = parameter.annotation(Choice).choices
            widget.clear()
            widget.addItems(choices)
            return _Connector(
                widget,
                "currentIndexChanged(int)",
                lambda: choices[widget.currentIndex],
                lambda value: widget.setCurrentIndex(choices.index(value)),
            )
        case "qMRMLNodeComboBox", _ if parameter.is_node:
            return _Connector(
                widget, "currentNodeChanged(vtkMRMLNode*)", widget.currentNode, widget.setCurrentNode
            )
    raise RuntimeError(f"no connector for {widget.className()} and {parameter.kind.__name__}")
