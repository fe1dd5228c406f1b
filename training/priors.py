# SPDX-License-Identifier: Apache-2.0
"""What a fit learns from its training masks before it begins: the anatomy that some terms compare with.

It is stored in the checkpoint under the names of `Priors.stored`, and `export` puts it into the bundle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from DIANetLib.errors import InputError
from DIANetLib.losses.anatomy import Atlas, learn_atlas
from DIANetLib.losses.cut import CutPrior, learn_cut_prior
from training.config import TrainingConfig
from training.config_tasks import CutTerm
from training.datasets import PreparedCase


@dataclass(frozen=True, eq=False)
class Priors:
    """Anatomy of the training cases; None for what no term asks for.

    Attributes:
        atlas: probability of each class around the foreground's centre of mass.
        cut: where the border of two structures uses to lie.
    """

    atlas: Atlas | None = None
    cut: CutPrior | None = None

    def stored(self) -> dict[str, Tensor]:
        """As tensors by name, for a checkpoint.

        "atlas" (K, *A) float32; "cut" (5,) float64: lower and upper class, axis, mean and deviation.
        """
        stored = {}
        if self.atlas is not None:
            stored["atlas"] = self.atlas.probabilities
        if self.cut is not None:
            stored["cut"] = torch.tensor(astuple(self.cut), dtype=torch.float64)
        return stored

    @classmethod
    def restored(cls, stored: Mapping[str, Tensor]) -> Priors:
        """What `stored` gave."""
        cut = None
        if "cut" in stored:
            lower, upper, axis, mean, deviation = stored["cut"].tolist()
            cut = CutPrior(int(lower), int(upper), int(axis), mean, deviation)
        return cls(Atlas(stored["atlas"]) if "atlas" in stored else None, cut)

    def to(self, device: torch.device) -> Priors:
        """The same on a device."""
        return Priors(None if self.atlas is None else Atlas(self.atlas.probabilities.to(device)), self.cut)


def learn_priors(config: TrainingConfig, cases: Sequence[PreparedCase]) -> Priors:
    """Learn what the objective's terms need.

    Raises:
        InputError: if no training case has the structures.
    """
    atlas = cut = None
    try:
        if config.objective.needs_atlas:
            atlas = learn_atlas(_masks(config, cases), config.network.classes)
        if config.objective.cut is not None:
            cut = learn_cut_prior(_masks(config, cases), *cut_place(config, config.objective.cut))
    except InputError as error:
        name = "cut" if atlas is not None or not config.objective.needs_atlas else "atlas"
        raise InputError(
            f"the {name} prior cannot be learned: {error.message}", remedy=error.remedy
        ) from error
    return Priors(atlas, cut)


def cut_place(config: TrainingConfig, term: CutTerm, *, volumes: bool = False) -> tuple[tuple[int, int], int]:
    """Class numbers of the two structures, and the axis that the cut is perpendicular to.

    Args:
        config: names the structures.
        term: the two, and the axis.
        volumes: whether the axis is that of whole cases (k, j, i), or that of patches.
    """
    keys = [structure.key for structure in config.data.structures]
    first, second = (1 + keys.index(key) for key in term.structures)
    axes = 3 if volumes else config.network.spatial_dims
    return (first, second), "kji".index(term.axis) - 3 + axes


def _masks(config: TrainingConfig, cases: Sequence[PreparedCase]) -> Iterator[npt.NDArray[np.uint8]]:
    """The labels of the training cases, slice by slice for a network of two dimensions."""
    for case in cases:
        if case.labels is None:
            continue
        if config.network.spatial_dims == 3:
            yield case.labels
        else:
            yield from (plane for plane in case.labels if plane.any())
