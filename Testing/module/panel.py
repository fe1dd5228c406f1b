# SPDX-License-Identifier: Apache-2.0
"""Draws the module's panel with Qt alone, at 400 and 600 px: `python Testing/module/panel.py FOLDER`.

Widgets that only Slicer has are stood in for by look-alikes, and some texts that the module writes are typed
in here, so that the layout can be looked at, and measured by test_ui.py, without Slicer.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

ROOT = Path(__file__).resolve().parents[2]
sys.path += [entry for entry in (str(ROOT), str(ROOT / "DIANetSegmenter")) if entry not in sys.path]
UI = ROOT / "DIANetSegmenter" / "Resources" / "UI"
SCENES = ("ready", "running", "reviewing", "finished", "no torch")

_MODEL = (
    "Hippocampus (anterior, posterior; left and right) in T1-weighted MRI, 1 mm."
    "<br>Needs T1. Licence CC BY-SA 4.0, 3.6 MB."
)
_REGIONS = (
    ("1", "Hippocampus anterior left", "212", "96.4", "○ open"),
    ("2", "Cerebral white matter\u00a0/\nVentral diencephalon", "1705", "1019.6", "✓ accepted"),
    ("3", "Hippocampus anterior right", "58", "30.2", "✎ corrected"),
)
_PACKAGE = (
    "The correction package is in /home/reviewer/corrections/mrhead-2026-11-25-a-reviewer (132 voxels"
    " changed).\nNo file is known of the image MRHead: keep one, or finish again with a copy."
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
    visible("secondLayerSelectorLabel secondLayerSelector", scene in ("reviewing", "finished"))
    visible("setupBanner", scene == "no torch")
    visible("progressWidget", scene == "running")
    child(panel, "segmentButton").setEnabled(scene in ("ready", "reviewing", "finished"))
    missing = {
        "running": "A run is going on; cancel it or wait for its end.",
        "no torch": "Packages that DIANet needs are missing: torch 2.8, monai 1.5.1. Click Install above.",
    }.get(scene, "")
    text("missingLabel", missing)
    visible("missingLabel", bool(missing) and scene != "running")
    text("stageLabel", "Segmenting, about 12 s left")
    child(panel, "progressBar").setValue(43)
    done = scene in ("reviewing", "finished")
    visible("resultLabel", done)
    text("resultLabel", _result())
    item("resultSelector", "MRHead — DIANet hippocampus" if done else "No result")
    item("layerSelector", "Total uncertainty (nats)" if done else "None")
    item("secondLayerSelector", "None")
    child(panel, "explainButton").setEnabled(done)
    table = child(panel, "regionsTable")
    text("reviewLabel", _progress() if done else "Run a segmentation to see where to look.")
    text("reviewHintLabel", _outcome())
    visible("reviewHintLabel", scene == "reviewing")
    text("finishLabel", _PACKAGE)
    visible("finishLabel", scene == "finished")
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
    for name in ("accept", "edit", "skip", "next", "previous", "reopen", "explainPlace", "finish"):
        child(panel, f"{name}Button").setEnabled(done)
    text(
        "dependenciesLabel",
        "torch 2.8: missing<br>monai 1.5.1: missing<br>pydantic 2.5: 2.11 ✓"
        if scene == "no torch"
        else "Everything that DIANet needs is installed.",
    )
    text("workerLabel", "Worker: not started.")
    visible("workerLabel", True)
    child(panel, "setupSection").setCollapsed(scene not in ("no torch", "finished"))


def _result() -> str:
    """The text of a result as the module words it."""
    from DIANetGui.Records import ResultRecord
    from DIANetGui.Wording import resultText

    from DIANetLib.worker.protocol import CodeInfo, StructureInfo, StructureSummary

    code = CodeInfo("SCT", "5366008", "Hippocampus")
    found = (
        ("anterior_left", "Hippocampus anterior left", 1.62, 0.93, (0.90, 0.86, 0.93)),
        ("posterior_left", "Hippocampus posterior left", 1.55, 0.88, (0.78, 0.66, 0.85)),
        ("amygdala", "Amygdala", 0.91, 0.71, (0.58, 0.35, 0.74)),
    )
    record = ResultRecord(
        id="drawn",
        model="hippocampus",
        device="CPU",
        samples=10,
        timings={"segment": 31.0},
        structures=tuple(
            StructureInfo(n, key, name, (0, 0, 0), code, code)
            for n, (key, name, *_rest) in enumerate(found, start=1)
        ),
        summaries=tuple(
            StructureSummary(key, volume, confidence, *dice) for key, _name, volume, confidence, dice in found
        ),
    )
    return resultText(record)


def _progress() -> str:
    from DIANetGui.Wording import progressText

    from DIANetLib.acwi.worklist import Progress

    return progressText(Progress(9, 2, 1, 0, 41.2))


def _outcome() -> str:
    from DIANetGui.Editing import Outcome
    from DIANetGui.Wording import outcomeText

    return outcomeText(Outcome(3, 132, 4, ("Amygdala",)))


def main(folder: Path) -> None:
    """Write the pictures."""
    for scene in SCENES:
        for width in (400, 600):
            panel = build(scene)
            show(panel, width)
            panel.grab().save(str(folder / f"panel_{scene.replace(' ', '_')}_{width}.png"))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
