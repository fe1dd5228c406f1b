# SPDX-License-Identifier: Apache-2.0
"""Fitting a one-pass head to what T samples of the frozen network told, and to the network's true errors.

Per voxel, in nats: the cross-entropy of the head's probabilities against the samples' mean; of its epistemic
share against theirs, weighted by the total; of its shares of variance against theirs, weighted by the
greatest variance there can be; and of its error probability against whether its answer is wrong. A step reads
a block around a random voxel among those that are judged; what surrounds these voxels counts for little.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from DIANetLib.acwi.uncertainty import entropy
from DIANetLib.errors import InputError
from DIANetLib.labelling import labels_of
from DIANetLib.network.one_pass import OnePassHead, OnePassOutput
from training.one_pass_maps import OnePassCase
from training.progress import track

_OUTSIDE = 0.1  # weight of a voxel that is kept but not judged: head must stay sane there
_TINY = 1e-6


@dataclass(frozen=True)
class HeadSettings:
    """How a head is fitted.

    Attributes:
        channels: of the head's layers.
        depth: its convolutions.
        epochs: how many blocks of each case are read.
        block: voxels along each axis of a block.
        learning_rate: at the start; falls to zero along a cosine.
        weight_decay: of AdamW.
        error: weight of the error term against each of the other three.
        seed: of the start values and the order of the cases.
    """

    channels: int = 16
    depth: int = 2
    epochs: int = 40
    block: int = 24
    learning_rate: float = 3e-3
    weight_decay: float = 1e-3
    error: float = 1.0
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Tensors:
    """A case on the device that fits; one row, N = 1.

    Attributes:
        features: (1, C, *S) float16.
        logits: (1, K, *S) float32, divided by the temperature.
        labels: (1, *S) int64.
        mean: (1, K, *S) float32.
        aleatoric: (1, *S) float32.
        variance: (1, K, *S) float32.
        mask: (1, *S) bool.
    """

    features: Tensor
    logits: Tensor
    labels: Tensor
    mean: Tensor
    aleatoric: Tensor
    variance: Tensor
    mask: Tensor


def as_tensors(case: OnePassCase, temperature: float, device: torch.device | str = "cpu") -> Tensors:
    """A case as tensors, its logits divided by the temperature."""

    def row(name: str) -> Tensor:
        return torch.from_numpy(getattr(case, name)).unsqueeze(0).to(device)

    return Tensors(
        row("features"),
        row("logits") / temperature,
        row("labels").long(),
        row("mean"),
        row("aleatoric"),
        row("variance"),
        row("mask"),
    )


def fit_head(
    cases: Sequence[Tensors], settings: HeadSettings, *, log: Path | None = None, title: str = "head"
) -> OnePassHead:
    """Fit a head to cases.

    Args:
        cases: one or more, all on one device.
        settings: how.
        log: where the mean losses of each epoch are written; None for nowhere.
        title: for the display of progress.

    Raises:
        InputError: there is no case.
    """
    if not cases:
        raise InputError("expected one case or more to fit a one-pass head on, got none.")
    head = new_head(cases[0], settings)
    optimiser = torch.optim.AdamW(
        head.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    steps = max(1, settings.epochs * len(cases))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / steps)))
    )
    order = torch.Generator().manual_seed(settings.seed)
    lines = ["epoch,probabilities,epistemic,variance,error"]
    progress = track(range(settings.epochs), title, unit="epoch")
    for epoch in progress:
        sums = torch.zeros(4, dtype=torch.float64)
        for number in torch.randperm(len(cases), generator=order).tolist():
            case, weights = block_of(cases[number], settings, order)
            terms = loss_terms(head(case.features.float(), case.logits), case, weights)
            optimiser.zero_grad(set_to_none=True)
            (terms[:3].sum() + settings.error * terms[3]).backward()
            torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            sums += terms.detach().double().cpu()
        means = (sums / len(cases)).tolist()
        lines.append(f"{epoch}," + ",".join(f"{value:.5f}" for value in means))
        progress.note(" ".join(f"{value:.4f}" for value in means))
        if log is not None:
            log.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return head.eval().requires_grad_(False)


def new_head(case: Tensors, settings: HeadSettings) -> OnePassHead:
    """A head that fits a case, as `fit_head` starts with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        head = OnePassHead(
            case.labels.ndim - 1,
            case.features.shape[1],
            case.logits.shape[1],
            channels=settings.channels,
            depth=settings.depth,
        )
    return head.to(case.features.device)


def block_of(case: Tensors, settings: HeadSettings, generator: torch.Generator) -> tuple[Tensors, Tensor]:
    """A block around a random voxel of the mask, and the weights of its voxels, (1, *S), which sum to 1.

    What a block's voxels near its border see is cut off, unless the case ends there too: they count nothing.
    """
    inside = case.mask[0].nonzero()
    shape = case.mask.shape[1:]
    if inside.shape[0]:
        centre = inside[int(torch.randint(inside.shape[0], (1,), generator=generator))].tolist()
    else:
        centre = [n // 2 for n in shape]
    where: list[slice] = []
    whole: list[slice] = []
    for middle, n in zip(centre, shape, strict=True):
        start = min(max(0, middle - settings.block // 2), max(0, n - settings.block))
        stop = min(n, start + settings.block)
        where.append(slice(start, stop))
        whole.append(
            slice(settings.depth if start else 0, stop - start - (settings.depth if stop < n else 0))
        )
    part = Tensors(*(_cut(getattr(case, field.name), where) for field in fields(case)))
    weights = torch.zeros(part.mask.shape, device=part.mask.device)
    weights[0][tuple(whole)] = torch.where(part.mask[0][tuple(whole)], 1.0, _OUTSIDE)
    return part, weights / weights.sum().clamp_min(1.0)


def loss_terms(told: OnePassOutput, case: Tensors, weights: Tensor) -> Tensor:
    """The four terms of the loss, (4,): probabilities, epistemic share, shares of variance, error.

    Args:
        told: by the head, N = 1.
        case: what it should have told.
        weights: (1, *S) of the voxels.
    """
    likelihood = -(case.mean * told.log_probabilities).sum(1)
    total = torch.maximum(entropy(case.mean, 1), case.aleatoric)
    share = ((total - case.aleatoric) / total.clamp_min(_TINY)).clamp(0.0, 1.0)
    epistemic = total * _cross_entropy(told.epistemic_logit, share)
    most = (case.mean * (1.0 - case.mean)).clamp_min(0.0)
    wanted = (case.variance / most.clamp_min(_TINY)).clamp(0.0, 1.0)
    variance = (most * _cross_entropy(told.variance_logits, wanted)).sum(1)
    wrong = (labels_of(told.log_probabilities.exp().movedim(1, 0)) != case.labels).float()
    error = _cross_entropy(told.error_logit, wrong)
    return torch.stack([(weights * term).sum() for term in (likelihood, epistemic, variance, error)])


def _cross_entropy(logit: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logit, target, reduction="none")


def _cut(values: Tensor, where: Sequence[slice]) -> Tensor:
    """Part of the last axes of a tensor."""
    for axis, part in enumerate(where, start=values.ndim - len(where)):
        values = values.narrow(axis, part.start, part.stop - part.start)
    return values
