# SPDX-License-Identifier: Apache-2.0
"""`python -m training familiarity`: learn what a model's own images look like to it, and judge that.

Fitted on the cases that the weights were fitted on; corrupted copies of the inner cases set where unfamiliar
begins; judged on the held-out fold, corrupted copies of it, and images of other kinds. Writes

    summary.json   limits, rates and areas under the ROC curve
    rows.csv       a row per run
    runs           what the encoder saw, a file per run; what is there is not done again
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from DIANetLib.acwi.familiarity import FamiliarityModel
from DIANetLib.errors import InputError
from DIANetLib.inference.engine import Segmenter
from DIANetLib.volume import Volume
from training.config import TrainingConfig
from training.datasets import Case, SourceCase, Split, find_cases, read_case, split_cases
from training.evaluate import versions
from training.familiarity_fit import fit_familiarity
from training.familiarity_judge import auroc, compared, rates, ways
from training.familiarity_outliers import files_of, read_groups, shown
from training.familiarity_runs import Recorder, Runs, Seen
from training.progress import track
from training.quality_runs import seed_of
from training.quality_series import LEVELS, Corruption, corrupted, series
from training.summary import finite, write_json, write_table
from training.trial import named_volumes
from training.unseen import check_unseen, load_model_of

FORMAT = "dianet-familiarity"
FORMAT_VERSION = 1
FOLDER = "familiarity"


@dataclass(frozen=True)
class FamiliarityRequest:
    """What is asked for.

    Attributes:
        config: the configuration that says how the data is read and divided.
        data: folder of the data set.
        output: any folder.
        model: the model folder.
        device: where the network runs.
        fold: the held-out fold; None takes the model folder's.
        samples: T of the runs that are judged; 2 or more, so that there is an epistemic part to compare with.
        seed: of samples, corruptions and folds.
        inner: corrupt only the first so many inner cases; None for all.
        held_out: corrupt only the first so many held-out cases; None for all.
        outliers: file that lists images of other kinds; None for none.
        outlier_data: folder that its paths start from.
        command: how this was called, for the record.
    """

    config: TrainingConfig
    data: Path
    output: Path
    model: Path
    device: torch.device
    fold: int | None = None
    samples: int = 4
    seed: int = 0
    inner: int | None = None
    held_out: int | None = None
    outliers: Path | None = None
    outlier_data: Path = Path()
    command: str = ""


def familiarity(request: FamiliarityRequest) -> tuple[FamiliarityModel, dict[str, Any]]:
    """Fit and judge; returns the model of familiarity, and what summary.json holds.

    Raises:
        InputError: if there are too few samples or cases, or other cases than the model was fitted on.
        BundleError: if the model folder cannot be used.
    """
    start = time.perf_counter()
    if request.samples < 2:
        raise InputError(f"expected two samples or more, to compare with, got {request.samples}.")
    bench = _Bench(request)
    fitted = bench.own("fitted", bench.split.train, samples=0)
    inner = bench.own("inner", bench.split.inner, samples=0)
    copies = bench.copies("inner", bench.split.inner, request.inner, samples=0)
    features = np.stack([run.features for run in fitted])
    scored = [(run.features, run.dice) for run in (*inner, *copies) if run.dice is not None]
    about = request.config.description.rstrip(". ")
    model = fit_familiarity(features, copies=scored, seed=request.seed, about=about)
    count = bench.coarsest
    alone = fit_familiarity(features[:, :count], seed=request.seed)

    held_out = bench.own("held out", bench.split.held_out, samples=request.samples)
    spoilt = bench.copies("held out", bench.split.held_out, request.held_out, samples=request.samples)
    others = bench.others()
    groups = {**_by_group(spoilt), **others.outliers}
    strong = [run for run in spoilt if run.group in _STRONGEST]
    odd = [run for runs in others.outliers.values() for run in runs]
    groups |= {"all outliers": odd, "all outliers and strong corruptions": [*odd, *strong]}
    told = ways(model, alone, fitted)
    shown_groups = {"held out": held_out, "inner": inner, **others.usual, **groups}
    summary = finite(
        {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "model": request.config.name,
            "weights_sha256": bench.model.sha256,
            "fold": bench.fold,
            "samples": request.samples,
            "seed": request.seed,
            "cases": len(fitted),
            "features": features.shape[1],
            "inner": list(bench.split.inner),
            "held_out": list(bench.split.held_out),
            "copies": {"inner": len(copies), "held_out": len(spoilt)},
            "levels": asdict(model.levels),
            "rates": {name: asdict(rates(model, runs)) for name, runs in shown_groups.items() if runs},
            "auroc": compared(told, held_out, {name: runs for name, runs in groups.items() if runs}),
            "auroc_same_images": {
                odd: compared(told, others.usual[like], {odd: others.outliers[odd]})[odd]
                for odd, like in others.same_images.items()
            },
            "nothing_found": {
                name: sum(run.epistemic is None for run in runs) for name, runs in others.outliers.items()
            },
            "bad_dice": _bad(model, [*held_out, *spoilt]),
            "command": request.command,
            "versions": versions(),
            "device": str(request.device),
            "seconds": round(time.perf_counter() - start, 1),
        }
    )
    everything = [
        *fitted,
        *inner,
        *copies,
        *held_out,
        *spoilt,
        *odd,
        *(r for g in others.usual.values() for r in g),
    ]
    write_table(bench.folder / "rows.csv", [_row(model, run) for run in everything])
    write_json(bench.folder / "summary.json", summary)
    return model, summary


@dataclass(frozen=True, eq=False)
class _Others:
    outliers: dict[str, list[Seen]]
    usual: dict[str, list[Seen]]
    same_images: dict[str, str]  # of an outlier group the usual one of the same images


_STRONGEST = {str(Corruption(kind, levels[-1])) for kind, levels in LEVELS.items() if kind != "none"}


class _Bench:
    """The model, its cases, and what was shown to it."""

    def __init__(self, request: FamiliarityRequest) -> None:
        self.request, config = request, request.config
        self.folder = request.output / FOLDER
        # Before anything is computed: a wrong path is told at once, not after minutes.
        groups = () if request.outliers is None else read_groups(request.outliers)
        self.groups = [(group, files_of(group, request.outlier_data)) for group in groups]
        self.cases = {case.name: case for case in find_cases(request.data, config.data)}
        found = load_model_of(config, request.model)
        facts = found.metadata.dianet.training
        self.fold = int(facts.get("fold", 0)) if request.fold is None else request.fold
        self.split: Split = split_cases(list(self.cases.values()), config.data, self.fold)
        check_unseen(found, self.split, self.fold, request.data)
        self.model = Recorder(found.metadata, found.path, found.sha256)
        engine = Segmenter(self.model, str(request.device))
        self.runs = Runs(engine, self.model, self.folder / "runs", request.seed)

    @property
    def coarsest(self) -> int:
        """How many of the features are the bottleneck's: means and deviations of its channels."""
        return 2 * self.model.network_config.widths[-1]

    def own(self, group: str, names: Sequence[str], *, samples: int) -> list[Seen]:
        """Cases of the data set as they are."""
        return [
            self._run(group, self.cases[name], Corruption(), samples)
            for name in track(names, group, unit="case")
        ]

    def copies(self, group: str, names: Sequence[str], most: int | None, *, samples: int) -> list[Seen]:
        """Corrupted copies of cases; their groups are the corruptions."""
        chosen = list(names)[: len(names) if most is None else most]
        return [
            self._run(f"{group}, corrupted", self.cases[name], corruption, samples)
            for name in track(chosen, f"{group}, corrupted", unit="case")
            for corruption in series()[1:]
        ]

    def others(self) -> _Others:
        """Images of other kinds."""
        request = self.request
        outliers: dict[str, list[Seen]] = {}
        usual: dict[str, list[Seen]] = {}
        for group, files in self.groups:
            runs = []
            for file in track(files, group.name, unit="image"):
                for one in shown(group, file, request.outlier_data, self._sizes()):
                    volumes = partial(_named, one.volume, request.config)
                    runs.append(
                        self.runs.seen(group.name, one.name, volumes, samples=request.samples, box=one.box)
                    )
            (outliers if group.outlier else usual)[group.name] = runs
        pairs = {
            odd.name: like.name
            for odd, _ in self.groups
            for like, _ in self.groups
            if odd.outlier and not like.outlier and odd.images == like.images
        }
        return _Others(outliers, usual, pairs)

    @cache  # noqa: B019 (there is one bench, and it lives as long as the command)
    def _sizes(self) -> tuple[tuple[float, float, float], ...]:
        """Sizes of some fitted cases along the world's axes, mm."""
        found = []
        for name in self.split.train[::10]:
            geometry = read_case(self.cases[name], self.request.config.data).present[0].geometry
            x, y, z = np.abs(np.asarray(geometry.direction)) @ np.array(geometry.extent_mm)
            found.append((float(x), float(y), float(z)))
        return tuple(found)

    def _run(self, group: str, case: Case, corruption: Corruption, samples: int) -> Seen:
        config, seed = self.request.config, self.request.seed
        source: Callable[[], SourceCase] = cache(lambda: read_case(case, config.data))

        def volumes() -> list[Volume]:
            return [
                corrupted(volume, corruption, seed_of(case.name, number, seed))
                for number, volume in enumerate(named_volumes(source(), config))
            ]

        def labels() -> Volume:
            found = source().labels
            assert found is not None  # only asked for where there are some
            return found

        plain = corruption.kind == "none"
        name = case.name if plain else f"{case.name}, {corruption}"
        known = labels if case.labels is not None else None
        seen = self.runs.seen(group, name, volumes, samples=samples, reference=known)
        return seen if plain else replace(seen, group=str(corruption))


