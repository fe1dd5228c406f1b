# SPDX-License-Identifier: Apache-2.0
"""The number type that a fit computes in."""

from __future__ import annotations

import itertools
import operator

import torch

from DIANetLib.errors import ConfigError
from training.config import TrainingConfig


def autocast_type(config: TrainingConfig, device: torch.device) -> torch.dtype | None:
    """Type of the mixed-precision pass, or None for float32.

    "auto" takes bfloat16 where the processor multiplies it in hardware (recent GPUs, CPUs with AMX or
    AVX-512 BF16), float16 on older GPUs, float32 elsewhere: emulated bfloat16 is slower than float32.

    Raises:
        ConfigError: if bfloat16 is asked for on a CPU that would compute wrong gradients in it.
    """
    named = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
    precision = config.optimiser.precision
    broken = device.type == "cpu" and _two_slices_deep(config)
    if precision == "bfloat16" and broken:
        raise ConfigError(
            f"optimiser.precision: bfloat16 on a CPU cannot fit patches of {config.patch[2]} slices, whose"
            " features are two slices deep at one scale: torch computes wrong gradients there.",
            remedy="Choose float32 or auto, or another number of slices.",
        )
    if precision != "auto":
        return named[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.bfloat16 if device.type == "cpu" and _multiplies_bfloat16() and not broken else None


def _two_slices_deep(config: TrainingConfig) -> bool:
    """Whether some scale's features have two slices.

    Seen with torch 2.13 (oneDNN) on AVX-512 BF16: the weight gradient of a 3 x 3 x 3 convolution over two
    slices holds numbers that were never written, up to 1e36, anew in each call. One slice, three and more are
    right, so are two rows or columns.
    """
    if config.network.spatial_dims != 3:
        return False
    reductions = itertools.accumulate((1, *config.network.strides), operator.mul)
    return any(config.patch_kji[0] // reduction == 2 for reduction in reductions)


def _multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for it; torch tells through functions that not every version has."""
    tests = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, test, lambda: False)() for test in tests)
