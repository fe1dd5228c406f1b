# SPDX-License-Identifier: Apache-2.0
"""Deletion and insertion: what becomes of a segmentation as the image is blurred in the order of a map.

Deletion blurs the cubes of most heat first, insertion starts from the blurred image and brings them back
(Petsiuk et al., BMVC 2018). Cubes, not voxels (Samek et al., IEEE TNNLS 2017): a sprinkle of single voxels
shows the network the whole image through noise, which it sees through. The score is the soft Dice of the
structure with the voxels that it had in the whole image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from DIANetLib.network import DIANet
from training.explanation_maps import Shown, cubes
from training.explanation_measures import Indices, Map, Mask, area_under, descending


@dataclass(frozen=True)
class PerturbSettings:
    """How images are perturbed.

    Attributes:
        levels: blurred or brought back, in volumes of the structure.
        edge: of the cubes, voxels.
        blurred_mm: deviation of the Gaussian blur.
    """

    levels: tuple[float, ...] = (2.0, 8.0, 16.0)
    edge: int = 4
    blurred_mm: float = 4.0


@dataclass(frozen=True)
class Curves:
    """Soft Dice as an image is blurred, and as it comes back.

    Attributes:
        deletion: per level, the first one 0.
        insertion: per level, the first one 0.
    """

    deletion: tuple[float, ...]
    insertion: tuple[float, ...]


def cube_order(values: Map, edge: int, generator: np.random.Generator) -> Indices:
    """Flat indices of the voxels, cube by cube, the greatest mean first, equal ones in random order."""
    flat = np.arange(values.size).reshape(values.shape)
    parts = list(cubes(values.shape, edge))
    means = np.array([values[cube].mean() for cube in parts])
    order: Indices = np.concatenate([flat[parts[n]].ravel() for n in descending(means, generator)])
    return order


class Perturbed:
    """The perturbed images of one case, segmented.

    Args:
        network: in evaluation mode.
        case: what it reads.
        value: the structure's class.
        settings: how.
    """

    def __init__(self, network: DIANet, case: Shown, value: int, settings: PerturbSettings) -> None:
        self._network, self._case, self._value, self._settings = network, case, value, settings
        self._image = case.x[0][(slice(None), *case.window.valid)].cpu().numpy()
        self._blurred = case.blurred(settings.blurred_mm)
        self._mask: Mask = case.found == value
        self._ends = tuple(self._score(image) for image in (self._image, self._blurred))

    def curves(self, order: Indices) -> Curves:
        """What an order of the voxels, flat indices, does to the structure."""
        volume = int(self._mask.sum())
        deletion, insertion = [self._ends[0]], [self._ends[1]]
        for level in self._settings.levels:
            first = order[: round(level * volume)]
            deletion.append(self._score(_exchanged(self._image, self._blurred, first)))
            insertion.append(self._score(_exchanged(self._blurred, self._image, first)))
        return Curves(tuple(deletion), tuple(insertion))

    def _score(self, image: np.ndarray) -> float:
        with torch.inference_mode():
            output = self._network(self._case.with_image(image)).segmented
        probability = self._case.inside(output.probabilities()[0, self._value])
        return soft_dice(probability, self._mask)


def soft_dice(probability: Map, mask: Mask) -> float:
    """Twice the probability within a mask, over the sum of both; 0 where both are empty."""
    total = float(probability.sum()) + int(mask.sum())
    return 2.0 * float(probability[mask].sum()) / total if total > 0 else 0.0


def areas(curves: Curves, levels: Sequence[float]) -> dict[str, float]:
    """Area under each curve from level 0 to the last, over its length."""
    positions = (0.0, *levels)
    return {
        "deletion": area_under(positions, curves.deletion),
        "insertion": area_under(positions, curves.insertion),
    }


def _exchanged(image: np.ndarray, other: np.ndarray, where: Indices) -> np.ndarray:
    changed = image.copy()
    changed.reshape(len(image), -1)[:, where] = other.reshape(len(other), -1)[:, where]
    return changed
