# SPDX-License-Identifier: Apache-2.0
"""What in one window speaks for a structure: maps of one layer or of several, from one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from monai.networks.layers import GaussianFilter
from torch import Tensor

from DIANetLib.acwi.camera import Weighting, layers_and_scores, untouched, upsampled, weighted
from DIANetLib.errors import InputError
from DIANetLib.inference.grid import segmentation_layers
from DIANetLib.labelling import labels_of_logits

if TYPE_CHECKING:
    from DIANetLib.network import DIANet

__all__ = ["DEFAULT_WEIGHTING", "WindowMaps", "default_layers", "scaled"]

DEFAULT_WEIGHTING: Weighting = "positive"
#: Deviation, in voxels that the network reads, of the Gaussian that maps put together are smoothed by.
SMOOTHING_VOXELS = 2.0


def default_layers(model: DIANet) -> tuple[str, ...]:
    """The layers whose maps are put together where none is named, as the image passes them.

    The encoder's finest scale tells what in the image speaks for a structure, along whatever way it takes
    through the network; the decoder's finest one where the structure is. The latter alone would show the
    segmentation over again: the logits of a place are made of nothing but its features.

    Raises:
        InputError: The network names no layers.
    """
    layers = segmentation_layers(model)
    if not layers:
        raise InputError("expected a network with layers to explain it at, got one that names none.")
    encoder = [name for name in layers if name.startswith("encoder.stages.")]
    decoder = [name for name in layers if name.startswith("segmentation.scales.")]
    return (*encoder[:1], *decoder[-1:]) or layers[:1]


def scaled(values: Tensor) -> Tensor:
    """A map divided by its maximum; as it is where nothing is above 0."""
    peak = values.max()
    return values / peak if peak > 0 else values


class WindowMaps:
    """Maps of one window, through which the network runs once for all structures.

    Args:
        model: The network; after each call it is as it was.
        x: (1, M, *S), on its device.
        available: (1, M) bool; None where all modalities are there.
    """

    def __init__(self, model: DIANet, x: Tensor, available: Tensor | None = None) -> None:
        # Tensors made under a caller's inference_mode cannot take part in a backward pass; their copies can.
        with torch.inference_mode(False):
            self.x = x.detach().clone()
        self.model, self.available = model, available
        self._features: dict[str, Tensor] = {}
        self._seen: Tensor | None = None

    def map(
        self, channel: int, layer: str | None, weighting: Weighting, mask: Tensor | None
    ) -> tuple[Tensor, int]:
        """Map (*S) and the number of voxels that the score was taken over; arguments as for `gradcam`.

        The map of one layer has the score's unit. Of several, each to a maximum of 1, it is their mean,
        smoothed, since what blurring the image takes away there is not told to the voxel.
        """
        model = self.model
        layers = segmentation_layers(model)
        if layer is not None and layer not in layers:
            raise InputError(f"There is no layer {layer!r} to explain; there are {', '.join(layers)}.")
        if not 1 <= channel < model.config.classes:
            raise InputError(f"There is no structure {channel}; expected 1 to {model.config.classes - 1}.")
        if mask is not None and (mask.shape != self.x.shape[2:] or not bool(mask.any())):
            raise InputError(
                f"The region to explain must hold a voxel and have the window's shape"
                f" {tuple(self.x.shape[2:])}, got {int(mask.sum())} voxels in {tuple(mask.shape)}."
            )
        with torch.inference_mode(False), torch.enable_grad(), untouched(model):
            features, logits = self._passed(default_layers(model) if layer is None else (layer,))
            weight, voxels = _weight(logits.detach(), channel, mask)
            score = (logits[channel] * weight).sum() / weight.sum()
            gradients = torch.autograd.grad(score, features, retain_graph=True)
        maps = [
            upsampled(weighted(f.detach()[0], g[0], weighting), self.x.shape[2:])
            for f, g in zip(features, gradients, strict=True)
        ]
        return (maps[0] if layer is not None else _together(maps)), voxels

    def _passed(self, layers: tuple[str, ...]) -> tuple[list[Tensor], Tensor]:
        """Features of the layers, each (1, C, *S_layer), and the logits (K, *S) of the mean pass."""
        if self._seen is None or not set(layers) <= set(self._features):
            self._features, self._seen = {}, None  # not beside the next ones
            self.model.eval()
            features, self._seen = layers_and_scores(self.model, layers, self._logits)
            self._features = dict(zip(layers, features, strict=True))
        return [self._features[layer] for layer in layers], self._seen

    def _logits(self) -> Tensor:
        encoded = self.model.encode(self.x, self.available, heads=["segmentation"])
        logits: Tensor = self.model.decode(encoded, heads=["segmentation"]).segmented.mean[0].float()
        return logits


def _together(maps: Sequence[Tensor]) -> Tensor:
    """Maps (*S) of several layers as one, not scaled."""
    mean = torch.stack([scaled(found) for found in maps]).mean(0)
    smooth: Tensor = GaussianFilter(mean.ndim, SMOOTHING_VOXELS).to(mean.device)(mean[None, None])[0, 0]
    return smooth


def _weight(logits: Tensor, channel: int, mask: Tensor | None) -> tuple[Tensor, int]:
    """How much each voxel counts in the score, (*S), and how many do."""
    if mask is not None:
        return mask.to(logits), int(mask.sum())
    own = labels_of_logits(logits) == channel
    if bool(own.any()):
        return own.to(logits), int(own.sum())
    share = torch.log_softmax(logits, 0)[channel]
    return (share - share.max()).exp(), 0  # to scale, as the probabilities themselves may round to zero
