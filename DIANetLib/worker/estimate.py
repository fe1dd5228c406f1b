# SPDX-License-Identifier: Apache-2.0
"""What a run would need on each device of this machine, before anything is read or computed."""

from __future__ import annotations

import math
import os

import torch

from DIANetLib.bundle import LoadedModel
from DIANetLib.inference.cascade import is_crop
from DIANetLib.inference.engine import usual_samples
from DIANetLib.inference.memory import (
    Plan,
    available_bytes,
    estimate_bytes,
    make_plan,
    resolve_device,
)
from DIANetLib.inference.prediction import Box
from DIANetLib.inference.sliding_window import Sizes
from DIANetLib.preprocess import prepared_geometry
from DIANetLib.volume import Geometry
from DIANetLib.worker.protocol import DeviceEstimate

__all__ = ["estimate"]

_FLOAT_BYTES = 4
#: Bytes a voxel of the input that are held or made in passing whatever part of it is looked at.
_PER_INPUT_VOXEL = 10
#: Maps over what is looked at, beside one per structure: uncertainty, error, labels, and copies in passing.
_MAPS = 10


def estimate(
    model: LoadedModel, geometry: Geometry, *, roi: Box | None = None, samples: int | None = None
) -> tuple[DeviceEstimate, ...]:
    """Memory that segmenting an image on this grid would need, per device, the automatic choice first.

    Args:
        model: The model.
        geometry: Grid of the first input.
        roi: Where to look, LPS mm; None lets the model find it.
        samples: Stochastic passes; None for as many as are usual with the model.

    Raises:
        BundleError: The model or its localiser cannot be used.
        InputError: The region lies outside of the image.
    """
    samples = usual_samples(model) if samples is None else samples
    whole = prepared_geometry(geometry, model.preprocess, region=roi)
    steps: list[tuple[LoadedModel, Sizes]] = [(model, whole.shape)]
    looks = math.prod(whole.shape)
    localiser = None if roi is not None or is_crop(geometry) else model.load_localiser()
    if localiser is not None:
        # Where it is remains to be found; how large it is is what the model's window was made for.
        shape = tuple(min(n, w) for n, w in zip(whole.shape, model.window[::-1], strict=True))
        steps = [(model, shape), (localiser, prepared_geometry(geometry, localiser.preprocess).shape)]
        looks = math.prod(shape)
    host = math.prod(geometry.size) * _PER_INPUT_VOXEL
    host += looks * _FLOAT_BYTES * (_MAPS + len(model.structures))
    return tuple(_on(device, steps, host, samples) for device in _devices())


def _on(
    device: torch.device, steps: list[tuple[LoadedModel, Sizes]], host: int, samples: int
) -> DeviceEstimate:
    free = available_bytes(device)
    plans, needs = [], []
    for model, shape in steps:
        rows = samples if model is steps[0][0] else 0
        plan = _plan(model, shape, device, rows, free)
        plans.append(plan)
        need = estimate_bytes(model.network_config, plan.window, plan.batch)
        if device.type == "cpu":
            # Maps of the whole are put together from those of the windows, also for networks on a GPU; but
            # there it is the GPU's memory that this is about.
            classes = model.network_config.classes
            need += math.prod(shape) * _FLOAT_BYTES * (2 * classes + 4)
        needs.append(need)
    needed = max(needs) + sum(2 * model.metadata.dianet.size_bytes for model, _ in steps)
    if device.type == "cpu":
        needed += host
    i, j, k = reversed(plans[0].window)
    return DeviceEstimate(
        device=str(device),
        description=_description(device),
        needed_bytes=needed,
        free_bytes=free,
        window=(i, j, k),
        fits=free is None or needed <= free,
    )


def _plan(model: LoadedModel, shape: Sizes, device: torch.device, samples: int, free: int | None) -> Plan:
    config = model.network_config
    return make_plan(config, shape, model.window[::-1], device, samples=samples, free_bytes=free)


def _devices() -> list[torch.device]:
    """Every device, the one that "auto" means first."""
    found = [resolve_device("auto")]
    if torch.cuda.is_available():
        found += [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append(torch.device("mps"))
    return list(dict.fromkeys([*found, torch.device("cpu")]))


def _description(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple GPU"
    return f"CPU, {os.cpu_count()} cores"
