# SPDX-License-Identifier: Apache-2.0
"""The fit: steps, schedule, moving average of the weights, validation, checkpoints, log."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from DIANetLib.errors import ConfigError
from DIANetLib.network import DIANet, DIANetOutput
from training.augment import PatchStream
from training.baselines import build_model
from training.batch import Batch, Reader
from training.checkpoint import load_checkpoint, save_checkpoint
from training.config import OptimiserConfig, TrainingConfig
from training.datasets import PreparedCase
from training.distributed import Context
from training.fit_log import FitLog
from training.fit_state import FitState, begin, check_same_fit, go_on
from training.objective import Objective
from training.precision import autocast_type
from training.priors import Priors
from training.start import Start
from training.validation import validate

#: Steps between two lines of the log.
LOG_EVERY = 50


@dataclass(frozen=True)
class FitResult:
    """Where the fit stands when it ends; `step` is short of the configured steps if it was stopped."""

    step: int
    best_score: float
    checkpoint: Path


def learning_rate(config: OptimiserConfig, step: int) -> float:
    """Rate at a step: linear warm-up, then half a cosine or nnU-Net's polynomial, down to zero."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    if config.schedule == "poly":
        return config.learning_rate * (1.0 - done) ** 0.9
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


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
    start: Start | None = None,
    stop: Callable[[], bool] | None = None,
) -> FitResult:
    """Fit a model, resuming from `output`/checkpoint.pt when it is there.

    Writes checkpoint.pt (latest), best.pt (best validation score of the averaged weights), log.csv and
    TensorBoard events. Where `stop` returns True in any process, all write or await the checkpoint after the
    step at hand and return.

    Args:
        config: what to fit.
        train: cases to fit; not all need have labels or a class.
        validation: cases to measure the averaged weights on; of the leading process alone.
        output: folder.
        context: this process among its peers.
        fold: the fold that is held out, noted in the checkpoint.
        resume: whether to go on with a fit that is there.
        workers: processes that prepare patches.
        start: weights to start from; new blocks start as they are built.
        stop: asked after each step.

    Raises:
        InputError: if the checkpoint found belongs to another configuration, fold or start.
        ConfigError: if a gradient is not finite.
    """
    torch.manual_seed(config.seed)
    latest = output / "checkpoint.pt"
    found = load_checkpoint(latest) if resume and latest.is_file() else None
    if found is not None:
        check_same_fit(found, config, fold, start, latest)
    state = begin(config, train, context, start) if found is None else go_on(config, found, context)
    settings = config.optimiser
    if state.step >= settings.steps:
        return FitResult(state.step, state.best, latest)
    output.mkdir(parents=True, exist_ok=True)
    steps = _Steps(config, state, _objective(config, train, state.priors), context)
    log = FitLog(output, state.step) if context.leads else None
    bar = tqdm(total=settings.steps, initial=state.step, desc="fit", unit="step", disable=not context.leads)
    best_text = f"{state.best:.4f}" if state.best >= 0 else "-"
    with closing(bar):
        for batch in _batches(config, train, context, state.step, workers):
            terms = steps.take(batch)
            bar.update()
            bar.set_postfix_str(f"loss {float(terms['loss']):.3f}, score {best_text}", refresh=False)
            ended = state.step == settings.steps
            if state.step % LOG_EVERY == 0 or ended:
                terms |= _block_figures(state.model)
                numbers = {name: context.mean(value) for name, value in terms.items()}
                if log is not None:
                    log.record(state.step, numbers)
            if (state.step % config.validate_every == 0 or ended) and log is not None:
                measured = validate(config, _averaged(config, state, context.device), validation)
                figures = {**measured.figures, "score": measured.score}
                log.record(state.step, {f"validation_{name}": value for name, value in figures.items()})
                best_text = f"{measured.score:.4f}"
                if measured.score > state.best:
                    state.best = measured.score
                    save_checkpoint(state.snapshot(config, fold), output / "best.pt")
            stopped = stop is not None and context.any(stop())
            if (state.step % config.checkpoint_every == 0 or ended or stopped) and context.leads:
                save_checkpoint(state.snapshot(config, fold), latest)
            if ended or stopped:
                context.barrier()  # nobody reads the checkpoint before it is written
                break
    if log is not None:
        log.close()
    return FitResult(state.step, state.best, latest)


