# SPDX-License-Identifier: Apache-2.0
"""The engine: volumes in, a prediction on the input's grid out.

    volumes -> prepare -> [localise] -> windows: encode once, decode T times, running sums -> blend -> restore

Paper section 3.4 (ACWI): maps from equations 31 to 35, calibrated by the model's temperature.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from DIANetLib.acwi.error_calibration import ErrorCalibration
from DIANetLib.acwi.familiarity import Familiarity, familiarity_warning, feature_vector
from DIANetLib.acwi.quality import QualityModel
from DIANetLib.acwi.uncertainty import UncertaintyMaps
from DIANetLib.bundle_schema import LocaliserSpec, ModalitySpec, OnePassSpec
from DIANetLib.errors import BundleError, InputError
from DIANetLib.inference.belief import Localised, with_belief
from DIANetLib.inference.canvas import Canvas
from DIANetLib.inference.cascade import find_instances, is_crop, sided
from DIANetLib.inference.grid import GridRun, NetworkSource
from DIANetLib.inference.memory import describe_device, resolve_device
from DIANetLib.inference.meter import Meter
from DIANetLib.inference.prediction import Box, ModelRef, Prediction, Progress
from DIANetLib.inference.sampling import check_draws
from DIANetLib.labelling import labels_of
from DIANetLib.modalities import assign, missing_sentence
from DIANetLib.preprocess import Prepared, PreprocessConfig, on_one_grid, prepare
from DIANetLib.structures import Structure
from DIANetLib.volume import Volume

__all__ = [
    "USUAL_SAMPLES",
    "FamiliarityJudge",
    "Model",
    "Region",
    "Segmenter",
    "assign_modalities",
    "usual_samples",
    "with_missing",
]

#: T where nobody asked for a number and one pass would not do.
USUAL_SAMPLES = 10


class FamiliarityJudge(Protocol):
    """What is asked of a model's `FamiliarityModel`."""

    def judge(self, features: npt.NDArray[np.float64], region: str = ...) -> Familiarity:
        """How familiar the pooled features (D,) of a region are."""


class Model(NetworkSource, Protocol):
    """What the engine asks of a model; `DIANetLib.bundle.LoadedModel` has all of it."""

    @property
    def name(self) -> str:
        """Its name, for messages."""

    @property
    def ref(self) -> ModelRef:
        """Name, version and hash."""

    @property
    def structures(self) -> tuple[Structure, ...]:
        """What the output channels 1, 2, ... stand for."""

    @property
    def modalities(self) -> tuple[ModalitySpec, ...]:
        """What the input channels stand for."""

    @property
    def localiser(self) -> LocaliserSpec | None:
        """How the region to look at is found."""

    @property
    def preprocess(self) -> PreprocessConfig:
        """How images are prepared."""

    @property
    def error_calibration(self) -> ErrorCalibration | None:
        """What corrects the error probability class by class."""

    @property
    def quality(self) -> QualityModel | None:
        """What turns the samples' agreement into expected Dice."""

    @property
    def one_pass(self) -> OnePassSpec | None:
        """The head that tells from one pass what samples would, if there is one."""

    @property
    def familiarity(self) -> FamiliarityJudge | None:
        """What tells whether a region is like what the model was fitted on."""

    def load_localiser(self) -> Model | None:
        """The model that finds the region."""


@dataclass(frozen=True, eq=False)
class Region:
    """A part of the image that the network reads.

    Attributes:
        prepared: What it reads.
        structures: What its output channels 1, 2, ... stand for there.
        available: Per modality of the model whether it is there.
        box: Where it lies, LPS mm; None for the whole image.
        anchor: What the localiser found there, (n, 3) LPS mm; None without localiser.
        belief: The localiser's log-odds of the structures, (k, j, i) on the grid of `prepared`; None where it
            does not weigh.
    """

    prepared: Prepared
    structures: tuple[Structure, ...]
    available: tuple[bool, ...]
    box: Box | None
    anchor: npt.NDArray[np.float64] | None = None
    belief: npt.NDArray[Any] | None = None


