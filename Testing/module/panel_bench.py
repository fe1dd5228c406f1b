# SPDX-License-Identifier: Apache-2.0
"""The panel on a real MRML scene and the real logic, with stand-ins for Qt and for the worker: fixtures."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from DIANetLib.acwi.review import Region, regions_to_json
from DIANetLib.volume import Volume
from DIANetLib.worker import protocol
from Testing.module.bootstrap import STRUCTURES, geometry, labels_on, segmented
from Testing.module.fake_client import HELLO, FakeClient, Later

GRID = geometry()
T1, FLAIR = protocol.ModalityInfo("T1"), protocol.ModalityInfo("FLAIR", required=False)
MODELS = (
    protocol.ModelInfo(
        "hippocampus",
        "/models/hippocampus",
        description="Finds the hippocampus.",
        modalities=(T1,),
        structures=STRUCTURES,
        licence="CC-BY-SA-4.0",
        size_bytes=3_600_000,
    ),
    protocol.ModelInfo("lesions", "/models/lesions", modalities=(T1, FLAIR), structures=STRUCTURES),
    protocol.ModelInfo("broken", "/models/broken", problem="The weights are missing."),
)
REGIONS = tuple(
    Region(
        rank=rank,
        structures=("hippocampus_left",),
        centre=(float(rank), 2.0, 3.0),
        lo=(0.0, 0.0, 0.0),
        hi=(2.0, 4.0, 6.0),
        volume_mm3=100.0 / rank,
        expected_error_mm3=40.0 / rank,
        peak=0.9,
    )
    for rank in (1, 2, 3)
)


def places():
    """Regions in the labels of `labels_on`: at the border of the two structures, and further along it."""
    boxes = [np.s_[2:4, 2:5, 4:8], np.s_[4:6, 2:5, 4:8], np.s_[2:4, 5:7, 2:4]]
    regions = []
    for region, box in zip(REGIONS, boxes, strict=True):
        low = [part.start for part in reversed(box)]
        high = [part.stop - 1 for part in reversed(box)]
        corners = np.array([GRID.index_to_world(low), GRID.index_to_world(high)])
        centre = GRID.index_to_world([(a + b) // 2 for a, b in zip(low, high, strict=True)])
        regions.append(
            region.__class__(
                region.rank,
                ("hippocampus_left", "hippocampus_right"),
                tuple(centre.tolist()),
                tuple((corners.min(axis=0) - 0.5).tolist()),
                tuple((corners.max(axis=0) + 0.5).tolist()),
                region.volume_mm3,
                region.expected_error_mm3,
                region.peak,
            )
        )
    return tuple(regions)


@pytest.fixture
def slicerApp(monkeypatch, environment, tmp_path):
    from Testing.module.fakes.application import Application

    app = Application(monkeypatch, environment, tmp_path)
    install = app.importGui("Install")
    app.versions = dict.fromkeys(install.PACKAGES, "99.0")
    monkeypatch.setattr(install, "_version", lambda name: app.versions.get(name))
    monkeypatch.setattr(app.importGui("SetupWidget"), "workerPython", lambda: "/python")
    monkeypatch.setattr(app.importGui("SetupWidget"), "chosenPython", lambda: "")
    return app


@pytest.fixture
def client():
    return FakeClient()


@pytest.fixture
def panel(slicerApp, environment, client, monkeypatch):
    from DIANetGui import Logic as logicModule

    from Testing.module.fakes.application import Owner

    monkeypatch.setattr(logicModule, "read_catalogue", lambda: MODELS)
    logic = logicModule.Logic(environment, client, later=Later())
    panel = slicerApp.importGui("Widget").Panel(Owner(), logic)
    slicerApp.panel = panel
    panel.enter()
    yield panel
    panel.cleanup()
    panel._owner.removeObservers()


@pytest.fixture
def head(environment, slicerApp, panel):
    return addVolume(environment, slicerApp, "Head")


def addVolume(environment, slicerApp, name):
    from DIANetGui.Nodes import nodeFromVolume

    array = np.random.default_rng(0).normal(size=GRID.shape).astype(np.float32)
    node = nodeFromVolume(environment, Volume(array, GRID), name)
    slicerApp.processEvents()
    return node


def answer(client, kinds=("total", "epistemic", "error", "variance"), regions=REGIONS, **changes):
    """What a worker sends for a segmentation: labels, maps, and their files."""
    labels = labels_on(GRID)
    maps = []
    for kind in kinds:
        for key in [s.key for s in STRUCTURES[:2]] if kind == "variance" else [None]:
            values = np.where(labels.array > 0, 0.4, 0).astype(np.float32)
            maps.append(protocol.MapFile(kind, key, client.exchange.write(Volume(values, GRID))))
    return segmented(
        labels=client.exchange.write(labels), maps=tuple(maps), regions=regions_to_json(regions), **changes
    )


def latest(client, cls):
    return next(request for request in reversed(client.sent) if isinstance(request, cls))


def finish(client, **changes):
    """Let the segmentation that was asked for end well."""
    if not any(isinstance(request, protocol.Segment) for request in client.sent):
        pytest.fail("no segmentation was asked for")
    client.say(HELLO)
    client.say(protocol.Result(latest(client, protocol.Segment).id, answer(client, **changes)))


def slicer_surface_name():
    import slicer

    return slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()


def state(panel):
    """What of the section Segment can be seen and used."""
    ui = panel.ui
    return SimpleNamespace(
        segment=ui.segmentButton.enabled,
        cancel=ui.progressWidget.visible and ui.cancelButton.enabled,
        progress=ui.progressWidget.visible,
        inputs=ui.input1Selector.enabled,
        sentence=ui.missingLabel.text if ui.missingLabel.visible else "",
    )
