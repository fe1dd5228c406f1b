# SPDX-License-Identifier: Apache-2.0
"""What an ablation measures of a fitted arm on held-out cases: Dice, its blocks' own figures, its time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from DIANetLib.labelling import labels_of
from DIANetLib.losses.cut import CutPrior, cut_error_mm
from DIANetLib.network import DIANet, DIANetOutput, SegmentationOutput
from training.adversary import Adversary
from training.augment import PatchStream
from training.batch import Reader
from training.block_use import block_use
from training.config import TrainingConfig
from training.datasets import PreparedCase
from training.distributed import Context
from training.fit_state import model_on
from training.objective import Objective
from training.precision import autocast_type
from training.predict import predict_mean, structure_dice
from training.priors import Priors

#: Pairs of steps that are timed: one of the arm, one of N1, so that what else the machine does hits both.
_TIMED = 6


def measure_cases(
    network: DIANet, config: TrainingConfig, cases: Sequence[PreparedCase], cut: CutPrior | None
) -> dict[str, dict[str, float]]:
    """Dice of every structure of every labelled case by the plain mean pass, and the error of the cut.

    Returns:
        Per case, by structure's key its Dice (NaN where neither has it), "dice" (their mean) and, with a
        cut, "cut_error_mm".
    """
    keys = [structure.key for structure in config.data.structures]
    found = {}
    for case in cases:
        if case.labels is None:
            continue
        labels = labels_of(predict_mean(network, case.image, config, case.available))
        dice = structure_dice(labels, case.labels, config.network.classes)
        row = dict(zip(keys, map(float, dice), strict=True))
        row["dice"] = 1.0 if np.isnan(dice).all() else float(np.nanmean(dice))
        if cut is not None:
            row["cut_error_mm"] = cut_error_mm(
                labels,
                case.labels,
                _spacing(case, cut.axis),
                lower=cut.lower,
                upper=cut.upper,
                axis=cut.axis,
            )
        found[case.name] = row
    return found


def measure_blocks(
    network: DIANet,
    config: TrainingConfig,
    cases: Sequence[PreparedCase],
    log: Mapping[str, Mapping[int, float]],
) -> dict[str, Any]:
    """What the arm's blocks do.

    Returns:
        "latent", "codebook" and "scale_weights" as `block_use` has them; "discriminator_accuracy", the mean
        over the last fifth of the log; "paths", mean Dice of the fused and of each single path.
    """
    figures = block_use(network, cases, config.window_kji, seed=config.seed)
    accuracy = log.get("discriminator_accuracy", {})
    late = [value for step, value in accuracy.items() if step > 0.8 * config.optimiser.steps]
    figures["discriminator_accuracy"] = float(np.mean(late)) if late else None
    figures["paths"] = _path_dice(network, config, cases) if network.path_names() else None
    return figures


def time_per_step(
    config: TrainingConfig,
    reference: TrainingConfig,
    cases: Sequence[PreparedCase],
    context: Context,
    priors: Priors,
) -> tuple[float, float]:
    """Median seconds of a step of the arm and of N1, taken in turn.

    Args:
        config: of the arm.
        reference: of N1.
        cases: to take a batch from.
        context: whose device it is.
        priors: of the arm.
    """
    steps = [Step(config, cases, context, priors), Step(reference, cases, context, Priors())]
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(_TIMED + 1):
        for place, step in enumerate(steps):
            begun = time.perf_counter()
            step()
            if context.device.type == "cuda":
                torch.cuda.synchronize(context.device)
            if number:  # the first one warms up
                seconds[place].append(time.perf_counter() - begun)
    return float(np.median(seconds[0])), float(np.median(seconds[1]))


class Step:
    """Forward, objective, backward and update of one batch, over and over."""

    def __init__(
        self, config: TrainingConfig, cases: Sequence[PreparedCase], context: Context, priors: Priors
    ) -> None:
        task, term, latent = config.tasks.reconstruction, config.objective.adversarial, config.network.latent
        stream = PatchStream(
            cases,
            config.patch_kji,
            config.augment,
            seed=config.seed,
            first=0,
            count=config.optimiser.batch,
            spatial_dims=config.network.spatial_dims,
            degradation=task,
        )
        patches = default_collate([stream[number] for number in range(len(stream))])
        self.batch = Reader(context.device, reconstruction=task)(patches)
        self.model = model_on(config, context.device).train()
        self.objective = Objective(config.objective, config.tasks, priors=priors.to(context.device))
        self.adversary = Adversary(term, latent.channels, context) if term and latent else None
        self.optimiser = torch.optim.AdamW(self.model.parameters())
        self.device, self.precision = context.device, autocast_type(config, context.device)

    def __call__(self) -> None:
        """Take the step."""
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not None):
            output = self.model(self.batch.images, operator=self.batch.operator)
        total = self.objective(output, self.batch).total
        vectors = None
        if self.adversary is not None and output.h is not None:
            vectors = self.adversary.vectors(output.h)
            total = total + self.adversary.encoder_term(vectors, self.adversary.config.start)
        total.backward()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if self.adversary is not None and vectors is not None:
            self.adversary.learn(vectors)


def _path_dice(network: DIANet, config: TrainingConfig, cases: Sequence[PreparedCase]) -> dict[str, float]:
    """Mean Dice over cases of the fused segmentation and of each path by itself."""
    names = network.path_names()
    found: dict[str, float] = {}
    for place, name in enumerate(("fused", *names)):
        model: nn.Module = network if place == 0 else _SinglePath(network, place - 1)
        rows = measure_cases(model, config, cases, None)  # type: ignore[arg-type]
        found[name] = float(np.mean([row["dice"] for row in rows.values()]))
    return found


class _SinglePath(nn.Module):
    """A network of which one of the paths that it fuses is the segmentation."""

    def __init__(self, network: DIANet, place: int) -> None:
        super().__init__()
        self.network, self.place = network, place

    def forward(self, x: Tensor, *, available: Tensor | None = None) -> DIANetOutput:
        assert self.network.segmentation is not None  # the network fuses paths
        paths = self.network.segmentation.paths
        assert paths is not None
        seen: list[Tensor] = []

        def keep(_module: nn.Module, inputs: tuple[Sequence[Tensor], ...]) -> None:
            seen.append(inputs[0][self.place])

        hook = paths.register_forward_pre_hook(keep)
        try:
            output: DIANetOutput = self.network(x, available=available)
        finally:
            hook.remove()
        mode = "bilinear" if x.ndim == 4 else "trilinear"
        logits = nn.functional.interpolate(seen[0].float(), x.shape[2:], mode=mode, align_corners=False)
        # The noise stays: whether a voxel is background depends on how sure its logits are.
        return DIANetOutput(SegmentationOutput(logits, output.segmented.log_variance))


def _spacing(case: PreparedCase, axis: int) -> float:
    """Millimetres between slices along an axis of (k, j, i)."""
    if case.prepared is None:
        return 1.0
    spacing: npt.NDArray[np.float64] = np.array(case.prepared.geometry.spacing)
    return float(spacing[2 - axis])
