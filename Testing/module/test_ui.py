# SPDX-License-Identifier: Apache-2.0
"""The panel's .ui files: Qt loads them, nothing is clipped at usual widths, and there is one main button."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

MODULE = Path(__file__).resolve().parents[2] / "DIANetSegmenter"
FILES = ("DIANetSegmenter.ui", "Review.ui")
SCENES = ("ready", "running", "reviewing", "finished", "no torch")


def names(file: str) -> list[str]:
    root = ET.parse(MODULE / "Resources" / "UI" / file).getroot()
    return [element.get("name") for tag in ("widget", "layout", "spacer") for element in root.iter(tag)]


def test_every_widget_that_the_code_names_exists():
    code = "".join(path.read_text(encoding="utf-8") for path in (MODULE / "DIANetGui").glob("*Widget.py"))
    code += (MODULE / "DIANetGui" / "Widget.py").read_text(encoding="utf-8")
    used = set(re.findall(r"(?:\b|_)ui\.([a-z]\w+)", code))
    known = {name for file in FILES for name in names(file)}

    assert len(used) > 30
    assert used - known == set()


@pytest.mark.parametrize("file", FILES)
def test_every_name_is_given_once(file):
    given = names(file)

    assert len(given) == len(set(given))


def test_every_setting_has_one_widget_at_most_and_only_known_settings_have_any():
    roots = [ET.parse(MODULE / "Resources" / "UI" / file).getroot() for file in FILES]
    connected = [
        item.findtext("string")
        for root in roots
        for item in root.iter("property")
        if item.get("name") == "SlicerParameterName"
    ]
    text = (MODULE / "DIANetGui" / "Parameters.py").read_text(encoding="utf-8")
    settings = re.findall(r"^    (\w+): (?!.*\.$)", text.partition("model: str")[0] and text, re.MULTILINE)

    assert len(connected) == len(set(connected)) > 10
    assert set(connected) <= set(settings)


class TestDrawn:
    """With Qt itself (PySide6) and look-alikes of Slicer's widgets."""

    @pytest.fixture(autouse=True)
    def _needs_qt(self):
        pytest.importorskip("PySide6.QtWidgets", reason="needs PySide6", exc_type=ImportError)

    @pytest.fixture(params=[(scene, width) for scene in SCENES for width in (400, 600)], ids=str)
    def panel(self, request):
        from Testing.module import panel as drawing

        scene, width = request.param
        made = drawing.build(scene)
        drawing.show(made, width)
        yield made
        made.deleteLater()
        drawing.application().processEvents()

    def visible(self, panel, *kinds):
        from PySide6 import QtWidgets

        found = [w for w in panel.findChildren(QtWidgets.QWidget) if w.isVisible() and w.objectName()]
        return [w for w in found if not kinds or type(w).__name__ in kinds]

    def test_it_is_as_wide_as_it_was_told(self, panel):
        assert panel.width() in (400, 600)
        assert panel.minimumSizeHint().width() <= 400

    def test_no_button_and_no_label_is_narrower_than_its_text(self, panel):
        for widget in self.visible(panel, "QPushButton", "QLabel", "QCheckBox"):
            if not (hasattr(widget, "wordWrap") and widget.wordWrap()):
                needed = widget.minimumSizeHint().width()
                assert widget.width() >= needed, f"{widget.objectName()}: {widget.width()} < {needed}"

    def test_wrapped_text_is_given_the_height_that_it_needs(self, panel):
        for label in self.visible(panel, "QLabel"):
            if label.wordWrap() and label.text():
                needed = label.heightForWidth(label.width())
                assert label.height() >= needed, f"{label.objectName()}: {label.height()} < {needed}"

    def test_everything_lies_within_what_it_is_part_of(self, panel):
        for widget in self.visible(panel):
            parent = widget.parentWidget()
            if parent is not panel and not parent.objectName():
                continue  # parts of Qt's own widgets
            assert parent.rect().contains(widget.geometry()), widget.objectName()

    def test_nothing_lies_over_anything_else(self, panel):
        for widget in [panel, *self.visible(panel)]:
            children = [c for c in self.visible(panel) if c.parentWidget() is widget]
            for n, one in enumerate(children):
                for other in children[n + 1 :]:
                    assert not one.geometry().intersects(other.geometry()), (
                        one.objectName(),
                        other.objectName(),
                    )

    def test_there_is_one_main_button(self, panel):
        buttons = self.visible(panel, "QPushButton")
        heights = sorted(button.height() for button in buttons)
        bold = [button.objectName() for button in buttons if button.font().bold()]

        assert bold == ["segmentButton"]
        assert heights[-1] >= 40
        assert heights[-1] >= 1.4 * heights[-2]

    def test_the_research_notice_is_always_in_sight(self, panel):
        notice = next(w for w in self.visible(panel, "QLabel") if w.objectName() == "noticeLabel")

        assert "research use only" in notice.text()
        assert notice.geometry().top() < 30

    def test_segment_is_above_layers_and_review(self, panel):
        order = [
            w.objectName()
            for w in sorted(self.visible(panel, "CollapsibleButton"), key=lambda w: w.geometry().top())
        ]

        assert order == [
            "inputsSection",
            "segmentSection",
            "layersSection",
            "reviewSection",
            "setupSection",
        ]

    @pytest.mark.parametrize("file", FILES)
    def test_qt_knows_every_property(self, file):
        from PySide6 import QtWidgets

        from Testing.module import panel as drawing

        drawing.application()
        root = ET.parse(MODULE / "Resources" / "UI" / file).getroot()
        unknown = []
        for widget in root.iter("widget"):
            cls = getattr(QtWidgets, widget.get("class"), None)
            if cls is None:
                continue  # Slicer's and CTK's: their headers are named in slicer_api.txt
            known = {
                cls.staticMetaObject.property(n).name() for n in range(cls.staticMetaObject.propertyCount())
            }
            unknown += [
                f"{widget.get('name')}.{item.get('name')}"
                for item in widget.findall("property")
                if item.get("stdset") != "0" and item.get("name") not in known
            ]

        assert unknown == []