class Segmenter:
    """Segments images with one model; the network stays loaded between calls.

    Args:
        model: The model.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Attributes:
        device: The device meant.
        kept: Regions of the latest call that asked for ``keep_features``.

    Raises:
        DeviceError: The device is not there.
    """

    def __init__(self, model: Model, device: str = "auto") -> None:
        self.model = model
        self.device = resolve_device(device)
        self.kept: tuple[Region, ...] = ()
        self._localiser: Model | None = None

    def segment(
        self,
        volumes: Sequence[Volume],
        *,
        samples: int | None = 10,
        seed: int = 0,
        roi: Box | None = None,
        progress: Callable[[Progress], None] | None = None,
        cancel: Callable[[], bool] | None = None,
        keep_features: bool = False,
        keep_probabilities: bool = False,
    ) -> Prediction:
        """Segment one case.

        Args:
            volumes: One per modality of the model, in its order or named by `Volume.modality`; those that the
                model does not need may be missing.
            samples: Stochastic passes, T; 0 is one pass, of which a model with a one-pass head tells all
                maps, any other the total alone; None is what `usual_samples` says.
            seed: Equal seeds give equal results, however samples are batched.
            roi: Only look here, and run no localiser; LPS mm.
            progress: Called with every step.
            cancel: Asked before every layer of the network; True ends the call.
            keep_features: Keep what the network read in `kept`, for explanations.
            keep_probabilities: Have the structures' probabilities in the prediction.

        Raises:
            Cancelled: ``cancel`` said so.
            DeviceError: Memory does not suffice for the smallest window, not even on the CPU.
            InputError: The volumes are not what the model needs, or what it looks for is not there.
        """
        samples = usual_samples(self.model) if samples is None else samples
        check_draws(samples, seed)
        run = _Run(self, samples, seed, Meter(progress, cancel))
        prediction, regions = run.segment(volumes, roi, keep_probabilities)
        if keep_features:
            self.kept = regions
        return prediction

    def load_localiser(self) -> Model:
        """The model's localiser, loaded at the first call.

        Raises:
            BundleError: It is not there or not usable.
        """
        if self._localiser is None:
            self._localiser = self.model.load_localiser()
        if self._localiser is None:
            raise BundleError(f"the model '{self.model.name}' names no localiser.")
        return self._localiser


def usual_samples(model: Model) -> int:
    """Stochastic passes where nobody asked for a number: none if the model has a one-pass head, else ten."""
    return USUAL_SAMPLES if model.one_pass is None else 0


def assign_modalities(model: Model, volumes: Sequence[Volume]) -> tuple[Volume | None, ...]:
    """The volume of each of the model's modalities, None where one that it does not need is missing.

    Volumes that all name a modality of the model go by name, else the order given is the order meant.

    Raises:
        InputError: One that the model needs is missing, one is there twice, or it cannot be told which is
            which.
    """
    names = [volume.modality for volume in volumes]
    known = all(name and any(spec.matches(name) for spec in model.modalities) for name in names)
    if not known or len(model.modalities) == 1:
        names = [None] * len(volumes)
    files = [volume.modality or volume.name or "unnamed" for volume in volumes]
    places = assign(names, model.modalities, model.name, files=files if known else None).places
    return tuple(None if place is None else volumes[place] for place in places)


def with_missing(prepared: Prepared, available: Sequence[bool]) -> Prepared:
    """An image prepared from the modalities that are there, with channels of zeros, the mean, for the others.

    Args:
        prepared: Of as many channels as modalities are there.
        available: Per modality of the model whether it is there.
    """
    if all(available):
        return prepared
    array = np.zeros((len(available), *prepared.array.shape[1:]), np.float32)
    array[list(available)] = prepared.array
    return replace(prepared, array=array)


