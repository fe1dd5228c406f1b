# SPDX-License-Identifier: Apache-2.0
"""`python -m training fit`: find or download the data, divide it, load it, fit."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from DIANetLib.errors import Cancelled, OutputError
from training.config import TrainingConfig
from training.data_folder import data_folder
from training.datasets import Case, PreparedCase, find_cases, load_case, split_cases
from training.distributed import Context, start, stop
from training.evaluate import SPLIT_FILE, check_split
from training.interrupt import stop_request
from training.loop import FitResult, fit
from training.progress import track
from training.start import read_start
from training.summary import write_json

_WRITTEN = ("checkpoint.pt", "best.pt", "log.csv", SPLIT_FILE)


def run_fit(
    config: TrainingConfig,
    data: Path,
    output: Path,
    *,
    device: str = "auto",
    fold: int = 0,
    workers: int = 0,
    restart: bool = False,
    start_from: Path | None = None,
    command: str = "",
) -> FitResult:
    """Fit in this process, or as one of several that torchrun started.

    Args:
        config: what to fit.
        data: folder of the data set; a public release is downloaded into it where it is empty.
        output: where checkpoints and logs go; a fit that is there is gone on with.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        fold: the fold that is held out.
        workers: processes that prepare patches.
        restart: remove a fit that is there.
        start_from: folder of a fit whose weights this one starts from; None for random ones.
        command: how this was called, to say how to go on.

    Raises:
        Cancelled: if stopped by a signal; the checkpoint is written.
        DIANetError: for bad input, in a sentence.
    """
    context = start(device)
    try:
        if context.leads:
            _clear(output) if restart else None
            data_folder(config.data, data)
        context.barrier()
        folder = data_folder(config.data, data, download=False)
        cases = {case.name: case for case in find_cases(folder, config.data)}
        split = split_cases(list(cases.values()), config.data, fold)
        resumes = (output / "checkpoint.pt").is_file()
        if resumes:
            check_split(split, output)
        train = _load([cases[name] for name in split.train], config, context)
        inner = _load([cases[name] for name in split.inner], config, context) if context.leads else []
        if context.leads and not resumes:
            write_json(output / SPLIT_FILE, asdict(split))
        origin = read_start(start_from) if start_from is not None else None
        with stop_request() as stopped:
            result = fit(
                config,
                train,
                inner,
                output,
                context,
                fold=fold,
                workers=workers,
                start=origin,
                stop=stopped,
            )
        if result.step < config.optimiser.steps:
            raise Cancelled(
                f"stopped at step {result.step} of {config.optimiser.steps}; {result.checkpoint} is written.",
                remedy=f"Go on with: {command}" if command else None,
            )
        if context.leads:
            print(f"fitted: {result.step} steps, best score of the inner cases {result.best_score:.4f}")
            print(f"written: {result.checkpoint}")
        return result
    finally:
        stop()


def _load(cases: Sequence[Case], config: TrainingConfig, context: Context) -> list[PreparedCase]:
    return [load_case(case, config) for case in track(cases, "load", unit="case", shown=context.leads)]


def _clear(output: Path) -> None:
    """Remove what an earlier fit wrote, and nothing else."""
    try:
        for name in _WRITTEN:
            (output / name).unlink(missing_ok=True)
        shutil.rmtree(output / "tensorboard", ignore_errors=True)
    except OSError as error:
        raise OutputError(f"Cannot remove the earlier fit in {output}: {error.strerror}.") from error
    print(f"begun anew in {output}", file=sys.stderr)
