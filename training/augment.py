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
    RandScaleIntensityd,
    RandScaleIntensityFixedMeand,
    RandSimulateLowResolutiond,
    Transform,
)
from scipy import ndimage
from torch import Tensor
from torch.utils.data import Dataset

from DIANetLib.preprocess import normalise
from training.config import AugmentConfig
from training.datasets import PreparedCase


def augmentation(config: AugmentConfig, spatial_dims: int = 3) -> Compose:
    """The random transforms of a patch: keys "image" (M, *S) and "labels" (1, *S)."""
    both, modes = ["image", "labels"], ["bilinear", "nearest"]
    angle = math.radians(config.rotation_deg)
    rotations = (angle,) * (3 if spatial_dims == 3 else 1)
    low, high = config.scale
    # RandAffine scales coordinates, so the range is that of 1/scale.
    scales = [(1.0 / high - 1.0, 1.0 / low - 1.0)] * spatial_dims
    steps: list[Transform] = [
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
        RandSimulateLowResolutiond("image", prob=config.low_resolution, zoom_range=(0.5, 1.0)),
        RandBiasFieldd("image", prob=config.bias_field, degree=3, coeff_range=(0.0, 0.2)),
        RandAdjustContrastd(
            "image", prob=config.inverted_gamma, gamma=(0.7, 1.5), invert_image=True, retain_stats=True
        ),
        RandAdjustContrastd("image", prob=config.gamma, gamma=(0.7, 1.5), retain_stats=True),
        *(RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in config.mirror_axes),
    ]
    return Compose(steps)


def available(modalities: int, dropout: float, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Which modalities (M,) a patch keeps where each goes with probability `dropout`, but never the last."""
    kept: npt.NDArray[np.bool_] = rng.random(modalities) >= dropout
    if not kept.any():
        kept[rng.integers(modalities)] = True
    return kept


def blank_surroundings(case: PreparedCase) -> npt.NDArray[np.float32]:
    """The image (M, *S) as if all but the hull of the structures had been removed, normalised anew.

    On whole heads whose structures fill the brain this is a brain extraction. The hull closes gaps (sulci) of
    up to six voxels and is one voxel larger all around.
    """
    hull = ndimage.binary_dilation(case.labels > 0, iterations=4)
    hull = ndimage.binary_fill_holes(ndimage.binary_erosion(hull, iterations=3))
    return np.stack([normalise(np.where(hull, channel, channel.min())) for channel in case.image])


class PatchStream(Dataset[dict[str, Tensor]]):
    """Patch number n of an endless, reproducible stream over the training cases.

    Args:
        cases: prepared cases, held in memory.
        patch: size (k, j, i).
        config: augmentation.
        seed: with n, it determines the patch completely.
        first: number of the first patch (a resumed fit starts in the middle).
        count: how many patches this stream yields.
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
    ) -> None:
        self.cases, self.patch, self.config = cases, patch, config
        self.seed, self.first, self.count = seed, first, count
        self.transform = augmentation(config, len(patch))
        self._stripped: dict[int, npt.NDArray[np.float32]] = {}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """The patch as "image" (M, *S) float32, "labels" (*S) int64 and "available" (M,) bool."""
        number = self.first + index
        epoch, place = divmod(number, len(self.cases))
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.cases))
        rng = np.random.default_rng([self.seed, 1, number])
        chosen = int(order[place])
        case = self.cases[chosen]
        if self.config.stripped > 0 and rng.random() < self.config.stripped:
            case = replace(case, image=self._blanked(chosen))
        image, labels = self._crop(case, rng)
        self.transform.set_random_state(seed=int(rng.integers(2**32 - 1)))
        out = self.transform({"image": torch.from_numpy(image), "labels": torch.from_numpy(labels)})
        return {
            "image": torch.as_tensor(out["image"]).as_subclass(Tensor).float(),
            "labels": torch.as_tensor(out["labels"]).as_subclass(Tensor)[0].round().long(),
            "available": torch.from_numpy(available(image.shape[0], self.config.modality_dropout, rng)),
        }

    def _blanked(self, place: int) -> npt.NDArray[np.float32]:
        if place not in self._stripped:
            self._stripped[place] = blank_surroundings(self.cases[place])
        return self._stripped[place]

    def _crop(self, case: PreparedCase, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        shape = np.array(case.labels.shape)
        size = np.array(self.patch)
        free = shape - size
        if rng.random() < self.config.foreground_crops:
            present = np.unique(case.labels)
            present = present[present > 0]
            if present.size:
                where = np.flatnonzero(case.labels == rng.choice(present))
                voxel = np.array(np.unravel_index(rng.choice(where), case.labels.shape))
                start = np.clip(voxel - rng.integers(0, size), np.minimum(free, 0), np.maximum(free, 0))
            else:
                start = rng.integers(np.minimum(free, 0), np.maximum(free, 0) + 1)
        else:
            start = rng.integers(np.minimum(free, 0), np.maximum(free, 0) + 1)
        image = np.zeros(
            (case.image.shape[0], *self.patch), np.float32
        )  # 0 is the mean: the padding of inference
        labels = np.zeros((1, *self.patch), np.float32)
        source = tuple(slice(max(s, 0), min(s + p, n)) for s, p, n in zip(start, size, shape, strict=True))
        target = tuple(slice(r.start - s, r.stop - s) for r, s in zip(source, start, strict=True))
        image[(slice(None), *target)] = case.image[(slice(None), *source)]
        labels[(slice(None), *target)] = case.labels[source]
        return image, labels
