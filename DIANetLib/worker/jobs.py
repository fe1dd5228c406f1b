# SPDX-License-Identifier: Apache-2.0
"""The jobs of DIANet from files to files, as functions: what the command line calls.

What lies between the files is `DIANetLib.worker.case`, which the worker process calls as well.

A job checks what costs little first (model, names, output folder), so that a mistake is told before anything
is computed. torch and MONAI are imported inside the jobs that need them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from DIANetLib.bundle import BundleEntry, list_bundles, load_bundle
from DIANetLib.errors import InputError
from DIANetLib.inference.prediction import Box, Prediction, Progress
from DIANetLib.worker.case import (
    Cancel,
    CaseOptions,
    Inner,
    Report,
    check_options,
    segment_case,
    stop_if,
)
from DIANetLib.worker.reading import Clock, ImageSource, assign_modalities, box_of_mask, read_images

if TYPE_CHECKING:
    from DIANetLib.acwi.review import Region
    from DIANetLib.formats.output_folder import OutputPaths

__all__ = ["SegmentRequest", "SegmentResult", "models", "segment"]


@dataclass(frozen=True)
class SegmentRequest:
    """What to segment, with what, and where to.

    Attributes:
        images: One per modality of the model; those that it does not need may be missing.
        model: Name of a model or its folder.
        output: Folder to write.
        roi: Where to look: a box, or the file of a mask whose box is taken; None lets the model find it.
        device: `"auto"`, `"cpu"`, `"cuda"`, `"cuda:1"` or `"mps"`.
        samples: T, stochastic passes; 0 for one pass; None for one where the model has a one-pass head, else
            ten.
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
    samples: int | None = None
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
    clock = Clock()
    report = progress or (lambda _: None)
    from DIANetLib.formats.staging import check_output_directory

    check_output_directory(request.output, overwrite=request.overwrite)
    if not request.images:
        raise InputError("No image was given.", remedy="Name an image file or a folder with a DICOM series.")
    options = CaseOptions(request.samples, request.seed, explain=request.explain, inner=request.inner)
    model = load_bundle(request.model)
    check_options(options, model)
    sources, notes = assign_modalities(request.images, model)
    volumes = read_images(sources, request.series, report, cancel)
    roi = box_of_mask(request.roi) if isinstance(request.roi, Path) else request.roi
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
