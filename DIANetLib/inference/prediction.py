# SPDX-License-Identifier: Apache-2.0
"""What a segmentation run hands over: results as frozen dataclasses, free of torch.

The uncertainty maps are those of Section 3.6, Eqs. 33-35, with the signs put right: total is the entropy of
the mean probabilities, aleatoric the mean entropy, epistemic their difference (the mutual information), in
nats. Everything lies on the grid of the first input, so no reader has to resample anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from DIANetLib.acwi.familiarity import Familiarity
from DIANetLib.acwi.quality import DiceEstimate, QualityFeatures
from DIANetLib.errors import InputError

if TYPE_CHECKING:
    from DIANetLib.inference.classification import Classification
    from DIANetLib.structures import Structure
    from DIANetLib.volume import Geometry, Volume

__all__ = [
    "UNCERTAINTY_KINDS",
    "Box",
    "InnerMaps",
    "ModelRef",
    "PathMap",
    "Prediction",
    "Progress",
    "UncertaintySource",
]

#: What uncertainty maps come from: T samples, one pass read by a one-pass head, or one plain pass, of which
#: only the total is known.
UncertaintySource = Literal["samples", "one-pass", "plain"]

#: Keys of `Prediction.uncertainty` that every prediction has; "heteroscedastic" is there where the network
#: has a log-variance head.
UNCERTAINTY_KINDS = ("total", "aleatoric", "epistemic")


@dataclass(frozen=True)
class Box:
    """An axis-aligned box in world coordinates, LPS mm.

    Attributes:
        lo: Corner with the smallest coordinates (L, P, S), mm.
        hi: Corner with the largest coordinates (L, P, S), mm.

    Raises:
        InputError: A coordinate is not finite, or `hi` does not exceed `lo` along every axis.
    """

    lo: tuple[float, float, float]
    hi: tuple[float, float, float]

    def __post_init__(self) -> None:
        low, high = (tuple(float(value) for value in corner) for corner in (self.lo, self.hi))
        if len(low) != 3 or len(high) != 3:
            raise InputError(f"A box has two corners of 3 coordinates each, got {self.lo} and {self.hi}.")
        if not np.isfinite((low, high)).all() or not all(a < b for a, b in zip(low, high, strict=True)):
            raise InputError(
                "The upper corner of a box must exceed its lower corner along every axis,"
                f" got {self.lo} to {self.hi} (LPS mm)."
            )
        object.__setattr__(self, "lo", low)
        object.__setattr__(self, "hi", high)

    @property
    def center(self) -> tuple[float, float, float]:
        """Centre of the box, LPS mm."""
        x, y, z = ((a + b) / 2.0 for a, b in zip(self.lo, self.hi, strict=True))
        return x, y, z

    @property
    def size_mm(self) -> tuple[float, float, float]:
        """Edge lengths along L, P and S in mm."""
        x, y, z = (b - a for a, b in zip(self.lo, self.hi, strict=True))
        return x, y, z

    @property
    def corners(self) -> npt.NDArray[np.float64]:
        """The eight corners, shape (8, 3), LPS mm."""
        ends = np.array([self.lo, self.hi])
        pick = np.indices((2, 2, 2)).reshape(3, 8).T
        return np.asarray(ends[pick, np.arange(3)])

    def expanded(self, margin_mm: float) -> Box:
        """The box grown by `margin_mm` on every side."""
        x0, y0, z0 = (value - margin_mm for value in self.lo)
        x1, y1, z1 = (value + margin_mm for value in self.hi)
        return Box((x0, y0, z0), (x1, y1, z1))

    def contains(self, points: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Which of the LPS `points`, shape (..., 3), lie in the box (border included); bool, shape (...)."""
        at = np.asarray(points, dtype=np.float64)
        within = (at >= np.asarray(self.lo)) & (at <= np.asarray(self.hi))
        return np.asarray(within.all(axis=-1))


@dataclass(frozen=True)
class ModelRef:
    """Which model made a result: enough to find it again and to notice that it changed.

    Attributes:
        name: Bundle name, e.g. "hippocampus".
        version: Version in the bundle's metadata.
        sha256: Hash of the weight file, hexadecimal.
    """

    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class Progress:
    """A step of a running job.

    Attributes:
        stage: What is being done, e.g. "localise", "segment", "explain".
        done: Steps finished.
        total: Steps of this stage.
    """

    stage: str
    done: int
    total: int

    @property
    def fraction(self) -> float:
        """Share of the stage that is done, 0 to 1."""
        return min(1.0, self.done / self.total) if self.total > 0 else 0.0


@dataclass(frozen=True, eq=False)
class PathMap:
    """Which of the segmentation head's paths counts most, per voxel (N11).

    Attributes:
        chosen: uint8 on the input's grid: 0 where nothing was read, n for path n of `names`, from 1 on.
        names: The paths, the full one first.
    """

    chosen: Volume
    names: tuple[str, ...]

    def shares(self, mask: npt.NDArray[np.bool_] | None = None) -> tuple[float, ...]:
        """Share of the voxels that each path decides, 0 to 1; they sum to one.

        Args:
            mask: (k, j, i), the voxels that count; None for all that were read. Zeros where there are none.
        """
        values = self.chosen.array if mask is None else self.chosen.array[mask]
        counts = np.bincount(values.ravel(), minlength=len(self.names) + 1)[1:]
        return tuple(float(count) / max(1, int(counts.sum())) for count in counts)


@dataclass(frozen=True, eq=False)
class InnerMaps:
    """What the network shows of its own workings, where a model has the blocks for it and it was asked for.

    Attributes:
        attention: Maps by name: `"attention"` (27), `"saliency"` (28), `"attention_scale_1"` and on.
        path: The reliable path.
    """

    attention: Mapping[str, Volume] = field(default_factory=dict)
    path: PathMap | None = None


