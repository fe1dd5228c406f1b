# SPDX-License-Identifier: Apache-2.0
"""What a step of a fit reads: patches, and as much as is known of each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from DIANetLib.losses.classification import UNKNOWN
from DIANetLib.operators import ForwardOperator
from training.config_tasks import ReconstructionTask
from training.degrade import operator_of


@dataclass(frozen=True, eq=False)
class Batch:
    """Patches of a step, on the device of the network.

    Attributes:
        images: what the network reads, (B, M, *S) float32.
        available: which modalities are there, (B, M) bool; None where all are, always.
        labels: class numbers (B, *S) int64, anything in rows that are not labelled; None where none ever is.
        labelled: rows that have labels, (B,) bool.
        target: class numbers of whole cases, (B,) int64, `UNKNOWN` where not known; None where none ever is.
        clean: what a reconstruction should be, (B, C, *S) float32; None without that task.
        degraded: rows whose image is not the clean one, (B,) bool.
        operator: what was measured of the clean images; None without that task.
    """

    images: Tensor
    available: Tensor | None
    labels: Tensor | None
    labelled: Tensor
    target: Tensor | None = None
    clean: Tensor | None = None
    degraded: Tensor | None = None
    operator: ForwardOperator | None = None


@dataclass(frozen=True)
class Reader:
    """How patches become batches: what the whole training set has and what the fit is asked for.

    Attributes:
        device: of the network.
        labels: whether any case has labels that the network has a head for.
        targets: whether any case has a class that the network has a head for.
        misses: whether a modality is ever missing.
        reconstruction: the task, if there is one.
    """

    device: torch.device
    labels: bool = True
    targets: bool = False
    misses: bool = False
    reconstruction: ReconstructionTask | None = None

    def __call__(self, patches: Mapping[str, Tensor]) -> Batch:
        """Collated patches of a `PatchStream` as a batch on the device."""
        moved = {name: value.to(self.device, non_blocking=True) for name, value in patches.items()}
        images = moved["image"]
        if images.ndim == 5 and self.device.type == "cuda":
            images = images.contiguous(memory_format=torch.channels_last_3d)
        task = self.reconstruction
        return Batch(
            images=images,
            available=moved["available"] if self.misses else None,
            labels=moved["labels"] if self.labels else None,
            labelled=moved["labelled"] if self.labels else torch.zeros_like(moved["labelled"]),
            target=moved["target"] if self.targets else None,
            clean=moved.get("clean"),
            degraded=moved.get("degraded"),
            operator=operator_of(task, moved["mask"]) if task is not None else None,
        )


def known_rows(batch: Batch) -> dict[str, int]:
    """How many rows of a batch each task can learn from."""
    rows = {"segmentation": int(batch.labelled.sum())}
    if batch.target is not None:
        rows["classification"] = int((batch.target != UNKNOWN).sum())
    if batch.degraded is not None:
        rows["reconstruction"] = int(batch.degraded.sum())
    return rows
