# SPDX-License-Identifier: Apache-2.0
"""The figures of an evaluation as Markdown tables, for the model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from training.summary import worst_in_words

_EXPLAINED = {
    "dice_regions": "mean Dice of the regions",
    "error_auroc_total": "error AUROC of the total uncertainty",
    "error_auroc_epistemic": "error AUROC of the epistemic uncertainty",
    "error_auroc_error_probability": "error AUROC of the error probability",
    "error_auroc_plain": "error AUROC of one plain pass's softmax entropy",
    "normalised_aurc_total": "normalised AURC of the total uncertainty",
    "normalised_aurc_plain": "normalised AURC of one plain pass's softmax entropy",
    "error_auprc_total": "error AUPRC of the total uncertainty",
    "error_auprc_plain": "error AUPRC of one plain pass's softmax entropy",
    "qubrats_total": "QU-BraTS score of the total uncertainty",
    "ece_before": "ECE before temperature",
    "ece": "ECE after temperature",
}
_CLASSIFICATION = {
    "auroc": "AUROC",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "ece": "ECE after temperature",
    "error_auroc_total": "error AUROC of the entropy",
    "plain_auroc": "AUROC of one plain pass",
    "plain_accuracy": "accuracy of one plain pass",
    "plain_ece": "ECE of one plain pass",
}
_RECONSTRUCTION = {"psnr_db": ("PSNR, dB", 2), "ssim": ("SSIM", 4)}


def card_figures(summary: Mapping[str, Any]) -> str:
    """All that the summary of an evaluation says, a paragraph or a table each."""
    parts = [
        f"n = {summary['cases']} cases, T = {summary['samples']} stochastic passes, seed {summary['seed']}."
        " Intervals are bootstrapped over cases."
    ]
    if "figures" in summary:
        parts += _segmentation(summary)
    if "subsets" in summary:
        parts += _subsets(summary["subsets"])
    if "classification" in summary:
        parts += _classification(summary["classification"])
    if "reconstruction" in summary:
        parts += _reconstruction(summary["reconstruction"])
    return "\n\n".join(parts + _blocks(summary))


def _segmentation(summary: Mapping[str, Any]) -> list[str]:
    figures = summary["figures"]
    rows = []
    for key, part in {**summary["structures"], "**mean**": figures, **summary.get("regions", {})}.items():
        dice = f"{_number(part['dice']['mean'], 4)} ± {_number(part['dice']['sd'], 4)}"
        hd95, nsd = _number(part["hd95_mm"]["mean"], 2), _number(part["nsd_1mm"]["mean"], 4)
        rows.append((key, dice, _interval(part["dice"]), hd95, nsd))
    if worst := summary.get("worst"):
        dice, hd95, nsd = (_number(worst[n], d) for n, d in (("dice", 4), ("hd95_mm", 2), ("nsd_1mm", 4)))
        rows.append((worst_in_words(worst), dice, "", hd95, nsd))
    explained = dict(_EXPLAINED)
    if summary.get("error_calibration"):
        explained["ece"] += " and correction by class"
    judged = [
        (
            text,
            _number(figures[name]["mean"], 4),
            _interval(figures[name]),
            _number(summary["pooled"].get(name), 4),
        )
        for name, text in explained.items()
        if name in figures
    ]
    return [
        f"Segmentation: temperature {summary['temperature']:.3f}. Mean ± standard deviation over cases,"
        " computed with these weights by the engine that `dianet segment` runs.",
        _table(("structure", "Dice", "95 % interval", "HD95 mm", "NSD at 1 mm"), rows),
        "Judged over the voxels within three of the reference or of the segmentation:",
        _table(("figure", "mean over cases", "95 % interval", "pooled voxels"), judged),
    ]


def _subsets(subsets: Mapping[str, Any]) -> list[str]:
    rows = [
        (subset, _number(part["dice"]["mean"], 4), _interval(part["dice"]))
        for subset, part in subsets.items()
    ]
    return [
        "With some of the modalities alone, the same weights, one mean pass:",
        _table(("modalities", "Dice", "95 % interval"), rows),
    ]


def _classification(part: Mapping[str, Any]) -> list[str]:
    rows = [
        (text, _number(part["figures"][name]["value"], 4), _interval(part["figures"][name]))
        for name, text in _CLASSIFICATION.items()
        if name in part["figures"]
    ]
    confusion = [
        (name, *(str(count) for count in row))
        for name, row in zip(part["classes"], part["confusion"], strict=True)
    ]
    return [
        f"Classification of {part['cases']} cases: temperature {part['temperature']:.3f}.",
        _table(("figure", "value", "95 % interval"), rows),
        _table(("true class", *(f"taken for {name}" for name in part["classes"])), confusion),
    ]


def _reconstruction(part: Mapping[str, Any]) -> list[str]:
    rows = []
    for level, found in part["levels"].items():
        for name, (text, digits) in _RECONSTRUCTION.items():
            given, restored = (
                _number(found[kind][name]["value"], digits) for kind in ("observed", "restored")
            )
            rows.append((level, text, given, restored, _interval(found["gain"][name], digits)))
    slices = next(iter(part["levels"].values()))["slices"]
    return [
        f"Reconstruction, mean over {slices} slices; beside it the image that the network was given:",
        _table(("level", "figure", "as given", "restored", "95 % interval of the gain"), rows),
    ]


def _blocks(summary: Mapping[str, Any]) -> list[str]:
    parts = []
    if latent := summary.get("latent"):
        text = (
            f"The Gaussian latent h holds {latent['kl']:.2f} nats per position"
            f" ({latent['active_dimensions']} of {len(latent['kl_per_dimension'])} dimensions above 0.01)"
        )
        if latent["dice_change_when_shuffled"] is not None:
            text += f"; with another case's h, Dice changes by {latent['dice_change_when_shuffled']:+.4f}"
        parts.append(f"{text}.")
    if codes := summary.get("codebook"):
        parts.append(
            f"The CodeBook uses {codes['perplexity']:.1f} of its {codes['codes']} codes. Two samples read the"
            f" same code at {100 * codes['same_case']:.1f} % of the positions if they are of one case, at"
            f" {100 * codes['other_case']:.1f} % if they are of two."
        )
    if alpha := summary.get("scale_weights"):
        weights = ", ".join(f"{weight:.3f}" for weight in alpha)
        parts.append(f"Weights alpha of the feature pyramid (8), finest scale first: {weights}.")
    return parts


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    lines.insert(1, "|" + "---|" * len(head))
    return "\n".join(lines)


def _interval(part: Mapping[str, Any], digits: int = 4) -> str:
    low, high = part.get("interval_95") or (None, None)
    return "" if low is None else f"{_number(low, digits)} to {_number(high, digits)}"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
