# SPDX-License-Identifier: Apache-2.0
"""A fit on corrected cases: from a model's weights, beside a rehearsal buffer, held by (25) and (26)."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate
from tqdm import tqdm

from DIANetLib.errors import Cancelled, ConfigError
from DIANetLib.losses.continual import diagonal_fisher, drawn_log_likelihood, normalised
from DIANetLib.network import DIANet
from training.augment import PatchStream
from training.batch import Batch, Reader
from training.config import TrainingConfig
from training.datasets import PreparedCase
from training.finetune_cases import CorrectedCase
from training.finetune_config import FinetuneConfig
from training.finetune_objective import CorrectionObjective
from training.fit_state import model_on
from training.optimiser import parameter_groups
from training.precision import autocast_type
from training.progress import track
from training.weights import WeightAverage, state_sha256

State = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Material:
    """What a fit learns from.

    Attributes:
        corrected: cases with their levels.
        rehearsed: cases of the model's own data; may be empty.
        start: weights to start from and to be held at.
        fisher: gives the Fisher information there over its mean, where it is needed; None for none.
    """

    corrected: Sequence[CorrectedCase]
    rehearsed: Sequence[PreparedCase]
    start: State
    fisher: Callable[[], State] | None


def learn(
    config: TrainingConfig,
    settings: FinetuneConfig,
    material: Material,
    checkpoint: Path,
    device: torch.device,
    *,
    title: str = "fit",
    stop: Callable[[], bool] | None = None,
) -> dict[str, Tensor]:
    """Fit, going on from a checkpoint of the same fit; returns the averaged weights, float32 on the CPU.

    Args:
        config: the network and how images are read.
        settings: of the fit.
        material: what it learns from.
        checkpoint: where it is kept; one of another fit is replaced.
        device: of the network.
        title: before the bar.
        stop: asked after each step.

    Raises:
        Cancelled: `stop` said so; the checkpoint is written.
        ConfigError: a gradient is not finite.
    """
    identity = _identity(config, settings, material)
    found = _read(checkpoint, identity)
    step = 0 if found is None else int(found["step"])
    if found is not None and step >= settings.steps:
        return dict(found["average"])
    torch.manual_seed(settings.seed)
    network = model_on(config, device)
    network.load_state_dict(dict(material.start if found is None else found["model"]))
    optimiser = torch.optim.AdamW(parameter_groups(network, config.optimiser), lr=settings.learning_rate)
    average = WeightAverage(network, settings.ema_decay)
    if found is not None:
        optimiser.load_state_dict(found["optimiser"])
        average.values = {name: value.to(device) for name, value in found["average"].items()}
    known = None if material.fisher is None else material.fisher()
    fisher = None if known is None else {name: value.to(device) for name, value in known.items()}
    start = {name: value.to(device) for name, value in material.start.items()}
    objective = CorrectionObjective(settings, config.network.classes, start, fisher).to(device)
    steps = _Steps(config, settings, network, optimiser, objective)
    bar = tqdm(total=settings.steps, initial=step, desc=title, unit="step", mininterval=1.0)
    with closing(bar):
        for batch, rows in _batches(config, settings, material, device, step):
            loss = steps.take(batch, rows, step)
            step += 1
            average.update(network, step)
            bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            bar.update()
            stopped = stop is not None and stop()
            if step % settings.checkpoint_every == 0 or step == settings.steps or stopped:
                state = {"model": network.state_dict(), "optimiser": optimiser.state_dict()}
                values = {name: value.cpu() for name, value in average.values.items()}
                _write(checkpoint, {"identity": identity, "step": step, "average": values, **state})
            if stopped and step < settings.steps:
                raise Cancelled(
                    f"stopped at step {step} of {settings.steps} of {title}; {checkpoint} is written.",
                    remedy="The same command goes on from there.",
                )
    return {name: value.cpu() for name, value in average.values.items()}


def estimate_fisher(
    config: TrainingConfig,
    settings: FinetuneConfig,
    start: State,
    cases: Sequence[PreparedCase],
    device: torch.device,
) -> dict[str, Tensor]:
    """Fisher information of a model over its mean, from patches of some images; their labels are not used.

    Args:
        config: the network and how images are read.
        settings: number of patches and seed.
        start: the model's weights.
        cases: images that it is to remember what it says of.
        device: of the network.
    """
    network = model_on(config, device).eval()
    network.load_state_dict(dict(start))
    parameters = dict(network.named_parameters())
    generator = torch.Generator(device).manual_seed(settings.seed)
    count = settings.fisher.patches
    stream = PatchStream(
        cases,
        config.patch_kji,
        config.augment,
        seed=settings.seed,
        first=0,
        count=count,
        spatial_dims=config.network.spatial_dims,
    )
    read = _reader(config, cases, device)

    def observed() -> Iterator[Tensor]:
        for number in track(range(count), "Fisher information", unit="draw"):
            batch = read(default_collate([stream[number]]))
            output = network(batch.images, available=batch.available)
            yield drawn_log_likelihood(output.segmented.mean, generator)

    return {name: value.cpu() for name, value in normalised(diagonal_fisher(parameters, observed())).items()}


class _Steps:
    """Takes the steps of a fit; arguments as their names say."""

    def __init__(
        self,
        config: TrainingConfig,
        settings: FinetuneConfig,
        network: DIANet,
        optimiser: torch.optim.Optimizer,
        objective: CorrectionObjective,
    ) -> None:
        self.settings, self.network, self.optimiser, self.objective = settings, network, optimiser, objective
        self.device = next(network.parameters()).device
        self.precision = autocast_type(config, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision is torch.float16)

    def take(self, batch: Batch, rows: int, step: int) -> float:
        """One step; returns its loss."""
        settings = self.settings
        warm = max(1, settings.steps // 10)
        done = max(0.0, (step - warm) / max(1, settings.steps - warm))
        rate = settings.learning_rate * min(1.0, (step + 1) / warm) * 0.5 * (1.0 + math.cos(math.pi * done))
        for group in self.optimiser.param_groups:
            group["lr"], group["weight_decay"] = rate * group["scale"], 0.0  # L2-SP takes its place
        torch.manual_seed(_seed(settings.seed, step))
        self.network.train()
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not None):
            output = self.network(batch.images, available=batch.available)
        loss = self.objective.corrected(output, batch, rows).total
        loss = loss + self.objective.held(dict(self.network.named_parameters()))[0]
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimiser)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), settings.gradient_clip)
        if self.precision is not torch.float16 and not math.isfinite(float(norm)):
            raise ConfigError(
                f"the gradient of step {step + 1} is not finite; this step was not taken.",
                remedy="Lower learning_rate.",
            )
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return float(loss.detach())


def _batches(
    config: TrainingConfig, settings: FinetuneConfig, material: Material, device: torch.device, step: int
) -> Iterator[tuple[Batch, int]]:
    """Batches from a step on: patches of corrected cases first, and how many those are."""
    corrected = [case.encoded(config.network.classes) for case in material.corrected]
    parts = [(corrected, settings.rows, 0)]
    if material.rehearsed:
        parts.append((list(material.rehearsed), settings.rehearsal.rows, 1))
    streams = [
        (
            PatchStream(
                cases,
                config.patch_kji,
                config.augment,
                seed=settings.seed + part,
                first=0,
                count=settings.steps * rows,
                spatial_dims=config.network.spatial_dims,
            ),
            rows,
        )
        for cases, rows, part in parts
    ]
    read = _reader(config, [case for cases, _, _ in parts for case in cases], device)
    for number in range(step, settings.steps):
        patches = [stream[number * rows + row] for stream, rows in streams for row in range(rows)]
        yield read(default_collate(patches)), settings.rows


def _reader(config: TrainingConfig, cases: Sequence[PreparedCase], device: torch.device) -> Reader:
    misses = config.augment.modality_dropout > 0 or not all(all(case.available) for case in cases)
    return Reader(device, misses=misses)


def _seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, 7, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _identity(config: TrainingConfig, settings: FinetuneConfig, material: Material) -> str:
    """A hash of all that decides the weights."""
    digest = hashlib.sha256(
        json.dumps(
            [
                config.signature(),
                settings.model_dump(mode="json", exclude={"judging", "checkpoint_every"}),
                state_sha256(material.start),
                material.fisher is not None,  # it follows from the rest
                [(case.correction, case.case.name) for case in material.corrected],
                [case.name for case in material.rehearsed],
            ],
            sort_keys=True,
        ).encode()
    )
    for case in material.corrected:
        digest.update(case.levels.tobytes())
    return digest.hexdigest()


def _read(path: Path, identity: str) -> dict[str, Any] | None:
    """The checkpoint, None where there is none of this fit."""
    if not path.is_file():
        return None
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError):
        return None  # a damaged checkpoint costs a fit of minutes, no data
    return found if isinstance(found, dict) and found.get("identity") == identity else None


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    torch.save(dict(content), temporary)
    os.replace(temporary, path)
