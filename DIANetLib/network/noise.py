# SPDX-License-Identifier: Apache-2.0
"""Where the randomness of a pass comes from: the mean, the training stream, or one generator per row.

Drawing each row from its own generator makes a batched pass equal to a loop of single passes with
the same seeds, whatever the batch size and the device (numbers are drawn on the CPU and moved).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class RandomSource:
    """Draws for the stochastic layers of one pass.

    Args:
        generators: one CPU generator per row of the batch, or None.
        stochastic: whether layers sample at all; with generators it must be True.
    """

    def __init__(self, generators: Sequence[torch.Generator] | None = None, *, stochastic: bool) -> None:
        self.generators = None if generators is None else list(generators)
        self.stochastic = stochastic

    @property
    def rows(self) -> int | None:
        """Number of rows the generators stand for, or None without generators."""
        return None if self.generators is None else len(self.generators)

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers of the shape, type and device of `like`, (N, ...)."""
        if self.generators is None:
            return torch.randn_like(like)
        shape = tuple(like.shape[1:])
        rows = [torch.randn(shape, generator=generator) for generator in self.generators]
        return torch.stack(rows).to(device=like.device, dtype=like.dtype)

    def choose(self, x: Tensor, count: int) -> Tensor:
        """Draw `count` rows of `x` (P, C), each as often as any other to within one: (count, C).

        The choice is one for the whole batch: with generators the first one makes it.
        """
        if self.generators is None:
            order = torch.randperm(x.shape[0], device=x.device)
        else:
            order = torch.randperm(x.shape[0], generator=self.generators[0]).to(x.device)
        return x[order[torch.arange(count, device=x.device) % x.shape[0]]]

    def path_dropout(self, x: Tensor, rate: float) -> Tensor:
        """Blank whole rows of `x` (N, C, ...) with probability `rate`, leaving the others as they are."""
        if not self.stochastic or rate == 0.0:
            return x
        return x * self.kept_rows(x, rate)

    def kept_rows(self, x: Tensor, rate: float) -> Tensor:
        """Ones for the rows of `x` (N, C, ...) to keep, zeros for those to blank, (N, 1, 1, ...)."""
        return (self._uniform(x, 1) >= rate).to(x.dtype)

    def channel_dropout(self, x: Tensor, rate: float) -> Tensor:
        """Drop whole channels of `x` (N, C, ...) with probability `rate`; the rest grows by 1/(1 - rate)."""
        if not self.stochastic or rate == 0.0:
            return x
        return x * ((self._uniform(x, x.shape[1]) >= rate).to(x.dtype) / (1.0 - rate))

    def _uniform(self, x: Tensor, channels: int) -> Tensor:
        """Uniform numbers (N, channels, 1, ...), broadcastable to `x`."""
        shape = (x.shape[0], channels, *([1] * (x.ndim - 2)))
        if self.generators is None:
            return torch.rand(shape, device=x.device)
        return torch.stack([torch.rand(shape[1:], generator=g) for g in self.generators]).to(x.device)
