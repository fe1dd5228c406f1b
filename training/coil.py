# SPDX-License-Identifier: Apache-2.0
"""What a receiver coil makes of a clean image: phase, a sensitivity that falls with distance, noise.

Magnitude images have neither, so a network fitted on them alone knows no images as scanners measure them. The
phase is a polynomial of second degree, as that of field inhomogeneity is to first order; the sensitivity is a
Gaussian around a place near the border, as that of a surface coil roughly is.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from DIANetLib.preprocess import scale_by_magnitude

# Standard deviation of the phase's coefficients (radians at the border of the image), by degree.
_PHASE = (math.pi, 1.5, 0.8)
# Width of the sensitivity, in half-lengths of the image: from a small surface coil to a volume coil.
_WIDTH = (0.6, 3.0)
# Noise of either part relative to the image's greatest values.
_NOISE = (0.0, 0.03)
_PERCENTILE = 99.5


def seen_by_coil(image: Tensor, rng: np.random.Generator) -> Tensor:
    """A complex image as one coil measures it.

    Args:
        image: (2, *S) real and imaginary part.
        rng: decides place, width, phase and noise.

    Returns:
        (2, *S), scaled to the same percentile of the magnitude that preprocessing scales to.
    """
    size = image.shape[1:]
    axes = [
        np.linspace(-1.0, 1.0, n).reshape([-1 if a == d else 1 for a in range(len(size))])
        for d, n in enumerate(size)
    ]
    phase = np.full(size, rng.normal(0.0, _PHASE[0]))
    distance = np.zeros(size)
    for place, axis in enumerate(axes):
        phase = phase + rng.normal(0.0, _PHASE[1]) * axis
        for other in axes[place:]:
            phase = phase + rng.normal(0.0, _PHASE[2]) * axis * other
        distance = distance + np.square(axis - rng.uniform(-1.2, 1.2))
    width = math.exp(rng.uniform(math.log(_WIDTH[0]), math.log(_WIDTH[1])))
    sensitivity = np.exp(-distance / (2.0 * width**2)) * np.exp(1j * phase)
    values = image.numpy()
    measured = (values[0] + 1j * values[1]) * sensitivity
    sigma = rng.uniform(*_NOISE) * float(np.abs(measured).max())
    measured = measured + sigma * (rng.standard_normal(size) + 1j * rng.standard_normal(size))
    parts = np.stack([measured.real, measured.imag]).astype(np.float32)
    return torch.from_numpy(scale_by_magnitude(parts, _PERCENTILE)) if parts.any() else image
