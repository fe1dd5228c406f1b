# SPDX-License-Identifier: Apache-2.0
"""What a worker keeps between requests: loaded models and the latest results. No files but those of models.

torch is imported by the first call that computes something.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from DIANetLib.catalogue import read_catalogue
from DIANetLib.errors import DIANetError, InputError
from DIANetLib.inference.prediction import Box, Progress
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
from DIANetLib.worker.loaded import Held, HeldModels, import_explain
from DIANetLib.worker.protocol import KEPT_RESULTS, DeviceEstimate, DoctorReport, ModelInfo, ReviewOptions

if TYPE_CHECKING:
    from DIANetLib.acwi.review import Region
    from DIANetLib.bundle import LoadedModel
    from DIANetLib.volume import Geometry, Volume

__all__ = ["Segmentation", "Session"]


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


@dataclass(frozen=True, eq=False)
class _Kept:
    """What later questions about a result need, on the CPU."""

    held: Held
    seen: Seen
    error_probability: Volume


class Session:
    """Models and results between requests."""

    def __init__(self) -> None:
        self._models = HeldModels()
        self._kept: dict[str, _Kept] = {}  # the latest last
        self._ahead: threading.Thread | None = None

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
            volumes: One per modality of the model, those that it does not need may be missing; not kept.
            options: How.
            device: `"auto"`, `"cpu"`, `"cuda"`, `"cuda:N"` or `"mps"`.
            job: Told how far it is, and asked whether to go on.

        Raises:
            Cancelled: The job is to stop.
            DIANetError: With a sentence.
        """
        job.report(Progress("load", 0, 1))
        held = self._models.load(model)
        job.check()
        check_options(options, held.model)
        segmenter = held.segmenter(device)
        job.check()
        if options.explain != "none":
            import_explain()
        job.report(Progress("load", 1, 1))
        case = segment_case(
            segmenter,
            held.model,
            volumes,
            options,
            report=job.report,
            cancel=lambda: job.cancelled,
        )
        self._kept.pop(result, None)
        self._kept[result] = _Kept(held, case.seen, case.prediction.error_probability)
        for old in list(self._kept)[:-KEPT_RESULTS]:
            del self._kept[old]
        from DIANetLib.inference.grid import segmentation_layers

        return Segmentation(case, held.model, segmentation_layers(held.model.network(segmenter.device)))

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
            layer: Layer of the network; None for those that are shown together by default.
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
        import_explain()
        kept.held.model.network(seen.device)
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
        regions = find_places(error, seen.labels, seen.structures, options)
        job.report(Progress("review", 1, 1))
        return regions

    def estimate(
        self, model: str, geometry: Geometry, *, roi: Box | None = None, samples: int | None = None
    ) -> tuple[DeviceEstimate, ...]:
        """Memory that segmenting an image on this grid would need, per device, the automatic choice first.

        Raises:
            DIANetError: With a sentence.
        """
        held = self._models.load(model)
        from DIANetLib.worker.estimate import estimate

        return estimate(held.model, geometry, roi=roi, samples=samples)

    def models(self, *, verify: bool = False) -> tuple[ModelInfo, ...]:
        """The models there are; `verify` hashes their weights too. Needs no torch."""
        listed = read_catalogue()
        try:
            from DIANetLib.bundle import list_bundles
        except ImportError:  # then no model can be used, but they can be shown
            return listed
        problems = {str(entry.path): entry.problem for entry in list_bundles(verify=verify)}
        return tuple(replace(info, problem=info.problem or problems.get(info.path)) for info in listed)

    def doctor(self, folder: Path) -> DoctorReport:
        """What this machine and installation can do; `folder` is where files would go."""
        from DIANetLib.doctor import examine, report

        checks = examine(folder)
        return DoctorReport(report(checks), sum(check.problem for check in checks))

    def prepare_to_explain(self) -> None:
        """Import what explains: the next question is likely to be why, and MONAI's import takes seconds."""
        if self._ahead is None and self._kept:
            self._ahead = threading.Thread(target=_quietly, args=(import_explain,), daemon=True)
            self._ahead.start()

    def rest(self) -> None:
        """Let go of the networks; the next request loads them again. Results are kept."""
        for kept in self._kept.values():
            kept.held.release()
        self._models.release()

    def unload(self) -> None:
        """Forget models and results."""
        self._kept.clear()
        self._models.release()
        self._models.clear()

    def _result(self, name: str) -> _Kept:
        if name not in self._kept:
            raise InputError(
                f"The worker does not have this result any more; it keeps the latest {KEPT_RESULTS}.",
                remedy="Segment again.",
            )
        return self._kept[name]


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


def _quietly(work: Callable[[], None]) -> None:
    with contextlib.suppress(DIANetError):  # whoever needs it will be told
        work()
