# SPDX-License-Identifier: Apache-2.0
"""Means, spread and bootstrap intervals over cases, and the files that hold them."""

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

from DIANetLib.errors import OutputError
from training.scoring import CaseScore, StructureScore, error_figures

BOOTSTRAP_DRAWS = 10_000
#: Figures that get a bootstrap interval; the others have mean, median, standard deviation and n.
MAIN = (
    "dice",
    "dice_regions",
    "hd95_mm",
    "nsd_1mm",
    "ece_before",
    "ece",
    "error_auroc_total",
    "error_auroc_plain",
)
#: The share of cases that is looked at apart as the worst.
WORST = 0.05
_SURFACE = ("dice", "hd95_mm", "nsd_1mm")


@dataclass(frozen=True)
class Statistic:
    """A figure over cases; cases where it is not defined (NaN) are left out and not counted.

    Attributes:
        mean: arithmetic mean.
        median: median.
        sd: sample standard deviation; NaN for one case.
        n: cases counted.
        interval_95: percentile bootstrap interval of the mean over cases, or None where it was not asked for
            or there is one case.
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
        interval_95=bootstrap_interval(array, seed=seed) if interval and array.size > 1 else None,
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
    """What a summary says about segmented cases: per figure, structure and region, and over pooled voxels."""
    found = {
        "figures": statistics([score.figures for score in scores], seed=seed),
        "worst": worst_cases({score.case: score.figures for score in scores}),
        "structures": parts_over_cases([score.structures for score in scores], seed=seed),
        "pooled": pooled_figures([score.voxels for score in scores]),
    }
    if scores[0].regions:
        found["regions"] = parts_over_cases([score.regions for score in scores], seed=seed)
    return found


def pooled_figures(cases: Sequence[Mapping[str, npt.NDArray[Any]]]) -> dict[str, float]:
    """Calibration and error detection over the judged voxels of all cases, `CaseScore.voxels` each."""
    joined = {name: np.concatenate([voxels[name] for voxels in cases]) for name in cases[0]}
    return {"voxels": int(joined["wrong"].size), **error_figures(joined)}


def worst_in_words(worst: Mapping[str, Any]) -> str:
    """What `worst_cases` looked at: "worst case", "worst 3 cases"."""
    count = len(worst["cases"])
    return "worst case" if count == 1 else f"worst {count} cases"


def statistics(rows: Sequence[Mapping[str, float]], *, seed: int = 0) -> dict[str, Any]:
    """A statistic per figure of the cases' rows, with an interval for the main ones."""
    return {
        name: asdict(statistic((row[name] for row in rows), interval=name in MAIN, seed=seed))
        for name in rows[0]
    }


def worst_cases(figures: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Mean overlap and surface figures of the twentieth of the cases with the lowest Dice, at least one.

    Args:
        figures: of the cases, by name.

    Returns:
        "cases", their names, the worst first, and the mean of "dice", "hd95_mm" and "nsd_1mm" over them.
    """
    order = sorted(figures, key=lambda name: (figures[name]["dice"], name))
    names = order[: math.ceil(WORST * len(order))]
    means = {key: statistic(figures[name][key] for name in names).mean for key in _SURFACE}
    return {"cases": names, **means}


def parts_over_cases(cases: Sequence[Sequence[StructureScore]], *, seed: int = 0) -> dict[str, Any]:
    """Statistics of overlap and surface figures per structure (or region) of the cases."""
    values = {
        part.structure: [{name: getattr(case[number], name) for name in _SURFACE} for case in cases]
        for number, part in enumerate(cases[0])
    }
    return {
        key: {
            name: asdict(statistic((row[name] for row in rows), interval=name == "dice", seed=seed))
            for name in _SURFACE
        }
        for key, rows in values.items()
    }


def write_tables(scores: Sequence[CaseScore], folder: Path) -> None:
    """Write cases.csv, a row per case, and structures.csv, a row per case and structure or region."""
    write_table(folder / "cases.csv", [{"case": score.case, **score.figures} for score in scores])
    write_table(
        folder / "structures.csv",
        [
            {"case": score.case, **asdict(part)}
            for score in scores
            for part in (*score.structures, *score.regions)
        ],
    )


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of the same columns as CSV; numbers have six digits."""
    write_text(path, _csv(rows))


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


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: f"{v:.6g}" if isinstance(v, float) else v for key, v in row.items()})
    return stream.getvalue()
