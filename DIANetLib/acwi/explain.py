# SPDX-License-Identifier: Apache-2.0
"""Grad-CAM: which part of the image speaks for a structure (A4; paper, section 3.4, equation 30).

The score is the mean logit of the class over a region, of the mean pass: no latent draws, no dropout. The
region is the whole predicted structure unless a mask is given (Seg-Grad-CAM, Vinogradova et al., AAAI 2020).
By default the gradients weigh place by place (LayerCAM), and the maps of the bottleneck and of the decoder's
scales are put together and smoothed: equation 30 as printed, with the mean over all places at the bottleneck,
tells no region from another and names less of what matters (`python -m training explanations`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from DIANetLib.acwi.camera import Weighting
from DIANetLib.acwi.window_maps import DEFAULT_WEIGHTING, WindowMaps, scaled
from DIANetLib.errors import Cancelled
from DIANetLib.inference.sampling import interruptible
from DIANetLib.inference.sliding_window import Window, round_up, whole_window
from DIANetLib.preprocess import Prepared, part_of, restore_box
from DIANetLib.resample import resample
from DIANetLib.volume import Volume

if TYPE_CHECKING:
    from DIANetLib.network import DIANet
    from DIANetLib.structures import Structure

__all__ = ["Seen", "explain", "gradcam"]


class Seen(Protocol):
    """A part of the image that the network read; `DIANetLib.inference.engine.Region` is one."""

    @property
    def prepared(self) -> Prepared:
        """What it read."""

    @property
    def structures(self) -> tuple[Structure, ...]:
        """What its output channels 1, 2, ... stand for there."""

    @property
    def available(self) -> tuple[bool, ...]:
        """Per modality of the model whether it is there."""


def gradcam(
    model: DIANet,
    x: Tensor,
    structure_value: int,
    *,
    layer: str | None = None,
    weighting: Weighting = DEFAULT_WEIGHTING,
    mask: Tensor | None = None,
    available: Tensor | None = None,
) -> Tensor:
    """Grad-CAM of one structure in one window.

    Args:
        model: The network; afterwards it is as it was (hooks, gradients, modes).
        x: Preprocessed window, (1, M, *S), on the network's device.
        structure_value: Output channel of the structure, 1 to K - 1.
        layer: One of `DIANetLib.inference.grid.segmentation_layers`; None for those of
            `DIANetLib.acwi.window_maps.default_layers` together.
        weighting: Of the features by the gradients, see `DIANetLib.acwi.camera`; "mean" is (30) as printed.
        mask: Where the score is taken, (*S) bool; None for the voxels that the network gives to the
            structure. If there are none, every voxel counts with the structure's probability.
        available: (1, M) bool, which modalities are there; None for all of them.

    Returns:
        (*S) float32, non-negative, scaled to a maximum of 1, linearly interpolated from the layers' grids;
        all zero where nothing speaks for the structure.

    Raises:
        InputError: There is no such layer or structure, or the mask is empty or has another shape.
    """
    return scaled(WindowMaps(model, x, available).map(structure_value, layer, weighting, mask)[0])


def explain(
    model: DIANet,
    regions: Sequence[Seen],
    labels: Volume,
    keys: Collection[str],
    *,
    window: tuple[int, int, int],
    layer: str | None = None,
    weighting: Weighting = DEFAULT_WEIGHTING,
    progress: Callable[[int, int], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> dict[str, Volume]:
    """Grad-CAM volumes of a segmentation, on the input's grid.

    A structure is explained in the windows that cover it: the whole region where that is hardly more than a
    window, else one window around the structure, else several that overlap by half, each weighted by its
    share of the structure. What no window covers is 0. A structure that is not in its region is explained by
    its probabilities in the middle of it; one that no region was for has a map of zeros.

    Args:
        model: The network; the maps are computed on its device.
        regions: What the network read.
        labels: The labelmap that was found, on the input's grid.
        keys: Which structures to explain.
        window: The model's window (i, j, k), voxels of its own grid.
        layer: As for `gradcam`.
        weighting: As for `gradcam`.
        progress: Called with the structures done and their number.
        cancel: Asked before every window and every layer of the network.

    Returns:
        Per key a float32 volume, 0 to 1 (all 0 where nothing speaks for the structure).

    Raises:
        Cancelled: `cancel` said so.
        InputError: As for `gradcam`.
    """
    maps = {key: np.zeros(labels.geometry.shape, np.float32) for key in keys}
    total = sum(structure.key in maps for region in regions for structure in region.structures)
    done = 0
    for region in regions:
        found = _on_network_grid(labels.array, region.prepared)
        scan = _Scan(model, region.prepared.array, region.available, window, layer, weighting, cancel)
        for channel, structure in enumerate(region.structures, start=1):
            if structure.key not in maps:
                continue
            with interruptible(model, scan.check if cancel else None):
                raw = restore_box(scan.map(found == structure.value, channel), region.prepared)
            part = part_of(maps[structure.key], region.prepared)
            np.maximum(part, raw, out=part)
            done += 1
            if progress is not None:
                progress(done, total)
    for array in maps.values():
        if array.max() > 0:
            array /= array.max()
    return {key: labels.with_array(array, name=f"Grad-CAM {key}") for key, array in maps.items()}


class _Scan:
    """Windows over a prepared image; the pass through a window is shared between structures."""

    def __init__(
        self,
        model: DIANet,
        array: npt.NDArray[np.float32],
        available: Sequence[bool],
        window: tuple[int, int, int],
        layer: str | None,
        weighting: Weighting,
        cancel: Callable[[], bool] | None,
    ) -> None:
        self.model, self.cancel = model, cancel
        self.layer, self.weighting = layer, weighting
        self.image = torch.from_numpy(array)
        self.shape = tuple(array.shape[1:])
        self.flat = model.config.spatial_dims == 2
        self.divisor = (1, *model.divisor) if self.flat else model.divisor
        self.window = (1, *window[1::-1]) if self.flat else window[::-1]
        self.device = next(model.parameters()).device
        everything = all(available)
        self.available = None if everything else torch.tensor([list(available)], device=self.device)
        self._kept: tuple[Window, WindowMaps] | None = None

    def check(self) -> None:
        """Stop where the user asked to."""
        if self.cancel is not None and self.cancel():
            raise Cancelled

    def map(self, mask: npt.NDArray[np.bool_], channel: int) -> npt.NDArray[np.float32]:
        """Raw Grad-CAM (k, j, i) of the structure at `mask`, (k, j, i) bool."""
        total = np.zeros(self.shape, np.float32)
        count = np.zeros(self.shape, np.float32)
        found = torch.from_numpy(np.ascontiguousarray(mask))
        voxels = int(mask.sum())
        for window in self._windows(mask):
            self.check()
            part = window.cut(found[None])[0].to(self.device)
            if voxels and not bool(part.any()):
                continue
            seen = self._seen(window)
            inside = (part[0] if self.flat else part) if voxels else None
            found_there, over = seen.map(channel, self.layer, self.weighting, inside)
            up = found_there.cpu().numpy()
            up = (up[None] if self.flat else up)[window.valid]
            total[window.slices] += up * (over / voxels if voxels else 1.0)
            count[window.slices] += 1
        total /= np.maximum(count, 1)
        return total

    def _seen(self, window: Window) -> WindowMaps:
        if self._kept is None or self._kept[0] != window:
            x = window.cut(self.image)[None].to(self.device)
            self._kept = window, WindowMaps(self.model, x[:, :, 0] if self.flat else x, self.available)
        return self._kept[1]

    def _windows(self, mask: npt.NDArray[np.bool_]) -> list[Window]:
        """The window that the engine would read the whole image in, else windows around the structure."""
        whole = None if self.flat else whole_window(self.shape, self.window, self.divisor)
        if whole is not None:
            return [Window(0, (0, 0, 0), self.shape, whole)]
        padded = tuple(
            min(round_up(n, d), round_up(m, d))
            for n, m, d in zip(self.window, self.shape, self.divisor, strict=True)
        )
        size = tuple(min(n, m) for n, m in zip(padded, self.shape, strict=True))
        starts = product(*(self._starts(mask, axis, size[axis]) for axis in range(3)))
        return [Window(index, start, size, padded) for index, start in enumerate(starts)]

    @staticmethod
    def _starts(mask: npt.NDArray[np.bool_], axis: int, size: int) -> list[int]:
        length = mask.shape[axis]
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        low, high = (int(hit[0]), int(hit[-1]) + 1) if hit.size else (length // 2, length // 2 + 1)
        if high - low <= size:
            return [min(max((low + high - size) // 2, 0), length - size)]
        steps = -(-(high - low - size) // max(1, size // 2))
        return sorted({round(low + step * (high - size - low) / steps) for step in range(steps + 1)})


def _on_network_grid(labels: npt.NDArray[Any], prepared: Prepared) -> npt.NDArray[Any]:
    part = part_of(labels, prepared)
    if not prepared.interpolated:
        return part
    return resample(part, prepared.part_geometry, prepared.geometry, interpolation="nearest")
