# SPDX-License-Identifier: Apache-2.0
"""`python -m training replay`: what a review would gain, with the reference in the reviewer's place.

Held-out cases are segmented by the product's engine. In the first regions of the worklist, and in as many
regions of the same sizes of three rivals, every voxel gets its true label; the Dice after 1, 3, 5 and 10
regions says how fast each method repairs the same segmentation. How the rivals are built is told in
`training.replay_regions`; random regions are drawn anew several times, and the figures of a case are means
over the draws. Differences are paired by case; intervals are bootstrapped over cases.

The temperature and the correction of the error probability are the model's own, or fitted on the fit's inner
cases; nothing is chosen on the cases that are replayed. Writes OUTPUT/replay/summary.json, cases.csv and
maps/*.npz, from which a run goes on that was stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from DIANetLib.acwi import metrics
from DIANetLib.errors import InputError
from DIANetLib.structures import Structure
from training.bootstrap import Difference, Estimate, differences, estimates, means_of
from training.config import TrainingConfig
from training.evaluate import versions
from training.fitted import WeightsName
from training.replay_cases import Runs, Segmented, segmented_cases, source_of_fit, source_of_model
from training.replay_regions import (
    ReviewSettings,
    Voxels,
    boundary_voxels,
    random_regions,
    scored_regions,
    worklist_regions,
)
from training.summary import finite, write_json, write_table

OURS = "worklist"
RIVALS = ("random_boundary", "softmax_entropy", "largest_boundary")
METHODS = (OURS, *RIVALS)
#: Regions after which the Dice is told.
POINTS = (1, 3, 5, 10)
_FORMAT_VERSION = 1


@dataclass(frozen=True)
class Replayed:
    """What correcting regions brought in one case.

    Attributes:
        case: its name.
        method: one of `METHODS`.
        dice: mean over the structures after 0, 1, 2, ... regions.
        share: share of the wrong voxels of the segmentation that lie in so many regions; NaN if none is.
        voxels: voxels of these regions.
    """

    case: str
    method: str
    dice: tuple[float, ...]
    share: tuple[float, ...]
    voxels: tuple[float, ...]


def replay(
    config: TrainingConfig,
    data: Path,
    output: Path,
    *,
    device: torch.device,
    model: Path | None = None,
    fits: Sequence[Path] = (),
    fold: int | None = None,
    weights: WeightsName = "latest",
    settings: ReviewSettings | None = None,
    samples: int = 10,
    seed: int = 0,
    draws: int = 20,
    limit: int | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Replay reviews of held-out cases; returns what summary.json holds.

    Args:
        config: the fit's configuration, or the one that the model was fitted with.
        data: folder of the data set.
        output: the fit's folder; with `model` or `fits`, any folder.
        device: where the network runs.
        model: a model folder in place of a fit.
        fits: folders of several fits in place of one, whose held-out cases are put together.
        fold: the fold that is held out; None takes the fit's, or 0 with `model`.
        weights: "latest" or "best" checkpoint of a fit.
        settings: how regions are looked for; the product's own choices when None.
        samples: T.
        seed: of the samples, the random regions and the bootstrap.
        draws: how often random regions are drawn for each case.
        limit: only the first so many held-out cases of each fit.
        command: how this was called, for the record.

    Raises:
        InputError: the folder holds no such fit, the data is not what it was fitted on, or no held-out case
            has labels.
    """
    settings = settings or ReviewSettings()
    if not config.network.classes:
        raise InputError(f"expected a model that segments, got {config.name!r}, which does not.")
    if settings.maximum < max(POINTS):
        settings = replace(settings, maximum=max(POINTS))
    folder = output / "replay"
    if model is not None and fits:
        raise InputError("expected either a model or fits to replay, got both.")
    runs = Runs(config, data, device, samples, seed)
    if model is not None:
        sources = [source_of_model(runs, model, fold or 0)]
    else:
        sources = [source_of_fit(runs, fit, None if fits else fold, weights) for fit in (fits or [output])]
    rows: list[Replayed] = []
    for source in sources:
        for case in segmented_cases(source, runs, folder / "maps", limit):
            rows += replay_case(case, settings, draws=draws, seed=seed)
    if not rows:
        raise InputError("no held-out case has labels to correct a segmentation with.")
    summary = finite(
        {
            "format": "dianet-replay",
            "format_version": _FORMAT_VERSION,
            "model": config.name,
            "sources": [dict(source.told) for source in sources],
            "settings": asdict(settings),
            "samples": samples,
            "seed": seed,
            "draws": draws,
            **summarise(rows, seed=seed),
            "command": command,
            "versions": versions(),
        }
    )
    write_table(folder / "cases.csv", _table(rows))
    write_json(folder / "summary.json", summary)
    return summary


def replay_case(
    case: Segmented, settings: ReviewSettings, *, draws: int = 20, seed: int = 0
) -> list[Replayed]:
    """Correct one case region by region, by each method.

    Args:
        case: segmented.
        settings: how the worklist's regions are looked for; at most `settings.maximum` are corrected.
        draws: of random regions.
        seed: of these draws.
    """
    labels, spacing = case.labels.array, case.labels.geometry.spacing[::-1]
    ours = worklist_regions(case.error_probability, case.labels, case.structures, settings)
    sizes = [len(voxels) for voxels in ours]
    boundary = boundary_voxels(labels)
    counted = int((case.error_probability.array >= np.float32(settings.threshold)).sum())
    generator = np.random.default_rng(seed)
    regions = {
        OURS: [ours],
        "random_boundary": [
            random_regions(boundary, sizes, spacing, settings, generator) for _ in range(draws)
        ],
        "softmax_entropy": [scored_regions(case.entropy.array, counted, sizes, spacing, settings)],
        "largest_boundary": [
            scored_regions(boundary.astype(np.float32), int(boundary.sum()), sizes, spacing, settings)
        ],
    }
    rows = []
    for method, several in regions.items():
        runs = [corrected(case, chosen, settings.maximum) for chosen in several]
        dice, share, voxels = (np.mean([run[n] for run in runs], axis=0).tolist() for n in range(3))
        rows.append(Replayed(case.name, method, tuple(dice), tuple(share), tuple(voxels)))
    return rows


