# SPDX-License-Identifier: Apache-2.0
"""What a worker keeps between requests: loaded models and the latest results. No files but those of models.

torch is imported by the first call that computes something.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np

from DIANetLib.errors import DependencyError, InputError
from DIANetLib.inference.prediction import Box, Progress
from DIANetLib.model_folders import METADATA, WEIGHTS
from DIANetLib.worker.background import Background
from DIANetLib.worker.case import (
    Case,
    CaseOptions,
    Seen,
    check_options,
    explain_seen,
    find_places,
    segment_case,
)
from DIANetLib.worker.job import Job
from DIANetLib.worker.protocol import ReviewOptions

if TYPE_CHECKING:
    from DIANetLib.acwi.review import Region
    from DIANetLib.bundle import LoadedModel
    from DIANetLib.inference.engine import Segmenter
    from DIANetLib.volume import Volume

__all__ = ["Segmentation", "Session"]

KEPT_RESULTS = 3
_KEPT_MODELS = 3

_Stamp = tuple[tuple[int, int], ...]
_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A case with the model that it was segmented by.

    Attributes:
        case: The results.
        model: The model.
        layers: Layers of the network that Grad-CAM can be taken at.
    """

    case: Case
    model: LoadedModel
    layers: tuple[str, ...]


@dataclass(eq=False)
class _Held:
    """A model in memory, with what its files looked like."""

    model: LoadedModel
    stamp: _Stamp
    segmenters: dict[str, Segmenter] = field(default_factory=dict)
    localiser: tuple[LoadedModel, _Stamp] | None = None

    def is_current(self) -> bool:
        parts = [(self.model, self.stamp), *([self.localiser] if self.localiser else [])]
        return all(_stamp(model.path) == stamp for model, stamp in parts)

    def release(self) -> None:
        self.model.release()
        if self.localiser is not None:
            self.localiser[0].release()


@dataclass(frozen=True, eq=False)
class _Kept:
    """What later questions about a result need, on the CPU."""

    held: _Held
    seen: Seen
    error_probability: Volume


class Session:
    """Models and results between requests.

    Args:
        background: Does what cannot be asked to stop.
    """

    def __init__(self, background: Background | None = None) -> None:
        self.background = background or Background()
        self._held: dict[Path, _Held] = {}  # the latest used last
        self._kept: dict[str, _Kept] = {}  # the latest last

    def segment(
        self,
        result: str,
        model: str,
        volumes: Sequence[Volume],
        options: CaseOptions,
        *,
        device: str = "auto",
        job: Job,
    ) -> Segmentation:
        """Segment a case and keep what `explain` and `review` need.

        Args:
            result: What the result is called from now on.
            model: Name of a model or its folder.
            volumes: One per modality of the model; not kept.
            options: How.
            device: `"auto"`, `"cpu"`, `"cuda"`, `"cuda:N"` or `"mps"`.
            job: Told how far it is, and asked whether to go on.

        Raises:
            Cancelled: The job is to stop.
            DIANetError: With a sentence.
        """
        job.report(Progress("load", 0, 1))
        held = self._model(model, job)
        check_options(options, held.model)
        segmenter = self._aside(lambda: _segmenter(held, device), job)
        if options.explain != "none":
            self._aside(_import_explain, job)
        job.report(Progress("load", 1, 1))
        case = segment_case(
            segmenter,
            held.model,
            volumes,
            options,
            report=job.report,
            cancel=lambda: job.cancelled,
            aside=lambda work: self._aside(work, job),
        )
        self._kept.pop(result, None)
        self._kept[result] = _Kept(held, case.seen, case.prediction.error_probability)
        for old in list(self._kept)[:-KEPT_RESULTS]:
            del self._kept[old]
        # The next question is likely to be why; MONAI's import takes seconds.
        self.background.start(_import_explain)
        layers = tuple(held.model.network(segmenter.device).explainable_layers())
        return Segmentation(case, held.model, layers)

    def explain(
        self,
        result: str,
        structures: Sequence[str],
        *,
        region: Box | None = None,
        layer: str | None = None,
        job: Job,
    ) -> tuple[dict[str, Volume], tuple[str, ...]]:
        """Grad-CAM of structures of a kept result, by key, and warnings.

        Args:
            result: Name of the result.
            structures: Keys of its structures.
            region: Only the structures' parts in this box are explained; None for all of them.
            layer: Layer of the network; None for the bottleneck.
            job: Told how far it is, and asked whether to go on.

        Raises:
            Cancelled: The job is to stop.
            InputError: There is no such result, structure or layer, nothing of a structure lies in the
                region, or the model has changed since.
        """
        kept = self._result(result)
        seen = kept.seen
        values = {structure.key: structure.value for structure in seen.structures}
        for key in structures:
            if key not in values:
                raise InputError(f"The result has no structure {key!r}; it has {', '.join(values)}.")
        if not kept.held.is_current():
            raise InputError(
                f"The model {kept.held.model.name!r} has changed since this result was made.",
                remedy="Segment again, then explain.",
            )
        if region is not None:
            labels = _only_inside(seen.labels, region)
            for key in structures:
                if not (labels.array == values[key]).any():
                    raise InputError(
                        f"Nothing of {key!r} lies in the region to explain.",
                        remedy="Choose a region that the structure reaches into.",
                    )
            seen = Seen(labels, seen.structures, seen.regions, seen.device)
        job.report(Progress("load", 0, 1))
        self._aside(_import_explain, job)
        self._aside(lambda: kept.held.model.network(seen.device), job)
        job.report(Progress("load", 1, 1))
        return explain_seen(
            kept.held.model,
            seen,
            structures,
            layer=layer,
            report=job.report,
            cancel=lambda: job.cancelled,
        )

    def review(self, result: str, options: ReviewOptions, *, job: Job) -> tuple[Region, ...]:
        """Low-confidence regions of a kept result.

        Raises:
            Cancelled: The job is to stop.
            InputError: There is no such result, or an option is out of range.
        """
        kept = self._result(result)
        job.report(Progress("review", 0, 1))
        error, seen = kept.error_probability, kept.seen
        regions = self._aside(lambda: find_places(error, seen.labels, seen.structures, options), job)
        job.report(Progress("review", 1, 1))
        return regions

    def rest(self) -> None:
        """Let go of the networks; the next request loads them again. Results are kept."""
        for held in self._held.values():
            held.release()
        for kept in self._kept.values():
            kept.held.release()
        _free()

    def unload(self) -> None:
        """Forget models and results."""
        self.rest()
        self._held.clear()
        self._kept.clear()
        _free()

    def _aside(self, work: Callable[[], _T], job: Job) -> _T:
        return self.background.run(work, job.check)

    def _result(self, name: str) -> _Kept:
        if name not in self._kept:
            raise InputError(
                f"The worker does not have this result any more; it keeps the latest {KEPT_RESULTS}.",
                remedy="Segment again.",
            )
        return self._kept[name]

    def _model(self, model: str, job: Job) -> _Held:
        """The model, loaded anew if its files have changed."""

        def load() -> _Held:
            _import_engine()
            from DIANetLib.bundle import find_bundle, load_bundle

            path = find_bundle(model).resolve()
            held = self._held.pop(path, None)
            if held is None or not held.is_current():
                stamp = _stamp(path)
                held = _Held(load_bundle(path), stamp)
            self._held[path] = held
            for old in list(self._held)[:-_KEPT_MODELS]:
                self._held.pop(old).release()
            return held

        return self._aside(load, job)


