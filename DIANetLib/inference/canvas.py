# SPDX-License-Identifier: Apache-2.0
"""From maps on the network's grid to a prediction on the input's grid, region by region.

Channels are restored one at a time and pasted into the region's place; arrays over the whole image are
allocated as zeros, whose pages take no memory until they are written. Where regions overlap, the more
confident label and the larger uncertainty win.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from DIANetLib.acwi.agreement import pairwise_dice
from DIANetLib.acwi.error_calibration import ErrorCalibration
from DIANetLib.acwi.quality import DiceEstimate, QualityFeatures, QualityModel
from DIANetLib.acwi.uncertainty import UncertaintyMaps
from DIANetLib.inference.cascade import far_from
from DIANetLib.inference.prediction import Box, ModelRef, Prediction
from DIANetLib.preprocess import Prepared, RestoredLabels, part_of, restore_box, restore_labels
from DIANetLib.structures import Structure
from DIANetLib.volume import Geometry, Volume

__all__ = ["Canvas"]

FloatArray = npt.NDArray[np.float32]


class Canvas:
    """Results on the input's grid, empty at first.

    Args:
        geometry: Grid of the first input.
        structures: All that the prediction will list.
        probabilities: Whether to keep the structures' probabilities.
        quality: What turns what the run tells into expected Dice; None if the model has nothing for it.
        error_calibration: What corrects the error probability, by the network's channel that was answered.
    """

    def __init__(
        self,
        geometry: Geometry,
        structures: Sequence[Structure],
        *,
        probabilities: bool = False,
        quality: QualityModel | None = None,
        error_calibration: ErrorCalibration | None = None,
    ) -> None:
        self.geometry = geometry
        self.structures = tuple(structures)
        self._labels: npt.NDArray[np.uint8] = np.zeros(geometry.shape, np.uint8)
        self._error = self._blank()
        self._uncertainty = {kind: self._blank() for kind in ("total", "aleatoric", "epistemic")}
        self._variance = {structure.key: self._blank() for structure in structures}
        self._probabilities = {s.key: self._blank() for s in structures} if probabilities else None
        self._own = dict.fromkeys(self._variance, 0.0)  # sum of p over the structure's own voxels
        self._soft = dict.fromkeys(self._variance, 0.0)  # sum of p over all voxels
        self._voxels = dict.fromkeys(self._variance, 0)
        self._overlaps: dict[str, Tensor] = {}  # (T, T) voxels that two samples both give the structure
        self._quality = quality
        self._error_calibration = error_calibration
        self._own_keys: dict[str, str] = {}  # the model's own key, which has no side
        # Of one pass, voxels expected to be right, wrongly given to the structure, and missed.
        self._outcome: dict[str, npt.NDArray[np.float64]] = {}

    def add(
        self,
        prepared: Prepared,
        maps: UncertaintyMaps,
        channels: Sequence[Structure],
        *,
        own_keys: Sequence[str] = (),
        anchor: npt.NDArray[np.float64] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> float:
        """Put the results of one region in their place.

        Args:
            prepared: The region that the network read.
            maps: (K, k, j, i) and (k, j, i) on its grid.
            channels: What the channels 1 to K - 1 stand for.
            own_keys: Keys of the model's own structures, where those of `channels` have a side.
            anchor: Where the localiser found the structure, (n, 3) LPS mm; pieces far from it become
                background.
            check: Called between steps; what it raises ends the work.

        Returns:
            Volume of the pieces that became background, ml.
        """
        mean: FloatArray = maps.mean_probability.numpy()
        found = restore_labels(mean, prepared)
        check()
        left_out = 0.0
        if anchor is not None:
            far = far_from(anchor, found.labels, prepared.part_geometry)
            found.labels[far] = 0
            left_out = float(np.count_nonzero(far)) * self.geometry.voxel_volume_ml
        wrong = self._wrong(found, maps, prepared)
        self._add_labels(prepared, found.labels, wrong, channels)
        for channel, structure in enumerate(channels, start=1):
            own = found.labels == channel
            self._voxels[structure.key] += int(np.count_nonzero(own))
            self._own[structure.key] += float(found.confidence[own].sum(dtype=np.float64))
            self._soft[structure.key] += float(found.soft_voxels[channel])
            if maps.has_parts:  # else it is zero, as the canvas is already
                self._keep_largest(self._variance[structure.key], maps.variance[channel].numpy(), prepared)
            self._own_keys[structure.key] = own_keys[channel - 1] if own_keys else structure.key
            if maps.overlaps is not None:
                shared = maps.overlaps[channel]
                before = self._overlaps.get(structure.key)
                self._overlaps[structure.key] = shared if before is None else before + shared
            if maps.error is not None:
                expected = _outcome(own, wrong, restore_box(mean[channel], prepared), found.confidence)
                self._outcome[structure.key] = self._outcome.get(structure.key, np.zeros(3)) + expected
            if self._probabilities is not None:
                self._keep_largest(self._probabilities[structure.key], mean[channel], prepared)
            check()
        # Interpolation is linear, so the parts still add up to the total.
        self._keep_largest(self._uncertainty["aleatoric"], maps.aleatoric.numpy(), prepared)
        if maps.has_parts:
            self._keep_largest(self._uncertainty["epistemic"], maps.epistemic.numpy(), prepared)
        self._keep_largest(self._uncertainty["total"], maps.total.numpy(), prepared)
        if maps.heteroscedastic is not None:
            target = self._uncertainty.setdefault("heteroscedastic", self._blank())
            self._keep_largest(target, maps.heteroscedastic.numpy(), prepared)
        return left_out

    def prediction(
        self,
        *,
        samples: int,
        device: str,
        timings: Mapping[str, float],
        warnings: Sequence[str],
        regions: Sequence[Box],
        model: ModelRef,
        localiser: ModelRef | None,
        missing: Sequence[str] = (),
        frame: Volume,
        one_pass: bool = False,
    ) -> Prediction:
        """The finished prediction; ``frame`` is the input whose frame of reference the volumes get."""

        def volume(array: npt.NDArray[Any], name: str) -> Volume:
            return Volume(array, self.geometry, name, frame_of_reference=frame.frame_of_reference)

        confidence: dict[str, float | None] = {}
        expected: dict[str, float | None] = {}
        for key, voxels in self._voxels.items():
            confidence[key] = min(1.0, self._own[key] / voxels) if voxels else None
            expected[key] = min(1.0, 2 * self._own[key] / (voxels + self._soft[key])) if voxels else None
        told = self._features(expected)
        estimates = self._estimates(told)
        expected |= {key: estimate.value for key, estimate in estimates.items()}
        counts = np.bincount(self._labels.ravel(), minlength=256)
        ml = self.geometry.voxel_volume_ml
        names = {s.key: s.name for s in self.structures}
        return Prediction(
            geometry=self.geometry,
            structures=self.structures,
            labels=volume(self._labels, "Labels"),
            uncertainty={k: volume(a, f"{k.capitalize()} uncertainty") for k, a in self._uncertainty.items()},
            variance={k: volume(a, f"Variance of {names[k]}") for k, a in self._variance.items()},
            confidence=confidence,
            expected_dice=expected,
            volumes_ml={s.key: float(counts[s.value]) * ml for s in self.structures},
            error_probability=volume(self._error, "Error probability"),
            samples=samples,
            device=device,
            timings=dict(timings),
            warnings=tuple(warnings),
            regions_of_interest=tuple(regions),
            model=model,
            probabilities=None
            if self._probabilities is None
            else {k: volume(a, f"Probability of {names[k]}") for k, a in self._probabilities.items()},
            localiser=localiser,
            missing_modalities=tuple(missing),
            dice_interval={key: estimate.interval for key, estimate in estimates.items()},
            quality=told,
            one_pass=one_pass,
        )

    def _features(self, closed_form: Mapping[str, float | None]) -> dict[str, QualityFeatures | None]:
        """What the run tells of each structure; nothing of a plain pass."""
        told: dict[str, QualityFeatures | None] = {}
        for key in {**self._overlaps, **self._outcome}:
            dice, voxels = closed_form[key], self._voxels[key]
            overlaps, outcome = self._overlaps.get(key), self._outcome.get(key)
            told[key] = None
            if dice is not None:
                told[key] = QualityFeatures(
                    agreement=None if overlaps is None else float(pairwise_dice(overlaps[None])[0]),
                    closed_form=dice,
                    confidence=min(1.0, self._own[key] / voxels),
                    variation=float(self._variance[key].sum(dtype=np.float64)) / voxels,
                    volume_ml=voxels * self.geometry.voxel_volume_ml,
                    trust=None if outcome is None else 2 * outcome[0] / float(outcome[0] + outcome.sum()),
                )
        return told

    def _estimates(self, told: Mapping[str, QualityFeatures | None]) -> dict[str, DiceEstimate]:
        found: dict[str, DiceEstimate] = {}
        for key, features in told.items():
            if self._quality is not None and features is not None:
                estimate = self._quality.estimate(self._own_keys[key], features)
                if estimate is not None:
                    found[key] = estimate
        return found

    def _add_labels(
        self,
        prepared: Prepared,
        labels: npt.NDArray[np.uint8],
        wrong: FloatArray,
        channels: Sequence[Structure],
    ) -> None:
        values = np.array([0, *(structure.value for structure in channels)], np.uint8)
        there, error = part_of(self._labels, prepared), part_of(self._error, prepared)
        better = (labels > 0) & ((there == 0) | (wrong < error))
        np.copyto(there, values[labels], where=better)
        np.maximum(error, wrong, out=error)

    def _wrong(self, found: RestoredLabels, maps: UncertaintyMaps, prepared: Prepared) -> FloatArray:
        """The calibrated probability that a label is wrong, on the part of the source grid."""
        told = 1.0 - found.confidence
        if maps.error is not None:  # of the most probable class, which is not the label everywhere
            told = np.where(found.joined, told, restore_box(maps.error.numpy(), prepared))
        wrong: FloatArray = np.clip(told, 0.0, 1.0)
        if self._error_calibration is not None:
            wrong = self._error_calibration.apply(wrong, found.labels)
        return wrong

    def _keep_largest(self, array: FloatArray, values: FloatArray, prepared: Prepared) -> None:
        there = part_of(array, prepared)
        np.maximum(there, restore_box(values, prepared), out=there)

    def _blank(self) -> FloatArray:
        return np.zeros(self.geometry.shape, np.float32)


def _outcome(
    own: npt.NDArray[np.bool_], wrong: FloatArray, probability: FloatArray, confidence: FloatArray
) -> npt.NDArray[np.float64]:
    """Voxels of a structure expected to be right, wrongly given to it, and missed.

    Args:
        own: The voxels given to it.
        wrong: Probability that the answer is wrong.
        probability: Of the structure.
        confidence: Probability of the answer; what is left is shared by the other classes.
    """
    share = np.clip(probability[~own] / np.maximum(1.0 - confidence[~own], 1e-6), 0.0, 1.0)
    right, false = (1.0 - wrong[own]).sum(dtype=np.float64), wrong[own].sum(dtype=np.float64)
    return np.array([right, false, (wrong[~own] * share).sum(dtype=np.float64)])
