# SPDX-License-Identifier: Apache-2.0
"""nnU-Net's augmentation set from MONAI's transforms, and patches that depend only on (seed, number).

Numbering patches makes a resumed, a distributed and a multi-worker fit see the same stream.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandBiasFieldd,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandomizableTransform,
    RandScaleIntensityd,
    RandScaleIntensityFixedMeand,
    RandSimulateLowResolutiond,
)
from scipy import ndimage
from torch import Tensor
from torch.utils.data import Dataset

from DIANetLib.losses.classification import UNKNOWN
from DIANetLib.preprocess import normalise
from training.config import AugmentConfig
from training.config_tasks import ReconstructionTask
from training.datasets import PreparedCase
from training.degrade import degrade


def augmentation(config: AugmentConfig, spatial_dims: int = 3) -> Compose:
    """The random transforms of a patch: keys "image" (M, *S) and "labels" (1, *S).

    Images of two dimensions turn in their plane; `config.mirror_axes` counts (k, j, i) for them too.
    """
    both, modes = ["image", "labels"], ["bilinear", "nearest"]
    angle = math.radians(config.rotation_deg)
    rotations = (angle,) * (3 if spatial_dims == 3 else 1)
    linear = "trilinear" if spatial_dims == 3 else "bilinear"
    low, high = config.scale
    # RandAffine scales coordinates, so the range is that of 1/scale.
    scales = [(1.0 / high - 1.0, 1.0 / low - 1.0)] * spatial_dims
    steps: list[RandomizableTransform] = [
        RandAffined(
            both,
            prob=config.affine_probability,
            rotate_range=rotations,
            scale_range=scales,
            translate_range=(config.shift,) * spatial_dims,
            mode=modes,
            padding_mode="zeros",
            cache_grid=False,
        ),
        RandGaussianNoised("image", prob=config.noise, mean=0.0, std=0.25),
        RandGaussianSmoothd(
            "image", prob=config.smooth, sigma_x=(0.5, 1.0), sigma_y=(0.5, 1.0), sigma_z=(0.5, 1.0)
        ),
        RandScaleIntensityd("image", prob=config.brightness, factors=0.25),
        RandScaleIntensityFixedMeand(
            "image", prob=config.contrast, factors=(-0.25, 0.25), preserve_range=True
        ),
        RandSimulateLowResolutiond(
            "image", prob=config.low_resolution, zoom_range=(0.5, 1.0), upsample_mode=linear
        ),
        RandBiasFieldd("image", prob=config.bias_field, degree=3, coeff_range=(0.0, 0.2)),
        RandAdjustContrastd(
            "image", prob=config.inverted_gamma, gamma=(0.7, 1.5), invert_image=True, retain_stats=True
        ),
        RandAdjustContrastd("image", prob=config.gamma, gamma=(0.7, 1.5), retain_stats=True),
        *(RandFlipd(both, prob=0.5, spatial_axis=axis - 3 + spatial_dims) for axis in config.mirror_axes),
    ]
    return Compose([step for step in steps if step.prob > 0.0])  # even idle ones take their time


def available(
    there: Sequence[bool] | npt.NDArray[np.bool_], dropout: float, rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Which modalities (M,) a patch keeps of those that its case has.

    Each goes with probability `dropout`, but never the last.
    """
    has = np.asarray(there, bool)
    kept: npt.NDArray[np.bool_] = has & (rng.random(has.size) >= dropout)
    if not kept.any():
        kept[rng.choice(np.flatnonzero(has))] = True
    return kept


def blank_surroundings(case: PreparedCase) -> npt.NDArray[np.float32]:
    """The image (M, *S) as if all but the hull of the structures had been removed, normalised anew.

    On whole heads whose structures fill the brain this is a brain extraction. The hull closes gaps (sulci) of
    up to six voxels and is one voxel larger all around.
    """
    assert case.labels is not None  # asked of labelled cases alone; for the type checker
    hull = ndimage.binary_dilation(case.labels > 0, iterations=4)
    hull = ndimage.binary_fill_holes(ndimage.binary_erosion(hull, iterations=3))
    return np.stack([normalise(np.where(hull, channel, channel.min())) for channel in case.image])


