# SPDX-License-Identifier: Apache-2.0
"""The section of a model card on what one pass tells in place of samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Heading by which the section is found again.
HEADING = "## What one pass tells in place of samples"

_ROWS = (
    ("plain pass, entropy", "plain", "total"),
    ("{samples} samples, total uncertainty", "samples", "total"),
    ("{samples} samples, epistemic uncertainty", "samples", "epistemic"),
    ("{samples} samples, error probability", "samples", "error"),
    ("one pass, total uncertainty", "one_pass", "total"),
    ("one pass, epistemic uncertainty", "one_pass", "epistemic"),
    ("one pass, error probability", "one_pass", "error"),
)


def one_pass_section(summary: Mapping[str, Any]) -> str:
    """The section, heading included, from the summary that `training.one_pass` writes."""
    figures = summary["figures"]["held_out"]
    told = (
        f"Where nobody asks for samples, a head of {summary['parameters']:,} parameters reads one plain",
        f"pass. It was distilled from the maps of T = {summary['teacher']} samples of the",
        f"{summary['fitted']} fitted cases; its error probability was calibrated on the",
        f"{len(summary['inner'])} inner ones. Judged on the {len(summary['held_out'])} held-out cases,",
        "within three voxels of the reference or a segmentation:",
    )
    rows = [
        "| | error AUROC | normalised AURC | ECE | Dice |",
        "|---|---|---|---|---|",
        *(_row(text.format(**summary), method, kind, figures) for text, method, kind in _ROWS),
    ]
    loss, changed = figures["loss error_auroc"], figures["labels changed"]["mean"]
    likeness = ", ".join(
        f"{kind} {figures[f'correlation {kind}']['mean']:.3f}" for kind in ("total", "epistemic", "variance")
    )
    after = (
        f"Total uncertainty of one pass loses {loss['mean']:.4f} {_interval(loss)} of error AUROC against",
        f"the samples'. Correlation with the samples' maps, voxel by voxel: {likeness}.",
        f"{100 * changed:.2f} % of these voxels have another label than the plain pass gives.",
    )
    parts = [HEADING, " ".join(told), "\n".join(rows), " ".join(after)]
    if summary["quality"] is not None:
        parts.append(_quality(summary["quality"]))
    return "\n\n".join(parts)


def _quality(told: Mapping[str, Any]) -> str:
    clean, series = (told["held_out_judged"][part] for part in ("in_distribution", "series"))
    return (
        "Expected Dice of one pass, fitted on the inner cases and corrupted copies of them. On held-out cases"
        f" as they are: {_estimate(clean['all'])}. Over series of corruptions: {_estimate(series['all'])}"
        f" ({_number(series['within_cases'])} within a case); a Dice below 0.70 is found with an area under"
        f" the ROC curve of {_number(series['auroc_red'])}."
    )


def _estimate(found: Mapping[str, Any]) -> str:
    return (
        f"mean error {found['error']:.3f}, coverage {100 * found['coverage']:.0f} %, width"
        f" {found['width']:.3f}, Spearman {_number(found['spearman'])}"
    )


def _row(text: str, method: str, kind: str, figures: Mapping[str, Any]) -> str:
    auroc = figures[f"error_auroc_{kind} {method}"]
    aurc = figures[f"normalised_aurc_{kind} {method}"]["mean"]
    ece = f"{figures[f'ece {method}']['mean']:.4f}" if kind == "error" or method == "plain" else ""
    dice = f"{figures[f'dice {method}']['mean']:.4f}" if kind == "total" else ""
    return f"| {text} | {auroc['mean']:.4f} {_interval(auroc)} | {aurc:.4f} | {ece} | {dice} |"


def _interval(figure: Mapping[str, Any]) -> str:
    found = figure["interval_95"]
    return "" if found is None else f"({found[0]:.4f} to {found[1]:.4f})".replace("-", "−")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}".replace("-", "−")
