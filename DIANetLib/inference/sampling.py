# SPDX-License-Identifier: Apache-2.0
"""Stochastic passes through one window: paper section 3.4, equations 31 to 35.

What lies before the first stochastic layer runs once; what lies behind it runs once per sample, a few samples
at a time. Of the samples only running sums are kept. Every sample draws from its own generator, seeded by
(seed, window, sample), so that results depend neither on how samples are batched nor on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from DIANetLib.acwi.agreement import RunningOverlaps
from DIANetLib.acwi.pooling import pool
from DIANetLib.acwi.uncertainty import RunningUncertainty, UncertaintyMaps
from DIANetLib.errors import InputError
from DIANetLib.inference.one_pass import one_pass_maps
from DIANetLib.network import DIANet, SegmentationOutput
from DIANetLib.network.one_pass import OnePassHead, cropped

__all__ = ["autocast", "check_draws", "interruptible", "sample_generators", "sample_window"]


def check_draws(samples: int, seed: int) -> None:
    """Refuse what no stochastic passes can be made of.

    Raises:
        InputError: One of them is negative.
    """
    if samples < 0 or seed < 0:
        raise InputError(f"samples and seed must be 0 or more, got {samples} and {seed}.")


def sample_generators(seed: int, window: int, samples: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator for each sample of a window, whatever batch it is drawn in.

    Args:
        seed: The user's seed, 0 or more.
        window: Index of the window.
        samples: Indices of the samples.
    """
    generators = []
    for sample in samples:
        state = int(np.random.SeedSequence((seed, window, sample)).generate_state(1, np.uint64)[0])
        generators.append(torch.Generator().manual_seed(state))
    return generators


def sample_window(
    network: DIANet,
    x: Tensor,
    *,
    available: Tensor | None = None,
    samples: int,
    seed: int = 0,
    window: int = 0,
    batch: int = 1,
    temperature: float = 1.0,
    valid: tuple[slice, ...] | None = None,
    counted: tuple[slice, ...] | None = None,
    on_samples: Callable[[int], None] | None = None,
    pooled: bool = False,
    head: OnePassHead | None = None,
    mirrored: bool = False,
) -> UncertaintyMaps:
    """Encode a window once, decode it ``samples`` times, and sum up.

    Args:
        network: In evaluation mode, on the device of ``x``.
        x: (1, M, *S), prepared; sizes divisible by the network's divisor.
        available: (1, M) bool, which modalities are there; None for all of them.
        samples: T; 0 is one plain pass with the mean of the latent and without dropout, read by ``head`` if
            there is one.
        seed: Seed of the run.
        window: Index of the window, part of the seeds.
        batch: Samples decoded at a time; changes nothing but speed and memory.
        temperature: Divides the logits (calibration).
        valid: The part of S that is image and not padding; maps are of that part.
        counted: The part of `valid` that no other window counts, for the agreement of the samples; None for
            all of it.
        on_samples: Called with the number of samples done since the last call.
        pooled: Also pool what the encoder saw: the coarsest features, then those that the decoder's scales
            read, coarsest first.
        head: What tells from a plain pass what samples would have told, on the device of ``x``.
        mirrored: Every other sample, from the second on, reads the window mirrored along its last axis (left
            and right), and is turned back; the window is then encoded twice.

    Returns:
        Maps (K, *valid) and (*valid) on the device of ``x``.
    """
    running: RunningUncertainty | None = None
    overlaps: RunningOverlaps | None = None
    total = max(samples, 1)
    with torch.inference_mode():
        with autocast(x.device):
            encoded = network.encode(x, available, heads=["segmentation"])
        seen = pool((encoded.features, *encoded.prepared), x.shape[2:], valid) if pooled else None
        if head is not None and not samples:
            with autocast(x.device):
                plain = network.decode(encoded, None, heads=["segmentation"], keep_features=True).segmented
                maps = one_pass_maps(head, _cropped(plain, valid), temperature)
            if on_samples is not None:
                on_samples(1)
            return replace(maps, pooled=seen)
        ways = 2 if mirrored and total > 1 else 1
        for way in range(ways):
            if way == 1:
                del encoded  # not beside the next one
                with autocast(x.device):
                    encoded = network.encode(x.flip(-1), available, heads=["segmentation"])
            numbers = range(way, total, ways)
            for first in range(0, len(numbers), batch):
                rows = numbers[first : first + batch]
                generators = sample_generators(seed, window, rows) if samples else None
                with autocast(x.device):
                    output = network.decode(encoded, generators, heads=["segmentation"]).segmented
                output = _cropped(output.flipped([-1]) if way == 1 else output, valid)
                probabilities = output.probabilities(temperature)
                log_variance = output.log_variance
                variance = None if log_variance is None else log_variance.float().exp()
                if running is None:
                    running = RunningUncertainty(probabilities.shape[1:], probabilities)
                    overlaps = RunningOverlaps(probabilities.shape[1:], counted) if total > 1 else None
                running.update(probabilities, variance)
                if overlaps is not None:
                    overlaps.update(probabilities)
                # Not kept while the next batch is decoded.
                del output, probabilities, log_variance, variance
                if on_samples is not None:
                    on_samples(len(rows))
        assert running is not None  # total is at least one
        counted_maps = None if overlaps is None else overlaps.finish()
        return replace(running.finish(), overlaps=counted_maps, pooled=seen)


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Half precision on NVIDIA and AMD GPUs, bfloat16 where they have it; float32 on CPUs and Apple GPUs."""
    if device.type != "cuda":
        return nullcontext()
    dtype = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.autocast("cuda", dtype=dtype)


@contextmanager
def interruptible(network: torch.nn.Module, check: Callable[[], None] | None) -> Iterator[None]:
    """Call ``check`` before every layer of the network; what it raises ends the pass.

    A pass through a large window takes seconds on a CPU, which is too long to wait for a cancellation.
    """
    handles = []
    try:
        if check is not None:
            for module in network.modules():
                handles.append(module.register_forward_pre_hook(lambda *_: check()))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _cropped(output: SegmentationOutput, valid: tuple[slice, ...] | None) -> SegmentationOutput:
    return output if valid is None else cropped(output, valid)
