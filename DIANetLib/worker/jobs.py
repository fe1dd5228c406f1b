# SPDX-License-Identifier: Apache-2.0
"""The jobs of DIANet from files to files, as functions: what the command line and the worker process call.

A job checks what costs little first (model, names, output folder), so that a mistake is told before anything
is computed. torch and MONAI are imported inside the jobs that need them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from DIANetLib.bundle import BundleEntry, LoadedModel, list_bundles, load_bundle
from DIANetLib.errors import Cancelled, InputError
from DIANetLib.inference.prediction import Box, Prediction, Progress
from DIANetLib.structures import Structure

if TYPE_CHECKING:
    from DIANetLib.acwi.review import Region
    from DIANetLib.formats.output_folder import OutputPaths
    from DIANetLib.inference.engine import Segmenter
    from DIANetLib.volume import Volume

__all__ = ["ImageSource", "SegmentRequest", "SegmentResult", "box_from_ras", "models", "segment"]

Report = Callable[[Progress], None]
Cancel = Callable[[], bool]


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
        images: One per modality of the model.
        model: Name of a model or its folder.
        output: Folder to write.
        roi: Where to look: a box, or the file of a mask whose box is taken; None lets the model find it.
        device: `"auto"`, `"cpu"`, `"cuda"`, `"cuda:1"` or `"mps"`.
        samples: T, stochastic passes; 0 for one plain pass.
        seed: Of the stochastic passes; the same seed gives the same result.
        explain: Names or keys of the structures to compute Grad-CAM for, or `"all"`, or `"none"`.
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
    from DIANetLib.formats.output_folder import check_output_directory

    check_output_directory(request.output, overwrite=request.overwrite)
    _check_numbers(request)
    model = load_bundle(request.model)
    sources = assign_modalities(request.images, model)
    _check_explain(request.explain, model)
    report(Progress("read", 0, len(sources)))
    volumes = _read(sources, request.series, report, cancel)
    roi = _box_of_mask(request.roi) if isinstance(request.roi, Path) else request.roi
    clock.lap("read")
    if request.explain != "none":
        import DIANetLib.acwi.explain  # noqa: F401 (MONAI's import takes seconds: part of the set-up)
    from DIANetLib.inference.engine import Segmenter

    segmenter = Segmenter(model, device=request.device)
    clock.lap("start")
    prediction = segmenter.segment(
        volumes,
        samples=request.samples,
        seed=request.seed,
        roi=roi,
        progress=progress,
        cancel=cancel,
        keep_features=bool(request.explain) and request.explain != "none",
    )
    clock.lap("segment")
    chosen, warnings = _structures_to_explain(request.explain, prediction.structures, model)
    maps, more = _explain(segmenter, prediction, chosen, report, cancel)
    clock.lap("explain")
    timings = {"start": clock["start"], "read": clock["read"], **prediction.timings}
    prediction = replace(
        prediction,
        timings={**timings, "explain": clock["explain"]} if chosen else timings,
        warnings=(*prediction.warnings, *warnings, *more),
    )
    _stop_if(cancel)
    report(Progress("write", 0, 1))
    from DIANetLib.acwi.review import find_regions
    from DIANetLib.formats.output_folder import write_output

    regions = find_regions(prediction.error_probability, prediction.labels, prediction.structures)
    paths = write_output(
        prediction, maps, volumes, request.output, overwrite=request.overwrite, regions=regions
    )
    clock.lap("write")
    report(Progress("write", 1, 1))
    prediction = replace(prediction, timings={**prediction.timings, "write": clock["write"]})
    return SegmentResult(prediction, regions, paths)


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


def assign_modalities(images: Sequence[ImageSource], model: LoadedModel) -> tuple[ImageSource, ...]:
    """Put images in the order of the model's modalities; those without a name fill the gaps in order.

    Raises:
        InputError: Their number or a name does not fit the model.
    """
    wanted = model.modalities
    names = ", ".join(modality.name for modality in wanted)
    expected = f"{len(wanted)} image{'s' if len(wanted) > 1 else ''} ({names}) for the model {model.name!r}"
    places: list[ImageSource | None] = [None] * len(wanted)
    for image in images:
        if image.modality is None:
            continue
        matching = [n for n, modality in enumerate(wanted) if modality.matches(image.modality)]
        if not matching:
            raise InputError(f"The model {model.name!r} has no modality {image.modality!r}; it has {names}.")
        if places[matching[0]] is not None:
            raise InputError(f"The modality {image.modality!r} was given twice; expected {expected}.")
        places[matching[0]] = image
    unnamed = [image for image in images if image.modality is None]
    if len(images) != len(wanted):
        raise InputError(
            f"Expected {expected}, got {len(images)}.",
            remedy="Give one image per modality, in this order or as --modality NAME=PATH.",
        )
    filled = [place or unnamed.pop(0) for place in places]
    return tuple(replace(image, modality=m.name) for image, m in zip(filled, wanted, strict=True))


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


def _check_numbers(request: SegmentRequest) -> None:
    if request.samples < 0:
        raise InputError(f"The number of samples is {request.samples}, expected 0 or more.")
    if request.seed < 0:
        raise InputError(f"The seed is {request.seed}, expected 0 or more.")
    if not request.images:
        raise InputError("No image was given.", remedy="Name an image file or a folder with a DICOM series.")


def _stop_if(cancel: Cancel | None) -> None:
    if cancel is not None and cancel():
        raise Cancelled


def _read(
    sources: Sequence[ImageSource], series: str | None, report: Report, cancel: Cancel | None
) -> list[Volume]:
    from DIANetLib.formats.image import read_volume

    volumes = []
    for done, source in enumerate(sources, start=1):
        _stop_if(cancel)
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


def _base(structure: Structure, model: LoadedModel) -> Structure:
    """The model's structure that a result's structure is, side or not."""
    for base in model.structures:
        sided = structure.side is not None and structure.key == f"{base.key}_{structure.side}"
        if sided or structure.key == base.key:
            return base
    raise InputError(f"The model {model.name!r} has no structure {structure.key!r}.")


def _names(structure: Structure) -> set[str]:
    return {structure.key.casefold(), structure.name.casefold()}


def _check_explain(asked: tuple[str, ...] | str, model: LoadedModel) -> None:
    """Refuse names of structures that this model cannot find, before anything is computed."""
    if isinstance(asked, str):
        return
    sided = model.localiser is not None and model.localiser.instances == "left-right"
    sides: tuple[Literal["left", "right"], ...] = ("left", "right")
    known = list(model.structures)
    if sided:
        known += [structure.on_side(side) for side in sides for structure in model.structures]
    for name in asked:
        if not any(name.casefold() in _names(structure) for structure in known):
            raise InputError(
                f"The model {model.name!r} has no structure {name!r} to explain; it has"
                f" {', '.join(structure.key for structure in known)}."
            )


def _structures_to_explain(
    asked: tuple[str, ...] | str, found: Sequence[Structure], model: LoadedModel
) -> tuple[tuple[Structure, ...], tuple[str, ...]]:
    """Structures of a result that were asked for by their own name or that of their base; and warnings."""
    if isinstance(asked, str):
        return (() if asked == "none" else tuple(found)), ()
    wanted = {name.casefold() for name in asked}
    chosen, used = [], set()
    for structure in found:
        names = (_names(structure) | _names(_base(structure, model))) & wanted
        if names:
            chosen.append(structure)
            used |= names
    warnings = tuple(
        f"'{name}' was not explained: this image was segmented without telling sides apart."
        for name in asked
        if name.casefold() not in used
    )
    return tuple(chosen), warnings


def _explain(
    segmenter: Segmenter,
    prediction: Prediction,
    chosen: Sequence[Structure],
    report: Report,
    cancel: Cancel | None,
) -> tuple[dict[str, Volume], tuple[str, ...]]:
    """Grad-CAM of the chosen structures where they were segmented, or on the CPU if memory is short."""
    if not chosen:
        return {}, ()
    from DIANetLib.acwi.explain import explain
    from DIANetLib.inference.memory import is_out_of_memory

    report(Progress("explain", 0, len(chosen)))

    def run(device: str) -> dict[str, Volume]:
        return explain(
            segmenter.model.network(device),
            segmenter.kept,
            prediction.labels,
            [structure.key for structure in chosen],
            window=segmenter.model.window,
            progress=lambda done, total: report(Progress("explain", done, total)),
            cancel=cancel,
        )

    device = prediction.device.split()[0]
    try:
        return run(device), ()
    except (RuntimeError, MemoryError) as error:
        if device == "cpu" or not is_out_of_memory(error):
            raise
        return run("cpu"), (f"Grad-CAM was computed on the CPU: the memory of {device} was short.",)
