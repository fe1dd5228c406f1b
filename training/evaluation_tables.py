# SPDX-License-Identifier: Apache-2.0
"""The tables of an evaluation read back: rows of single cases, for comparing and pooling fits."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from DIANetLib.errors import InputError
from training.evaluate_classification import ClassifiedCase
from training.evaluate_reconstruction import SliceRow
from training.scoring import StructureScore
from training.subsets import SubsetScore

FOLDER = "evaluation"
SUMMARY = "summary.json"


@dataclass(frozen=True)
class Tables:
    """What an evaluation says about single cases; empty parts where a model has no such head.

    Attributes:
        figures: of segmented cases, by name.
        structures: their structures and regions, by name of the case.
        subsets: their Dice with subsets of modalities.
        classes: keys of the classes.
        classified: classified cases.
        slices: reconstructed slices.
    """

    figures: Mapping[str, Mapping[str, float]]
    structures: Mapping[str, tuple[StructureScore, ...]]
    subsets: tuple[SubsetScore, ...]
    classes: tuple[str, ...]
    classified: tuple[ClassifiedCase, ...]
    slices: tuple[SliceRow, ...]


def evaluation_folder(folder: Path) -> Path:
    """The folder of an evaluation, given the fit's folder or itself.

    Raises:
        InputError: if it has none.
    """
    for candidate in (folder / FOLDER, folder):
        if (candidate / SUMMARY).is_file():
            return candidate
    raise InputError(
        f"{folder} holds no evaluation: {FOLDER}/{SUMMARY} is missing.",
        remedy="Run `python -m training evaluate` with this folder as --output first.",
    )


def read_tables(folder: Path) -> Tables:
    """Read the tables in the folder of an evaluation.

    Raises:
        InputError: if one cannot be read.
    """
    structures: dict[str, list[StructureScore]] = {}
    for row in _rows(folder / "structures.csv"):
        numbers = {name: float(value) for name, value in row.items() if name not in ("case", "structure")}
        structures.setdefault(row["case"], []).append(StructureScore(row["structure"], **numbers))
    classification = _rows(folder / "classification.csv")
    classes = _classes(classification)
    return Tables(
        figures={row["case"]: _numbers(row, "case") for row in _rows(folder / "cases.csv")},
        structures={case: tuple(parts) for case, parts in structures.items()},
        subsets=tuple(
            SubsetScore(
                row["case"],
                row["subset"],
                int(row["modalities"]),
                _numbers(row, "case", "subset", "modalities"),
            )
            for row in _rows(folder / "subsets.csv")
        ),
        classes=classes,
        classified=tuple(_classified(row, classes) for row in classification),
        slices=tuple(
            SliceRow(
                row["case"],
                row["group"],
                row["level"],
                int(row["slice"]),
                _numbers(row, "case", "group", "level", "slice"),
            )
            for row in _rows(folder / "reconstruction.csv")
        ),
    )


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path} cannot be read.", remedy="Evaluate the fit again.") from error


def _numbers(row: Mapping[str, str], *others: str) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if name not in others}


def _classes(rows: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    return tuple(name.removeprefix("p_") for name in rows[0] if name.startswith("p_")) if rows else ()


def _classified(row: Mapping[str, str], classes: Sequence[str]) -> ClassifiedCase:
    def probabilities(prefix: str) -> np.ndarray:
        found = np.array([float(row[prefix + key]) for key in classes], np.float64)
        return found / found.sum()  # the table has six digits

    return ClassifiedCase(
        case=row["case"],
        group=row["group"],
        target=list(classes).index(row["target"]),
        probabilities=probabilities("p_"),
        plain=probabilities("plain_"),
        total=float(row["total"]),
        epistemic=float(row["epistemic"]),
    )
