# SPDX-License-Identifier: Apache-2.0
"""Grad-CAM of any score of a network (equation 30), leaving no trace.

Features of a layer are weighed by gradients of the score and added up over the channels; what speaks for it
is positive. Grad-CAM (Selvaraju et al., ICCV 2017) weighs a channel by the mean of its gradient over places,
so that one that counts somewhere lights up wherever it is active. HiResCAM (Draelos and Carin, 2020,
arXiv:2011.08891; of segmentations: Rheude et al., MELBA 2024) weighs place by place, so that only what acted
on the score is seen; LayerCAM (Jiang et al., IEEE TIP 2021) does so with the positive gradients alone, which
gives usable maps of fine layers too, to be put together with those of coarse ones.

MONAI's Grad-CAM leaves its hooks on the modules, clears gradients and switches training modes; all of that is
undone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from monai.visualize.class_activation_maps import GradCAM
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Weighting", "gradcam_map", "layers_and_scores", "untouched", "upsampled", "weighted"]

#: How gradients weigh features: Grad-CAM, HiResCAM, LayerCAM.
Weighting = Literal["mean", "place", "positive"]


def weighted(features: Tensor, gradients: Tensor, weighting: Weighting) -> Tensor:
    """ReLU of a layer's features, weighted by gradients and summed over the channels.

    Args:
        features: (C, *S_layer).
        gradients: (C, *S_layer), of a score by the features.
        weighting: By the "mean" of a channel's gradients, by each "place" of them, or by the "positive" ones.

    Returns:
        (*S_layer) float32, not scaled.
    """
    if weighting == "mean":
        gradients = gradients.flatten(1).mean(1).reshape(-1, *[1] * (gradients.ndim - 1))
    elif weighting == "positive":
        gradients = gradients.relu()
    return (features * gradients).sum(0).relu().float()


def layers_and_scores(
    model: nn.Module, layers: Sequence[str], run: Callable[[], Tensor]
) -> tuple[list[Tensor], Tensor]:
    """What layers put out and what the network makes of it, differentiable by them.

    To be called where gradients are computed and within `untouched`.

    Args:
        model: The network.
        layers: Names of the modules whose outputs are looked at.
        run: Runs the network once.

    Returns:
        The layers' outputs, each (1, C, *S_layer), and what `run` gave.
    """
    kept: dict[str, Tensor] = {}

    def keep(layer: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            # What lies before the first of the layers needs no gradient, nor memory to compute one.
            kept[layer] = output if output.requires_grad else output.detach().clone().requires_grad_()
            return kept[layer]

        return hook

    handles = [model.get_submodule(layer).register_forward_hook(keep(layer)) for layer in layers]
    try:
        scores = run()
    finally:
        for handle in handles:
            handle.remove()
    return [kept[layer] for layer in layers], scores


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
