# SPDX-License-Identifier: Apache-2.0
"""A stand-in for `slicer.parameterNodeWrapper`: typed settings in a real MRML node, connected to widgets."""

from __future__ import annotations

import typing
from typing import Any

from Testing.module.fakes import objects


class WithinRange:
    """Least and greatest value of a number."""

    def __init__(self, minimum: float, maximum: float) -> None:
        self.minimum, self.maximum = minimum, maximum


def parameterNodeWrapper(cls: type) -> type:
    """Make a class whose attributes are kept in the node that it is made with."""
    hints = typing.get_type_hints(cls, include_extras=True)
    names = {}
    for name, hint in hints.items():
        kind, *notes = typing.get_args(hint) if typing.get_origin(hint) is typing.Annotated else (hint,)
        limits = next((note for note in notes if isinstance(note, WithinRange)), None)
        names[name] = (kind, limits, cls.__dict__.get(name))
        setattr(cls, name, _property(name, kind, limits))
    cls.NAMES = names
    cls.__init__, cls.connectGui, cls.disconnectGui = _init, _connectGui, _disconnectGui
    return cls


def _property(name: str, kind: type, limits: WithinRange | None) -> property:
    isNode = hasattr(kind, "GetClassName")

    def read(self: Any) -> Any:
        if isNode:
            return self.parameterNode.GetNodeReference(name)
        text = self.parameterNode.GetParameter(name)
        return text == "True" if kind is bool else kind(text)

    def write(self: Any, value: Any) -> None:
        if isNode:
            assert value is None or value.IsA(kind().GetClassName()), value
            before = self.parameterNode.GetNodeReferenceID(name)
            after = None if value is None else value.GetID()
            if before != after:
                self.parameterNode.SetNodeReferenceID(name, after)
                self.parameterNode.Modified()
            return
        assert type(value) is kind or (kind is float and type(value) is int), (name, value)
        if limits is not None and not limits.minimum <= value <= limits.maximum:
            raise ValueError(f"{name} is {value}")
        self.parameterNode.SetParameter(name, str(kind(value)))

    return property(read, write)


def _init(self: Any, node: Any) -> None:
    self.parameterNode = node
    self._connected = {}
    for name, (kind, _limits, default) in type(self).NAMES.items():
        if not hasattr(kind, "GetClassName") and not node.GetParameter(name):
            setattr(self, name, default)


def _connectGui(self: Any, gui: Any) -> int:
    widgets = [w for w in vars(gui).values() if w.property("SlicerParameterName")]
    busy = []

    def show(*_: Any) -> None:
        if not busy:
            busy.append(True)
            for widget in widgets:
                _write(widget, getattr(self, widget.property("SlicerParameterName")))
            busy.clear()

    def take(widget: Any) -> Any:
        def changed(*_: Any) -> None:
            if not busy:
                name = widget.property("SlicerParameterName")
                setattr(self, name, _read(widget, type(self).NAMES[name][0]))

        return changed

    undo = []
    for widget in widgets:
        limits = type(self).NAMES[widget.property("SlicerParameterName")][1]
        if isinstance(widget, objects._Value):
            widget.minimum, widget.maximum = limits.minimum, limits.maximum
        signal, slot = widget._signals()[0], take(widget)
        widget.connect(signal, slot)
        undo.append((widget, signal, slot))
    show()
    tag = self.parameterNode.AddObserver("ModifiedEvent", show)
    self._connected[tag] = undo
    return tag


def _disconnectGui(self: Any, tag: int) -> None:
    for widget, signal, slot in self._connected.pop(tag):
        widget.disconnect(signal, slot)
    self.parameterNode.RemoveObserver(tag)


def _read(widget: Any, kind: type) -> Any:
    if isinstance(widget, objects.qMRMLNodeComboBox):
        return widget.currentNode()
    return kind(widget.checked if isinstance(widget, objects.QCheckBox) else widget.value)


def _write(widget: Any, value: Any) -> None:
    if isinstance(widget, objects.qMRMLNodeComboBox):
        widget.setCurrentNode(value)
    elif isinstance(widget, objects.QCheckBox):
        widget.setChecked(value)
    else:
        widget.setValue(value)