def _segmenter(held: _Held, device: str) -> Segmenter:
    """The model's segmenter for a device, with all its weights in memory."""
    from DIANetLib.inference.engine import Segmenter

    segmenter = held.segmenters.get(device)
    if segmenter is None:
        segmenter = Segmenter(held.model, device=device)
    held.model.network(segmenter.device)
    if held.model.localiser is not None:
        localiser = cast("LoadedModel", segmenter.load_localiser())
        localiser.network(segmenter.device)
        held.localiser = localiser, _stamp(localiser.path)
    held.segmenters[device] = segmenter
    return segmenter


def _stamp(folder: Path) -> _Stamp:
    """When the files of a model were last written, and their lengths; empty if they are not there."""
    try:
        states = [(folder / file).stat() for file in (METADATA, WEIGHTS)]
    except OSError:
        return ()
    return tuple((state.st_mtime_ns, state.st_size) for state in states)


def _only_inside(labels: Volume, region: Box) -> Volume:
    """The labelmap with background outside the box."""
    geometry = labels.geometry
    index = geometry.world_to_index(region.corners)
    low = np.clip(np.floor(index.min(axis=0)), 0, geometry.size).astype(int)[::-1]
    high = np.clip(np.ceil(index.max(axis=0)) + 1, 0, geometry.size).astype(int)[::-1]
    rows, columns = slice(low[1], high[1]), slice(low[2], high[2])
    kept = np.zeros_like(labels.array)
    j, i = np.mgrid[rows, columns]
    for k in range(low[0], high[0]):  # by planes: points take 24 times the memory of labels
        points = geometry.index_to_world(np.stack([i, j, np.full_like(i, k)], axis=-1))
        kept[k, rows, columns] = np.where(region.contains(points), labels.array[k, rows, columns], 0)
    return labels.with_array(kept)


def _import_engine() -> None:
    try:
        import DIANetLib.bundle
        import DIANetLib.inference.engine  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:  # a broken build of torch raises any of them
        raise _missing(error) from error


def _import_explain() -> None:
    try:
        import DIANetLib.acwi.explain  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        raise _missing(error) from error


def _missing(error: Exception) -> DependencyError:
    remedy = (
        "Install DIANet's dependencies into the Python that the worker runs in; `dianet doctor` lists them."
    )
    if isinstance(error, ModuleNotFoundError) and error.name:
        return DependencyError(f"The Python package {error.name!r} is not installed.", remedy=remedy)
    lines = str(error).splitlines() or [type(error).__name__]
    return DependencyError(f"A Python package cannot be loaded: {lines[0].rstrip('.')}.", remedy=remedy)


def _free() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
