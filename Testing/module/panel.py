# SPDX-License-Identifier: Apache-2.0
"""Draws the module's panel with Qt alone, at 400 and 600 px: `python Testing/module/panel.py FOLDER`.

Widgets that only Slicer has are stood in for by look-alikes, and the texts that the module writes are typed
in here, so that the layout can be looked at, and measured by test_ui.py, without Slicer.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

ROOT = Path(__file__).resolve().parents[2]
UI = ROOT / "DIANetSegmenter" / "Resources" / "UI"
SCENES = ("ready", "running", "reviewing", "no torch")

_MODEL = (
    "Hippocampus (anterior, posterior; left and right) in T1-weighted MRI, 1 mm."
    "<br>Needs T1. Licence CC BY-SA 4.0, 3.6 MB."
)
_REGIONS = (
    ("1", "Hippocampus anterior left", "212", "96.4", "open"),
    ("2", "Cerebral white matter /\nVentral diencephalon", "1705", "1019.6", "accepted"),
    ("3", "Hippocampus anterior right", "58", "30.2", "open"),
)


class CollapsibleButton(QtWidgets.QWidget):
    """Stands in for ctkCollapsibleButton: a title row that the content hangs under."""

    _TITLE = 24

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._text = ""
        self._collapsed = False
        self.setContentsMargins(0, self._TITLE, 0, 0)

    def _setText(self, text: str) -> None:
        self._text = text

    def setCollapsed(self, collapsed: bool) -> None:
        self._collapsed = collapsed
        for child in self.findChildren(
            QtWidgets.QWidget, options=QtCore.Qt.FindChildOption.FindDirectChildrenOnly
        ):
            child.setVisible(not collapsed)
        self.setMaximumHeight(self._TITLE + 4 if collapsed else 16777215)

    text = QtCore.Property(str, lambda self: self._text, _setText)
    collapsed = QtCore.Property(bool, lambda self: self._collapsed, setCollapsed)

    def paintEvent(self, event: QtGui.QPaintEvent) -> None:
        painter = QtGui.QPainter(self)
        title = QtCore.QRect(0, 0, self.width() - 1, self._TITLE)
        painter.fillRect(title, self.palette().color(QtGui.QPalette.ColorRole.Button).darker(106))
        mark = "▸" if self._collapsed else "▾"
        painter.drawText(title.adjusted(6, 0, 0, 0), int(QtCore.Qt.AlignmentFlag.AlignVCenter), mark)
        painter.drawText(title.adjusted(24, 0, 0, 0), int(QtCore.Qt.AlignmentFlag.AlignVCenter), self._text)


class SliderWidget(QtWidgets.QWidget):
    """Stands in for ctkSliderWidget: a slider with a spin box."""

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._slider = QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal)
        self._spinBox = QtWidgets.QDoubleSpinBox()
        layout.addWidget(self._slider)
        layout.addWidget(self._spinBox)

    def apply(self) -> None:
        """Take over what the .ui file said."""
        for name, setter in (
            ("decimals", self._spinBox.setDecimals),
            ("minimum", self._spinBox.setMinimum),
            ("maximum", self._spinBox.setMaximum),
            ("value", self._spinBox.setValue),
        ):
            setter(self.property(name))
        span = self._spinBox.maximum() - self._spinBox.minimum()
        self._slider.setRange(0, 100)
        self._slider.setValue(round(100 * (self._spinBox.value() - self._spinBox.minimum()) / span))


class NodeComboBox(QtWidgets.QComboBox):
    """Stands in for qMRMLNodeComboBox, showing one node or none."""

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self.setSizePolicy(QtWidgets.QSizePolicy.Policy.Expanding, QtWidgets.QSizePolicy.Policy.Fixed)
        self.setMinimumContentsLength(10)

    @QtCore.Slot("vtkMRMLScene*")
    def setMRMLScene(self, scene: object) -> None:
        """Slot that the .ui file connects to."""


class MRMLWidget(QtWidgets.QWidget):
    """Stands in for qMRMLWidget."""

    mrmlSceneChanged = QtCore.Signal("vtkMRMLScene*")


class Loader(QtUiTools.QUiLoader):
    """Qt's loader with stand-ins for Slicer's widgets."""

    _STAND_INS = {  # noqa: RUF012
        "ctkCollapsibleButton": CollapsibleButton,
        "ctkSliderWidget": SliderWidget,
        "qMRMLNodeComboBox": NodeComboBox,
        "qMRMLWidget": MRMLWidget,
    }

    def createWidget(
        self, className: str, parent: QtWidgets.QWidget | None = None, name: str = ""
    ) -> QtWidgets.QWidget:
        cls = self._STAND_INS.get(className)
        if cls is None:
            return super().createWidget(className, parent, name)
        widget = cls(parent)
        widget.setObjectName(name)
        return widget


def application() -> QtWidgets.QApplication:
    """The one application object."""
    return QtWidgets.QApplication.instance() or QtWidgets.QApplication(["panel"])


def load(name: str) -> QtWidgets.QWidget:
    """The widget that a .ui file describes."""
    file = QtCore.QFile(str(UI / name))
    assert file.open(QtCore.QFile.OpenModeFlag.ReadOnly), name
    widget = Loader().load(file)
    for slider in widget.findChildren(SliderWidget):
        slider.apply()
    return widget


def build(scene: str = "ready") -> QtWidgets.QWidget:
    """The whole panel as it looks in one of `SCENES`."""
    application()
    panel = load("DIANetSegmenter.ui")
    child(panel, "reviewSection").layout().addWidget(load("Review.ui"))
    _fill(panel, scene)
    return panel


def child(panel: QtWidgets.QWidget, name: str) -> QtWidgets.QWidget:
    """A widget of the panel by its name."""
    found = panel.findChild(QtWidgets.QWidget, name)
    assert found is not None, name
    return found


def show(panel: QtWidgets.QWidget, width: int) -> None:
    """Lay the panel out at a width, as high as it wants to be, off screen."""
    panel.setAttribute(QtCore.Qt.WidgetAttribute.WA_DontShowOnScreen)
    panel.resize(width, 100)
    panel.show()
    for _ in range(3):  # wrapped labels settle their height in rounds
        application().processEvents()
        height = panel.layout().totalHeightForWidth(width)
        panel.resize(width, max(height, panel.minimumSizeHint().height()))
    application().processEvents()


def _fill(panel: QtWidgets.QWidget, scene: str) -> None:
    def text(name: str, value: str) -> None:
        child(panel, name).setText(value)

    def item(name: str, value: str) -> None:
        child(panel, name).addItem(value)

    def visible(names: str, on: bool) -> None:
        for name in names.split():
            child(panel, name).setVisible(on)

    item("modelSelector", "hippocampus")
    text("modelDescriptionLabel", _MODEL)
    text("input1Label", "T1:")
    item("input1Selector", "MRHead")
    item("roiSelector", child(panel, "roiSelector").property("noneDisplay"))
    item("deviceSelector", "Automatic")
    text("memoryLabel", "NVIDIA GeForce RTX 4090: needs about 1.2 GB, 22.1 GB free.")
    item("colorMapSelector", "Uncertainty")
    visible("input2Label input3Label input4Label input2Selector input3Selector input4Selector", False)
    visible("secondLayerSelectorLabel secondLayerSelector", scene == "reviewing")
    visible("setupBanner", scene == "no torch")
    visible("progressWidget", scene == "running")
    child(panel, "segmentButton").setEnabled(scene in ("ready", "reviewing"))
    missing = {
        "running": "A run is going on; cancel it or wait for its end.",
        "no torch": "Packages that DIANet needs are missing: torch 2.8, monai 1.5.1. Click Install above.",
    }.get(scene, "")
    text("missingLabel", missing)
    visible("missingLabel", bool(missing) and scene != "running")
    text("stageLabel", "Segmenting, about 12 s left")
    child(panel, "progressBar").setValue(43)
    done = scene == "reviewing"
    visible("resultLabel", done)
    text(
        "resultLabel",
        "<b>MRHead — DIANet hippocampus</b>, 31 s on CPU, 10 samples"
        "<table cellpadding='2'><tr><td>Hippocampus anterior left</td><td>1.62 ml</td><td>Dice 0.89</td></tr>"
        "<tr><td>Hippocampus posterior left</td><td>1.55 ml</td><td>Dice 0.87</td></tr></table>",
    )
    item("resultSelector", "MRHead — DIANet hippocampus" if done else "No result")
    item("layerSelector", "Total uncertainty (nats)" if done else "None")
    item("secondLayerSelector", "None")
    child(panel, "explainButton").setEnabled(done)
    table = child(panel, "regionsTable")
    text(
        "reviewLabel",
        "3 places to look at, 2 of them open." if done else "Run a segmentation to see where to look.",
    )
    if done:
        table.setRowCount(len(_REGIONS))
        for row, cells in enumerate(_REGIONS):
            for column, cell in enumerate(cells):
                table.setItem(row, column, QtWidgets.QTableWidgetItem(cell))
        table.selectRow(1)
        table.resizeRowsToContents()
    child(panel, "surfacesCheckBox").setEnabled(done)
    mode = QtWidgets.QHeaderView.ResizeMode
    for column in range(table.columnCount()):
        table.horizontalHeader().setSectionResizeMode(
            column, mode.Stretch if column == 1 else mode.ResizeToContents
        )
    for name in ("previousButton", "nextButton"):
        child(panel, name).setEnabled(done)
    text(
        "dependenciesLabel",
        "torch 2.8: missing<br>monai 1.5.1: missing<br>pydantic 2.5: 2.11 ✓"
        if scene == "no torch"
        else "Everything that DIANet needs is installed.",
    )
    text("workerLabel", "Worker: not started.")
    visible("workerLabel", True)
    child(panel, "setupSection").setCollapsed(scene != "no torch")


def main(folder: Path) -> None:
    """Write the pictures."""
    for scene in SCENES:
        for width in (400, 600):
            panel = build(scene)
            show(panel, width)
            panel.grab().save(str(folder / f"panel_{scene.replace(' ', '_')}_{width}.png"))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
