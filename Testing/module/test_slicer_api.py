# SPDX-License-Identifier: Apache-2.0
"""Every name of Slicer, CTK and Qt that the module uses was looked up in their sources."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from Testing.module.api_uses import MODULE, uses

LIST = MODULE / "Testing" / "Python" / "slicer_api.txt"
GUI = MODULE / "DIANetGui"


def listed() -> dict[str, list[str]]:
    lines = LIST.read_text(encoding="utf-8").splitlines()
    entries = [line.split("\t") for line in lines if line and not line.startswith("#")]
    return {name: rest for name, *rest in entries}


def test_the_list_holds_exactly_what_the_code_uses():
    used, known = uses(), listed()

    assert {name: files for name, files in used.items() if name not in known} == {}
    assert sorted(set(known) - set(used)) == []


def test_each_name_says_where_it_was_looked_up():
    sources = ("Slicer/", "CTK/", "PythonQt/", "Qt/", "VTK/", "SlicerPyTorch/")

    for name, (file, *rest) in listed().items():
        assert file.startswith(sources), name
        assert rest in ([], ["optional"]), name


def test_what_only_newer_versions_have_is_asked_for_before_it_is_used():
    code = "".join(path.read_text(encoding="utf-8") for path in GUI.glob("*.py"))
    optional = [name for name, rest in listed().items() if rest[1:] == ["optional"]]

    assert len(optional) == 4
    assert 'find_spec("slicer.packaging")' in code
    assert 'find_spec("PyTorchUtils")' in code
    assert 'hasattr(logic, "registerCustomSampleDataCategory")' in code


def test_the_collector_sees_modules_widgets_objects_and_signals(tmp_path):
    used = uses()

    assert "DIANetGui/Widget.py" in used["slicer.util.loadUI"]
    assert "QProgressBar.setRange" in used
    assert "QProcess.state" in used
    assert "QTableWidget itemSelectionChanged()" in used


def files() -> list[Path]:
    return [*GUI.glob("*.py"), MODULE / "DIANetSegmenter.py"]


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_translated_text_is_a_constant(path):
    """A translator sees the text in the code: no f-string, no sum, only literals."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "_":
            (text,) = call.args
            names = isinstance(text, ast.Name)  # names of colour maps, which come from a list
            assert names or (isinstance(text, ast.Constant) and isinstance(text.value, str)), call.lineno


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_nothing_heavy_is_imported_at_file_scope(path):
    allowed = {"DIANetLib", "numpy", "qt", "slicer", "vtk"}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    scope = [*tree.body, *(n for s in tree.body if isinstance(s, ast.Try) for n in s.body)]
    imported = set()
    for node in scope:
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            imported.add(node.module.partition(".")[0])
    import sys

    assert imported - set(sys.stdlib_module_names) <= allowed


def test_the_declaration_is_short():
    text = (MODULE / "DIANetSegmenter.py").read_text(encoding="utf-8")

    assert len(text.splitlines()) < 100
    assert re.search(r"research use only", text)
