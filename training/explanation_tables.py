# SPDX-License-Identifier: Apache-2.0
"""What the measured maps of all cases say: means with intervals over cases, gates, and a table.

The figure of a case is the mean over its structures or regions; intervals are bootstrapped over cases, and
differences are paired by case.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from training.bootstrap import differences, estimates, means_of
from training.explanation_cascade import STAGES
from training.explanation_maps import CAMS

#: What a map has to do, each a sentence.
GATES = {
    "randomisation": "likeness after all weights were randomised, by SSIM and by ranks, at most 0.05 above"
    " that of the same structure's map of another case",
    "pointing": "maximum within 3 mm of the structure more often than chance by volume and than the middle of"
    " the image; intervals above 0",
    "perturbation": "less area under deletion and more under insertion than in random order and than with the"
    " prediction first; all four intervals on their side of 0",
    "regions": "correlation at most 0.8 with the structure's map and between regions; more heat within 5 mm"
    " of the region than the structure's map has there, interval above 0",
}
_MARGIN, _MOST = 0.05, 0.8
RIVALS = ("random", "prediction")
#: Orders that are shown beside ours, the last one without a gate: it knows where the structure is, no more.
ORDERS = (*RIVALS, "nearness")
PLACES = ("chance", "centre", "usual place")
Rows = Sequence[Mapping[str, Any]]


def summarise(rows: Rows, *, seed: int = 0) -> dict[str, Any]:
    """Figures of all cases and which gates each kind of map passes.

    Args:
        rows: what each case told.
        seed: of the bootstrap.
    """
    points = [row["pointing"] for row in rows]
    found = {
        "pointing": _means(points, seed),
        "pointing_differences": {
            method: {rival: _difference(points, method, rival, seed) for rival in PLACES} for method in CAMS
        },
        "cascade": _by_method(rows, "cascade", seed),
        "regions": _by_method(rows, "regions", seed),
        "perturbation": _by_method(rows, "perturbation", seed),
        "perturbation_differences": _perturbation_differences(rows, seed),
        "context": _context(rows, seed),
    }
    return {**found, "passed": {method: passed(found, method) for method in CAMS}}


def _perturbation_differences(rows: Rows, seed: int) -> dict[str, Any]:
    parts = [row["perturbation"] for row in rows if "perturbation" in row]
    return {
        method: {
            kind: {
                rival: _difference(
                    [{name: part[name][kind] for name in part} for part in parts], method, rival, seed
                )
                for rival in ORDERS
            }
            for kind in ("deletion", "insertion")
        }
        for method in (CAMS if parts else ())
    }


def passed(found: Mapping[str, Any], method: str) -> dict[str, bool | None]:
    """Per gate whether a kind of map passes; None where it was not measured."""
    gates: dict[str, bool | None] = dict.fromkeys(GATES)
    cascade = found["cascade"].get(method)
    if cascade:
        gates["randomisation"] = all(
            cascade[f"{kind} all"]["value"] <= cascade[f"{kind} unrelated"]["value"] + _MARGIN
            for kind in ("ssim", "rank")
        )
    points = found["pointing_differences"][method]
    gates["pointing"] = all(points[rival]["interval_95"][0] > 0 for rival in ("chance", "centre"))
    apart = found["perturbation_differences"].get(method)
    if apart:
        gates["perturbation"] = all(
            apart["deletion"][rival]["interval_95"][1] < 0 < apart["insertion"][rival]["interval_95"][0]
            for rival in RIVALS
        )
    regions = found["regions"].get(method)
    if regions:
        gates["regions"] = (
            regions["to structure"]["value"] <= _MOST
            and regions["between"]["value"] <= _MOST
            and regions["more near"]["interval_95"][0] > 0
        )
    return gates


def table(summary: Mapping[str, Any]) -> Iterator[str]:
    """The summary as a Markdown table."""
    points = summary["pointing"]
    yield f"{summary['model']}: {points['ours']['n']} {summary['part']} cases; " + _counts(summary)
    yield ""
    yield "| figure | ours | equation 30 as printed | rivals |"
    yield "|---|---|---|---|"
    rivals = ", ".join(f"{name} {cell(points[name])}" for name in PLACES)
    for title, suffix, others in (("maximum within 3 mm", "", rivals), ("maximum inside", ", inside", "")):
        yield _row(title, [points[f"{method}{suffix}"] for method in CAMS], others)
    for kind, title in (("ssim", "SSIM"), ("rank", "rank correlation")):
        named = {stage: f"after randomising: {stage}" for stage in STAGES}
        named |= {f"{stage} own": f"{text}, of its own segmentation" for stage, text in named.items()}
        for stage, what in {**named, "unrelated": "with another case's map"}.items():
            yield _row(f"{title} {what}", [_part(summary, "cascade", m, f"{kind} {stage}") for m in CAMS])
    yield from _perturbation_rows(summary)
    for key, title in (
        ("to structure", "region: correlation with the structure's map"),
        ("between", "region: correlation between regions"),
        ("near", "region: share of heat within 5 mm"),
        ("more near", "region: that less the structure's map's"),
    ):
        yield _row(title, [_part(summary, "regions", m, key) for m in CAMS])
    for gate in summary["gates"]:
        words = {True: "passed", False: "failed", None: "not measured"}
        cells = [words[summary["passed"][method][gate]] for method in CAMS]
        yield f"| **gate: {gate}** | {' | '.join(cells)} | |"
    context = summary["context"]
    if context:
        yield ""
        yield f"For context, {context['ours']['deletion']['n']} of these cases:"
        yield ""
        yield "| map | area under deletion | area under insertion |"
        yield "|---|---|---|"
        for name, part in context.items():
            cells = [cell(part.get(key)) for key in ("deletion", "insertion")]
            yield f"| {name} | {' | '.join(cells)} |"


def _row(title: str, parts: Sequence[Mapping[str, Any] | None], others: str = "") -> str:
    return f"| {title} | {' | '.join(cell(part) for part in parts)} | {others} |"


def _part(summary: Mapping[str, Any], what: str, method: str, key: str) -> Mapping[str, Any] | None:
    part: Mapping[str, Any] | None = summary[what].get(method, {}).get(key)
    return part


def _perturbation_rows(summary: Mapping[str, Any]) -> Iterator[str]:
    apart = summary["perturbation_differences"]
    for kind in ("deletion", "insertion"):
        others = [f"{name} {cell(_part(summary, 'perturbation', name, kind))}" for name in ORDERS]
        parts = [_part(summary, "perturbation", method, kind) for method in CAMS]
        yield _row(f"area under {kind}", parts, ", ".join(others))
        for rival in ORDERS if apart else ():
            yield _row(f"{kind}, less {rival}", [apart[method][kind][rival] for method in CAMS])


def _counts(summary: Mapping[str, Any]) -> str:
    measured = [(part, key) for part, key in _KEYS if summary[part].get("ours")]
    parts = [f"{part} n = {summary[part]['ours'][key]['n']}" for part, key in measured]
    return ", ".join(parts) or "nothing else measured"


_KEYS = (("cascade", "ssim all"), ("perturbation", "deletion"), ("regions", "near"))


def cell(part: Mapping[str, Any] | None) -> str:
    """A figure with its interval; empty where there is none."""
    if part is None or part["value"] is None:
        return ""
    low, high = part["interval_95"]
    if low is None or high is None or math.isnan(low):
        return f"{part['value']:.3f}"
    return f"{part['value']:.3f} ({low:.3f} to {high:.3f})"


def _mean(values: Sequence[float | None]) -> float:
    known = [v for v in values if v is not None and not math.isnan(v)]
    return float(np.mean(known)) if known else math.nan


def _means(parts: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """Mean of each figure over cases; cases that lack it do not count."""
    names = sorted({n for part in parts for n, v in part.items() if v and not isinstance(v[0], list)})
    columns = {name: [_mean(part.get(name, [])) for part in parts] for name in names}
    found = estimates(means_of(columns), len(parts), seed=seed) if parts and names else {}
    return {name: asdict(estimate) for name, estimate in found.items()}


def _difference(parts: Sequence[Mapping[str, Any]], ours: str, theirs: str, seed: int) -> dict[str, Any]:
    pairs = [(_mean(part.get(ours, [])), _mean(part.get(theirs, []))) for part in parts]
    known = [pair for pair in pairs if not any(map(math.isnan, pair))]
    if not known:
        return {"value": None, "interval_95": (None, None), "n": 0}
    one, other = zip(*known, strict=True)
    found = differences(means_of({"d": one}), means_of({"d": other}), len(known), seed=seed)["d"]
    return asdict(found)


def _by_method(rows: Rows, name: str, seed: int) -> dict[str, Any]:
    parts = [row[name] for row in rows if name in row]
    methods = sorted({method for part in parts for method in part})
    return {method: _means([part[method] for part in parts], seed) for method in methods}


def _context(rows: Rows, seed: int) -> dict[str, Any]:
    """Areas of all maps on the cases where plain gradients and occlusion were measured too."""
    parts = [row for row in rows if "context" in row]
    if not parts:
        return {}
    names = ("ours", "printed", *RIVALS)
    areas = {name: [part["perturbation"][name] for part in parts] for name in names}
    for name in ("gradient", "occlusion"):
        areas[name] = [part["context"][name] for part in parts]
    return {name: _means(found, seed) for name, found in areas.items()}
