# SPDX-License-Identifier: Apache-2.0
"""Which names of Slicer, CTK and Qt the module uses, read from its code.

Found are: attributes of the imported modules (`slicer.util.loadUI`), attributes and signals of the widgets in
the .ui files (`QPushButton.enabled`, `QPushButton clicked()`), and those of objects that a name is given to
where they are made (`timer = qt.QTimer()`). Methods of MRML nodes are not: tests on slicer-core call them.
"""

from __future__ import annotations

import ast
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

MODULE = Path(__file__).resolve().parents[2] / "DIANetSegmenter"
ROOTS = {"slicer", "qt", "ctk", "SampleData", "PyTorchUtils"}
# What calls give, as far as the module goes on with it.
RETURNS = {
    "PyTorchUtils.PyTorchUtilsLogic": "PyTorchUtilsLogic",
    "QTableWidget.horizontalHeader": "QHeaderView",
    "qMRMLNodeComboBox.sortFilterProxyModel": "qMRMLSortFilterProxyModel",
    "self._selector": "qMRMLNodeComboBox",
    "slicer.app.applicationLogic": "vtkMRMLApplicationLogic",
    "slicer.app.clipboard": "QClipboard",
    "slicer.app.startupEnvironment": "QProcessEnvironment",
    "slicer.util.findChild": "ctkCollapsibleButton",
    "slicer.util.loadUI": "qMRMLWidget",
    "vtkMRMLApplicationLogic.GetSelectionNode": "vtkMRMLSelectionNode",
}
# Parameters of functions that always are the same kind of widget.
PARAMETERS = {
    "process": "=QProcess",
    "segmentEditor": "=qMRMLSegmentEditorWidget",
    "selector": "=QComboBox",
    "table": "=QTableWidget",
}


def widgetClasses() -> dict[str, str]:
    """Class by name of every widget in the .ui files."""
    found = {}
    for path in (MODULE / "Resources" / "UI").glob("*.ui"):
        for element in ET.parse(path).getroot().iter("widget"):
            found[element.get("name")] = element.get("class")
    return found


def uses() -> dict[str, set[str]]:
    """Every name that is used, with the files that use it."""
    widgets = widgetClasses()
    found: dict[str, set[str]] = {}
    for path in sorted(MODULE.rglob("*.py")):
        for name in _namesIn(ast.parse(path.read_text(encoding="utf-8")), widgets):
            found.setdefault(name, set()).add(str(path.relative_to(MODULE)))
    return found


class _Reader(ast.NodeVisitor):
    """Reads one file; what a name stands for is remembered from where it is assigned."""

    def __init__(self, widgets: dict[str, str]) -> None:
        self.found: list[str] = []
        self._widgets = widgets
        self._known: dict[str, str] = {}  # a name, or self.name -> class or dotted name

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level == 0 and node.module and node.module.partition(".")[0] in ROOTS:
            self.found += [f"{node.module}.{alias.name}" for alias in node.names]

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        pairs = [(target, node.value) for target in node.targets]
        for target, value in pairs:
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                pairs += zip(target.elts, value.elts, strict=True)
            self.visit(target)
            what, name = self._what(value), _text(target)
            if name and what:
                self._known[name] = what

    def visit_For(self, node: ast.For) -> None:
        if isinstance(node.target, ast.Name) and isinstance(node.iter, ast.Tuple):
            kinds = [self._what(item) for item in node.iter.elts]
            if kinds[0]:
                self._known[node.target.id] = kinds[0]
        self.generic_visit(node)

    def visit_arguments(self, node: ast.arguments) -> None:
        for argument in node.args:
            if argument.arg in PARAMETERS:
                self._known[argument.arg] = PARAMETERS[argument.arg]

    def visit_Attribute(self, node: ast.Attribute) -> None:
        what = self._what(node)
        if what and not what.startswith("="):
            self.found.append(what)
        if _root(node) is None or what is None:
            self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("connect", "disconnect") and node.args:
            signal, owner = node.args[0], self._what(node.func.value)
            if isinstance(signal, ast.Constant) and isinstance(signal.value, str) and owner:
                self.found.append(f"{owner.lstrip('=')} {signal.value}")
        self.generic_visit(node)

    def _what(self, node: ast.AST) -> str | None:
        """What an expression is: `=Class` for an object of it, a dotted name for anything of a module."""
        if isinstance(node, ast.Name):
            return node.id if node.id in ROOTS else self._known.get(node.id)
        if isinstance(node, ast.Call):
            made = self._what(node.func) or _text(node.func)
            if made in RETURNS:
                return f"={RETURNS[made]}"
            cls = made.rpartition(".")[2] if made and made.startswith("qt.Q") else None
            return f"={cls}" if cls else None
        if not isinstance(node, ast.Attribute):
            return None
        if _text(node) in self._known:
            return self._known[_text(node)]
        if _text(node.value).rpartition(".")[2] in ("ui", "_ui") and node.attr in self._widgets:
            return f"={self._widgets[node.attr]}"
        owner = self._what(node.value)
        return None if owner is None else f"{owner.lstrip('=')}.{node.attr}"


def _namesIn(tree: ast.AST, widgets: dict[str, str]) -> Iterator[str]:
    reader = _Reader(widgets)
    reader.visit(tree)  # to learn what names stand for, wherever they are assigned
    reader.found.clear()
    reader.visit(tree)
    longer = set(reader.found)
    for name in longer:
        # Of `slicer.app.os`, `slicer.app` is said with it.
        if not any(other.startswith((f"{name}.", f"{name} ")) for other in longer):
            yield name


def _text(node: ast.AST) -> str:
    """`a.b.c`; empty for anything that does not begin with a name."""
    if isinstance(node, ast.Attribute):
        before = _text(node.value)
        return f"{before}.{node.attr}" if before else ""
    return node.id if isinstance(node, ast.Name) else ""


def _root(node: ast.AST) -> str | None:
    return _text(node).partition(".")[0] or None


if __name__ == "__main__":
    for name, files in sorted(uses().items()):
        print(f"{name}\t{', '.join(sorted(files))}")
