# SPDX-License-Identifier: Apache-2.0
"""Qt's objects and widgets, as far as the module uses them. Nothing is drawn."""

from __future__ import annotations

import re
from typing import Any, ClassVar


class QObject:
    """Properties by class, signals by signature."""

    PROPERTIES: ClassVar[dict[str, Any]] = {"objectName": ""}
    SIGNALS: ClassVar[tuple[str, ...]] = ("destroyed()",)

    def __init__(self, parent: Any = None) -> None:
        values: dict[str, Any] = {}
        for cls in reversed(type(self).__mro__):
            values.update(vars(cls).get("PROPERTIES", {}))
        for name, value in (
            ("_values", values),
            ("_dynamic", {}),
            ("_slots", {}),
            ("_children", []),
            ("_blocked", False),
            ("_parent", parent if isinstance(parent, QObject) else None),
        ):
            object.__setattr__(self, name, value)
        if self._parent is not None:
            self._parent._children.append(self)

    def __getattr__(self, name: str) -> Any:
        if name == "name":
            name = "objectName"
        values = object.__getattribute__(self, "_values")
        if name in values:
            return values[name]
        signal = next((s for s in self._signals() if s.partition("(")[0] == name), None)
        if signal is not None:
            return _Signal(self, signal)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__:
            object.__setattr__(self, name, value)
        elif name in self._values:
            setter = getattr(type(self), f"set{name[0].upper()}{name[1:]}", None)
            if setter is not None:
                setter(self, value)
            else:
                self._values[name] = value
        else:
            raise AttributeError(f"{type(self).__name__} has no property {name!r}")

    def _signals(self) -> list[str]:
        return [s for cls in type(self).__mro__ for s in vars(cls).get("SIGNALS", ())]

    def connect(self, signal: str, slot: Any) -> bool:
        assert signal in self._signals(), f"{type(self).__name__} has no signal {signal}"
        self._slots.setdefault(signal, []).append(slot)
        return True

    def disconnect(self, signal: str, slot: Any = None) -> bool:
        assert signal in self._signals(), f"{type(self).__name__} has no signal {signal}"
        kept = [] if slot is None else [s for s in self._slots.get(signal, []) if s != slot]
        self._slots[signal] = kept
        return True

    def emit(self, signal: str, *arguments: Any) -> None:
        if not self._blocked:
            for slot in tuple(self._slots.get(signal, ())):
                slot(*arguments)

    def blockSignals(self, blocked: bool) -> bool:
        before, self._blocked = self._blocked, blocked
        return before

    def property(self, name: str) -> Any:
        return self._values[name] if name in self._values else self._dynamic.get(name)

    def setProperty(self, name: str, value: Any) -> None:
        self._dynamic[name] = value

    def children(self) -> list[QObject]:
        return list(self._children)

    def deleteLater(self) -> None:
        pass


class _Signal:
    def __init__(self, sender: QObject, signature: str) -> None:
        self._sender, self._signature = sender, signature

    def connect(self, slot: Any) -> None:
        self._sender.connect(self._signature, slot)

    def disconnect(self, slot: Any) -> None:
        self._sender.disconnect(self._signature, slot)


class QLayout(QObject):
    def addWidget(self, widget: QObject) -> None:
        self._parent._children.append(widget)


class QWidget(QObject):
    PROPERTIES: ClassVar = {"enabled": True, "visible": True, "toolTip": "", "focus": False}

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        object.__setattr__(self, "_layout", None)

    def layout(self) -> QLayout | None:
        return self._layout

    def setVisible(self, visible: bool) -> None:
        assert isinstance(visible, bool)
        self._values["visible"] = visible

    def setEnabled(self, enabled: bool) -> None:
        assert isinstance(enabled, bool)
        self._values["enabled"] = enabled

    def setFocus(self, reason: Any = None) -> None:
        self._values["focus"] = True


class QFrame(QWidget):
    pass


class qMRMLWidget(QWidget):
    SIGNALS: ClassVar = ("mrmlSceneChanged(vtkMRMLScene*)",)

    def setMRMLScene(self, scene: Any) -> None:
        self.emit("mrmlSceneChanged(vtkMRMLScene*)", scene)


class QLabel(QWidget):
    PROPERTIES: ClassVar = {"text": ""}


class QLineEdit(QWidget):
    PROPERTIES: ClassVar = {"text": "", "placeholderText": ""}
    SIGNALS: ClassVar = ("editingFinished()",)

    # what a test does

    def type(self, text: str) -> None:
        self.text = text
        self.emit("editingFinished()")


