# SPDX-License-Identifier: Apache-2.0
"""MONAI's Grad-CAM (Selvaraju et al., ICCV 2017; equation 30) of any score of a network, leaving no trace.

MONAI leaves its hooks on the modules, clears gradients and switches training modes; all of that is undone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from monai.visualize.class_activation_maps import GradCAM
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["gradcam_map", "untouched", "upsampled"]


def gradcam_map(score: nn.Module, layer: str, start: Tensor, *, index: int = 0) -> Tensor:
    """ReLU of the layer's channels weighted by the mean gradients of a score.

    To be called where gradients are computed and within `untouched`.

    Args:
        score: Maps `start` to scores (1, C).
        layer: Name of the module of `score` whose output is looked at.
        start: (1, ...).
        index: Which of the scores.

    Returns:
        (*S_layer) float32, not scaled.
    """
    camera = GradCAM(nn_module=score, target_layers=layer)
    try:
        raw = camera.compute_map(start.detach().clone().requires_grad_(), class_idx=index)
    finally:
        # These lead through autograd's graph back to the hooks that hold them: a circle that Python's
        # garbage collector cannot see.
        camera.nn_module.activations.clear()
        camera.nn_module.gradients.clear()
        camera.nn_module.score = None
    return raw.detach()[0, 0].float()


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Put back what MONAI changes on the modules: hooks, gradients, training modes, `inplace`."""
    modules = list(model.modules())
    state = [
        (
            m,
            set(m._forward_hooks),
            set(m._backward_hooks),
            m._is_full_backward_hook,
            m.training,
            m.__dict__.get("inplace"),
        )
        for m in modules
    ]
    parameters = [(p, p.grad, p.requires_grad) for p in model.parameters()]
    for parameter, _, _ in parameters:
        parameter.grad = None
        parameter.requires_grad_(False)  # only the way from the layer to the score is differentiated
    try:
        yield
    finally:
        for module, forward, backward, full, training, inplace in state:
            _keep(module._forward_hooks, forward)
            _keep(module._backward_hooks, backward)
            module._is_full_backward_hook = full
            module.training = training
            if inplace is not None:
                module.__dict__["inplace"] = inplace
        for parameter, gradient, required in parameters:
            parameter.requires_grad_(required)
            parameter.grad = gradient


def _keep(hooks: dict[int, Any], known: set[int]) -> None:
    for key in [key for key in hooks if key not in known]:
        del hooks[key]


def upsampled(raw: Tensor, size: Sequence[int]) -> Tensor:
    """A map (*S_layer) interpolated linearly to the size of the image, (*S)."""
    mode = "trilinear" if len(size) == 3 else "bilinear"
    return F.interpolate(raw[None, None], size=tuple(size), mode=mode, align_corners=False)[0, 0]
