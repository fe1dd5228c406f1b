# SPDX-License-Identifier: Apache-2.0
"""Requests to answers: files of the exchange folder to volumes, a `Session`'s results back to files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from DIANetLib.acwi.familiarity import familiarity_line
from DIANetLib.catalogue import structure_info
from DIANetLib.errors import InputError, WorkerError
from DIANetLib.inference.prediction import Box, InnerMaps, Prediction, Progress
from DIANetLib.worker.case import CaseOptions
from DIANetLib.worker.exchange import Exchange, geometry_of
from DIANetLib.worker.job import Job
from DIANetLib.worker.protocol import (
    BoxLPS,
    Doctor,
    Done,
    Estimate,
    Estimated,
    Explain,
    Explained,
    LayerKind,
    ListModels,
    MapFile,
    ModelList,
    Payload,
    Review,
    Reviewed,
    Segment,
    Segmented,
    SharedVolume,
    StructureSummary,
    Unload,
)
from DIANetLib.worker.session import Session

if TYPE_CHECKING:
    from DIANetLib.acwi.review import Region
    from DIANetLib.volume import Volume

__all__ = ["Answers"]

_AHEAD_S = 1.0

_Map = tuple[LayerKind, str | None, "Volume"]


class Answers:
    """Answers requests, one at a time.

    Args:
        exchange: Where volumes lie.
        session: What computes.
        rest_s: Seconds without a request after which the networks are let go of.
    """

    def __init__(self, exchange: Exchange, session: Session, *, rest_s: float = 600.0) -> None:
        self.exchange, self.session = exchange, session
        self._rest_s, self._resting = rest_s, False
        self._written: list[SharedVolume] = []

    def answer(self, job: Job) -> Payload:
        """What a request asks for. Its files are the client's once it has been told of them.

        Raises:
            Cancelled: The job is to stop.
            DIANetError: With a sentence.
        """
        request = job.request
        self._written = []
        if isinstance(request, Segment):
            return self._segment(request, job)
        if isinstance(request, Explain):
            return self._explain(request, job)
        if isinstance(request, Review):
            return self._review(request, job)
        if isinstance(request, Estimate):
            return self._estimate(request)
        if isinstance(request, ListModels):
            return ModelList(self.session.models(verify=request.verify))
        if isinstance(request, Doctor):
            return self.session.doctor(self.exchange.folder)
        if isinstance(request, Unload):
            self.session.unload()
            return Done()
        raise WorkerError(f"A worker cannot answer {type(request).__name__}.")

    def discard(self) -> None:
        """Delete what the latest request has written: the client will not hear of it."""
        self.exchange.delete(*self._written)
        self._written = []

    def idle(self, seconds: float) -> None:
        """Nothing has been asked for some time: get ready for what is likely, or let go of the networks.

        Args:
            seconds: Since the latest request.
        """
        if seconds < _AHEAD_S:
            self._resting = False
        elif seconds < self._rest_s:
            self.session.prepare_to_explain()
        elif not self._resting:
            self._resting = True
            self.session.rest()

    def _segment(self, request: Segment, job: Job) -> Segmented:
        options = CaseOptions(
            request.samples,
            request.seed,
            _box(request.roi),
            "all" if request.explain == ("all",) else request.explain or "none",
            request.review,
            "available",
        )
        volumes = [self.exchange.read(shared) for shared in request.volumes]
        found = self.session.segment(
            request.id, request.model, volumes, options, device=request.device, job=job
        )
        case, prediction = found.case, found.case.prediction
        maps = _maps(prediction, case.gradcam, case.inner)
        job.report(Progress("write", 0, len(maps) + 1))
        labels = self._write(prediction.labels, job)
        files = self._write_maps(maps, job, done=1)
        return Segmented(
            labels=labels,
            structures=tuple(structure_info(structure) for structure in prediction.structures),
            maps=files,
            summaries=_summaries(prediction),
            regions=_regions_text(case.regions),
            warnings=prediction.warnings,
            device=prediction.device,
            timings=dict(prediction.timings),
            samples=prediction.samples,
            seed=request.seed,
            model=prediction.model.name,
            model_version=prediction.model.version,
            model_sha256=prediction.model.sha256,
            layers=found.layers,
            paths=() if case.inner.path is None else case.inner.path.names,
            uncertainty=prediction.uncertainty_from,
            familiarity=familiarity_line(prediction.familiarity),
        )

    def _explain(self, request: Explain, job: Job) -> Explained:
        if not request.structures:
            raise InputError("No structure to explain was named.")
        maps, warnings = self.session.explain(
            request.result,
            tuple(dict.fromkeys(request.structures)),
            region=_box(request.region),
            layer=request.layer,
            job=job,
        )
        files = self._write_maps([("gradcam", key, volume) for key, volume in maps.items()], job)
        return Explained(files, warnings)

    def _review(self, request: Review, job: Job) -> Reviewed:
        return Reviewed(_regions_text(self.session.review(request.result, request.options, job=job)))

    def _estimate(self, request: Estimate) -> Estimated:
        geometry = geometry_of(request.size, request.spacing, request.origin, request.direction)
        devices = self.session.estimate(
            request.model, geometry, roi=_box(request.roi), samples=request.samples
        )
        return Estimated(devices)

    def _write_maps(self, maps: Sequence[_Map], job: Job, *, done: int = 0) -> tuple[MapFile, ...]:
        total = done + len(maps)
        files = []
        for kind, key, volume in maps:
            job.report(Progress("write", done, total))
            files.append(MapFile(kind, key, self._write(volume, job, crop_zeros=True)))
            done += 1
        job.report(Progress("write", total, total))
        job.check()  # from here on the files are the client's
        return tuple(files)

    def _write(self, volume: Volume, job: Job, *, crop_zeros: bool = False) -> SharedVolume:
        shared = self.exchange.write(volume, crop_zeros=crop_zeros, check=job.check)
        self._written.append(shared)
        return shared


def _maps(prediction: Prediction, gradcam: Mapping[str, Volume], inner: InnerMaps) -> list[_Map]:
    """All maps of a result, in a fixed order."""
    kinds: tuple[LayerKind, ...] = ("total", "aleatoric", "epistemic", "heteroscedastic")
    uncertainty = prediction.uncertainty
    return [
        *((kind, None, uncertainty[kind]) for kind in kinds if kind in uncertainty),
        ("error", None, prediction.error_probability),
        *((("attention", None, inner.attention["attention"]),) if inner.attention else ()),
        *((("path", None, inner.path.chosen),) if inner.path is not None else ()),
        *(("variance", key, volume) for key, volume in prediction.variance.items()),
        *(("gradcam", key, volume) for key, volume in gradcam.items()),
    ]


def _summaries(prediction: Prediction) -> tuple[StructureSummary, ...]:
    def summary(key: str) -> StructureSummary:
        low, high = prediction.dice_interval.get(key) or (None, None)
        return StructureSummary(
            key,
            prediction.volumes_ml[key],
            prediction.confidence[key],
            prediction.expected_dice[key],
            low,
            high,
        )

    return tuple(summary(structure.key) for structure in prediction.structures)


def _regions_text(regions: Sequence[Region]) -> str:
    from DIANetLib.acwi.review import regions_to_json

    return regions_to_json(regions)


def _box(box: BoxLPS | None) -> Box | None:
    return None if box is None else Box(box.lo, box.hi)
