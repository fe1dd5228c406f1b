# SPDX-License-Identifier: Apache-2.0
"""The section of a model card that says how well the model knows how good it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Figures over a series of corruptions, see `training.quality_judge.series_figures`.
SERIES_FIGURES = ("within_cases", "known_corruption", "auroc_red")
_FEW = 6  # structures that get a row over the series too; the metadata have them all
#: Heading by which the section is found again.
HEADING = "## How well it knows how good it is"


def quality_section(summary: Mapping[str, Any]) -> str:
    """The section, heading included, from the summary that `training.quality` writes."""
    judged, cases = summary["held_out_judged"], len(summary["held_out"])
    copies = sum(len(levels) for kind, levels in summary["levels"].items() if kind != "none")
    corrupted = min(cases, summary["corrupted_held_out"])
    inner, inner_corrupted = len(summary["inner"]), min(len(summary["inner"]), summary["corrupted_inner"])
    rows = [
        "| judged on | n | mean Dice | mean expected Dice | mean error | Spearman | coverage | width |",
        "|---|---|---|---|---|---|---|---|",
    ]
    clean, series = judged["in_distribution"], judged["series"]
    rows.append(_row("**held-out cases as they are**", clean["all"]))
    rows += [_row(key, part) for key, part in clean["structures"].items()]
    rows.append(_row("**cases with corrupted copies, as they are and corrupted**", series["all"]))
    if len(series["structures"]) <= _FEW:
        rows += [_row(key, part) for key, part in series["structures"].items()]
    rows += [_row(f"{kind} alone", part) for kind, part in judged["kinds"].items() if kind != "none"]
    missed = summary["not_found"]["held_out"]
    kinds = "noise, bias field, blur, gamma, lower resolution"
    told = (
        "`dianet segment` states the Dice to be expected, with a 90 % interval, from",
        f"T = {summary['samples']} samples. Fitted on the {inner} inner cases, and on {copies} corrupted",
        f"copies of {_all(inner_corrupted, inner)} ({kinds}); judged on the {cases} held-out cases,",
        f"and on such copies of {_all(corrupted, cases)}. n counts structures of runs; coverage is the share",
        "of intervals that hold the true Dice.",
    )
    last = f"Structures that were not found have no expected Dice: {missed} of the held-out runs'."
    within, known, red = (_number(series.get(name)) for name in SERIES_FIGURES)
    meaning = (
        f"Over the corrupted copies of one case Spearman is {within} on average. Over all it is limited by",
        "how cases differ in Dice whatever is done to them: somebody who knew kind and level of each",
        f"corruption, and what that costs on average, would get {known}. A Dice below 0.70 is found with an",
        f"area under the ROC curve of {red}.",
    )
    return "\n\n".join((HEADING, " ".join(told), "\n".join(rows), " ".join(meaning), last))


def with_section(card: str, section: str) -> str:
    """A card with a section, in place of the one of its heading or before the card's limits."""
    heading = section.split("\n", 1)[0][3:]
    parts = card.split("\n## ")
    kept = [part for part in parts if part.split("\n", 1)[0] != heading]
    place = next((n for n, part in enumerate(kept) if part.startswith("Limits")), len(kept))
    new = section[3:].rstrip() + "\n"
    before = kept[:place]
    if place == len(kept):
        before = [*kept[:-1], kept[-1].rstrip() + "\n"]
    return "\n## ".join([*before, new, *kept[place:]])


def _all(some: int, every: int) -> str:
    return "each" if some >= every else f"{some} of them"


def _row(name: str, part: Mapping[str, Any]) -> str:
    spearman = _number(part["spearman"])
    return (
        f"| {name} | {part['rows']} | {part['dice']:.3f} | {part['expected']:.3f} | {part['error']:.3f} |"
        f" {spearman} | {100 * part['coverage']:.0f} % | {part['width']:.3f} |"
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}".replace("-", "−")
