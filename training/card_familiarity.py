# SPDX-License-Identifier: Apache-2.0
"""The section of a model card that says whether the model notices what it was not fitted on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Heading by which the section is found again.
HEADING = "## Whether it notices other images"
_OVERALL = ("all outliers", "all outliers and strong corruptions")


def familiarity_section(summary: Mapping[str, Any]) -> str:
    """The section, heading included, from the summary that `training.familiarity` writes."""
    levels, held_out = summary["levels"], summary["rates"]["held out"]
    told = (
        "`dianet segment` says of each region how much what the encoder sees is like the",
        f"{summary['cases']} fitted cases: a Mahalanobis distance as a score (standard deviations of its",
        f"logarithm over left-out fitted cases). Unusual from {levels['unusual']:.2f}, which one in 50 of",
        f"those is; unfamiliar, with a warning, from {levels['unfamiliar']:.2f}. Of the",
        f"{held_out['runs']} held-out cases {100 * held_out['unusual']:.1f} % are unusual and",
        f"{100 * held_out['unfamiliar']:.1f} % unfamiliar. AUROC is against them.",
    )
    rows = [
        "| shown | n | median score | unusual or worse | unfamiliar | AUROC | epistemic alone |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in summary["rates"].items():
        areas = summary["auroc"].get(name, {})
        values = [f"{areas[way]:.3f}" if way in areas else "–" for way in ("familiarity", "epistemic alone")]
        title = f"**{name}**" if name in _OVERALL or name == "held out" else name
        rows.append(
            f"| {title} | {found['runs']} | {found['median']:.1f} | {100 * found['unusual']:.0f} % |"
            f" {100 * found['unfamiliar']:.0f} % | {' | '.join(values)} |"
        )
    return "\n\n".join((HEADING, " ".join(told), "\n".join(rows)))
