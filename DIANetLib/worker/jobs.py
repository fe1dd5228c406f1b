# SPDX-License-Identifier: Apache-2.0
"""The jobs of DIANet from files to files, as functions: what the command line calls.

What lies between the files is `DIANetLib.worker.case`, which the worker process calls as well.

A job checks what costs little first (model, names, output folder), so that a mistake is told before anything
is computed. torch and MONAI are imported inside the jobs that need them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from DIANetLib.bundle import BundleEntry, LoadedModel, list_bundles, load_bundle
from DIANetLib.errors import InputError
from DIANetLib.inference.prediction import Box, Prediction, Progress
from DIANetLib.modalities import assign
from DIANetLib.worker.case import (
    Cancel,
    CaseOptions,
    Inner,
    Report,
    check_options,
    segment_case,
    stop_if,
)

if TYPE_CHECKING:
    from DIANetLib.acwi.review import Region
    from DIANetLib.formats.output_folder import OutputPaths
    from DIANetLib.volume import Volume

__all__ = ["ImageSource", "SegmentRequest", "SegmentResult", "box_from_ras", "models", "segment"]


@dataclass(frozen=True)
class ImageSource:
    """An image to read.

    Attributes:
        path: A file, or a folder with a DICOM series.
        modality: Which modality of the model it is; None for the next one that is not named.
    """

    path: Path
    modality: str | None = None


@dataclass(frozen=True)
class SegmentRequest:
    """What to segment, with what, and where to.

    Attributes:
        images: One per modality of the model; those that it does not need may be missing.
        model: Name of a model or its folder.
        output: Folder to write.
        roi: Where to look: a box, or the file of a mask whose box is taken; None lets the model find it.
        device: `"auto"`, `"cpu"`, `"cuda"`, `"cuda:1"` or `"mps"`.
        samples: T, stochastic passes; 0 for one plain pass.
        seed: Of the stochastic passes; the same seed gives the same result.
        explain: Names or keys of the structures to compute Grad-CAM for, or `"all"`, or `"none"`.
        inner: What to show of the network's workings: `"attention"`, `"reliable_path"`.
        series: UID of the DICOM series to read from folders that hold several.
        overwrite: Whether an earlier output folder may be replaced.
    """

    images: tuple[ImageSource, ...]
    model: str | Path
    output: Path
    roi: Box | Path | None = None
    device: str = "auto"
    samples: int = 10
    seed: int = 0
    explain: tuple[str, ...] | Literal["all", "none"] = "all"
    inner: tuple[Inner, ...] = ()
    series: str | None = None
    overwrite: bool = False


@dataclass(frozen=True, eq=False)
class SegmentResult:
    """What a segmentation gave.

    Attributes:
        prediction: Maps and numbers; its timings include reading, explaining and writing.
        regions: Low-confidence regions, the worst first.
        paths: The files written.
    """

    prediction: Prediction
    regions: tuple[Region, ...]
    paths: OutputPaths


def segment(
    request: SegmentRequest, *, progress: Report | None = None, cancel: Cancel | None = None
) -> SegmentResult:
    """Read images, segment them, explain the structures and write an output folder.

    Args:
        request: What to do.
        progress: Called as the work goes on.
        cancel: Asked between steps, windows and samples.

    Raises:
        DIANetError: With a sentence; nothing is left in the output folder.
    """
    clock = _Clock()
    report = progress or (lambda _: None)
    from DIANetLib.formats.staging import check_output_directory

    check_output_directory(request.output, overwrite=request.overwrite)
    if not request.images:
        raise InputError("No image was given.", remedy="Name an image file or a folder with a DICOM series.")
    options = CaseOptions(request.samples, request.seed, explain=request.explain, inner=request.inner)
    model = load_bundle(request.model)
    check_options(options, model)
    sources, notes = assign_modalities(request.images, model)
    report(Progress("read", 0, len(sources)))
    volumes = _read(sources, request.series, report, cancel)
    roi = _box_of_mask(request.roi) if isinstance(request.roi, Path) else request.roi
    clock.lap("read")
    if request.explain != "none":
        import DIANetLib.acwi.explain  # noqa: F401 (MONAI's import takes seconds: part of the set-up)
    from DIANetLib.inference.engine import Segmenter

    segmenter = Segmenter(model, device=request.device)
    clock.lap("start")
    case = segment_case(segmenter, model, volumes, replace(options, roi=roi), report=report, cancel=cancel)
    timings = {"start": clock["start"], "read": clock["read"], **case.prediction.timings}
    prediction = replace(case.prediction, timings=timings, warnings=(*notes, *case.prediction.warnings))
    clock.lap("case")
    stop_if(cancel)
    report(Progress("write", 0, 1))
    from DIANetLib.formats.output_folder import write_output

    paths = write_output(
        prediction,
        case.gradcam,
        volumes,
        request.output,
        overwrite=request.overwrite,
        regions=case.regions,
        inner=case.inner,
    )
    clock.lap("write")
    report(Progress("write", 1, 1))
    prediction = replace(prediction, timings={**timings, "write": clock["write"]})
    return SegmentResult(prediction, case.regions, paths)


def models(*, verify: bool = False) -> tuple[BundleEntry, ...]:
    """List the models that `segment` finds by name, usable or not; `verify` hashes their weights too."""
    return list_bundles(verify=verify)


def box_from_ras(values: Sequence[float]) -> Box:
    """The box between x1, x2, y1, y2, z1, z2 in mm as 3D Slicer shows them (RAS), as LPS.

    Args:
        values: Six numbers; the two of an axis may be in any order.

    Raises:
        InputError: Not six finite numbers, or no extent along an axis.
    """
    if len(values) != 6 or not np.isfinite(values).all():
        raise InputError(
            f"The region of interest has {len(values)} numbers, expected six: x1,x2,y1,y2,z1,z2 in mm."
        )
    pairs = [sorted(values[n : n + 2]) for n in (0, 2, 4)]
    if any(a == b for a, b in pairs):
        raise InputError(
            f"The region of interest {', '.join(f'{v:g}' for v in values)} has no extent along an axis,"
            " expected x1,x2,y1,y2,z1,z2 in mm."
        )
    (r1, r2), (a1, a2), (s1, s2) = pairs
    return Box((-r2, -a2, s1), (-r1, -a1, s2))


def assign_modalities(
    images: Sequence[ImageSource], model: LoadedModel
) -> tuple[tuple[ImageSource, ...], tuple[str, ...]]:
    """Put images in the order of the model's modalities and name each.

    Returns:
        The images, without those of modalities that are missing; and a sentence where file names were what
        told which is which.

    Raises:
        InputError: Their number or a name does not fit the model, or it cannot be told which is which.
    """
    names = [image.modality for image in images]
    found = assign(names, model.modalities, model.name, files=[image.path.name for image in images])
    placed = tuple(
        replace(images[place], modality=modality.name)
        for place, modality in zip(found.places, model.modalities, strict=True)
        if place is not None
    )
    if not found.guessed:
        return placed, ()
    told = ", ".join(f"{name} is {file}" for name, file in found.guessed.items())
    return placed, (f"File names told which image is which: {told}. --modalities says it instead.",)


class _Clock:
    """Seconds between laps, by name."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self._laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self._laps[name] = now - self._last
        self._last = now

    def __getitem__(self, name: str) -> float:
        return self._laps[name]


def _read(
    sources: Sequence[ImageSource], series: str | None, report: Report, cancel: Cancel | None
) -> list[Volume]:
    from DIANetLib.formats.image import read_volume

    volumes = []
    for done, source in enumerate(sources, start=1):
        stop_if(cancel)
        volumes.append(read_volume(source.path, modality=source.modality, series=series))
        report(Progress("read", done, len(sources)))
    return volumes


def _box_of_mask(path: Path) -> Box:
    from DIANetLib.formats.image import read_labels

    mask = read_labels(path)
    where = np.argwhere(mask.array > 0)
    if not len(where):
        raise InputError(f"The mask {path} is empty, expected voxels above 0 where to look.")
    low, high = where.min(axis=0)[::-1], where.max(axis=0)[::-1]
    part = mask.geometry.crop(low, high - low + 1)
    (x0, y0, z0), (x1, y1, z1) = part.bounds_world().tolist()
    return Box((x0, y0, z0), (x1, y1, z1))
