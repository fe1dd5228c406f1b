# SPDX-License-Identifier: Apache-2.0
"""Where the network attends to, and which of its paths it relies on; paper, section 3.4.

Attention (A3; equation 27) is A = softmax over the image of the scores Conv(z) that each scale has (9), shown
as A / max A. The network itself weighs its features by the sigmoid of the same scores, which does not depend
on how large its window is; a softmax over the whole image is made of them here, exp(score - greatest score),
since what a map is looked at for is where the greatest scores lie. Saliency (28) is the image times the mask.
The reliable path (N11) is, per voxel, the path that counts most in the fusion of the segmentation head's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from DIANetLib.errors import Cancelled, InputError
from DIANetLib.inference.prediction import PathMap
from DIANetLib.inference.scan import scan
from DIANetLib.preprocess import part_of, restore_box
from DIANetLib.volume import Volume

if TYPE_CHECKING:
    from DIANetLib.acwi.explain import Seen
    from DIANetLib.network import DIANet

__all__ = ["attention_maps", "reliable_path"]

# What a sigmoid is at least away from 0 and 1 for its score to be told.
_CLOSEST = 1e-6


def attention_maps(
    model: DIANet,
    regions: Sequence[Seen],
    image: Volume,
    *,
    window: tuple[int, int, int],
    cancel: Callable[[], bool] | None = None,
) -> dict[str, Volume]:
    """Attention and saliency on the input's grid.

    Args:
        model: The network; the maps are computed where its weights are.
        regions: What the network read.
        image: The first input, on whose grid the maps lie.
        window: The model's window (i, j, k), voxels of its own grid.
        cancel: Asked before every layer of the network.

    Returns:
        float32 volumes: ``"attention"``, of the mean score over the scales; ``"attention_scale_1"`` and on,
        finest first; each 0 to 1, at its maximum 1; 0 where nothing was read. ``"saliency"``: the image,
        counted from its least value, times the first.

    Raises:
        Cancelled: ``cancel`` said so.
        InputError: The network has no attention.
    """
    scales = len(model.attention_layers())
    if not scales:
        raise InputError("expected a network with attention per scale, got one without.")

    check = _checks(cancel)

    def read(x: Tensor, available: Tensor | None) -> Tensor:
        scores = [torch.logit(a, _CLOSEST) for a in model.attention_maps(x, available)]
        return torch.cat([_spread(score, x.shape[2:]) for score in scores], 1)

    names = ["attention", *(f"attention_scale_{n}" for n in range(1, scales + 1))]
    maps = {name: np.zeros(image.array.shape, np.float32) for name in names}
    read_of = [
        (region.prepared, scan(model, region.prepared.array, region.available, window, read, check=check))
        for region in regions
    ]
    scores = [(prepared, np.concatenate([found.mean(0)[None], found])) for prepared, found in read_of]
    greatest = (
        [max(float(found[n].max()) for _, found in scores) for n in range(scales + 1)] if scores else []
    )
    for prepared, found in scores:
        for name, values, top in zip(names, found, greatest, strict=True):
            part = part_of(maps[name], prepared)
            np.maximum(part, restore_box(np.exp(values - np.float32(top)), prepared), out=part)
    values = image.array.astype(np.float32)
    maps["saliency"] = maps["attention"] * (values - values.min())
    return {name: image.with_array(array, name=name.replace("_", " ")) for name, array in maps.items()}


def reliable_path(
    model: DIANet,
    regions: Sequence[Seen],
    image: Volume,
    *,
    window: tuple[int, int, int],
    cancel: Callable[[], bool] | None = None,
) -> PathMap:
    """Which path the segmentation relies on, on the input's grid.

    Args:
        model: As for `attention_maps`.
        regions: As for `attention_maps`; where they overlap, the later one is shown.
        image: As for `attention_maps`.
        window: As for `attention_maps`.
        cancel: As for `attention_maps`.

    Raises:
        Cancelled: ``cancel`` said so.
        InputError: The network fuses no paths.
    """
    names = model.path_names()
    if not names:
        raise InputError("expected a network with reliable_path, got one that has a single path.")
    chosen = np.zeros(image.array.shape, np.uint8)
    for region in regions:
        prepared = region.prepared
        weights = scan(
            model, prepared.array, region.available, window, model.path_weights, check=_checks(cancel)
        )
        best = np.zeros(part_of(chosen, prepared).shape, np.float32)
        part = part_of(chosen, prepared)
        for number, values in enumerate(weights, start=1):
            restored = restore_box(values, prepared)
            part[restored > best] = number
            np.maximum(best, restored, out=best)
    return PathMap(image.with_array(chosen, name="reliable path"), names)


def _spread(scale: Tensor, size: Sequence[int]) -> Tensor:
    mode = "trilinear" if len(size) == 3 else "bilinear"
    return F.interpolate(scale.float(), size=tuple(size), mode=mode, align_corners=False)


def _checks(cancel: Callable[[], bool] | None) -> Callable[[], None]:
    def check() -> None:
        if cancel is not None and cancel():
            raise Cancelled

    return check
