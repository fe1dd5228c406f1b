# SPDX-License-Identifier: Apache-2.0
"""What a reconstruction hands over, free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from DIANetLib.inference.prediction import ModelRef
from DIANetLib.volume import Volume

__all__ = ["Reconstruction"]


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """A reconstructed image.

    Attributes:
        image: float32, the mean over the samples, on the input's grid and in its units.
        deviation: Standard deviation over the samples, float32, in the same units; 0 for one plain pass.
        observed: The image that was read.
        samples: Stochastic passes; 0 is one plain pass.
        model: The model.
        device: Where it ran.
        timings: Seconds per stage.
        warnings: Sentences for the user.
    """

    image: Volume
    deviation: Volume
    observed: Volume
    samples: int
    model: ModelRef
    device: str
    timings: Mapping[str, float]
    warnings: tuple[str, ...]

    @property
    def mean_deviation(self) -> float:
        """Mean of `deviation` over the image."""
        return float(self.deviation.array.mean(dtype=np.float64))
