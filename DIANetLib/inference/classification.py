# SPDX-License-Identifier: Apache-2.0
"""What a classification hands over: results as frozen dataclasses, free of torch.

Equations (16-18) for the probabilities, (33-35) with their signs put right for how sure they are: total is
the entropy of the mean probabilities, aleatoric the mean entropy, epistemic their difference, in nats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from DIANetLib.structures import Code

if TYPE_CHECKING:
    from DIANetLib.inference.prediction import ModelRef
    from DIANetLib.preprocess import Prepared
    from DIANetLib.volume import Geometry, Volume

__all__ = ["ClassLabel", "ClassMaps", "Classification", "Classified", "summarise"]


class ClassLabel(Protocol):
    """What a class is called; `DIANetLib.bundle_schema.ClassSpec` is one."""

    @property
    def key(self) -> str:
        """Name for files and programs."""

    @property
    def name(self) -> str:
        """Name for people."""

    @property
    def code(self) -> Code | None:
        """Coded term, where there is one."""


@dataclass(frozen=True)
class Classification:
    """What an image as a whole was taken for.

    Attributes:
        classes: The classes, in the order of the network's logits.
        probabilities: Mean calibrated probability of each over the samples; they sum to one.
        variance: Variance of each over the samples (34), 0 to 0.25.
        total: Entropy of the mean probabilities (33), 0 to ln C nats: high means unsure.
        aleatoric: Mean entropy of the samples, nats.
        epistemic: Total less aleatoric, the mutual information of class and sample, nats.
        samples: Stochastic passes; 0 is one plain pass, whose epistemic part is zero.
    """

    classes: tuple[ClassLabel, ...]
    probabilities: tuple[float, ...]
    variance: tuple[float, ...]
    total: float
    aleatoric: float
    epistemic: float
    samples: int

    @property
    def predicted(self) -> int:
        """Number of the most probable class."""
        return int(np.argmax(self.probabilities))


@dataclass(frozen=True, eq=False)
class Classified:
    """A classified image.

    Attributes:
        classification: What it was taken for.
        prepared: What the network read.
        available: Per modality of the model whether it was there.
        image: The first input, on whose grid maps lie.
        model: The model.
        device: Where it ran.
        timings: Seconds per stage.
        warnings: Sentences for the user.
        missing_modalities: Names of the model's modalities that were not given.
    """

    classification: Classification
    prepared: Prepared
    available: tuple[bool, ...]
    image: Volume
    model: ModelRef
    device: str
    timings: Mapping[str, float]
    warnings: tuple[str, ...]
    missing_modalities: tuple[str, ...]

    @property
    def geometry(self) -> Geometry:
        """Grid of the maps."""
        return self.image.geometry


@dataclass(frozen=True, eq=False)
class ClassMaps:
    """Where in the image the evidence for each class lies; float32, 0 to 1, on the input's grid.

    Attributes:
        cam: Class activation map (29) by key of the class.
        gradcam: Grad-CAM (30) by key of the class.
    """

    cam: Mapping[str, Volume]
    gradcam: Mapping[str, Volume]


def summarise(
    samples: npt.NDArray[np.floating], classes: Sequence[ClassLabel], *, stochastic: int
) -> Classification:
    """Mean, variance and uncertainty of the probabilities of T samples.

    Args:
        samples: (T, C), each row sums to one.
        classes: C of them.
        stochastic: How many stochastic passes these are; 0 for one plain pass.
    """
    p = np.asarray(samples, np.float64)
    mean = p.mean(axis=0)
    total, aleatoric = _entropy(mean), float(np.mean([_entropy(row) for row in p]))
    # Jensen's inequality holds for exact numbers; rounding may break it in the last digits.
    total = max(total, aleatoric)
    return Classification(
        classes=tuple(classes),
        probabilities=tuple(mean.tolist()),
        variance=tuple(p.var(axis=0).tolist()),
        total=total,
        aleatoric=aleatoric,
        epistemic=total - aleatoric,
        samples=stochastic,
    )


def _entropy(p: npt.NDArray[np.float64]) -> float:
    known = p[p > 0]
    return float(-(known * np.log(known)).sum())
