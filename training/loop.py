# SPDX-License-Identifier: Apache-2.0
"""The fit: steps, schedule, moving average of the weights, validation, checkpoints, log."""

from __future__ import annotations

import csv
import math
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from DIANetLib.errors import DependencyError, InputError, optional_import
from DIANetLib.network import DIANet
from training.augment import PatchStream
from training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from training.config import OptimiserConfig, TrainingConfig, parse_config
from training.datasets import PreparedCase
from training.distributed import Context, autocast_type
from training.objective import Objective
from training.predict import predict_mean, structure_dice


@dataclass(frozen=True)
class FitResult:
    """Where the fit stands when it ends; `step` is short of the configured steps if it was stopped."""

    step: int
    best_dice: float
    checkpoint: Path


class ScalarLog(Protocol):
    """What a TensorBoard writer offers."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Record one number."""

    def close(self) -> None:
        """Flush and close."""


def learning_rate(config: OptimiserConfig, step: int) -> float:
    """Rate at a step: linear warm-up, then half a cosine or nnU-Net's polynomial, down to zero."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    if config.schedule == "poly":
        return config.learning_rate * (1.0 - done) ** 0.9
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


class WeightAverage:
    """Exponential moving average of a model's parameters, with a short memory at the start."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone().float() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after `step` steps."""
        decay = min(self.decay, (1.0 + step) / (10.0 + step))
        current = [value.float() for value in model.state_dict().values()]
        torch._foreach_lerp_(list(self.values.values()), current, 1.0 - decay)


def fit(
    config: TrainingConfig,
    train: Sequence[PreparedCase],
    validation: Sequence[PreparedCase],
    output: Path,
    context: Context,
    *,
    fold: int = 0,
    resume: bool = True,
    workers: int = 0,
    stop: Callable[[], bool] | None = None,
) -> FitResult:
    """Fit a model, resuming from `output`/checkpoint.pt when it is there.

    Writes checkpoint.pt (latest), best.pt (best validation Dice of the averaged weights), log.csv and
    TensorBoard events. Where `stop` returns True in any process, all write or await the checkpoint after the
    step at hand and return.

    Raises:
        InputError: if the checkpoint found belongs to another configuration or fold.
    """
    torch.manual_seed(config.seed)
    model = DIANet(config.network).to(context.device)
    if config.network.spatial_dims == 3:
        model = model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    counts = sum(np.bincount(case.labels.ravel(), minlength=config.network.classes) for case in train)
    objective = Objective(config.objective, np.asarray(counts).tolist()).to(context.device)
    settings = config.optimiser
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    average = WeightAverage(model, settings.ema_decay)
    step, best = 0, -1.0
    latest = output / "checkpoint.pt"
    if resume and latest.is_file():
        state = load_checkpoint(latest)
        _check_same_fit(state, config, fold, latest)
        model.load_state_dict(state.model)
        average.values = {name: value.to(context.device) for name, value in state.ema.items()}
        optimiser.load_state_dict(state.optimiser)
        step, best = state.step, state.best_dice
    # Fresh dropout and latent draws after a resume, the same ones in every run with the same history.
    torch.manual_seed(config.seed * 1_000_003 + step * 97 + context.rank)
    if step >= settings.steps:
        return FitResult(step, best, latest)
    output.mkdir(parents=True, exist_ok=True)
    runner = context.wrap(torch.compile(model) if settings.compile else model)  # type: ignore[arg-type]
    precision = autocast_type(settings, context.device)
    scaler = torch.amp.GradScaler(context.device.type, enabled=precision is torch.float16)

    def snapshot() -> Checkpoint:
        return Checkpoint(
            step,
            best,
            config.model_dump(mode="json"),
            fold,
            model.state_dict(),
            average.values,
            optimiser.state_dict(),
        )

    if context.leads:
        _trim_log(output, step)
    writer: ScalarLog | None = _scalar_log(output) if context.leads else None
    bar = tqdm(total=settings.steps, initial=step, desc="fit", unit="step", disable=not context.leads)
    dice_text = f"{best:.4f}" if best >= 0 else "-"
    with closing(bar):
        for images, labels, available in _batches(config, train, context, step, workers):
            rate = learning_rate(settings, step)
            for group in optimiser.param_groups:
                group["lr"] = rate
            model.train()
            with torch.autocast(context.device.type, precision, enabled=precision is not None):
                prediction = runner(images, available=available)
            loss = objective(prediction, labels)
            optimiser.zero_grad(set_to_none=True)
            scaler.scale(loss.total).backward()
            scaler.unscale_(optimiser)
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip)
            scaler.step(optimiser)
            scaler.update()
            step += 1
            average.update(model, step)
            bar.update()
            bar.set_postfix_str(f"loss {float(loss.total.detach()):.3f}, Dice {dice_text}", refresh=False)
            if step % 50 == 0 or step == settings.steps:
                numbers = {name: context.mean(value) for name, value in loss.terms.items()}
                numbers |= {
                    "loss": context.mean(loss.total.detach()),
                    "rate": rate,
                    "gradient_norm": float(norm),
                }
                if context.leads:
                    _record(writer, output, step, numbers)
            ended = step == settings.steps
            if (step % config.validate_every == 0 or ended) and context.leads:
                score = validate(config, average.values, validation, context.device)
                dice_text = f"{score:.4f}"
                _record(writer, output, step, {"validation_dice": score})
                if score > best:
                    best = score
                    save_checkpoint(snapshot(), output / "best.pt")
            stopped = stop is not None and context.any(stop())
            if (step % config.checkpoint_every == 0 or ended or stopped) and context.leads:
                save_checkpoint(snapshot(), latest)
            if ended or stopped:
                context.barrier()  # nobody reads the checkpoint before it is written
                break
    if writer is not None:
        writer.close()
    return FitResult(step, best, latest)


