# SPDX-License-Identifier: Apache-2.0
"""Means, spread and bootstrap intervals over cases, and the files and the table that show them."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from DIANetLib.errors import OutputError
from training.scoring import CaseScore, error_figures

BOOTSTRAP_DRAWS = 10_000
#: Figures that get a bootstrap interval; the others have mean, median, standard deviation and n.
MAIN = ("dice", "hd95_mm", "nsd_1mm", "ece_before", "ece", "error_auroc_total", "error_auroc_plain")


@dataclass(frozen=True)
class Statistic:
    """A figure over cases; cases where it is not defined (NaN) are left out and not counted.

    Attributes:
        mean: arithmetic mean.
        median: median.
        sd: sample standard deviation; NaN for one case.
        n: cases counted.
        interval_95: percentile bootstrap interval of the mean over cases, or None where it was not asked for.
    """

    mean: float
    median: float
    sd: float
    n: int
    interval_95: tuple[float, float] | None = None


def statistic(values: Iterable[float], *, interval: bool = False, seed: int = 0) -> Statistic:
    """Summarise a figure over cases."""
    array = np.asarray(list(values), np.float64)
    array = array[~np.isnan(array)]
    if not array.size:
        return Statistic(math.nan, math.nan, math.nan, 0)
    return Statistic(
        mean=float(array.mean()),
        median=float(np.median(array)),
        sd=float(array.std(ddof=1)) if array.size > 1 else math.nan,
        n=int(array.size),
        interval_95=bootstrap_interval(array, seed=seed) if interval else None,
    )


def bootstrap_interval(
    values: npt.NDArray[np.float64], *, draws: int = BOOTSTRAP_DRAWS, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of the mean over resampled cases (Efron and Tibshirani 1993, chapter 13)."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, values.size, (draws, values.size))].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def figures_over_cases(scores: Sequence[CaseScore], *, seed: int = 0) -> dict[str, Any]:
    """Everything that a summary says about the cases: per figure, per structure, and over pooled voxels."""
    names = list(scores[0].figures)
    keys = [score.structure for score in scores[0].structures]
    pooled = {name: np.concatenate([score.voxels[name] for score in scores]) for name in scores[0].voxels}
    return {
        "figures": {
            name: asdict(
                statistic((score.figures[name] for score in scores), interval=name in MAIN, seed=seed)
            )
            for name in names
        },
        "structures": {
            key: {
                name: asdict(
                    statistic(
                        (getattr(score.structures[number], name) for score in scores),
                        interval=name == "dice",
                        seed=seed,
                    )
                )
                for name in ("dice", "hd95_mm", "nsd_1mm")
            }
            for number, key in enumerate(keys)
        },
        "pooled": {"voxels": int(pooled["wrong"].size), **error_figures(pooled)},
    }


def write_tables(scores: Sequence[CaseScore], folder: Path) -> None:
    """Write cases.csv, a row per case, and structures.csv, a row per case and structure."""
    rows = [{"case": score.case, **score.figures} for score in scores]
    write_text(folder / "cases.csv", _csv(rows))
    rows = [{"case": score.case, **asdict(part)} for score in scores for part in score.structures]
    write_text(folder / "structures.csv", _csv(rows))


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write valid JSON: numbers that are not finite become null."""
    write_text(path, json.dumps(finite(data), indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file aside and rename it.

    Raises:
        OutputError: if it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8", newline="")
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"Cannot write {path}: {error.strerror}.") from error


def finite(value: Any) -> Any:
    """The same structure with NaN and infinities replaced by None, tuples by lists."""
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def print_summary(summary: Mapping[str, Any], console: Console | None = None) -> None:
    """Print what a summary says as tables."""
    console = console or Console()
    title = (
        f"{summary['model']}, fold {summary['fold']}: {summary['cases']} cases not trained on,"
        f" T = {summary['samples']}"
    )
    table = Table("structure", "Dice", "HD95 mm", "NSD 1 mm", title=title, title_justify="left")
    for key, part in summary["structures"].items():
        table.add_row(
            key, _mean_sd(part["dice"], 4), _mean_sd(part["hd95_mm"], 2), _mean_sd(part["nsd_1mm"], 3)
        )
    figures, pooled = summary["figures"], summary["pooled"]
    table.add_section()
    table.add_row(
        "mean", _mean_sd(figures["dice"], 4), _mean_sd(figures["hd95_mm"], 2), _mean_sd(figures["nsd_1mm"], 3)
    )
    console.print(table)
    table = Table("figure", "mean over cases", "95 % interval", "pooled voxels")
    for name, statistic_ in figures.items():
        if name in ("hd95_mm", "nsd_1mm"):
            continue
        table.add_row(name, _mean_sd(statistic_, 4), _interval(statistic_), _number(pooled.get(name), 4))
    console.print(table)
    latent = summary.get("latent")
    if latent:
        console.print(
            f"latent: KL {latent['kl']:.3f} nats in {latent['active_dimensions']} active dimensions; Dice"
            f" with another case's h {latent['dice_change_when_shuffled']:+.4f}, with the prior's mean"
            f" {latent['dice_prior'] - latent['dice_own']:+.4f}"
        )
    console.print(f"temperature {summary['temperature']:.3f}")


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: f"{v:.6g}" if isinstance(v, float) else v for key, v in row.items()})
    return stream.getvalue()


def _mean_sd(part: Mapping[str, Any], digits: int) -> str:
    if not part["n"]:
        return "–"
    return f"{_number(part['mean'], digits)} ± {_number(part['sd'], digits)}"


def _interval(part: Mapping[str, Any]) -> str:
    if not part["interval_95"]:
        return ""
    low, high = part["interval_95"]
    return f"{low:.4f} to {high:.4f}"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"