class QPushButton(QWidget):
    PROPERTIES: ClassVar = {"text": "", "checkable": False}
    SIGNALS: ClassVar = ("clicked()", "clicked(bool)")

    def click(self) -> None:
        if self.enabled:
            self.emit("clicked()")
            self.emit("clicked(bool)", False)


class QCheckBox(QWidget):
    PROPERTIES: ClassVar = {"text": "", "checked": False}
    SIGNALS: ClassVar = ("stateChanged(int)", "toggled(bool)")

    def setChecked(self, checked: bool) -> None:
        if checked != self.checked:
            self._values["checked"] = checked
            self.emit("stateChanged(int)", 2 if checked else 0)
            self.emit("toggled(bool)", checked)


class ctkCollapsibleButton(QWidget):
    PROPERTIES: ClassVar = {"text": "", "collapsed": False}


class QComboBox(QWidget):
    PROPERTIES: ClassVar = {"currentIndex": -1, "count": 0, "currentText": "", "currentData": None}
    SIGNALS: ClassVar = ("currentIndexChanged(int)", "activated(int)")

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        object.__setattr__(self, "_items", [])

    def addItem(self, text: str, data: Any = None) -> None:
        self._items.append((text, data))
        self._values["count"] = len(self._items)
        if len(self._items) == 1:
            self.setCurrentIndex(0)

    def clear(self) -> None:
        self._items.clear()
        self._values["count"] = 0
        self.setCurrentIndex(-1)

    def itemData(self, index: int, role: int = 256) -> Any:
        return self._items[index][1] if 0 <= index < len(self._items) else None

    def itemText(self, index: int) -> str:
        return self._items[index][0] if 0 <= index < len(self._items) else ""

    def setItemData(self, index: int, value: Any, role: int) -> None:
        pass

    def findData(self, data: Any) -> int:
        return next((n for n, item in enumerate(self._items) if item[1] == data), -1)

    def setCurrentIndex(self, index: int) -> None:
        text, data = self._items[index] if 0 <= index < len(self._items) else ("", None)
        before = self._values["currentIndex"]
        self._values.update(currentIndex=index, currentText=text, currentData=data)
        if index != before:
            self.emit("currentIndexChanged(int)", index)

    # what a test does

    def choose(self, data: Any) -> None:
        assert self.enabled
        index = self.findData(data)
        assert index >= 0, [item[1] for item in self._items]
        self.setCurrentIndex(index)


class _Value(QWidget):
    PROPERTIES: ClassVar = {"minimum": 0.0, "maximum": 100.0, "value": 0.0, "singleStep": 1.0, "decimals": 2}

    def setValue(self, value: float) -> None:
        value = min(max(value, self.minimum), self.maximum)
        if value != self.value:
            self._values["value"] = value
            self.emit(type(self).SIGNALS[0], value)


class ctkSliderWidget(_Value):
    SIGNALS: ClassVar = ("valueChanged(double)",)


class QDoubleSpinBox(_Value):
    PROPERTIES: ClassVar = {"suffix": "", "prefix": ""}
    SIGNALS: ClassVar = ("valueChanged(double)",)


class QSpinBox(_Value):
    PROPERTIES: ClassVar = {"suffix": "", "prefix": ""}
    SIGNALS: ClassVar = ("valueChanged(int)",)


class QProgressBar(QWidget):
    PROPERTIES: ClassVar = {"minimum": 0, "maximum": 100, "value": 0}

    def setRange(self, minimum: int, maximum: int) -> None:
        self._values.update(minimum=minimum, maximum=maximum)

    def setValue(self, value: int) -> None:
        assert type(value) is int
        self._values["value"] = value


class QPlainTextEdit(QWidget):
    PROPERTIES: ClassVar = {"plainText": "", "readOnly": False, "maximumBlockCount": 0}

    def appendPlainText(self, text: str) -> None:
        self.setPlainText(f"{self.plainText}\n{text}" if self.plainText else text)

    def setPlainText(self, text: str) -> None:
        lines = text.split("\n")
        self._values["plainText"] = "\n".join(lines[-int(self.maximumBlockCount) :])


class QHeaderView(QObject):
    SIGNALS: ClassVar = ("sectionResized(int,int,int)",)
    ResizeToContents, Stretch = 3, 1

    def setSectionResizeMode(self, *arguments: int) -> None:
        assert 1 <= len(arguments) <= 2


