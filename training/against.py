# SPDX-License-Identifier: Apache-2.0
"""How one fit compares with another one on the same cases: paired differences with bootstrap intervals."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from DIANetLib.errors import InputError
from training.bootstrap import Difference, differences, means_of
from training.evaluate_classification import ClassifiedCase
from training.evaluate_reconstruction import FIGURES
from training.evaluation_tables import SUMMARY, Tables, evaluation_folder, read_tables
from training.scoring_classification import Classified, figures_at

#: Figures of segmented cases that are compared.
_SEGMENTATION = ("dice", "dice_regions", "hd95_mm", "nsd_1mm")
_Key = TypeVar("_Key", bound=Hashable)


def compare(ours: Path, theirs: Path, *, seed: int = 0) -> dict[str, Any]:
    """Compare two evaluations.

    Args:
        ours: folder of a fit, or of its evaluation.
        theirs: that of the other one.
        seed: of the bootstrap.

    Returns:
        "model": the other one's name; per task what `Difference` holds by figure (and by subset of
        modalities, or level of degradation).

    Raises:
        InputError: if either is not evaluated, or they were evaluated on other cases, or have no task in
            common.
    """
    folder, other = evaluation_folder(ours), evaluation_folder(theirs)
    found = {
        name: part
        for name, part in compare_tables(read_tables(folder), read_tables(other), seed=seed).items()
    }
    if not found:
        raise InputError(f"the models in {ours} and {theirs} have no task in common.")
    name = json.loads((other / SUMMARY).read_text(encoding="utf-8"))
    return {"model": name.get("model"), "baseline": name.get("baseline"), "folder": str(theirs), **found}


def compare_tables(ours: Tables, theirs: Tables, *, seed: int = 0) -> dict[str, Any]:
    """The same for tables that have been read; tasks that only one of both has are left out."""
    found: dict[str, Any] = {}
    if ours.figures and theirs.figures:
        found["segmentation"] = _means(ours.figures, theirs.figures, _SEGMENTATION, seed)
        structures = _per_structure(ours), _per_structure(theirs)
        names = list(next(iter(structures[0].values())))
        found["structures"] = _means(*structures, names, seed)
    if ours.subsets and theirs.subsets:
        found["subsets"] = {
            subset: _means(_of_subset(ours, subset), _of_subset(theirs, subset), ("dice",), seed)
            for subset in dict.fromkeys(row.subset for row in ours.subsets)
        }
    if ours.classified and theirs.classified:
        found["classification"] = _classification(ours.classified, theirs.classified, seed)
    if ours.slices and theirs.slices:
        found["reconstruction"] = {
            level: _means(
                _of_level(ours, level),
                _of_level(theirs, level),
                FIGURES,
                seed,
                groups=[row.group for row in ours.slices if row.level == level],
            )
            for level in dict.fromkeys(row.level for row in ours.slices)
        }
    return found


def _means(
    ours: Mapping[_Key, Mapping[str, float]],
    theirs: Mapping[_Key, Mapping[str, float]],
    names: Sequence[str],
    seed: int,
    groups: Sequence[Hashable] | None = None,
) -> dict[str, Any]:
    _check_same(ours, theirs)
    first = next(iter(ours.values()))
    shared = [name for name in names if name in first and name in next(iter(theirs.values()))]
    columns = [{name: [rows[key][name] for key in ours] for name in shared} for rows in (ours, theirs)]
    # A case that one model has no figure for counts for neither.
    for name in shared:
        missing = np.isnan(columns[0][name]) | np.isnan(columns[1][name])
        for part in columns:
            part[name] = np.where(missing, np.nan, part[name]).tolist()
    return _plain(
        differences(means_of(columns[0]), means_of(columns[1]), len(ours), groups=groups, seed=seed)
    )


def _classification(
    ours: Sequence[ClassifiedCase], theirs: Sequence[ClassifiedCase], seed: int
) -> dict[str, Any]:
    other = {part.case: part for part in theirs}
    _check_same({part.case: part for part in ours}, other)
    pair = [list(ours), [other[part.case] for part in ours]]
    figures = [
        figures_at(
            Classified(np.stack([p.probabilities for p in parts]), np.array([p.target for p in parts]))
        )
        for parts in pair
    ]
    groups = [part.group for part in ours]
    return _plain(differences(figures[0], figures[1], len(ours), groups=groups, seed=seed))


def _per_structure(tables: Tables) -> dict[str, dict[str, float]]:
    return {case: {part.structure: part.dice for part in parts} for case, parts in tables.structures.items()}


def _of_subset(tables: Tables, subset: str) -> dict[str, Mapping[str, float]]:
    return {row.case: row.dice for row in tables.subsets if row.subset == subset}


def _of_level(tables: Tables, level: str) -> dict[tuple[str, int], Mapping[str, float]]:
    return {(row.case, row.slice): row.figures for row in tables.slices if row.level == level}


def _check_same(ours: Mapping[_Key, Any], theirs: Mapping[_Key, Any]) -> None:
    if set(ours) != set(theirs):
        alone = sorted(map(str, set(ours) ^ set(theirs)))
        raise InputError(
            f"expected two evaluations of the same cases, got {len(ours)} and {len(theirs)} cases, of which"
            f" {len(alone)} are in one alone, such as {alone[0]}.",
            remedy="Evaluate both fits on the same fold, without --limit.",
        )


def _plain(found: Mapping[str, Difference]) -> dict[str, Any]:
    return {name: asdict(part) for name, part in found.items()}