class PatchStream(Dataset[dict[str, Tensor]]):
    """Patch number n of an endless, reproducible stream over the training cases.

    Args:
        cases: prepared cases, held in memory; with or without labels and target.
        patch: size (k, j, i); with k = 1 for two dimensions.
        config: augmentation.
        seed: with n, it determines the patch completely.
        first: number of the first patch (a resumed fit starts in the middle).
        count: how many patches this stream yields.
        spatial_dims: 2 leaves out the axis k of the patches.
        degradation: what the reconstruction task does to patches, or None without it.
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        patch: tuple[int, ...],
        config: AugmentConfig,
        *,
        seed: int,
        first: int,
        count: int,
        spatial_dims: int = 3,
        degradation: ReconstructionTask | None = None,
    ) -> None:
        self.cases, self.patch, self.config = cases, patch, config
        self.seed, self.first, self.count = seed, first, count
        self.degradation = degradation
        self.size = patch[-spatial_dims:]
        self.transform = augmentation(config, spatial_dims)
        self._stripped: dict[int, npt.NDArray[np.float32]] = {}
        self._places: dict[int, list[npt.NDArray[np.int32]]] = {}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One patch.

        Returns:
            "image" (M, *S) float32, "labels" (*S) int64 (zeros if it has none), "labelled" () bool, "target"
            () int64 (`UNKNOWN` if it has none) and "available" (M,) bool; with a degradation also "clean"
            (M, *S), "mask" (1, *S) and "degraded" () bool.
        """
        number = self.first + index
        epoch, place = divmod(number, len(self.cases))
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.cases))
        rng = np.random.default_rng([self.seed, 1, number])
        chosen = int(order[place])
        case = self.cases[chosen]
        if case.labels is not None and self.config.stripped > 0 and rng.random() < self.config.stripped:
            case = replace(case, image=self._blanked(chosen))
        image, labels = self._crop(case, self._start(chosen, rng))
        self.transform.set_random_state(seed=int(rng.integers(2**32 - 1)))
        out = self.transform({"image": torch.from_numpy(image), "labels": torch.from_numpy(labels)})
        changed = torch.as_tensor(out["image"]).as_subclass(Tensor).float()
        kept = available(case.available, self.config.modality_dropout, rng)
        # A modality that the case lacks stays zero: noise there would be taken for an image.
        changed[torch.from_numpy(~np.asarray(case.available))] = 0.0
        patch = {
            "image": changed,
            "labels": torch.as_tensor(out["labels"]).as_subclass(Tensor)[0].round().long(),
            "labelled": torch.tensor(case.labels is not None),
            "target": torch.tensor(UNKNOWN if case.target is None else case.target),
            "available": torch.from_numpy(kept),
        }
        if self.degradation is None:
            return patch
        made = degrade(self.degradation, changed, np.random.default_rng([self.seed, 2, number]))
        more = {"clean": made.clean, "mask": made.mask, "degraded": torch.tensor(made.degraded)}
        return {**patch, "image": made.image, **more}

    def _blanked(self, place: int) -> npt.NDArray[np.float32]:
        if place not in self._stripped:
            self._stripped[place] = blank_surroundings(self.cases[place])
        return self._stripped[place]

    def _crop(
        self, case: PreparedCase, start: Sequence[int]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """The patch that begins at a voxel: image (M, *S) and labels (1, *S), 0 outside the case."""
        image = np.zeros((case.image.shape[0], *self.patch), np.float32)
        labels = np.zeros((1, *self.patch), np.float32)
        shape = case.image.shape[1:]
        source = tuple(
            slice(max(s, 0), min(s + p, n)) for s, p, n in zip(start, self.patch, shape, strict=True)
        )
        target = tuple(slice(r.start - s, r.stop - s) for r, s in zip(source, start, strict=True))
        image[(slice(None), *target)] = case.image[(slice(None), *source)]
        if case.labels is not None:
            labels[(slice(None), *target)] = case.labels[source]
        return image.reshape(-1, *self.size), labels.reshape(1, *self.size)

    def _start(self, place: int, rng: np.random.Generator) -> list[int]:
        """Where a patch begins: with some structure in it as often as asked, else anywhere."""
        shape, size = np.array(self.cases[place].image.shape[1:]), np.array(self.patch)
        free = shape - size
        lowest, highest = np.minimum(free, 0), np.maximum(free, 0)
        if rng.random() < self.config.foreground_crops and (structures := self._structures(place)):
            where = structures[rng.integers(len(structures))]
            voxel = np.array(np.unravel_index(int(rng.choice(where)), tuple(shape)))
            start: list[int] = np.clip(voxel - rng.integers(0, size), lowest, highest).tolist()
            return start
        anywhere: list[int] = rng.integers(lowest, highest + 1).tolist()
        return anywhere

    def _structures(self, place: int) -> list[npt.NDArray[np.int32]]:
        """The voxels of each structure that a case has, as places in its flat array; found once per case."""
        if place not in self._places:
            labels = self.cases[place].labels
            values: list[int] = []
            if labels is not None:
                values = (np.flatnonzero(np.bincount(labels.ravel())[1:]) + 1).tolist()
            self._places[place] = [np.flatnonzero(labels == value).astype(np.int32) for value in values]
        return self._places[place]
