# SPDX-License-Identifier: Apache-2.0
"""`python -m training pool`: the evaluations of several folds as one.

Every case is judged by the fit that has not seen it. Leave-one-out and k-fold cross-validation: rows of the
folds' tables are put together, and figures and intervals computed of all of them anew.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from DIANetLib.errors import InputError
from training.against import compare
from training.config import TrainingConfig
from training.evaluate_classification import classification_summary, classification_table
from training.evaluate_reconstruction import reconstruction_summary
from training.evaluate_segmentation import judged_voxels
from training.evaluation_tables import FOLDER, SUMMARY, Tables, evaluation_folder, read_tables
from training.subsets import subset_table
from training.summary import (
    finite,
    parts_over_cases,
    pooled_figures,
    statistics,
    worst_cases,
    write_json,
    write_table,
)

#: What the fits of all folds have in common.
_COMMON = ("model", "baseline", "folds", "steps", "weights", "samples", "seed", "parameters")
#: What each fold has of its own.
_PER_FOLD = ("fold", "temperature", "weights_sha256", "latent", "codebook", "scale_weights")


def pool(
    config: TrainingConfig,
    folders: Sequence[Path],
    into: Path,
    *,
    against: Path | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Put the evaluations of several folds together; returns what INTO/evaluation/summary.json holds.

    Args:
        config: the fits' configuration.
        folders: the fits' folders, one per fold.
        into: where the pooled evaluation goes.
        against: folder of another evaluation or pooled evaluation of the same cases.
        command: how this was called, for the record.

    Raises:
        InputError: if a folder holds no evaluation, or they are not of different folds of one configuration.
    """
    if not folders:
        raise InputError("expected the folders of two fits or more to pool, got none.")
    summaries = [_summary(folder) for folder in folders]
    common = _common(config, folders, summaries)
    parts = [read_tables(evaluation_folder(folder)) for folder in folders]
    tables = _joined(parts)
    seed = int(common["seed"])
    summary = {
        "format": "dianet-pooled-evaluation",
        **common,
        "pooled_folds": [part["fold"] for part in summaries],
        "cases": sum(part["cases"] for part in summaries),
        "per_fold": [{name: part.get(name) for name in _PER_FOLD} for part in summaries],
        **figures_of_tables(config, tables, seed=seed),
    }
    if tables.figures:
        summary["pooled"] = pooled_figures(
            [
                voxels
                for folder, part in zip(folders, parts, strict=True)
                for voxels in judged_voxels(evaluation_folder(folder) / "cases", tuple(part.figures))
            ]
        )
    _write(tables, into / FOLDER)
    write_json(into / FOLDER / SUMMARY, summary)  # `compare` looks for it
    if against is not None:
        summary["against"] = compare(into, against, seed=seed)
    summary = finite({**summary, "command": command})
    write_json(into / FOLDER / SUMMARY, summary)
    return summary


def figures_of_tables(config: TrainingConfig, tables: Tables, *, seed: int = 0) -> dict[str, Any]:
    """The parts of a summary that rows of single cases decide."""
    found: dict[str, Any] = {}
    if tables.figures:
        regions = {region.key for region in config.data.regions}
        cases = list(tables.structures.values())
        found["figures"] = statistics(list(tables.figures.values()), seed=seed)
        found["worst"] = worst_cases(tables.figures)
        found["structures"] = parts_over_cases(
            [[part for part in case if part.structure not in regions] for case in cases], seed=seed
        )
        if regions:
            found["regions"] = parts_over_cases(
                [[part for part in case if part.structure in regions] for case in cases], seed=seed
            )
    if tables.subsets:
        found["subsets"] = subset_table(tables.subsets, seed=seed)
    if tables.classified:
        found["classification"] = classification_summary(tables.classified, tables.classes, None, seed=seed)
    if tables.slices:
        found["reconstruction"] = reconstruction_summary(tables.slices, seed=seed)
    return found


def _summary(folder: Path) -> dict[str, Any]:
    path = evaluation_folder(folder) / SUMMARY
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read.", remedy="Evaluate the fit again.") from error
    if not isinstance(summary, dict) or summary.get("format") != "dianet-fit-evaluation":
        raise InputError(f"{path} is no summary of the evaluation of a fit.")
    return summary


def _common(
    config: TrainingConfig, folders: Sequence[Path], summaries: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    first = summaries[0]
    if first["model"] != config.name:
        raise InputError(f"{folders[0]} is about the model {first['model']!r}, not {config.name!r}.")
    for folder, summary in zip(folders, summaries, strict=True):
        for name in _COMMON:
            if summary.get(name) != first.get(name):
                raise InputError(
                    f"expected fits of one configuration that were evaluated alike, got {name}"
                    f" {first.get(name)} in {folders[0]} and {summary.get(name)} in {folder}."
                )
    folds = [summary["fold"] for summary in summaries]
    if len(set(folds)) < len(folds):
        raise InputError(f"expected a different fold in every folder, got {', '.join(map(str, folds))}.")
    return {name: first.get(name) for name in _COMMON}


def _joined(parts: Sequence[Tables]) -> Tables:
    """All rows.

    Raises:
        InputError: if a case is there twice.
    """
    names = [
        name
        for part in parts
        for name in {*part.figures, *(c.case for c in part.classified), *(s.case for s in part.slices)}
    ]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"expected every case in one fold, got {', '.join(twice[:3])} in several.")
    return Tables(
        figures={case: row for part in parts for case, row in part.figures.items()},
        structures={case: row for part in parts for case, row in part.structures.items()},
        subsets=tuple(row for part in parts for row in part.subsets),
        classes=next((part.classes for part in parts if part.classes), ()),
        classified=tuple(row for part in parts for row in part.classified),
        slices=tuple(row for part in parts for row in part.slices),
    )


def _write(tables: Tables, folder: Path) -> None:
    if tables.figures:
        write_table(folder / "cases.csv", [{"case": case, **row} for case, row in tables.figures.items()])
        write_table(
            folder / "structures.csv",
            [{"case": case, **vars(part)} for case, parts in tables.structures.items() for part in parts],
        )
    if tables.subsets:
        write_table(folder / "subsets.csv", [row.row for row in tables.subsets])
    if tables.classified:
        write_table(folder / "classification.csv", classification_table(tables.classified, tables.classes))
    if tables.slices:
        write_table(folder / "reconstruction.csv", [row.row for row in tables.slices])
