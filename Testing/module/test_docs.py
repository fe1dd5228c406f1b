# SPDX-License-Identifier: Apache-2.0
"""The tutorial says what the program says, and shows pictures that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "slicer.md"


def told() -> list[str]:
    """The error texts of the table, cut where an ellipsis stands for what varies."""
    table = PAGE.read_text(encoding="utf-8").partition("## When something goes wrong")[2]
    texts = [
        text for row in table.splitlines() if row.startswith("| `") for text in re.findall("`([^`]+)`", row)
    ]
    pieces = [piece.strip() for text in texts for piece in text.split("…")]
    return [piece for piece in pieces if len(piece) > 3]


def spoken() -> str:
    """All text of the module and the library, as if no literal were broken over lines."""
    files = [*(ROOT / "DIANetSegmenter").rglob("*.py"), *(ROOT / "DIANetLib").rglob("*.py")]
    files += (ROOT / "DIANetSegmenter").rglob("*.ui")
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    return re.sub(r"[\"']\s*\n\s*f?[\"']", "", text)


def test_every_error_text_of_the_table_is_one_that_the_program_has():
    said = spoken()

    assert len(told()) > 8
    assert [piece for piece in told() if piece not in said] == []


def test_every_picture_is_there():
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", PAGE.read_text(encoding="utf-8"))

    assert len(pictures) == 4
    assert [name for name in pictures if not (PAGE.parent / name).is_file()] == []


def test_every_button_that_is_named_in_bold_exists():
    page = PAGE.read_text(encoding="utf-8")
    labels = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "DIANetSegmenter").rglob("*.ui"))
    buttons = {
        "Segment",
        "Cancel",
        "Next",
        "Previous",
        "Install…",
        "Explain the structure under the crosshair",
    }

    for name in buttons:
        assert f"**{name}**" in page
        assert f"<string>{name}</string>" in labels
