# SPDX-License-Identifier: Apache-2.0
"""What is known of a model's explanations, into its folder: metadata and card change, the weights do not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from DIANetLib.errors import InputError
from training.explanation_tables import cell
from training.model_folder import measured_model, update_model

#: Heading by which the section of a card is found again.
HEADING = "## What its explanations are worth"

_APART = "perturbation_differences"
#: Rows of a card's table: the gate, what is told, and where a summary has it.
_ROWS = (
    ("pointing", "maximum within 3 mm of the structure", ("pointing", None, "")),
    ("pointing", "less the middle of the image", ("pointing_differences", "centre", "")),
    ("randomisation", "SSIM after all weights were randomised", ("cascade", None, "ssim all")),
    ("randomisation", "SSIM with the map of another case", ("cascade", None, "ssim unrelated")),
    ("perturbation", "deletion less random (wanted below 0)", (_APART, "random", "deletion")),
    ("perturbation", "deletion less prediction first", (_APART, "prediction", "deletion")),
    ("perturbation", "insertion less random (wanted above 0)", (_APART, "random", "insertion")),
    ("perturbation", "insertion less prediction first", (_APART, "prediction", "insertion")),
    ("regions", "correlation with the structure's map", ("regions", None, "to structure")),
    ("regions", "heat near the region, less the structure's map's", ("regions", None, "more near")),
)


def explanation_figures(summary: Mapping[str, Any], method: str) -> list[dict[str, Any]]:
    """The figures of a kind of map that a card tells: gate, figure, value, interval_95 and n.

    Args:
        summary: what `training.explanation.explanations` gave.
        method: "ours" or "printed".
    """
    return [
        {"gate": gate, "figure": title} | {key: part[key] for key in ("value", "interval_95", "n")}
        for gate, title, place in _ROWS
        if (part := _found(summary, method, place)) is not None
    ]


def explanation_section(summary: Mapping[str, Any]) -> str:
    """The section of a model card, heading included, from what `training.explanation` gave."""
    failed = [gate for gate, passed in summary["passed"]["ours"].items() if passed is False]
    told = (
        "What is shown as Grad-CAM (positive gradients place by place, of"
        f" {', '.join(summary['layers'])} together), measured on cases that the model was not fitted on,"
        " beside equation 30 as printed (mean gradients at the bottleneck). Deletion blurs the image in the"
        " order of the map, insertion brings it back; rivals are a random order and the predicted structure"
        f" first. Gates that the maps fail (`training/explanation_tables.py`): {', '.join(failed) or 'none'}."
        " A map tells what speaks for a structure in the network, not whether the network is right."
    )
    printed = {row["figure"]: row for row in explanation_figures(summary, "printed")}
    rows = ["| gate | figure | n | ours | as printed |", "|---|---|---|---|---|"]
    for row in explanation_figures(summary, "ours"):
        cells = (cell(row), cell(printed.get(row["figure"])))
        rows.append(f"| {row['gate']} | {row['figure']} | {row['n']} | {' | '.join(cells)} |")
    return "\n\n".join((HEADING, told, "\n".join(rows)))


def _found(summary: Mapping[str, Any], method: str, place: tuple[str, str | None, str]) -> Any:
    """A figure of a kind of map; None where it was not measured."""
    part, rival, key = place
    if part == "pointing":
        return summary[part].get(method)
    found = summary[part].get(method)
    found = found.get(key) if found and key else found
    found = found.get(rival) if found and rival else found
    return found if found and found["value"] is not None else None


def store_explanations(folder: Path, summary: Mapping[str, Any]) -> None:
    """Put the figures of a summary into a model folder.

    Args:
        folder: the model folder that was measured.
        summary: what `training.explanation.explanations` gave.

    Raises:
        InputError: the summary is of other weights, or of cases on which choices were made.
        BundleError: the folder cannot be used.
        OutputError: it cannot be written.
    """
    model = measured_model(folder, summary, "the explanations that were measured are", "explanations")
    if summary["part"] != "held out":
        raise InputError(
            "figures of inner cases, on which choices are made, do not go into a model folder.",
            remedy="Run `python -m training explanations` without --inner.",
        )

    def change(section: dict[str, Any]) -> None:
        section["figures"]["explanations"] = {
            "layers": summary["layers"],
            "weighting": summary["weighting"],
            "passed": summary["passed"]["ours"],
            "figures": explanation_figures(summary, "ours"),
        }

    update_model(model.path, change, explanation_section(summary))
