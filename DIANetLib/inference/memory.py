# SPDX-License-Identifier: Apache-2.0
"""Where a network runs and how much of an image it reads at a time, so that memory suffices.

Before a run the need is estimated from the network's widths and compared with what is free. Should memory run
out all the same, the run goes on with fewer samples at a time, then smaller windows, then on the CPU.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from DIANetLib.errors import DeviceError
from DIANetLib.inference.sliding_window import Sizes, round_up, whole_window
from DIANetLib.network import NetworkConfig

__all__ = [
    "Plan",
    "available_bytes",
    "describe_device",
    "divisors",
    "estimate_bytes",
    "is_out_of_memory",
    "make_plan",
    "resolve_device",
    "retreat",
]

#: Share of the free memory that a run may plan with; the rest is for what cannot be foreseen.
HEADROOM = 0.8
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Plan:
    """How a run goes about its work.

    Attributes:
        device: Where the network runs.
        window: Voxels (k, j, i) read at a time, multiples of the network's divisor.
        batch: Samples decoded at a time.
    """

    device: torch.device
    window: Sizes
    batch: int


def resolve_device(request: str = "auto") -> torch.device:
    """The device meant by ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        DeviceError: It is not there, or no such device is known.
    """
    name, _, index = request.strip().lower().partition(":")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = torch.backends.mps.is_available()
    if name == "auto" and not index:
        return torch.device("cuda:0" if count else "mps" if mps else "cpu")
    if name == "cpu" and not index:
        return torch.device("cpu")
    if name == "mps" and not index:
        if mps:
            return torch.device("mps")
        raise DeviceError(
            "device 'mps' was asked for, but there is no Apple GPU that this PyTorch can use.",
            remedy="Choose --device cpu or auto.",
        )
    if name == "cuda" and (not index or index.isdecimal()):
        if not count:
            built = torch.version.cuda is not None or torch.version.hip is not None
            why = "none was found" if built else "this PyTorch was built without GPU support"
            raise DeviceError(
                f"device '{request}' was asked for, but there is no GPU to use: {why}.",
                remedy="Choose --device cpu or auto; `dianet doctor` tells more.",
            )
        if int(index or 0) >= count:
            raise DeviceError(
                f"device '{request}' was asked for, but there are {count} GPUs, numbered from 0.",
                remedy=f"Choose --device cuda:{count - 1} or less.",
            )
        return torch.device("cuda", int(index or 0))
    raise DeviceError(f"unknown device '{request}'.", remedy="Expected auto, cpu, cuda, cuda:N or mps.")


def describe_device(device: torch.device) -> str:
    """The device's name for people, such as ``cuda:0 (NVIDIA H100)``."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def available_bytes(device: torch.device) -> int | None:
    """Free memory of a device in bytes, what other programs may give back included; None if unknown."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # Memory that PyTorch holds but does not use is free to it.
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free_values = [value for value in (_system_memory(), _control_group_memory()) if value is not None]
    return min(free_values) if free_values else None


def estimate_bytes(config: NetworkConfig, window: Sequence[int], batch: int) -> int:
    """Bytes that a window needs at its peak, on the generous side.

    Counted are the encoder's features and the decoder's prepared halves, the finest decoder scale and the
    logits of each sample of a batch, and the running sums.

    Args:
        config: The network's configuration.
        window: Voxels per axis.
        batch: Samples decoded at a time.
    """
    voxels = math.prod(window)
    kept, scale = 0.0, 1
    for width, stride in zip(config.widths, (1, *config.strides), strict=True):
        scale *= stride
        kept += 2 * width / scale**config.spatial_dims
    transient = 4 * config.widths[0]
    per_sample = transient + 8 * config.classes
    sums = 4 * config.classes + 4
    return int(_FLOAT_BYTES * voxels * (config.modalities + kept + max(transient, batch * per_sample) + sums))


def make_plan(
    config: NetworkConfig,
    shape: Sizes,
    window: Sizes,
    device: torch.device,
    *,
    samples: int,
    free_bytes: int | None,
) -> Plan:
    """Choose window and batch for an image; all of it at once if it is little larger than the model's window.

    Args:
        config: The network's configuration.
        shape: Voxels of the prepared image (k, j, i).
        window: The model's window (k, j, i); for a 2-D network its first size is taken to be 1.
        device: Where to run.
        samples: Stochastic passes.
        free_bytes: Free memory; None plans as if there were enough.
    """
    divisor = divisors(config)
    if config.spatial_dims == 2:
        window = (1, *window[1:])
    usual = tuple(min(round_up(w, d), round_up(n, d)) for w, n, d in zip(window, shape, divisor, strict=True))
    # On CPUs one sample at a time is fastest: larger batches leave the caches and cost page faults.
    batch = max(1, samples) if device.type == "cuda" else 1
    budget = math.inf if free_bytes is None else HEADROOM * free_bytes
    whole = whole_window(shape if config.spatial_dims == 3 else (1, *shape[1:]), window, divisor)
    for size in (whole, usual):
        rows = batch
        while size is not None and rows >= 1:
            if estimate_bytes(config, size, rows) <= budget:
                return Plan(device, size, rows)
            rows //= 2
    plan = Plan(device, usual, 1)
    while estimate_bytes(config, plan.window, 1) > budget:
        smaller = _smaller_window(plan.window, divisor)
        if smaller is None:
            break
        plan = replace(plan, window=smaller)
    return plan


def retreat(plan: Plan, config: NetworkConfig) -> tuple[Plan, str] | None:
    """The next more modest plan after memory ran out, and a sentence about it; None if there is none."""
    where = f"Memory ran out on {plan.device}"
    if plan.batch > 1:
        batch = plan.batch // 2
        return replace(plan, batch=batch), f"{where}; went on with {batch} samples at a time."
    window = _smaller_window(plan.window, divisors(config))
    if window is not None:
        size = " × ".join(str(n) for n in reversed(window))
        return replace(plan, window=window), f"{where}; went on with windows of {size} voxels."
    if plan.device.type != "cpu":
        return replace(plan, device=torch.device("cpu")), f"{where}; went on on the CPU."
    return None


def divisors(config: NetworkConfig) -> Sizes:
    """What window sizes (k, j, i) must be divisible by; 1 along the slices of a 2-D network."""
    return (config.divisor,) * 3 if config.spatial_dims == 3 else (1, config.divisor, config.divisor)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of PyTorch or Python says that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("not enough memory" in text or "out of memory" in text)


def _smaller_window(window: Sizes, divisor: Sizes) -> Sizes | None:
    """Halve the longest axis, down to four times the divisor; None if nothing can shrink."""
    order = sorted(range(3), key=lambda axis: window[axis] / divisor[axis], reverse=True)
    for axis in order:
        size, step = window[axis], divisor[axis]
        half = round_up(math.ceil(size / 2), step)
        if step > 1 and size > 4 * step and half < size:
            return tuple(max(half, 4 * step) if a == axis else n for a, n in enumerate(window))
    return None


def _system_memory() -> int | None:
    if sys.platform == "linux":
        try:
            for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
        except OSError:
            return None
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf, macOS not these names
        return None


def _control_group_memory() -> int | None:
    """What a container may still use, by control groups v2; None where there is no limit."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit = int((folder / "memory.max").read_text(encoding="ascii"))
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        statistics = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):  # no such files, or "max"
        return None
    cache = next((int(line.split()[1]) for line in statistics if line.startswith("inactive_file ")), 0)
    return max(0, limit - used + cache)