def validate(
    config: TrainingConfig, weights: dict[str, Tensor], cases: Sequence[PreparedCase], device: torch.device
) -> float:
    """Mean over structures and cases of the Dice of the mean pass; NaN-free even without cases (0)."""
    model = DIANet(config.network).to(device).eval()
    model.load_state_dict(weights)
    scores = []
    for case in cases:
        labels = predict_mean(model, case.image, config).argmax(0)
        scores.append(np.nanmean(structure_dice(labels, case.labels, config.network.classes)))
    return float(np.mean(scores)) if scores else 0.0


def _batches(
    config: TrainingConfig, train: Sequence[PreparedCase], context: Context, step: int, workers: int
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """This process's batches from step `step` to the last; patches are dealt round-robin to processes.

    Images, labels, and which modalities are available: None where none is ever dropped.
    """
    drops = config.augment.modality_dropout > 0
    size = config.optimiser.batch
    per_step = size * context.world
    total = (config.optimiser.steps - step) * per_step
    stream = PatchStream(
        train, config.patch_kji, config.augment, seed=config.seed, first=step * per_step, count=total
    )
    mine = range(context.rank, total, context.world)
    loader = DataLoader(
        torch.utils.data.Subset(stream, mine),
        batch_size=size,
        num_workers=workers,
        worker_init_fn=_leave_signals_to_parent,
        pin_memory=context.device.type == "cuda",
        persistent_workers=workers > 0,
    )
    for batch in loader:
        images = batch["image"].to(context.device, non_blocking=True)
        if images.ndim == 5:
            images = images.contiguous(memory_format=torch.channels_last_3d)
        labels = batch["labels"].to(context.device, non_blocking=True)
        yield images, labels, batch["available"].to(context.device, non_blocking=True) if drops else None


def _leave_signals_to_parent(_: int) -> None:
    """Let Ctrl-C, which a terminal sends to every process, be answered by the parent alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _check_same_fit(state: Checkpoint, config: TrainingConfig, fold: int, path: Path) -> None:
    ours, theirs = config.signature(), parse_config(state.config, str(path)).signature()
    differing = sorted(key for key in ours if ours[key] != theirs[key])
    if fold != state.fold:
        differing.append("fold")
    if differing:
        raise InputError(
            f"checkpoint {path} belongs to another fit: {', '.join(differing)} differ.",
            remedy="Give another --output, or --restart to begin anew.",
        )


def _scalar_log(output: Path) -> ScalarLog | None:
    try:
        module = optional_import(
            "torch.utils.tensorboard", feature="the TensorBoard log", extra="train", version=">=2.15"
        )
    except DependencyError as error:
        warnings.warn(f"{error} The fit goes on and writes log.csv alone.", stacklevel=3)
        return None
    writer: ScalarLog = module.SummaryWriter(str(output / "tensorboard"))
    return writer


def _trim_log(output: Path, step: int) -> None:
    """Drop what was logged after the checkpoint that the fit resumes from: those steps are done again."""
    log = output / "log.csv"
    if log.is_file():
        rows = log.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [row for row in rows if row.split(",", 1)[0].isdigit() and int(row.split(",", 1)[0]) <= step]
        log.write_text("".join(kept), encoding="utf-8")


def _record(writer: ScalarLog | None, output: Path, step: int, numbers: dict[str, Any]) -> None:
    with (output / "log.csv").open("a", newline="") as file:
        table = csv.writer(file)
        for name, value in numbers.items():
            if writer is not None:
                writer.add_scalar(name, value, step)
            table.writerow([step, name, f"{value:.6g}"])
