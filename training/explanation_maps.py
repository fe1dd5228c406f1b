# SPDX-License-Identifier: Apache-2.0
"""Cases as the network reads them, and the maps that are held against each other.

Ours is what `DIANetLib.acwi.explain` shows by default. Beside it: equation 30 as printed (Grad-CAM with mean
gradients at the bottleneck), plain gradients by the image (Simonyan et al., 2014), and occlusion by cubes
(Zeiler and Fergus, ECCV 2014). Every map is of one score, the structure's mean logit over the voxels that the
mean pass gives to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from DIANetLib.acwi.camera import Weighting, untouched
from DIANetLib.acwi.window_maps import DEFAULT_WEIGHTING, WindowMaps
from DIANetLib.inference.sliding_window import Window, usual_windows
from DIANetLib.labelling import labels_of_logits
from DIANetLib.network import DIANet
from training.config import TrainingConfig
from training.datasets import Case, load_case
from training.explanation_measures import Map, Mask

Method = Literal["ours", "printed", "gradient", "occlusion"]
#: Layer and weighting of the maps that come from features; None for the product's own choice of layers.
CAMS: dict[str, tuple[str | None, Weighting]] = {
    "ours": (None, DEFAULT_WEIGHTING),
    "printed": ("bottleneck", "mean"),
}


@dataclass(frozen=True, eq=False)
class Shown:
    """A case in one window, (k, j, i) on the network's grid; all of the image, or a part of it.

    Attributes:
        name: of the case.
        x: what the network reads, (1, M, *padded).
        window: where the part lies in what the network reads.
        part: which part of the image it is.
        reference: true classes.
        found: classes of the mean pass.
        spacing: mm (k, j, i).
    """

    name: str
    x: Tensor
    window: Window
    part: tuple[slice, ...]
    reference: npt.NDArray[np.uint8]
    found: npt.NDArray[np.uint8]
    spacing: tuple[float, ...]

    def inside(self, padded: Tensor) -> Map:
        """The part of (*padded) that is image."""
        values: Map = padded[self.window.valid].cpu().numpy()
        return values

    def around(self, mask: Mask) -> Tensor:
        """A mask of the image, as one of what the network reads."""
        found: Tensor = self.window.cut(torch.from_numpy(np.ascontiguousarray(mask))[None])[0].to(
            self.x.device
        )
        return found

    def blurred(self, sigma_mm: float) -> npt.NDArray[np.float32]:
        """The image (M, k, j, i) without detail."""
        image = self.x[0][(slice(None), *self.window.valid)].cpu().numpy()
        sigma = [sigma_mm / spacing for spacing in self.spacing]
        return np.stack([gaussian_filter(channel, sigma) for channel in image])

    def with_image(self, image: npt.NDArray[np.float32]) -> Tensor:
        """What the network reads of another image (M, k, j, i)."""
        return self.window.cut(torch.from_numpy(image))[None].to(self.x.device)


def shown(network: DIANet, case: Case, config: TrainingConfig, size: tuple[int, ...]) -> Shown:
    """A case with labels, as the network reads and segments it.

    Args:
        network: a network of volumes.
        case: where it lies.
        config: how it is read.
        size: of the model's windows, (i, j, k). An image that is hardly larger is read at once, as the
            product does; of others the window that holds most of the structures.
    """
    prepared = load_case(case, config)
    assert prepared.labels is not None  # only cases with labels come here
    assert prepared.prepared is not None  # it was read just now
    shape, labels = prepared.labels.shape, prepared.labels
    windows = usual_windows(shape, size[::-1], network.divisor)
    window = max(windows, key=lambda part: int(np.count_nonzero(labels[part.slices])))
    x = window.cut(torch.from_numpy(prepared.image))[None].to(next(network.parameters()).device)
    with torch.inference_mode():
        found = labels_of_logits(network(x).segmented.mean[0]).to(torch.uint8)[window.valid].cpu().numpy()
    spacing = prepared.prepared.geometry.spacing[::-1]
    return Shown(
        case.name,
        x,
        replace(window, start=(0, 0, 0)),
        window.slices,
        labels[window.slices],
        found,
        tuple(spacing),
    )


def cam(maps: WindowMaps, case: Shown, method: str, value: int, mask: Mask | None) -> Map:
    """The map of one of `CAMS`; without a mask of what the network itself gives to the class."""
    layer, weighting = CAMS[method]
    where = None if mask is None else case.around(mask)
    return case.inside(maps.map(value, layer, weighting, where)[0])


def gradient(network: DIANet, case: Shown, value: int, mask: Mask) -> Map:
    """Greatest absolute gradient of the score by the image, over its modalities."""
    with torch.enable_grad(), untouched(network):
        network.eval()
        x = case.x.detach().clone().requires_grad_()
        score = network(x).segmented.mean[0, value][case.around(mask)].mean()
        (found,) = torch.autograd.grad(score, x)
    return case.inside(found[0].abs().amax(0))


def occlusion(
    network: DIANet, case: Shown, masks: dict[int, Mask], blurred_mm: float, edge: int
) -> dict[int, Map]:
    """How much the score of each structure falls where a cube is blurred, 0 where it rises.

    Args:
        network: in evaluation mode.
        case: what it reads.
        masks: where the score of each class is taken.
        blurred_mm: deviation of the blur.
        edge: of the cubes, voxels.
    """
    image = case.x[0][(slice(None), *case.window.valid)].cpu().numpy()
    blurred = case.blurred(blurred_mm)
    before = _scores(network, case, image, masks)
    maps: dict[int, Map] = {value: np.zeros(image.shape[1:], np.float32) for value in masks}
    for cube in cubes(image.shape[1:], edge):
        changed = image.copy()
        changed[(slice(None), *cube)] = blurred[(slice(None), *cube)]
        for value, score in _scores(network, case, changed, masks).items():
            maps[value][cube] = max(before[value] - score, 0.0)
    return maps


def cubes(shape: tuple[int, ...], edge: int) -> Iterator[tuple[slice, ...]]:
    """Cubes that share no voxel and cover a grid; those at its end are smaller."""
    for corner in product(*(range(0, n, edge) for n in shape)):
        yield tuple(slice(c, c + edge) for c in corner)


def _scores(
    network: DIANet, case: Shown, image: npt.NDArray[np.float32], masks: dict[int, Mask]
) -> dict[int, float]:
    with torch.inference_mode():
        logits = network(case.with_image(image)).segmented.mean[0]
    return {value: float(logits[value][case.around(mask)].mean()) for value, mask in masks.items()}