def corrected(
    case: Segmented, regions: Sequence[Voxels], count: int
) -> tuple[list[float], list[float], list[int]]:
    """Dice, share of the wrong voxels and voxels after 0 to `count` regions; later ones change nothing."""
    labels, reference = case.labels.array.copy(), case.reference.array
    wrong = int(np.count_nonzero(labels != reference))
    dice, found, voxels = [_dice(labels, reference, case.structures)], [0], [0]
    for number in range(count):
        if number < len(regions):
            at = tuple(regions[number].T)
            found.append(found[-1] + int(np.count_nonzero(labels[at] != reference[at])))
            voxels.append(voxels[-1] + len(regions[number]))
            labels[at] = reference[at]
            dice.append(_dice(labels, reference, case.structures))
        else:
            dice.append(dice[-1])
            found.append(found[-1])
            voxels.append(voxels[-1])
    return dice, [n / wrong if wrong else float("nan") for n in found], voxels


def summarise(rows: Sequence[Replayed], *, seed: int = 0) -> dict[str, Any]:
    """Means over cases with intervals, and paired differences of the worklist to each rival."""
    names = sorted({row.case for row in rows})
    by = {(row.case, row.method): row for row in rows}

    def columns(method: str) -> dict[str, list[float]]:
        mine = [by[name, method] for name in names]
        return {
            f"{what}_{point}": [getattr(row, what)[point] for row in mine]
            for what in ("dice", "share", "voxels")
            for point in (0, *POINTS)
        }

    figures = {method: means_of(columns(method)) for method in METHODS}
    count = len(names)
    means: dict[str, dict[str, Estimate]] = {
        method: estimates(figures[method], count, seed=seed) for method in METHODS
    }
    apart: dict[str, dict[str, Difference]] = {
        rival: {
            name: part
            for name, part in differences(figures[OURS], figures[rival], count, seed=seed).items()
            if name.startswith(("dice", "share")) and not name.endswith("_0")
        }
        for rival in RIVALS
    }
    return {
        "cases": count,
        "points": list(POINTS),
        "methods": {method: {k: asdict(v) for k, v in part.items()} for method, part in means.items()},
        "differences": {rival: {k: asdict(v) for k, v in part.items()} for rival, part in apart.items()},
        "best_at_every_point": all(
            apart[rival][f"dice_{point}"].value > 0 for rival in RIVALS for point in POINTS
        ),
    }


def replay_lines(summary: Mapping[str, Any]) -> Iterable[str]:
    """The summary as Markdown tables."""
    points = summary["points"]
    methods, apart = summary["methods"], summary["differences"]
    yield f"{summary['model']}: {summary['cases']} held-out cases, T = {summary['samples']}"
    start = methods[OURS]["dice_0"]["value"]
    sizes = ", ".join(f"{methods[OURS][f'voxels_{p}']['value']:.0f}" for p in points)
    yield f"Dice before: {start:.4f}; voxels in the first {', '.join(map(str, points))} regions: {sizes}"
    yield ""
    yield f"| Dice after | {' | '.join(f'{p} regions' if p > 1 else '1 region' for p in points)} |"
    yield f"|---|{'---|' * len(points)}"
    for method in METHODS:
        cells = [_with_interval(methods[method][f"dice_{p}"], "{:.4f}") for p in points]
        yield f"| {method.replace('_', ' ')} | {' | '.join(cells)} |"
    for rival in RIVALS:
        cells = [_with_interval(apart[rival][f"dice_{p}"], "{:+.4f}") for p in points]
        yield f"| worklist − {rival.replace('_', ' ')} | {' | '.join(cells)} |"
    yield ""
    yield f"| share of all wrong voxels in | {' | '.join(f'first {p}' for p in points)} |"
    yield f"|---|{'---|' * len(points)}"
    for method in METHODS:
        cells = [_with_interval(methods[method][f"share_{p}"], "{:.3f}") for p in points]
        yield f"| {method.replace('_', ' ')} | {' | '.join(cells)} |"


def _with_interval(estimate: Mapping[str, Any], form: str) -> str:
    low, high = estimate["interval_95"]
    if low is None or high is None:
        return form.format(estimate["value"])
    return f"{form.format(estimate['value'])} ({form.format(low)} to {form.format(high)})"


def _dice(found: npt.NDArray[Any], reference: npt.NDArray[Any], structures: Sequence[Structure]) -> float:
    return float(np.mean([metrics.dice(found == s.value, reference == s.value) for s in structures]))


def _table(rows: Sequence[Replayed]) -> list[dict[str, Any]]:
    return [
        {"case": row.case, "method": row.method, "regions": n, "dice": d, "share": s, "voxels": v}
        for row in rows
        for n, (d, s, v) in enumerate(zip(row.dice, row.share, row.voxels, strict=True))
    ]
