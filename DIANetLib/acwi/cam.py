# SPDX-License-Identifier: Apache-2.0
"""Where the evidence for a class lies (A4): class activation maps (29) and Grad-CAM (30) of whole images.

CAM (Zhou et al., CVPR 2016) weighs the channels of the map that is pooled by the class's weights in the
linear layer behind the pooling; the means of what comes out, and the bias, are the logits exactly. Grad-CAM
(MONAI's) weighs the channels of any layer by the class's mean gradient there. What lies between the encoder's
last stage and the logits may be linear, and then Grad-CAM of that stage is CAM again, so the default is the
stage before it. Both are of the mean pass: no latent draws, no dropout.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from DIANetLib.acwi.camera import gradcam_map, untouched, upsampled
from DIANetLib.errors import Cancelled, InputError
from DIANetLib.inference.classification import ClassMaps
from DIANetLib.inference.classify import whole_image_windows
from DIANetLib.inference.sampling import interruptible
from DIANetLib.preprocess import Prepared, part_of, restore_box
from DIANetLib.volume import Volume

if TYPE_CHECKING:
    from DIANetLib.network import DIANet

__all__ = ["cam", "class_gradcam", "class_layers", "class_maps"]

_NAMES = {"cam": "CAM", "gradcam": "Grad-CAM"}


def cam(model: DIANet, x: Tensor, *, available: Tensor | None = None) -> Tensor:
    """Class activation maps (29) before they are scaled, on the grid that is pooled.

    Args:
        model: The network, in evaluation mode.
        x: Preprocessed image, (1, M, *S), on the network's device.
        available: (1, M) bool, which modalities are there; None for all of them.

    Returns:
        (C, *S_L) float32, not negative.

    Raises:
        InputError: The network has no classification head.
    """
    head = model.classification
    if head is None:
        raise InputError("expected a network with a classification head, got one without.")
    seen: list[Tensor] = []
    handle = head.features.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    try:
        with torch.no_grad():
            model(x, available=available)
            return head.activation_map(seen[-1].float())[0].clamp_min(0.0)
    finally:
        handle.remove()


def class_gradcam(
    model: DIANet, x: Tensor, index: int, *, layer: str | None = None, available: Tensor | None = None
) -> Tensor:
    """Grad-CAM (30) of a class before it is scaled, on the layer's grid.

    Args:
        model: The network; afterwards it is as it was (hooks, gradients, modes).
        x: As for `cam`.
        index: Number of the class.
        layer: One of `class_layers(model)`; None for the first of them.
        available: As for `cam`.

    Returns:
        (*S_layer) float32, not negative.

    Raises:
        InputError: There is no such layer.
    """
    layers = class_layers(model)
    layer = layers[0] if layer is None else layer
    if layer not in layers:
        raise InputError(f"There is no layer {layer!r} to explain a class at; there are {', '.join(layers)}.")
    with torch.inference_mode(False), torch.enable_grad(), untouched(model):
        model.eval()
        copy = x.detach().clone()
        return gradcam_map(_Logits(model, available), f"model.{layer}", copy, index=index)


def class_layers(model: DIANet) -> tuple[str, ...]:
    """Names of the layers that a class can be explained at, the default first.

    Raises:
        InputError: The network has no classification head.
    """
    if model.classification is None:
        raise InputError("expected a network with a classification head, got one without.")
    stages = [name for name in model.explainable_layers() if name.startswith("encoder.")]
    return (*stages[-2:], *reversed(stages[:-2]), "classification.features")


def class_maps(
    model: DIANet,
    prepared: Prepared,
    image: Volume,
    classes: Sequence[str],
    *,
    keys: Collection[str],
    window: tuple[int, int, int],
    available: Sequence[bool],
    layer: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> ClassMaps:
    """Both maps of classes on the input's grid, each scaled to a maximum of 1.

    Args:
        model: The network; the maps are computed where its weights are.
        prepared: What it read.
        image: The first input.
        classes: Keys of all classes, in the order of the logits.
        keys: Which ones to explain.
        window: Voxels (i, j, k) that the network was fitted with.
        available: Per modality whether it is there.
        layer: As for `class_gradcam`.
        progress: Called with the maps done and their number.
        cancel: Asked before every layer of the network.

    Raises:
        Cancelled: ``cancel`` said so.
        InputError: As for `class_gradcam`.
    """
    device = next(model.parameters()).device
    flat = model.config.spatial_dims == 2
    there = None if all(available) else torch.tensor([list(available)], device=device)
    chosen = [(number, key) for number, key in enumerate(classes) if key in keys]
    source = torch.from_numpy(prepared.array)
    windows = whole_image_windows(model, prepared.array.shape[1:], window)
    maps = {
        kind: np.zeros((len(chosen), *prepared.array.shape[1:]), np.float32) for kind in ("cam", "gradcam")
    }
    with interruptible(model, _check(cancel)):
        for done, part in enumerate(windows, start=1):
            x = part.cut(source)[None].to(device)
            x = x.squeeze(2) if flat else x
            activation = cam(model, x, available=there)
            for row, (number, _) in enumerate(chosen):
                found = {
                    "cam": activation[number],
                    "gradcam": class_gradcam(model, x, number, layer=layer, available=there),
                }
                for kind, raw in found.items():
                    up = upsampled(raw, x.shape[2:]).cpu().numpy()
                    maps[kind][row][part.slices] = (up[None] if flat else up)[part.valid]
            if progress is not None:
                progress(done, len(windows))
    volumes: dict[str, dict[str, Volume]] = {}
    for kind, rows in maps.items():
        volumes[kind] = {
            key: _on_the_inputs_grid(values, prepared, image, f"{_NAMES[kind]} {key}")
            for (_, key), values in zip(chosen, rows, strict=True)
        }
    return ClassMaps(volumes["cam"], volumes["gradcam"])


class _Logits(nn.Module):
    """(1, C): logits of the image, of the mean pass."""

    def __init__(self, model: DIANet, available: Tensor | None) -> None:
        super().__init__()
        self.model, self.available = model, available

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x, available=self.available).classified.logits.float()
        return logits


def _on_the_inputs_grid(
    values: npt.NDArray[np.float32], prepared: Prepared, image: Volume, name: str
) -> Volume:
    whole = np.zeros(image.array.shape, np.float32)
    part_of(whole, prepared)[...] = restore_box(values, prepared)
    peak = float(whole.max())
    return image.with_array(whole / peak if peak > 0 else whole, name=name)


def _check(cancel: Callable[[], bool] | None) -> Callable[[], None] | None:
    if cancel is None:
        return None

    def check() -> None:
        if cancel():
            raise Cancelled

    return check
