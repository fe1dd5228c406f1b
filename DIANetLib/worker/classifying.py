# SPDX-License-Identifier: Apache-2.0
"""The job behind `dianet classify`: images in, a folder with probabilities and maps out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from DIANetLib.bundle import LoadedModel, load_bundle
from DIANetLib.errors import InputError
from DIANetLib.inference.prediction import Box, Progress
from DIANetLib.worker.case import Cancel, Report, or_on_the_cpu, stop_if
from DIANetLib.worker.reading import (
    Clock,
    ImageSource,
    assign_modalities,
    box_of_mask,
    check_draws,
    read_images,
)

if TYPE_CHECKING:
    from DIANetLib.formats.class_folder import ClassPaths
    from DIANetLib.inference.classification import Classified, ClassMaps

__all__ = ["ClassifyRequest", "ClassifyResult", "classify"]


@dataclass(frozen=True)
class ClassifyRequest:
    """What to classify, with what, and where to; see `DIANetLib.worker.jobs.SegmentRequest`.

    Attributes:
        images: One per modality of the model; those that it does not need may be missing.
        model: Name of a model or its folder.
        output: Folder to write.
        roi: The only part to look at; None for the whole image.
        device: As for a segmentation.
        samples: T, stochastic passes; 0 for one plain pass.
        seed: Of the stochastic passes.
        explain: Keys or names of the classes to explain, or `"all"`, or `"none"`.
        layer: Layer of the network for Grad-CAM; None for the encoder's last stage but one.
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
    layer: str | None = None
    series: str | None = None
    overwrite: bool = False


@dataclass(frozen=True, eq=False)
class ClassifyResult:
    """What a classification gave.

    Attributes:
        classified: Probabilities and uncertainty; its timings include reading, explaining and writing.
        paths: The files written.
    """

    classified: Classified
    paths: ClassPaths


def classify(
    request: ClassifyRequest, *, progress: Report | None = None, cancel: Cancel | None = None
) -> ClassifyResult:
    """Read images, classify them, explain classes and write an output folder.

    Args:
        request: What to do.
        progress: Called as the work goes on.
        cancel: Asked between steps.

    Raises:
        DIANetError: With a sentence; nothing is left in the output folder.
    """
    clock, report = Clock(), progress or (lambda _: None)
    from DIANetLib.formats.staging import check_output_directory

    check_output_directory(request.output, overwrite=request.overwrite)
    model = load_bundle(request.model)
    if not model.classes:
        raise InputError(
            f"The model {model.name!r} does not classify images.",
            remedy="Choose a model that has classes; `dianet models` lists what each model does.",
        )
    check_draws(request.samples, request.seed)
    keys = _keys(request.explain, model)
    sources, notes = assign_modalities(request.images, model)
    volumes = read_images(sources, request.series, report, cancel)
    roi = box_of_mask(request.roi) if isinstance(request.roi, Path) else request.roi
    clock.lap("read")
    from DIANetLib.inference.classify import Classifier

    classifier = Classifier(model, request.device)
    clock.lap("start")
    classified = classifier.classify(
        volumes, samples=request.samples, seed=request.seed, roi=roi, progress=report, cancel=cancel
    )
    clock.lap("classify")
    maps, more = _explained(model, classified, keys, request.layer, report, cancel)
    clock.lap("explain")
    timings = {"start": clock["start"], "read": clock["read"], **classified.timings}
    timings |= {"explain": clock["explain"]} if keys else {}
    warnings = (*notes, *classified.warnings, *more)
    classified = replace(classified, timings=timings, warnings=warnings)
    stop_if(cancel)
    report(Progress("write", 0, 1))
    from DIANetLib.formats.class_folder import write_classification

    paths = write_classification(classified, maps, volumes, request.output, overwrite=request.overwrite)
    clock.lap("write")
    report(Progress("write", 1, 1))
    return ClassifyResult(replace(classified, timings={**timings, "write": clock["write"]}), paths)


def _keys(asked: tuple[str, ...] | Literal["all", "none"], model: LoadedModel) -> tuple[str, ...]:
    """Keys of the classes to explain.

    Raises:
        InputError: The model has no such class.
    """
    if isinstance(asked, str):
        return () if asked == "none" else tuple(entry.key for entry in model.classes)
    known = {text.casefold(): entry.key for entry in model.classes for text in (entry.key, entry.name)}
    for name in asked:
        if name.casefold() not in known:
            raise InputError(
                f"The model {model.name!r} has no class {name!r} to explain; it has"
                f" {', '.join(entry.key for entry in model.classes)}."
            )
    return tuple(dict.fromkeys(known[name.casefold()] for name in asked))


def _explained(
    model: LoadedModel,
    classified: Classified,
    keys: tuple[str, ...],
    layer: str | None,
    report: Report,
    cancel: Cancel | None,
) -> tuple[ClassMaps, tuple[str, ...]]:
    from DIANetLib.inference.classification import ClassMaps

    if not keys:
        return ClassMaps({}, {}), ()
    report(Progress("explain", 0, 1))
    from DIANetLib.acwi.cam import class_maps

    def run(device: str) -> ClassMaps:
        return class_maps(
            model.network(device),
            classified.prepared,
            classified.image,
            tuple(entry.key for entry in model.classes),
            keys=keys,
            window=model.window,
            available=classified.available,
            layer=layer,
            progress=lambda done, total: report(Progress("explain", done, total)),
            cancel=cancel,
        )

    return or_on_the_cpu(run, classified.device.split()[0], "The maps of classes were")