class QTableWidgetItem:
    def __init__(self, text: str = "") -> None:
        self._text = text

    def text(self) -> str:
        return self._text

    def setToolTip(self, text: str) -> None:
        pass

    def setTextAlignment(self, alignment: int) -> None:
        assert type(alignment) is int


class QTableWidget(QWidget):
    PROPERTIES: ClassVar = {"rowCount": 0, "columnCount": 0}
    SIGNALS: ClassVar = ("itemSelectionChanged()", "cellClicked(int,int)")

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        object.__setattr__(self, "_cells", {})
        object.__setattr__(self, "_row", -1)
        object.__setattr__(self, "_header", QHeaderView(self))

    def horizontalHeader(self) -> QHeaderView:
        return self._header

    def setRowCount(self, count: int) -> None:
        self._values["rowCount"] = count
        self._cells = {at: item for at, item in self._cells.items() if at[0] < count}
        if self._row >= count:
            self._row = -1

    def setItem(self, row: int, column: int, item: QTableWidgetItem) -> None:
        assert 0 <= row < self.rowCount
        self._cells[row, column] = item

    def item(self, row: int, column: int) -> QTableWidgetItem | None:
        return self._cells.get((row, column))

    def currentRow(self) -> int:
        return self._row

    def setCurrentCell(self, row: int, column: int) -> None:
        before, self._row = self._row, row
        if row != before:
            self.emit("itemSelectionChanged()")

    def clearSelection(self) -> None:
        pass

    def resizeRowsToContents(self) -> None:
        pass

    # what a test does

    def clickRow(self, row: int) -> None:
        self.setCurrentCell(row, 0)
        self.emit("cellClicked(int,int)", row, 0)

    def rows(self) -> list[list[str]]:
        return [
            [self._cells[row, column].text() for column in range(self.columnCount)]
            for row in range(self.rowCount)
        ]


class _Proxy(QObject):
    PROPERTIES: ClassVar = {"hiddenNodeIDs": ()}


class qMRMLNodeComboBox(QWidget):
    PROPERTIES: ClassVar = {
        "nodeTypes": (),
        "noneEnabled": False,
        "addEnabled": True,
        "removeEnabled": True,
        "renameEnabled": False,
        "showChildNodeTypes": True,
        "noneDisplay": "None",
    }
    SIGNALS: ClassVar = ("currentNodeChanged(vtkMRMLNode*)",)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        for name, value in (("_node", None), ("_scene", None), ("_attributes", []), ("_proxy", _Proxy(self))):
            object.__setattr__(self, name, value)

    def setMRMLScene(self, scene: Any) -> None:
        self._scene = scene

    def addAttribute(self, nodeType: str, name: str, value: Any = None) -> None:
        self._attributes.append((nodeType, name))

    def sortFilterProxyModel(self) -> _Proxy:
        return self._proxy

    def currentNode(self) -> Any:
        return self._node

    def setCurrentNode(self, node: Any) -> None:
        if node is not self._node:
            self._node = node
            self.emit("currentNodeChanged(vtkMRMLNode*)", node)


class QTimer(QObject):
    SIGNALS: ClassVar = ("timeout()",)
    waiting: ClassVar[list[Any]] = []

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        object.__setattr__(self, "active", False)

    def setSingleShot(self, single: bool) -> None:
        assert single

    def setInterval(self, milliseconds: int) -> None:
        assert milliseconds > 0

    def start(self) -> None:
        self.active = True

    def stop(self) -> None:
        self.active = False

    @staticmethod
    def singleShot(milliseconds: int, function: Any) -> None:
        QTimer.waiting.append(function)

    # what a test does

    def fire(self) -> None:
        assert self.active
        self.active = False
        self.emit("timeout()")


class QKeySequence:
    NativeText = 0

    def __init__(self, keys: str) -> None:
        assert re.fullmatch(r"(Ctrl|Alt|Shift|\+|\w)+", keys)
        self._keys = keys

    def toString(self, form: int) -> str:
        return self._keys


class QShortcut(QObject):
    PROPERTIES: ClassVar = {"enabled": True}
    SIGNALS: ClassVar = ("activated()",)
    made: ClassVar[list[QShortcut]] = []

    def __init__(self, parent: Any) -> None:
        super().__init__(parent)
        object.__setattr__(self, "keys", "")
        QShortcut.made.append(self)

    def setKey(self, keys: QKeySequence) -> None:
        self.keys = keys.toString(0)

    def setEnabled(self, enabled: bool) -> None:
        self._values["enabled"] = enabled

    def press(self) -> None:
        if self.enabled:
            self.emit("activated()")
