# SPDX-License-Identifier: Apache-2.0
"""The fit: steps, schedule, moving average of the weights, validation, checkpoints, log."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from DIANetLib.errors import InputError
from DIANetLib.network import DIANet
from training.adversary import Adversary
from training.augment import PatchStream
from training.baselines import build_model
from training.batch import Batch, Reader
from training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from training.config import OptimiserConfig, TrainingConfig, parse_config
from training.datasets import PreparedCase
from training.distributed import Context, autocast_type
from training.fit_log import FitLog
from training.objective import Objective
from training.priors import Priors, learn_priors
from training.start import Start, take_over
from training.validation import validate
from training.weights import WeightAverage

#: Steps between two lines of the log.
LOG_EVERY = 50


@dataclass(frozen=True)
class FitResult:
    """Where the fit stands when it ends; `step` is short of the configured steps if it was stopped."""

    step: int
    best_score: float
    checkpoint: Path


@dataclass
class _State:
    """All that changes during a fit."""

    model: DIANet
    optimiser: torch.optim.Optimizer
    average: WeightAverage
    adversary: Adversary | None
    priors: Priors
    start: str
    step: int = 0
    best: float = -1.0
    figures: dict[str, float] = field(default_factory=dict)

    def snapshot(self, config: TrainingConfig, fold: int) -> Checkpoint:
        return Checkpoint(
            step=self.step,
            best_score=self.best,
            config=config.model_dump(mode="json"),
            fold=fold,
            model=self.model.state_dict(),
            ema=self.average.values,
            optimiser=self.optimiser.state_dict(),
            start=self.start,
            extras=self.priors.stored(),
            adversary=self.adversary.state_dict() if self.adversary else None,
        )


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
    """
    torch.manual_seed(config.seed)
    latest = output / "checkpoint.pt"
    found = load_checkpoint(latest) if resume and latest.is_file() else None
    if found is not None:
        _check_same_fit(found, config, fold, start, latest)
    state = _begin(config, train, context, start) if found is None else _resume(config, found, context)
    settings = config.optimiser
    if state.step >= settings.steps:
        return FitResult(state.step, state.best, latest)
    output.mkdir(parents=True, exist_ok=True)
    objective = _objective(config, train, state.priors).to(context.device)
    runner = context.wrap(torch.compile(state.model) if settings.compile else state.model)  # type: ignore[arg-type]
    precision = autocast_type(settings, context.device)
    scaler = torch.amp.GradScaler(context.device.type, enabled=precision is torch.float16)
    log = FitLog(output, state.step) if context.leads else None
    bar = tqdm(total=settings.steps, initial=state.step, desc="fit", unit="step", disable=not context.leads)
    best_text = f"{state.best:.4f}" if state.best >= 0 else "-"
    with closing(bar):
        for batch in _batches(config, train, context, state.step, workers):
            rate = learning_rate(settings, state.step)
            for group in state.optimiser.param_groups:
                group["lr"] = rate
            torch.manual_seed(_step_seed(config.seed, state.step, context.rank))
            state.model.train()
            with torch.autocast(context.device.type, precision, enabled=precision is not None):
                output_ = runner(batch.images, available=batch.available, operator=batch.operator)
            loss = objective(output_, batch)
            total, terms = loss.total, dict(loss.terms)
            vectors = None
            if state.adversary is not None and output_.h is not None:
                vectors = state.adversary.vectors(output_.h)
                total = total + state.adversary.encoder_term(vectors, state.step)
            state.optimiser.zero_grad(set_to_none=True)
            scaler.scale(total).backward()
            scaler.unscale_(state.optimiser)
            norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), settings.gradient_clip)
            scaler.step(state.optimiser)
            scaler.update()
            if state.adversary is not None and vectors is not None:
                terms |= state.adversary.learn(vectors)
            state.step += 1
            state.average.update(state.model, state.step)
            bar.update()
            bar.set_postfix_str(f"loss {float(total.detach()):.3f}, score {best_text}", refresh=False)
            ended = state.step == settings.steps
            if state.step % LOG_EVERY == 0 or ended:
                terms |= {"loss": total.detach(), **_block_figures(state.model)}
                numbers = {name: context.mean(value) for name, value in terms.items()}
                if log is not None:
                    log.record(state.step, {**numbers, "rate": rate, "gradient_norm": float(norm)})
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


def _begin(
    config: TrainingConfig, train: Sequence[PreparedCase], context: Context, start: Start | None
) -> _State:
    """A fit before its first step."""
    model = model_on(config, context.device)
    if start is not None:
        taken = take_over(model, start)
        if context.leads:
            tqdm.write(f"started from {start.folder} ({start.step} steps); {taken.describe()}")
    priors = learn_priors(config, train).to(context.device)
    sha256 = start.sha256 if start is not None else ""
    return _State(
        model,
        _optimiser(config, model),
        WeightAverage(model, config.optimiser.ema_decay),
        _adversary(config, context),
        priors,
        sha256,
    )


def _resume(config: TrainingConfig, found: Checkpoint, context: Context) -> _State:
    """A fit as it was when its checkpoint was written."""
    model = model_on(config, context.device)
    model.load_state_dict(found.model)
    optimiser = _optimiser(config, model)
    optimiser.load_state_dict(found.optimiser)
    average = WeightAverage(model, config.optimiser.ema_decay)
    average.values = {name: value.to(context.device) for name, value in found.ema.items()}
    adversary = _adversary(config, context)
    if adversary is not None and found.adversary is not None:
        adversary.load_state_dict(found.adversary)
    priors = Priors.restored(found.extras).to(context.device)
    return _State(model, optimiser, average, adversary, priors, found.start, found.step, found.best_score)


def model_on(config: TrainingConfig, device: torch.device) -> DIANet:
    """The network as it is fitted, with its weights laid out as the device's convolutions like it."""
    model = build_model(config).to(device)
    # On a CPU the normalisation, which wants channels first, would turn every map around and back again.
    if config.network.spatial_dims == 3 and device.type == "cuda":
        return model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return model


def _optimiser(config: TrainingConfig, model: nn.Module) -> torch.optim.Optimizer:
    settings = config.optimiser
    return torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )


def _adversary(config: TrainingConfig, context: Context) -> Adversary | None:
    term, latent = config.objective.adversarial, config.network.latent
    return Adversary(term, latent.channels, context) if term is not None and latent is not None else None


def _objective(config: TrainingConfig, train: Sequence[PreparedCase], priors: Priors) -> Objective:
    classes = config.network.classes
    counts = np.zeros(max(classes, 1), np.int64)
    for case in train:
        if classes and case.labels is not None:
            counts += np.bincount(case.labels.ravel(), minlength=classes)
    return Objective(config.objective, config.tasks, counts.tolist() if classes else None, priors)


def _averaged(config: TrainingConfig, state: _State, device: torch.device) -> nn.Module:
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


def _check_same_fit(
    found: Checkpoint, config: TrainingConfig, fold: int, start: Start | None, path: Path
) -> None:
    ours: dict[str, Any] = config.signature()
    theirs = parse_config(found.config, str(path)).signature()
    differing = sorted(key for key in ours if ours[key] != theirs[key])
    if fold != found.fold:
        differing.append("fold")
    if start is not None and start.sha256 != found.start:
        differing.append("start")
    if differing:
        raise InputError(
            f"checkpoint {path} belongs to another fit: {', '.join(differing)} differ.",
            remedy="Give another --output, or --restart to begin anew.",
        )