@dataclass(frozen=True, eq=False)
class Prediction:
    """A segmentation with its uncertainty, on the grid of the first input.

    Attributes:
        geometry: Grid of every volume in here.
        structures: What was looked for; background is not listed. Keys of the mappings below are
            `Structure.key`.
        labels: uint8 labelmap, 0 is background, else `Structure.value`.
        uncertainty: float32 maps in nats under "total", "aleatoric", "epistemic" (Eqs. 33 and 35), and
            "heteroscedastic" (mean logit variance, no unit) where the network has a log-variance head.
        variance: Per structure the variance of its probability over the samples (Eq. 34), float32, 0 to 0.25.
            Of one pass, this and the epistemic map are what a one-pass head takes the samples' to be.
        confidence: Mean calibrated probability of the structure over its own voxels, 0 to 1; None if empty.
        expected_dice: Dice to be expected; None if the structure is empty. Where `dice_interval` has an
            interval it is the estimate of the model's `QualityModel`; else it is the closed form of the
            calibrated probabilities, 2 * sum of p over the mask / (voxels of the mask + sum of p).
        volumes_ml: Volume in ml.
        error_probability: Calibrated 1 - max p, or what a one-pass head takes it for; float32, 0 to 1.
        samples: Stochastic passes; 0 is one plain pass, whose epistemic part is zero unless `one_pass`.
        device: Where the network ran, e.g. "cpu" or "cuda:0 (NVIDIA ...)".
        timings: Seconds per stage, in order.
        warnings: Sentences for the user.
        regions_of_interest: What the network looked at, LPS mm; empty when it saw the whole volume.
        model: The model that segmented.
        probabilities: Mean probability per structure, float32, only on request.
        localiser: The model that found the regions of interest, if one did.
        missing_modalities: Names of the model's modalities that were not given.
        classifications: What the image as a whole, or each region of interest, was taken for, where the model
            has a classification head too.
        dice_interval: 90 % interval of the Dice, where the model has a `QualityModel` for such runs; None, or
            no entry, elsewhere.
        quality: What the samples, or the one pass, tell of each structure; None if it is empty, no entry for
            less than two samples without a one-pass head.
        one_pass: Whether a one-pass head told the uncertainty in place of samples.
        familiarity: How much each region that was read, in the order of `regions_of_interest`, is like what
            the model was fitted on; empty where the model cannot tell.
    """

    geometry: Geometry
    structures: tuple[Structure, ...]
    labels: Volume
    uncertainty: Mapping[str, Volume]
    variance: Mapping[str, Volume]
    confidence: Mapping[str, float | None]
    expected_dice: Mapping[str, float | None]
    volumes_ml: Mapping[str, float]
    error_probability: Volume
    samples: int
    device: str
    timings: Mapping[str, float]
    warnings: tuple[str, ...]
    regions_of_interest: tuple[Box, ...]
    model: ModelRef
    probabilities: Mapping[str, Volume] | None = None
    localiser: ModelRef | None = None
    missing_modalities: tuple[str, ...] = ()
    classifications: tuple[Classification, ...] = ()
    dice_interval: Mapping[str, tuple[float, float] | None] = field(default_factory=dict)
    quality: Mapping[str, QualityFeatures | None] = field(default_factory=dict)
    one_pass: bool = False
    familiarity: tuple[Familiarity, ...] = ()

    @property
    def uncertainty_from(self) -> UncertaintySource:
        """What the uncertainty maps come from."""
        return "one-pass" if self.one_pass else "samples" if self.samples else "plain"

    @property
    def uncertainty_text(self) -> str:
        """What the uncertainty maps come from, in a few words."""
        if self.one_pass:
            return "one pass in place of samples"
        if not self.samples:
            return "one plain pass"
        return "1 sample" if self.samples == 1 else f"{self.samples} samples"

    def __post_init__(self) -> None:
        missing = [kind for kind in UNCERTAINTY_KINDS if kind not in self.uncertainty]
        if missing:
            raise ValueError(
                f"a prediction holds the maps {', '.join(UNCERTAINTY_KINDS)}, missing {', '.join(missing)}"
            )
        keys = {structure.key for structure in self.structures}
        for name in ("variance", "confidence", "expected_dice", "volumes_ml"):
            if set(getattr(self, name)) != keys:
                raise ValueError(
                    f"Prediction.{name} must have one entry per structure ({', '.join(sorted(keys))}), "
                    f"got {', '.join(sorted(getattr(self, name))) or 'none'}"
                )
        for name in ("dice_interval", "quality"):
            unknown = set(getattr(self, name)) - keys
            if unknown:
                raise ValueError(f"Prediction.{name} has {', '.join(sorted(unknown))}, which is no structure")
        volumes = [self.labels, self.error_probability, *self.uncertainty.values(), *self.variance.values()]
        for volume in [*volumes, *(self.probabilities or {}).values()]:
            if volume.array.shape != self.geometry.shape:
                raise ValueError(
                    f"every volume of a prediction lies on its grid {self.geometry.shape} (k, j, i), "
                    f"got {volume.name or 'a volume'} of shape {volume.array.shape}"
                )

    def estimate(self, key: str) -> DiceEstimate | None:
        """The Dice to be expected of a structure, with its interval if there is one; None if it is empty."""
        value = self.expected_dice[key]
        return None if value is None else DiceEstimate(value, *(self.dice_interval.get(key) or (None, None)))

    def structure(self, key: str) -> Structure:
        """The structure called `key`.

        Raises:
            KeyError: No structure has this key; the message lists those there are.
        """
        for structure in self.structures:
            if structure.key == key:
                return structure
        raise KeyError(f"no structure '{key}'; there are {', '.join(s.key for s in self.structures)}")
