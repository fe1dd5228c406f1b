# SPDX-License-Identifier: Apache-2.0
"""Makes stand-in widgets from the module's real .ui files."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from Testing.module.fakes import objects

_CONTAINED = ("widget", "layout", "item")


def load(path: str | Path) -> objects.QWidget:
    """The tree of widgets that a .ui file describes, with its properties and connections."""
    document = ET.parse(path).getroot()
    root = _widget(document.find("widget"), None)
    named = {widget.objectName: widget for widget in walk(root)}
    for connection in document.iter("connection"):
        sender, receiver = (named[connection.findtext(end)] for end in ("sender", "receiver"))
        slot = getattr(receiver, connection.findtext("slot").partition("(")[0])
        sender.connect(connection.findtext("signal"), slot)
    return root


def walk(widget: Any) -> list[Any]:
    """The widget and everything in it."""
    return [widget, *(found for child in widget.children() for found in walk(child))]


def _widget(element: ET.Element, parent: Any) -> objects.QWidget:
    cls = getattr(objects, element.get("class"))
    widget = cls(parent)
    widget._values["objectName"] = element.get("name")
    for item in element.findall("property"):
        name, value = item.get("name"), _value(item[0])
        if item.get("stdset") == "0":
            widget.setProperty(name, value)
        else:
            widget._values[name] = value  # QUiLoader's business; test_ui.py asks Qt whether it exists
    if isinstance(widget, objects.QTableWidget):
        widget._values["columnCount"] = len(element.findall("column"))
    _contents(element, widget)
    return widget


def _contents(element: ET.Element, parent: objects.QWidget) -> None:
    for child in element:
        if child.tag == "widget":
            _widget(child, parent)
        elif child.tag == "layout":
            layout = objects.QLayout(parent)
            layout._values["objectName"] = child.get("name", "")
            if parent._layout is None:
                object.__setattr__(parent, "_layout", layout)
            _contents(child, parent)
        elif child.tag == "item":
            _contents(child, parent)


def _value(element: ET.Element) -> Any:
    if element.tag == "bool":
        return element.text == "true"
    if element.tag == "number":
        return int(element.text)
    if element.tag == "double":
        return float(element.text)
    if element.tag == "stringlist":
        return tuple(item.text for item in element)
    return element.text or ""