def _named(volume: Volume, config: TrainingConfig) -> tuple[Volume, ...]:
    """The image as the model's only modality."""
    return (replace(volume, modality=config.data.modalities[0].name),)


def _by_group(runs: Sequence[Seen]) -> dict[str, list[Seen]]:
    found: dict[str, list[Seen]] = {}
    for run in runs:
        found.setdefault(run.group, []).append(run)
    return found


def _bad(model: FamiliarityModel, runs: Sequence[Seen]) -> dict[str, Any]:
    """Whether familiarity finds runs with a mean Dice below the limit of the traffic light's red."""
    from training.familiarity_fit import BAD_DICE

    scored = [(model.distance(run.features), run.dice) for run in runs if run.dice is not None]
    bad = [distance for distance, dice in scored if dice < BAD_DICE]
    good = [distance for distance, dice in scored if dice >= BAD_DICE]
    return {"bad": len(bad), "good": len(good), "auroc": auroc(good, bad) if bad and good else None}


def _row(model: FamiliarityModel, run: Seen) -> dict[str, Any]:
    found = model.judge(run.features)
    return {
        "group": run.group,
        "name": run.name,
        "score": round(found.score, 3),
        "grade": found.grade,
        "volume_ml": round(run.volume_ml, 3),
        "total": run.total,
        "epistemic": run.epistemic,
        "dice": run.dice,
    }
