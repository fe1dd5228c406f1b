# SPDX-License-Identifier: Apache-2.0
"""One case from volumes to results: what the command (`jobs`) and the worker (`session`) share.

Segmentation, Grad-CAM where it was asked for, low-confidence regions; no files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeVar

from DIANetLib.errors import Cancelled, InputError
from DIANetLib.inference.prediction import Box, InnerMaps, Prediction, Progress
from DIANetLib.structures import Side, Structure
from DIANetLib.worker.protocol import ReviewOptions

if TYPE_CHECKING:
    from DIANetLib.acwi.review import Region
    from DIANetLib.bundle import LoadedModel
    from DIANetLib.inference.classification import Classification
    from DIANetLib.inference.engine import Region as SeenRegion
    from DIANetLib.inference.engine import Segmenter
    from DIANetLib.volume import Volume

__all__ = [
    "Asked",
    "Cancel",
    "Case",
    "CaseOptions",
    "Inner",
    "Report",
    "Seen",
    "check_options",
    "explain_seen",
    "find_places",
    "or_on_the_cpu",
    "segment_case",
    "show_inner",
    "stop_if",
]

_Result = TypeVar("_Result")

Report = Callable[[Progress], None]
Cancel = Callable[[], bool]
Asked = tuple[str, ...] | Literal["all", "none"]
#: What a network can show of its own workings.
Inner = Literal["attention", "reliable_path"]


@dataclass(frozen=True)
class CaseOptions:
    """How a case is segmented.

    Attributes:
        samples: T, stochastic passes; 0 for one pass; None for one where the model has a one-pass head, else
            ten.
        seed: Of the stochastic passes; the same seed gives the same result.
        roi: Where to look, LPS mm; None lets the model find it.
        explain: Names or keys of the structures to compute Grad-CAM for, or `"all"`, or `"none"`.
        review: How low-confidence regions are looked for.
        inner: What of the network's workings to show, or `"available"` for all that it can show.
    """

    samples: int | None = None
    seed: int = 0
    roi: Box | None = None
    explain: Asked = "none"
    review: ReviewOptions = field(default_factory=ReviewOptions)
    inner: tuple[Inner, ...] | Literal["available"] = ()


@dataclass(frozen=True, eq=False)
class Seen:
    """What an explanation needs of a case.

    Attributes:
        labels: The labelmap.
        structures: What its values stand for.
        regions: What the network read.
        device: Where it ran, such as `"cuda:0"`.
    """

    labels: Volume
    structures: tuple[Structure, ...]
    regions: tuple[SeenRegion, ...]
    device: str


@dataclass(frozen=True, eq=False)
class Case:
    """What a case gave.

    Attributes:
        prediction: Maps and numbers; timings and warnings include explaining and reviewing.
        gradcam: A map per structure that was explained, by key.
        regions: Low-confidence regions, the worst first.
        seen: For explanations later on.
        inner: What was asked for of the network's workings.
    """

    prediction: Prediction
    gradcam: Mapping[str, Volume]
    regions: tuple[Region, ...]
    seen: Seen
    inner: InnerMaps = field(default_factory=InnerMaps)


def segment_case(
    segmenter: Segmenter,
    model: LoadedModel,
    volumes: Sequence[Volume],
    options: CaseOptions,
    *,
    report: Report,
    cancel: Cancel | None = None,
) -> Case:
    """Segment a case, explain structures and find where to look.

    Args:
        segmenter: Of the model.
        model: The model.
        volumes: One per modality of the model; those that it does not need may be missing.
        options: How.
        report: Called as the work goes on.
        cancel: Asked between steps, windows, layers of the network and samples.

    Raises:
        DIANetError: With a sentence.
    """
    prediction = segmenter.segment(
        volumes,
        samples=options.samples,
        seed=options.seed,
        roi=options.roi,
        progress=report,
        cancel=cancel,
        keep_features=True,
    )
    seen = Seen(prediction.labels, prediction.structures, segmenter.kept, prediction.device.split()[0])
    segmenter.kept = ()
    timings = dict(prediction.timings)
    chosen, warnings = _structures_to_explain(options.explain, prediction.structures, model)
    maps: dict[str, Volume] = {}
    if chosen:
        with _timed(timings, "explain"):
            keys = [structure.key for structure in chosen]
            maps, more = explain_seen(model, seen, keys, report=report, cancel=cancel)
            warnings += more
    if model.classes:
        with _timed(timings, "classify"):
            classified = _classified(model, seen, options, cancel)
            prediction = replace(prediction, classifications=classified)
    inner = InnerMaps()
    wanted = _can_show(model) if options.inner == "available" else options.inner
    if wanted:
        from DIANetLib.inference.engine import assign_modalities

        image = next(volume for volume in assign_modalities(model, volumes) if volume is not None)
        with _timed(timings, "inner"):
            inner, more = show_inner(model, seen, image, wanted, report=report, cancel=cancel)
            warnings += more
    stop_if(cancel)
    report(Progress("review", 0, 1))
    with _timed(timings, "review"):
        error = prediction.error_probability
        regions = find_places(error, seen.labels, seen.structures, options.review)
    report(Progress("review", 1, 1))
    prediction = replace(prediction, timings=timings, warnings=(*prediction.warnings, *warnings))
    return Case(prediction, maps, regions, seen, inner)


def explain_seen(
    model: LoadedModel,
    seen: Seen,
    keys: Sequence[str],
    *,
    layer: str | None = None,
    report: Report,
    cancel: Cancel | None = None,
) -> tuple[dict[str, Volume], tuple[str, ...]]:
    """Grad-CAM of structures where they were segmented, or on the CPU if memory is short; and warnings.

    Without a layer it is of those of `DIANetLib.acwi.window_maps.default_layers` together.

    Raises:
        Cancelled: `cancel` said so.
        InputError: There is no such layer.
    """
    from DIANetLib.acwi.explain import explain

    stop_if(cancel)
    report(Progress("explain", 0, len(keys)))

    def run(device: str) -> dict[str, Volume]:
        return explain(
            model.network(device),
            seen.regions,
            seen.labels,
            keys,
            window=model.window,
            layer=layer,
            progress=lambda done, total: report(Progress("explain", done, total)),
            cancel=cancel,
        )

    return or_on_the_cpu(run, seen.device, "Grad-CAM was")


def show_inner(
    model: LoadedModel,
    seen: Seen,
    image: Volume,
    wanted: Sequence[Inner],
    *,
    report: Report,
    cancel: Cancel | None = None,
) -> tuple[InnerMaps, tuple[str, ...]]:
    """Attention and reliable path where an image was segmented, or on the CPU if memory is short.

    Args:
        model: The model.
        seen: What it read.
        image: The first input.
        wanted: What to show.
        report: Told how far it is.
        cancel: Asked between layers of the network.

    Returns:
        The maps, and warnings.

    Raises:
        Cancelled: `cancel` said so.
        InputError: The model has no such block.
    """
    from DIANetLib.acwi.attention import attention_maps, reliable_path

    stop_if(cancel)
    report(Progress("inner", 0, 1))

    def run(device: str) -> InnerMaps:
        network, window, regions = model.network(device), model.window, seen.regions
        attention, path = {}, None
        if "attention" in wanted:
            attention = attention_maps(network, regions, image, window=window, cancel=cancel)
        if "reliable_path" in wanted:
            path = reliable_path(network, regions, image, window=window, cancel=cancel)
        return InnerMaps(attention, path)

    maps = or_on_the_cpu(run, seen.device, "Attention and reliable path were")
    report(Progress("inner", 1, 1))
    return maps


def or_on_the_cpu(run: Callable[[str], _Result], device: str, what: str) -> tuple[_Result, tuple[str, ...]]:
    """Run on a device, or on the CPU where its memory is short; with a warning then."""
    from DIANetLib.inference.memory import is_out_of_memory

    try:
        return run(device), ()
    except (RuntimeError, MemoryError) as error:
        if device == "cpu" or not is_out_of_memory(error):
            raise
    return run("cpu"), (f"{what} computed on the CPU: the memory of {device} was short.",)


def find_places(
    error_probability: Volume, labels: Volume, structures: Sequence[Structure], options: ReviewOptions
) -> tuple[Region, ...]:
    """Low-confidence regions, as `DIANetLib.acwi.review.find_regions` lists them.

    Raises:
        InputError: An option is out of range.
    """
    from DIANetLib.acwi.review import find_regions

    return find_regions(error_probability, labels, structures, **asdict(options))


def check_options(options: CaseOptions, model: LoadedModel) -> None:
    """Refuse what the model cannot do, before anything is computed: numbers out of range, unknown structures.

    Raises:
        InputError: Naming what is wrong.
    """
    if not model.structures:
        does = [
            f"it tells {', '.join(entry.key for entry in model.classes)} images apart"
            if model.classes
            else "",
            f"it reconstructs images ({model.reconstruction.task})" if model.reconstruction else "",
        ]
        command = "classify" if model.classes else "reconstruct"
        raise InputError(
            f"The model {model.name!r} does not segment: {' and '.join(part for part in does if part)}.",
            remedy=f"Use `dianet {command}`, or choose another model.",
        )
    if options.samples is not None and options.samples < 0:
        raise InputError(f"The number of samples is {options.samples}, expected 0 or more.")
    if options.seed < 0:
        raise InputError(f"The seed is {options.seed}, expected 0 or more.")
    lacking = [] if options.inner == "available" else [n for n in options.inner if n not in _can_show(model)]
    if lacking:
        block = {"attention": "attention", "reliable_path": "fusion of reliable paths"}[lacking[0]]
        raise InputError(
            f"The model {model.name!r} has no {block}, so there is none to show.",
            remedy=f"Leave --{lacking[0].replace('_', '-')} out, or choose another model.",
        )
    if isinstance(options.explain, str):
        return
    sides: tuple[Side, ...] = ("left", "right")
    known = list(model.structures)
    if model.localiser is not None and model.localiser.instances == "left-right":
        known += [structure.on_side(side) for side in sides for structure in model.structures]
    for name in options.explain:
        if not any(name.casefold() in _names(structure) for structure in known):
            raise InputError(
                f"The model {model.name!r} has no structure {name!r} to explain; it has"
                f" {', '.join(structure.key for structure in known)}."
            )


def stop_if(cancel: Cancel | None) -> None:
    """Raise `Cancelled` if the user has asked to stop."""
    if cancel is not None and cancel():
        raise Cancelled


def _classified(
    model: LoadedModel, seen: Seen, options: CaseOptions, cancel: Cancel | None
) -> tuple[Classification, ...]:
    """What each region that was segmented is taken for as a whole."""
    from DIANetLib.inference.classify import classify_prepared
    from DIANetLib.inference.engine import USUAL_SAMPLES

    # A one-pass head tells of voxels alone.
    samples = USUAL_SAMPLES if options.samples is None else options.samples
    return tuple(
        classify_prepared(
            model.network(seen.device),
            region.prepared.array,
            model.classes,
            model.window,
            available=region.available,
            samples=samples,
            seed=options.seed,
            on_sample=lambda: stop_if(cancel),
        )
        for region in seen.regions
    )


def _can_show(model: LoadedModel) -> tuple[Inner, ...]:
    """What a model's network can show of its workings."""
    config = model.network_config
    blocks: tuple[tuple[Inner, object], ...] = (
        ("attention", config.attention),
        ("reliable_path", config.reliable_path),
    )
    return tuple(name for name, block in blocks if block is not None)


def _base(structure: Structure, model: LoadedModel) -> Structure:
    """The model's structure that a result's structure is, side or not."""
    for base in model.structures:
        sided = structure.side is not None and structure.key == f"{base.key}_{structure.side}"
        if sided or structure.key == base.key:
            return base
    raise InputError(f"The model {model.name!r} has no structure {structure.key!r}.")


def _names(structure: Structure) -> set[str]:
    return {structure.key.casefold(), structure.name.casefold()}


def _structures_to_explain(
    asked: Asked, found: Sequence[Structure], model: LoadedModel
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


@contextmanager
def _timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    timings[stage] = time.perf_counter() - start