class _Steps:
    """Takes the steps of a fit.

    Args:
        config: what is fitted.
        state: what each step changes.
        objective: what each step makes smaller.
        context: this process among its peers.
    """

    def __init__(
        self, config: TrainingConfig, state: FitState, objective: Objective, context: Context
    ) -> None:
        settings = config.optimiser
        self.config, self.state, self.context = config, state, context
        self.objective = objective.to(context.device)
        model: Any = torch.compile(state.model) if settings.compile else state.model
        self.runner = context.wrap(model)
        self.precision = autocast_type(config, context.device)
        self.scaler = torch.amp.GradScaler(context.device.type, enabled=self.precision is torch.float16)

    def take(self, batch: Batch) -> dict[str, Tensor]:
        """One step; returns the terms of its loss, the loss, the learning rate and the gradient's norm."""
        config, state = self.config, self.state
        rate = learning_rate(config.optimiser, state.step)
        for group in state.optimiser.param_groups:
            group["lr"] = rate * group["scale"]
        torch.manual_seed(_step_seed(config.seed, state.step, self.context.rank))
        state.model.train()
        with torch.autocast(self.context.device.type, self.precision, enabled=self.precision is not None):
            output: DIANetOutput = self.runner(
                batch.images, available=batch.available, operator=batch.operator
            )
        progress = state.step / config.optimiser.steps
        loss = self.objective(output, batch, progress)
        total, vectors = loss.total, None
        if state.adversary is not None and output.h is not None:
            vectors = state.adversary.vectors(output.h)
            term = state.adversary.encoder_term(vectors, state.step)
            total = total + config.objective.strength(progress) * term
        state.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()
        self.scaler.unscale_(state.optimiser)
        norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), config.optimiser.gradient_clip)
        if self.precision is not torch.float16 and not math.isfinite(float(norm)):  # there it is expected
            raise ConfigError(
                f"the gradient of step {state.step + 1} is not finite (loss {float(total.detach()):g}); this"
                " step was not taken.",
                remedy="Lower optimiser.learning_rate or set optimiser.precision to float32; the same command"
                " goes on from the last checkpoint, --restart begins anew.",
            )
        self.scaler.step(state.optimiser)
        self.scaler.update()
        found = {**loss.terms, "loss": total.detach(), "rate": torch.tensor(rate), "gradient_norm": norm}
        if state.adversary is not None and vectors is not None:
            found |= state.adversary.learn(vectors)
        state.step += 1
        state.average.update(state.model, state.step)
        return found


def _objective(config: TrainingConfig, train: Sequence[PreparedCase], priors: Priors) -> Objective:
    classes = config.network.classes
    counts = np.zeros(max(classes, 1), np.int64)
    for case in train:
        if classes and case.labels is not None:
            counts += np.bincount(case.labels.ravel(), minlength=classes)
    return Objective(config.objective, config.tasks, counts.tolist() if classes else None, priors)


def _averaged(config: TrainingConfig, state: FitState, device: torch.device) -> nn.Module:
    """The network with the averaged weights, in evaluation mode; the random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        model = build_model(config).to(device)
    model.load_state_dict(state.average.values)
    return model.eval()


def _block_figures(model: DIANet) -> dict[str, Tensor]:
    """What the blocks tell about themselves: codes in use, and how much each scale counts (8)."""
    figures: dict[str, Tensor] = {}
    if model.codebook is not None:
        figures["codebook_perplexity"] = model.codebook.perplexity.detach()
    if model.pyramid is not None:
        for scale, weight in enumerate(model.pyramid.scale_weights, start=1):
            figures[f"alpha_{scale}"] = torch.tensor(weight)
    return figures


def _step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of dropout and draws of one step, so that they depend on the step and not on the steps before."""
    return int(np.random.SeedSequence([seed, 3, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _batches(
    config: TrainingConfig, train: Sequence[PreparedCase], context: Context, step: int, workers: int
) -> Iterator[Batch]:
    """This process's batches from step `step` to the last; patches are dealt round-robin to processes."""
    size = config.optimiser.batch
    per_step = size * context.world
    total = (config.optimiser.steps - step) * per_step
    stream = PatchStream(
        train,
        config.patch_kji,
        config.augment,
        seed=config.seed,
        first=step * per_step,
        count=total,
        spatial_dims=config.network.spatial_dims,
        degradation=config.tasks.reconstruction,
    )
    read = Reader(
        context.device,
        labels=config.network.classes > 0 and any(case.labels is not None for case in train),
        targets=config.network.classification is not None and any(case.target is not None for case in train),
        misses=config.augment.modality_dropout > 0 or not all(all(case.available) for case in train),
        reconstruction=config.tasks.reconstruction,
    )
    loader = DataLoader(
        Subset(stream, range(context.rank, total, context.world)),
        batch_size=size,
        num_workers=workers,
        worker_init_fn=_leave_signals_to_parent,
        pin_memory=context.device.type == "cuda",
        persistent_workers=workers > 0,
    )
    for patches in loader:
        yield read(patches)


def _leave_signals_to_parent(_: int) -> None:
    """Let Ctrl-C, which a terminal sends to every process, be answered by the parent alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
