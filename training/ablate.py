# SPDX-License-Identifier: Apache-2.0
"""`python -m training ablate`: fit N1 and N1 with each part under one budget, measure them, tell them apart.

All arms read the same patches. Where they start from one N1 fit, each begins as the very same function, since
every block is zero at step 0, and N1 itself goes on for as many steps. Arms lie in folders of their own: what
is done is not done again, and several processes can fit different arms into one output folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from DIANetLib.errors import Cancelled, InputError
from DIANetLib.losses.cut import CutPrior, learn_cut_prior
from training.ablate_arms import REFERENCE, Arm, arm_config, arms_of, chosen_arms
from training.ablate_measure import measure_blocks, measure_cases, time_per_step
from training.ablate_report import MEASURED, write_report
from training.config import TrainingConfig
from training.config_tasks import CutTerm
from training.data_folder import data_folder
from training.datasets import PreparedCase, find_cases, load_case, split_cases
from training.distributed import Context, single_device
from training.fit_log import read_log
from training.fitted import load_fitted
from training.interrupt import stop_request
from training.loop import fit
from training.priors import cut_place
from training.progress import track
from training.start import Start, read_start
from training.summary import write_json

try:
    import fcntl
except ImportError:  # not a POSIX system: two processes are then not kept from one folder
    fcntl = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Budget:
    """What every arm gets.

    Attributes:
        steps: steps of each arm; None for the configuration's.
        warm_up: steps of the N1 fit that all arms start from; 0 for none.
        start: folder of an N1 fit to start from instead, or None.
        seeds: repetitions, with seeds that follow the configuration's.
    """

    steps: int | None = None
    warm_up: int = 0
    start: Path | None = None
    seeds: int = 1


@dataclass(frozen=True, eq=False)
class _Data:
    train: list[PreparedCase]
    inner: list[PreparedCase]
    held_out: list[PreparedCase]
    groups: dict[str, str]
    cut: CutPrior | None


def ablate(
    config: TrainingConfig,
    data: Path,
    output: Path,
    budget: Budget,
    *,
    arms: Sequence[str] | None = None,
    device: str = "auto",
    fold: int = 0,
    workers: int = 0,
    command: str = "",
) -> Path:
    """Fit and measure arms, and write the report on all that are done.

    Args:
        config: what is ablated; its settings are those of the arms that have the part.
        data: folder of the data set.
        output: where arms and report go.
        budget: of each arm.
        arms: names; None for all.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        fold: the fold that is held out.
        workers: processes that prepare patches.
        command: how this was called.

    Returns:
        The report, ablation.md.

    Raises:
        Cancelled: if stopped by a signal; what is fitted so far is kept.
        DIANetError: for bad input, in a sentence.
    """
    every = arms_of(config)
    chosen = chosen_arms(every, arms)
    output.mkdir(parents=True, exist_ok=True)
    _check_plan(config, budget, fold, output)
    context = Context(0, 1, single_device(device))
    loaded = _load(config, data_folder(config.data, data), fold)
    with stop_request() as stopped:
        for place in range(budget.seeds):
            seed = config.seed + place
            start = _start(
                config,
                every[REFERENCE],
                budget,
                loaded,
                output,
                context,
                seed,
                workers,
                stopped,
                fold,
                command,
            )
            for number, arm in enumerate(chosen, start=1):
                print(f"arm {number}/{len(chosen)}: {arm.name} ({arm.part}), seed {seed}", flush=True)
                folder = output / "arms" / arm.name / f"seed-{seed}"
                settings = arm_config(config, arm, seed=seed, steps=budget.steps)
                with _alone(folder):
                    _fit(settings, loaded, folder, context, fold, start, workers, stopped, command)
                    reference = arm_config(config, every[REFERENCE], seed=seed, steps=budget.steps)
                    _measure(arm, settings, reference, loaded, folder, context)
    return write_report(output, command)


def _check_plan(config: TrainingConfig, budget: Budget, fold: int, output: Path) -> None:
    """Note what the arms of a folder share, or find that it is another ablation's.

    Raises:
        InputError: if arms in the folder have had another budget, fold or configuration.
    """
    signature = config.signature()
    signature["optimiser"].pop("steps")
    plan = {
        "steps": budget.steps or config.optimiser.steps,
        "warm_up": budget.warm_up,
        "start": str(budget.start.resolve()) if budget.start else None,
        "fold": fold,
        "configuration": signature,
    }
    path = output / "plan.json"
    plan = json.loads(json.dumps(plan))
    if path.is_file():
        there = json.loads(path.read_text(encoding="utf-8"))
        differing = sorted(key for key in plan if plan[key] != there.get(key))
        if differing:
            raise InputError(
                f"{output} holds an ablation of another {', '.join(differing)}.",
                remedy="Give another --output, or the same settings.",
            )
    else:
        write_json(path, plan)


def _load(config: TrainingConfig, folder: Path, fold: int) -> _Data:
    cases = {case.name: case for case in find_cases(folder, config.data)}
    split = split_cases(list(cases.values()), config.data, fold)

    def load(names: Sequence[str], what: str) -> list[PreparedCase]:
        return [load_case(cases[name], config) for name in track(names, f"load {what}", unit="case")]

    train = load(split.train, "training")
    term = arms_of(config).get("cut")
    cut = None
    if term is not None:
        places = cut_place(config, CutTerm(**term.objective["cut"]), volumes=True)
        cut = learn_cut_prior((case.labels for case in train if case.labels is not None), *places)
    groups = {name: case.group or name for name, case in cases.items()}
    return _Data(train, load(split.inner, "inner"), load(split.held_out, "held-out"), groups, cut)


def _start(
    config: TrainingConfig,
    reference: Arm,
    budget: Budget,
    loaded: _Data,
    output: Path,
    context: Context,
    seed: int,
    workers: int,
    stopped: Callable[[], bool],
    fold: int,
    command: str,
) -> Start | None:
    """The N1 fit that every arm starts from, fitted here if it is not yet; None to start at random."""
    if budget.start is not None:
        return read_start(budget.start)
    if budget.warm_up == 0:
        return None
    folder = output / "warm-up" / f"seed-{seed}"
    settings = arm_config(config, reference, seed=seed + 1_000, steps=budget.warm_up)
    print(f"warm-up: {budget.warm_up} steps of {REFERENCE}, seed {settings.seed}", flush=True)
    with _alone(folder):
        _fit(settings, loaded, folder, context, fold, None, workers, stopped, command)
    return read_start(folder)


def _fit(
    settings: TrainingConfig,
    loaded: _Data,
    folder: Path,
    context: Context,
    fold: int,
    start: Start | None,
    workers: int,
    stopped: Callable[[], bool],
    command: str,
) -> None:
    done = fit(
        settings,
        loaded.train,
        loaded.inner,
        folder,
        context,
        fold=fold,
        start=start,
        workers=workers,
        stop=stopped,
    )
    if done.step < settings.optimiser.steps:
        raise Cancelled(
            f"stopped in {folder} at step {done.step} of {settings.optimiser.steps}.",
            remedy=f"Go on with: {command}" if command else None,
        )


def _measure(
    arm: Arm,
    settings: TrainingConfig,
    reference: TrainingConfig,
    loaded: _Data,
    folder: Path,
    context: Context,
) -> None:
    """Write what the report needs of an arm to measured.json, unless it is there for these weights."""
    fitted = load_fitted(folder, settings)
    path = folder / MEASURED
    if path.is_file():
        there = json.loads(path.read_text(encoding="utf-8"))
        if there.get("weights_sha256") == fitted.sha256:
            return
    network = fitted.network(context.device, rounded=False)
    cases = measure_cases(network, settings, loaded.held_out, loaded.cut)
    seconds, reference_seconds = time_per_step(settings, reference, loaded.train, context, fitted.priors)
    measured: dict[str, Any] = {
        "arm": arm.name,
        "part": arm.part,
        "seed": settings.seed,
        "steps": fitted.step,
        "weights_sha256": fitted.sha256,
        "parameters": network.parameter_count(),
        "seconds_per_step": seconds,
        "reference_seconds_per_step": reference_seconds,
        "cases": cases,
        "groups": {name: loaded.groups[name] for name in cases},
        "blocks": measure_blocks(network, settings, loaded.held_out, read_log(folder)),
        "cut": None if loaded.cut is None else asdict(loaded.cut),
        "torch": torch.__version__,
    }
    write_json(path, measured)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder while the block runs; the lock goes when the process does.

    Raises:
        InputError: if another process is at work in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InputError(
                    f"another process is fitting in {folder}.", remedy="Wait for it, or choose other --arms."
                ) from error
        yield
