# SPDX-License-Identifier: Apache-2.0
"""Fixtures that tests of several parts share; all data is made here from seeds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from DIANetLib.structures import ANATOMICAL_STRUCTURE, Code, Structure
from DIANetLib.volume import Geometry, Volume

GeometryMaker = Callable[..., Geometry]
VolumeMaker = Callable[..., Volume]


def make_geometry(seed: int, size: tuple[int, int, int] | None = None) -> Geometry:
    """A random oblique grid: any rotation, any handedness, anisotropic, far from the origin."""
    rng = np.random.default_rng(seed)
    if size is None:
        i, j, k = (int(n) for n in rng.integers(4, 12, 3))
        size = (i, j, k)
    direction = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    x, y, z = (float(v) for v in rng.uniform(-250.0, 250.0, 3))
    di, dj, dk = (float(v) for v in rng.uniform(0.3, 3.0, 3))
    return Geometry(size, (di, dj, dk), (x, y, z), direction)


def make_blob(
    geometry: Geometry, *, radius_mm: float | None = None, noise: float = 5.0, seed: int = 0
) -> Volume:
    """A bright ball in the middle of a grid on a dim, noisy background, float32, 0 to about 120."""
    rng = np.random.default_rng(seed)
    k, j, i = np.meshgrid(*(np.arange(n) for n in geometry.shape), indexing="ij")
    points = geometry.index_to_world(np.stack([i, j, k], axis=-1))
    center = geometry.index_to_world([(n - 1) / 2 for n in geometry.size])
    distance = np.linalg.norm(points - center, axis=-1)
    radius = min(geometry.extent_mm) / 3 if radius_mm is None else radius_mm
    array = 20.0 + 80.0 / (1.0 + np.exp(2.0 * (distance - radius))) + noise * rng.normal(size=geometry.shape)
    return Volume(array.astype(np.float32), geometry, name="blob")


@pytest.fixture
def oblique_geometry() -> GeometryMaker:
    """`oblique_geometry(seed, size=None)` makes a random oblique, anisotropic grid."""
    return make_geometry


@pytest.fixture
def blob() -> VolumeMaker:
    """`blob(geometry, radius_mm=None, noise=5.0, seed=0)` makes a noisy bright ball on the grid."""
    return make_blob


@pytest.fixture
def two_structures() -> tuple[Structure, Structure]:
    """Anterior and posterior hippocampus, values 1 and 2."""
    hippocampus = Code("SCT", "5366008", "Hippocampus")
    return (
        Structure(1, "anterior", "Hippocampus anterior", (255, 128, 0), ANATOMICAL_STRUCTURE, hippocampus),
        Structure(2, "posterior", "Hippocampus posterior", (0, 64, 255), ANATOMICAL_STRUCTURE, hippocampus),
    )