class _Run:
    """One call of `Segmenter.segment`."""

    def __init__(self, segmenter: Segmenter, samples: int, seed: int, meter: Meter) -> None:
        self.segmenter, self.model = segmenter, segmenter.model
        self.samples, self.seed, self.meter = samples, seed, meter
        self.one_pass = segmenter.model.one_pass if samples == 0 else None
        self.device = segmenter.device
        self.warnings: list[str] = []
        self.localiser: ModelRef | None = None
        self.available: tuple[bool, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the modalities that are not there."""
        modalities = zip(self.model.modalities, self.available, strict=True)
        return tuple(spec.name for spec, there in modalities if not there)

    def segment(
        self, volumes: Sequence[Volume], roi: Box | None, probabilities: bool
    ) -> tuple[Prediction, tuple[Region, ...]]:
        with self.meter.stage("prepare"):
            assigned = assign_modalities(self.model, volumes)
            self.available = tuple(volume is not None for volume in assigned)
            missing = missing_sentence(self.model.modalities, self.available, self.model.name)
            self.warnings += [missing] if missing else []
            aligned, notes = on_one_grid([volume for volume in assigned if volume is not None])
            self.warnings += notes
            self._refuse_single_slice(self.model, aligned[0])
        regions, structures = self._regions(aligned, roi)

        runs: list[GridRun] = []
        for region in regions:
            first = sum(len(run.windows) for run in runs)
            runs.append(self._grid_run(self.model, region.prepared, self.available, self.samples, first))
        told_by = self.model if self.one_pass is None else self.one_pass
        canvas = Canvas(
            aligned[0].geometry,
            structures,
            probabilities=probabilities,
            quality=told_by.quality,
            error_calibration=told_by.error_calibration,
        )
        own_keys = [structure.key for structure in self.model.structures]
        with self.meter.stage("segment", sum(run.steps for run in runs)):
            results = [self._maps(run) for run in runs]
        with self.meter.stage("restore", len(regions)):
            for region, maps in zip(regions, results, strict=True):
                if region.belief is not None and self.model.localiser is not None:
                    maps = with_belief(maps, region.belief, self.model.localiser.weight)
                left_out = canvas.add(
                    region.prepared,
                    maps,
                    region.structures,
                    own_keys=own_keys,
                    anchor=region.anchor,
                    check=self.meter.check,
                )
                if left_out:
                    names = " and ".join(structure.name for structure in region.structures)
                    self.warnings.append(
                        f"{left_out:.2f} ml labelled {names} lay apart from where the structure was found "
                        "and were left out."
                    )
                self.meter.advance()
        familiarity = self._familiarity(regions, results)
        prediction = canvas.prediction(
            samples=self.samples,
            device=describe_device(self.device),
            timings=self.meter.timings,
            warnings=tuple(dict.fromkeys(self.warnings)),
            regions=tuple(region.box for region in regions if region.box is not None),
            model=self.model.ref,
            localiser=self.localiser,
            missing=self.missing,
            frame=aligned[0],
            one_pass=self.one_pass is not None,
        )
        return replace(prediction, familiarity=familiarity), regions

    def _familiarity(
        self, regions: Sequence[Region], results: Sequence[UncertaintyMaps]
    ) -> tuple[Familiarity, ...]:
        """How familiar each region is, with a warning about those that are not."""
        judge, sides = self.model.familiarity, [region.structures[0].side for region in regions]
        found = tuple(
            judge.judge(feature_vector(maps.pooled.means, maps.pooled.deviations), side or "")
            for maps, side in zip(results, sides, strict=True)
            if judge is not None and maps.pooled is not None
        )
        warning = familiarity_warning(found)
        self.warnings += [warning] if warning else []
        return found

    def _regions(
        self, volumes: Sequence[Volume], roi: Box | None
    ) -> tuple[tuple[Region, ...], tuple[Structure, ...]]:
        """What to read, and the structures that the prediction lists."""
        structures, spec = self.model.structures, self.model.localiser
        if roi is not None or spec is None or is_crop(volumes[0].geometry):
            return (self._region(volumes, roi, structures),), structures
        found = self._localise(volumes, spec)
        instances = find_instances(
            found.mask,
            found.body,
            found.prepared.geometry,
            instances=spec.instances,
            margin_mm=spec.margin_mm,
            minimum_ml=spec.minimum_ml,
            what=", ".join(structure.name for structure in structures),
        )
        if spec.instances == "single":
            regions = tuple(
                self._region(volumes, one.box, structures, one.points, found) for one in instances
            )
            return regions, structures
        both = {side: sided(structures, side) for side in ("left", "right")}
        for side in both:
            if side not in [instance.side for instance in instances]:
                self.warnings.append(f"Nothing was found on the {side} side, which was therefore left out.")
        regions = tuple(
            self._region(volumes, one.box, both[one.side or "left"], one.points, found) for one in instances
        )
        return regions, both["left"] + both["right"]

    def _region(
        self,
        volumes: Sequence[Volume],
        box: Box | None,
        structures: tuple[Structure, ...],
        anchor: npt.NDArray[np.float64] | None = None,
        localised: Localised | None = None,
    ) -> Region:
        with self.meter.timed("prepare"):
            prepared = prepare(volumes, self.model.preprocess, region=box)
        self.warnings += prepared.warnings
        spec, belief = self.model.localiser, None
        if localised is not None and spec is not None and spec.weight > 0:
            belief = localised.log_odds(prepared.geometry)
        return Region(with_missing(prepared, self.available), structures, self.available, box, anchor, belief)

    def _localise(self, volumes: Sequence[Volume], spec: LocaliserSpec) -> Localised:
        """Where the localiser finds the structures asked for, and all that it finds."""
        model = self.segmenter.load_localiser()
        channels = {structure.key: n for n, structure in enumerate(model.structures, start=1)}
        unknown = [key for key in spec.structures if key not in channels]
        if unknown:
            raise BundleError(
                f"the model '{self.model.name}' looks for {', '.join(unknown)}, which its localiser "
                f"'{model.name}' does not know.",
                remedy="Install matching versions of both models.",
            )
        self._refuse_single_slice(model, volumes[0])
        self.localiser = model.ref
        with self.meter.timed("prepare"):
            chosen = self._for_localiser(model, volumes)
            available = tuple(volume is not None for volume in chosen)
            prepared = prepare([volume for volume in chosen if volume is not None], model.preprocess)
            prepared = with_missing(prepared, available)
        run = self._grid_run(model, prepared, available, 0, 0)
        with self.meter.stage("localise", run.steps):
            mean = self._maps(run).mean_probability.numpy()
        labels, wanted = labels_of(mean), [channels[key] for key in spec.structures]
        return Localised(np.isin(labels, wanted), labels > 0, mean[wanted].sum(0), prepared)

    def _for_localiser(self, model: Model, volumes: Sequence[Volume]) -> tuple[Volume | None, ...]:
        """The localiser's modalities among those given; the first ones where names don't tell."""
        given = [
            spec.name for spec, there in zip(self.model.modalities, self.available, strict=True) if there
        ]
        chosen = [
            next((v for v, name in zip(volumes, given, strict=True) if spec.matches(name)), None)
            for spec in model.modalities
        ]
        complete = all(v is not None or not s.required for v, s in zip(chosen, model.modalities, strict=True))
        if complete and any(volume is not None for volume in chosen):
            return tuple(chosen)
        unnamed = [replace(volume, modality=None) for volume in volumes[: len(chosen)]]
        return assign_modalities(model, unnamed)

    def _grid_run(
        self, model: Model, prepared: Prepared, available: tuple[bool, ...], samples: int, first_window: int
    ) -> GridRun:
        flat = model.network(self.device).config.spatial_dims == 2
        thin = min(prepared.source_geometry.size) == 1 and prepared.geometry.size[2] > 1
        if flat and thin:
            raise InputError(
                f"model '{model.name}' reads axial slices, got a single slice of another plane "
                f"({prepared.source_geometry.anatomical_axes}).",
                remedy="Choose a model for volumes or for that plane.",
            )
        return GridRun(
            model,
            prepared.array,
            self.device,
            available=available,
            samples=samples,
            seed=self.seed,
            first_window=first_window,
            one_pass=self.one_pass is not None and model is self.model,
            pooled=model is self.model and model.familiarity is not None,
        )

    def _maps(self, run: GridRun) -> UncertaintyMaps:
        if run.plan.device != self.device:  # an earlier region has retreated from the GPU
            run.move(self.device)
        maps = run.maps(self.meter)
        self.device = run.plan.device
        self.warnings += run.warnings
        return maps

    def _refuse_single_slice(self, model: Model, volume: Volume) -> None:
        if model.network(self.device).config.spatial_dims == 3 and min(volume.geometry.size) == 1:
            size = " × ".join(str(n) for n in volume.geometry.size)
            raise InputError(
                f"model '{model.name}' needs a volume, got a single slice ({size} voxels).",
                remedy="Give the whole series, or choose a 2-D model.",
            )
