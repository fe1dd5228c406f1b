# SPDX-License-Identifier: Apache-2.0
"""The passes that methods of uncertainty are made of, each run once however many methods share it.

Passes of one encoding follow each other, so that only one encoding is in memory, and nothing of a pass is
kept once its methods have taken it in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from DIANetLib.errors import InputError
from DIANetLib.inference.memory import divisors
from DIANetLib.inference.sampling import sample_generators
from DIANetLib.inference.sliding_window import Window, usual_windows
from DIANetLib.network import DIANet, Encoded, SegmentationOutput

#: The weights that are shipped; others go by the names of their fits.
SHIPPED = "shipped"
Kind = Literal["mean", "sample", "dropout"]


@dataclass(frozen=True, order=True)
class Pass:
    """One pass through one network.

    Attributes:
        weights: which network.
        mirrored: axes of (k, j, i) along which the image is turned round, and the answer back again.
        kind: "mean"; "sample", with all that is random in it; "dropout", with the dropout of channels alone.
        sample: index of the random numbers.
    """

    weights: str = SHIPPED
    mirrored: tuple[int, ...] = ()
    kind: Kind = "mean"
    sample: int = 0

    @property
    def name(self) -> str:
        """A name for files."""
        axes = "".join(map(str, self.mirrored)) or "straight"
        return f"{self.weights}-{axes}-{self.kind}-{self.sample}"


def one_window(network: DIANet, shape: tuple[int, ...], window: tuple[int, ...], name: str) -> Window:
    """The window around a whole case.

    Raises:
        InputError: it needs several.
    """
    windows = usual_windows(shape, window, divisors(network.config))
    if network.config.spatial_dims != 3 or len(windows) != 1:
        raise InputError(
            f"expected cases that a network of three dimensions reads at once, got {name} of {shape} voxels"
            f" for windows of {window}.",
            remedy="Give a model and data of crops, such as hippocampus.",
        )
    return windows[0]


def run_passes(
    networks: Mapping[str, DIANet], image: Tensor, window: Window, passes: Iterable[Pass], *, seed: int
) -> Iterator[tuple[Pass, SegmentationOutput]]:
    """Run passes through a prepared image.

    Args:
        networks: in evaluation mode, by name.
        image: (M, k, j, i).
        window: around the whole of it.
        passes: each is run once, in an order of its own.
        seed: of the random numbers; sample n of a pass draws what sample n of the product draws.

    Yields:
        A pass and what it put out, (1, K, k, j, i), turned back.
    """
    x = window.cut(image).unsqueeze(0)
    encoded: Encoded | None = None
    known: tuple[str, tuple[int, ...]] | None = None
    for one in sorted(set(passes)):
        network = networks[one.weights]
        axes = [axis + 2 for axis in one.mirrored]
        with torch.inference_mode():
            if encoded is None or known != (one.weights, one.mirrored):
                encoded, known = None, (one.weights, one.mirrored)  # the old one goes before the new one
                encoded = network.encode(x.flip(axes) if axes else x, heads=["segmentation"])
            output = _decoded(network, encoded, one, seed, window.index)
            yield one, _turned_back(output, axes, window)


def _decoded(network: DIANet, encoded: Encoded, one: Pass, seed: int, window: int) -> SegmentationOutput:
    if one.kind == "mean":
        return network.decode(encoded, heads=["segmentation"]).segmented
    generators = sample_generators(seed, window, [one.sample])
    if one.kind == "sample":
        return network.decode(encoded, generators, heads=["segmentation"]).segmented
    with channel_dropout_alone(network):
        latent = encoded.latent
        if latent is not None:  # without variance every draw is the mean
            never = torch.full_like(latent.log_variance, -torch.inf)
            encoded = replace(encoded, latent=replace(latent, log_variance=never, factors=None))
        return network.decode(encoded, generators, heads=["segmentation"]).segmented


@contextmanager
def channel_dropout_alone(network: DIANet) -> Iterator[None]:
    """Switch path and skip dropout off for a while."""
    latent, head = network.latent, network.segmentation
    before = (latent.path_dropout if latent else 0.0, head.skip_dropout if head else 0.0)
    _set_dropout(network, 0.0, 0.0)
    try:
        yield
    finally:
        _set_dropout(network, *before)


def _set_dropout(network: DIANet, path: float, skip: float) -> None:
    if network.latent is not None:
        network.latent.path_dropout = path
    if network.segmentation is not None:
        network.segmentation.skip_dropout = skip


def _turned_back(output: SegmentationOutput, axes: list[int], window: Window) -> SegmentationOutput:
    part = (slice(None), slice(None), *window.valid)
    output = output.flipped(axes) if axes else output
    return replace(
        output,
        mean=output.mean[part],
        log_variance=None if output.log_variance is None else output.log_variance[part],
        auxiliary=tuple(tensor[part] for tensor in output.auxiliary),  # in evaluation a one-pass head's alone
    )
