# SPDX-License-Identifier: Apache-2.0
"""What an evaluation found, as tables on the console."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from training.summary import worst_in_words

#: Characters a line where there is no terminal to ask.
_WIDTH = 110
_SURFACE = {"dice": 4, "hd95_mm": 2, "nsd_1mm": 3}
_UNITS = {"psnr_db": ("PSNR dB", 2), "ssim": ("SSIM", 4)}


def print_summary(summary: Mapping[str, Any], console: Console | None = None) -> None:
    """Print what the summary of an evaluation, or of pooled ones, says."""
    console = console or Console(width=None if sys.stdout.isatty() else _WIDTH)
    folds = summary.get("pooled_folds")
    fold = f"fold {summary['fold']}" if folds is None else f"{len(folds)} of {summary['folds']} folds pooled"
    if summary.get("elsewhere"):
        fold += f", judged on {summary['elsewhere']}"
    peer = f" (baseline: {summary['baseline']})" if summary.get("baseline") else ""
    console.print(
        f"{summary['model']}{peer}, {fold}: {summary['cases']} cases not trained on, T = {summary['samples']}"
    )
    if "figures" in summary:
        _print_segmentation(summary, console)
    if "subsets" in summary:
        _print_subsets(summary["subsets"], console)
    if "classification" in summary:
        _print_classification(summary["classification"], console)
    if "reconstruction" in summary:
        _print_reconstruction(summary["reconstruction"], console)
    _print_blocks(summary, console)
    if "against" in summary:
        _print_against(summary["against"], console)


def _print_segmentation(summary: Mapping[str, Any], console: Console) -> None:
    table = Table("structure", "Dice", "95 % interval", "HD95 mm", "NSD 1 mm")
    figures, pooled = summary["figures"], summary.get("pooled", {})
    for rows in (summary["structures"], {"mean": figures}, summary.get("regions", {})):
        for key, part in rows.items():
            dice, hd95, nsd = (_mean_sd(part[name], digits) for name, digits in _SURFACE.items())
            table.add_row(key, dice, _interval(part["dice"]), hd95, nsd)
        table.add_section()
    if worst := summary.get("worst"):
        means = [_number(worst[name], digits) for name, digits in _SURFACE.items()]
        table.add_row(worst_in_words(worst), means[0], "", *means[1:])
    console.print(table)
    table = Table("figure", "mean over cases", "95 % interval", *(["pooled voxels"] if pooled else []))
    for name, part in figures.items():
        if name in ("hd95_mm", "nsd_1mm"):
            continue
        more = [_number(pooled.get(name), 4)] if pooled else []
        table.add_row(name, _mean_sd(part, 4), _interval(part), *more)
    console.print(table)
    if summary.get("temperature") is not None:
        console.print(f"temperature {summary['temperature']:.3f}")


def _print_subsets(subsets: Mapping[str, Any], console: Console) -> None:
    names = list(next(iter(subsets.values())))[1:]
    names = names if len(names) > 1 else []  # a single structure is the mean
    table = Table("modalities", "Dice", "95 % interval", *names, title="Subsets of the modalities")
    for subset, part in subsets.items():
        others = [_number(part[name]["mean"], 4) for name in names]
        table.add_row(subset, _mean_sd(part["dice"], 4), _interval(part["dice"]), *others)
    console.print(table)


def _print_classification(part: Mapping[str, Any], console: Console) -> None:
    table = Table("figure", f"{part['cases']} cases", "95 % interval", title="Classification")
    for name, figure in part["figures"].items():
        table.add_row(name, _number(figure["value"], 4), _interval(figure))
    console.print(table)
    table = Table("true class", *(f"taken for {name}" for name in part["classes"]))
    for name, row in zip(part["classes"], part["confusion"], strict=True):
        table.add_row(name, *(str(count) for count in row))
    console.print(table)
    if part["temperature"] is not None:
        console.print(f"temperature {part['temperature']:.3f}")


def _print_reconstruction(part: Mapping[str, Any], console: Console) -> None:
    table = Table("level", "figure", "as given", "restored", "gain", "95 % interval", title="Reconstruction")
    for level, found in part["levels"].items():
        for name, (text, digits) in _UNITS.items():
            columns = [found[kind][name]["value"] for kind in ("observed", "restored", "gain")]
            table.add_row(
                f"{level} ({found['slices']} slices)",
                text,
                *(_number(value, digits) for value in columns),
                _interval(found["gain"][name], digits),
            )
    console.print(table)


def _print_blocks(summary: Mapping[str, Any], console: Console) -> None:
    latent, codes, alpha = (summary.get(name) for name in ("latent", "codebook", "scale_weights"))
    if latent:
        text = f"latent: KL {latent['kl']:.3f} nats in {latent['active_dimensions']} active dimensions"
        if latent["total_correlation"]:
            text += f", of which total correlation {latent['total_correlation']:.3f}"
        if latent["dice_own"] is not None:
            text += (
                f"; Dice with another case's h {latent['dice_change_when_shuffled']:+.4f}, with the prior's"
                f" mean {latent['dice_prior'] - latent['dice_own']:+.4f}"
            )
        console.print(text)
    if codes:
        console.print(
            f"CodeBook: perplexity {codes['perplexity']:.2f} of {codes['codes']}; same code in two samples of"
            f" a case {codes['same_case']:.3f}, of two cases {codes['other_case']:.3f}"
        )
    if alpha:
        console.print("pyramid: alpha " + ", ".join(f"{weight:.3f}" for weight in alpha))


def _print_against(against: Mapping[str, Any], console: Console) -> None:
    name = against["baseline"] or against["model"]
    table = Table("figure", "this", str(name), "difference", "95 % interval", title=f"Paired, against {name}")
    for task in ("segmentation", "structures", "classification"):
        for figure, part in against.get(task, {}).items():
            _add_difference(table, figure, part)
    for task in ("subsets", "reconstruction"):
        for group, figures in against.get(task, {}).items():
            for figure, part in figures.items():
                _add_difference(table, f"{group} {figure}", part)
    console.print(table)


def _add_difference(table: Table, name: str, part: Mapping[str, Any]) -> None:
    difference = "–" if part["value"] is None else f"{part['value']:+.4f}"
    table.add_row(name, _number(part["ours"], 4), _number(part["theirs"], 4), difference, _interval(part))


def _mean_sd(part: Mapping[str, Any], digits: int) -> str:
    if not part["n"]:
        return "–"
    return f"{_number(part['mean'], digits)} ± {_number(part['sd'], digits)}"


def _interval(part: Mapping[str, Any], digits: int = 4) -> str:
    low, high = part["interval_95"] or (None, None)
    if low is None or high is None:
        return ""
    return f"{low:.{digits}f} to {high:.{digits}f}"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"
