# SPDX-License-Identifier: Apache-2.0
"""One message of every kind."""

from __future__ import annotations

from DIANetLib.worker.protocol import (
    BoxLPS,
    Cancel,
    Cancelled,
    CodeInfo,
    DeviceEstimate,
    Doctor,
    DoctorReport,
    Done,
    Estimate,
    Estimated,
    Event,
    Explain,
    Explained,
    Failed,
    Hello,
    ListModels,
    MapFile,
    ModalityInfo,
    ModelInfo,
    ModelList,
    Payload,
    Progress,
    Request,
    Result,
    Review,
    Reviewed,
    ReviewOptions,
    Segment,
    Segmented,
    SharedVolume,
    Shutdown,
    StructureInfo,
    StructureSummary,
    Unload,
)

DIRECTION = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
VOLUME = SharedVolume(
    "a.raw", "<f4", (2, 3, 4), (1.0, 0.1, 2.5), (-1e-9, 2.0, 3.0), DIRECTION, "ä „b\n", "T1"
)
PART = SharedVolume(
    "b.raw", "|u1", (2, 3, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), DIRECTION, part=(0, 1, 2, 2, 1, 1)
)
BOX = BoxLPS((0.0, 1.0, 2.0), (3.0, 4.0, 5.0))
CODE = CodeInfo("SCT", "1", "One")
STRUCTURE = StructureInfo(1, "head", "Head", (1, 2, 3), CODE, CODE, None)

REQUESTS: tuple[Request, ...] = (
    Segment("s", "m", (VOLUME, PART), BOX, "cuda:1", 3, 4, ("all",), ReviewOptions(0.4, 1.0, 2, 3.0)),
    Segment("s", "m", (VOLUME,)),
    Explain("e", "s", ("head",), BOX, "bottleneck"),
    Explain("e", "s", ("head", "tail")),
    Review("r", "s"),
    Estimate("t", "m", (2, 3, 4), (1.0, 1.0, 1.0), DIRECTION, BOX, 2, (1.0, 2.0, 3.0)),
    ListModels("l", True),
    Doctor("d"),
    Cancel("c", "s"),
    Unload("u"),
    Shutdown("x"),
)
PAYLOADS: tuple[Payload, ...] = (
    Segmented(
        labels=PART,
        structures=(STRUCTURE,),
        maps=(
            MapFile("total", None, VOLUME),
            MapFile("path", None, PART),
            MapFile("variance", "head", VOLUME),
        ),
        summaries=(StructureSummary("head", 1.5, 0.9, None),),
        regions='{"schema": "dianet.regions"}\n',
        warnings=("Look.",),
        device="cpu",
        timings={"segment": 1.25},
        samples=2,
        seed=3,
        model="m",
        model_version="1",
        model_sha256="0" * 64,
        layers=("bottleneck",),
        paths=("full", "latent"),
        familiarity="Image: familiar",
    ),
    Explained((MapFile("gradcam", "head", PART),), ("w",)),
    Reviewed("{}"),
    Estimated((DeviceEstimate("cuda:0", "NVIDIA", 5, None, (1, 2, 3), True),)),
    ModelList(
        (ModelInfo("m", "/m", modalities=(ModalityInfo("T1", False, ("t",)),), structures=(STRUCTURE,)),)
    ),
    DoctorReport("fine", 0),
    Done(),
)
EVENTS: tuple[Event, ...] = (
    Hello(1, "0.1", 12, "3.12"),
    Progress("s", "segment", 1, 2),
    Failed(None, "worker", "No.", None),
    Failed("s", "input", "No.", "Do."),
    Cancelled("s"),
    *(Result("s", payload) for payload in PAYLOADS),
)
