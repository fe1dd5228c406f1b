# SPDX-License-Identifier: Apache-2.0
"""The tables of `python -m training compare`, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from training.compare_methods import ONE_PASS

#: Columns of the table of total uncertainty: title, figure, decimals.
_COLUMNS = (
    ("Dice", "dice", 4),
    ("ECE", "ece", 4),
    ("error AUROC", "auroc_total", 4),
    ("error AUPRC", "auprc_total", 3),
    ("norm. AURC", "aurc_total", 4),
    ("QU-BraTS", "qubrats_total", 4),
    ("AUROC, errors of the plain pass", "auroc_plain_errors_total", 4),
)
_RANKINGS = (("epistemic", "ece", "disagreement of the passes"), ("error", "ece_error", "error probability"))


def report(summary: Mapping[str, Any]) -> list[str]:
    """Two tables: every method by its total uncertainty, and the other rankings beside it."""
    methods, figures = summary["methods"], summary["figures"]
    titles = [title for title, _, _ in _COLUMNS]
    lines = [
        f"{len(summary['held_out'])} held-out cases; all but Dice within three voxels of the reference or of"
        f" the plain pass's segmentation; temperature and calibration of each method from"
        f" {len(summary['inner'])} inner cases. In brackets: less the plain pass, paired by case, 95 %.",
        "",
        f"| method | plain passes | T | {' | '.join(titles)} |",
        f"|---|---|---|{'---|' * len(titles)}",
    ]
    for name, method in methods.items():
        cells = [_cell(figures[name][figure], digits) for _, figure, digits in _COLUMNS]
        cost = "–" if method["cost"] is None else f"{method['cost']:.2f}"
        lines.append(f"| {method['title']} | {cost} | {method['temperature']:.2f} | {' | '.join(cells)} |")
    lines += [
        "",
        "| method, ranked by | ECE | error AUROC | error AUPRC | norm. AURC | QU-BraTS |",
        "|---|---|---|---|---|---|",
    ]
    for name, method in methods.items():
        for ranking, ece, title in _RANKINGS:
            if ranking == "epistemic" and method["passes"] < 2 and name != ONE_PASS:
                continue
            cells = [_cell(figures[name][ece], 4)] if ranking == "error" else ["–"]
            cells += [
                _cell(figures[name][f"{figure}_{ranking}"], 4)
                for figure in ("auroc", "auprc", "aurc", "qubrats")
            ]
            lines.append(f"| {method['title']}: {title} | {' | '.join(cells)} |")
    return lines


def _cell(figure: Mapping[str, Any], digits: int) -> str:
    mean, less, interval = figure["mean"], figure["less_peer"], figure["less_peer_95"]
    if mean is None:
        return "–"
    text = f"{mean:.{digits}f}"
    if interval is None or not any([less, *interval]):  # a single case, or the peer itself
        return text
    low, high = interval
    return f"{text} ({less:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}])"
