# SPDX-License-Identifier: Apache-2.0
"""Networks of every kind, small enough for tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from DIANetLib.network import DIANet, DIANetOutput, LatentConfig, NetworkConfig

SIZES = {2: (16, 24), 3: (8, 12, 16)}
STRIDES = (2, 2)
DIVISOR = 4


def config(
    spatial_dims: int = 3, *, latent: bool | LatentConfig | None = True, **changes: Any
) -> NetworkConfig:
    fields: dict[str, Any] = {
        "spatial_dims": spatial_dims,
        "classes": 3,
        "widths": (4, 6, 8),
        "blocks": (1, 0, 1),
        "strides": STRIDES,
        "latent": LatentConfig(channels=5) if latent is True else latent or None,
        "deep_supervision": 1,
    }
    return NetworkConfig(**{**fields, **changes})


def network(setup: NetworkConfig, *, seed: int = 0) -> DIANet:
    """A network in evaluation mode, its projections moved away from zero so that nothing is trivial."""
    torch.manual_seed(seed)
    model = DIANet(setup)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(
                (
                    "latent.project",
                    "latent.factors",
                    "fusion.project",
                    "latent.log_variance.weight",
                    "segmentation.logits.weight",
                    "reconstruction.images",
                )
            ) or name.endswith("gain"):
                parameter.normal_(std=0.3)
    return model.eval()


def image(setup: NetworkConfig, batch: int = 1, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((batch, setup.modalities, *SIZES[setup.spatial_dims]), generator=generator)


def parts(output: DIANetOutput) -> dict[str, Tensor]:
    """What the heads put out in evaluation mode: name -> (N, ...)."""
    found = {
        "mean": output.segmentation and output.segmentation.mean,
        "log_variance": output.segmentation and output.segmentation.log_variance,
        "logits": output.classification and output.classification.logits,
        "image": output.reconstruction and output.reconstruction.image,
        "anatomy": output.anatomy,
    }
    return {name: value for name, value in found.items() if value is not None}


def generators(seeds: Iterable[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@contextmanager
def calls(model: nn.Module) -> Iterator[dict[str, list[int]]]:
    """Leaf modules that run inside the block: name -> rows of its output, one number a call."""
    seen: dict[str, list[int]] = {}

    def record(name: str, output: Any) -> None:
        seen.setdefault(name, []).append(output.shape[0])

    handles = [
        module.register_forward_hook(lambda _module, _args, output, name=name: record(name, output))
        for name, module in model.named_modules()
        if not list(module.children())
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
