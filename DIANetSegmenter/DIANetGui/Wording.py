# SPDX-License-Identifier: Apache-2.0
"""How the panel puts numbers and states into words."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from DIANetLib.worker.protocol import DeviceEstimate, ModelInfo

from .Activity import Activity
from .Translate import tr as _

if TYPE_CHECKING:
    from .Records import ResultRecord

__all__ = ["activityText", "memoryText", "modelText", "resultText", "sizeText"]

_ROWS = 12


def sizeText(count: int) -> str:
    """A number of bytes: `"3.6 MB"`, `"1.2 GB"`."""
    for unit, size in ((_("GB"), 1e9), (_("MB"), 1e6), (_("kB"), 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return _("{count} bytes").format(count=count)


def activityText(activity: Activity) -> str:
    """What is being done, and how long it takes still."""
    stages = {
        "start": _("Starting the worker"),
        "load": _("Loading the model"),
        "prepare": _("Preparing the volume"),
        "localise": _("Looking for the region"),
        "segment": _("Segmenting"),
        "restore": _("Putting the result on the volume's grid"),
        "explain": _("Explaining"),
        "inner": _("Reading the network's attention"),
        "review": _("Ranking what to review"),
        "write": _("Handing over the result"),
        "show": _("Showing the result"),
        "stop": _("Stopping"),
    }
    stage = stages.get(activity.stage, activity.stage)
    left = activity.secondsLeft
    if left is None:
        return f"{stage} …"
    if left >= 90:
        return _("{stage}, about {minutes} min left").format(stage=stage, minutes=round(left / 60))
    return _("{stage}, about {seconds} s left").format(stage=stage, seconds=max(1, round(left)))


def modelText(model: ModelInfo) -> str:
    """What a model does, what it expects, its licence and its size; HTML."""
    if model.problem is not None:
        return _("This model cannot be used: {problem}").format(problem=escape(model.problem))
    needed = [m.name for m in model.modalities if m.required]
    optional = [m.name for m in model.modalities if not m.required]
    facts = []
    if needed:
        facts.append(_("Needs {names}").format(names=", ".join(needed)))
    if optional and needed:
        facts.append(_("takes {names} too").format(names=", ".join(optional)))
    elif optional:
        facts.append(_("Takes any of {names}").format(names=", ".join(optional)))
    if model.licence:
        facts.append(_("licence {licence}").format(licence=model.licence))
    if model.size_bytes:
        facts.append(sizeText(model.size_bytes))
    lines = [model.description, ", ".join(facts)]
    return "<br>".join(escape(line) for line in lines if line)


def memoryText(estimates: Sequence[DeviceEstimate], device: str) -> str:
    """What a run would need on the device that is chosen; empty while that is not known."""
    if not estimates:
        return ""
    chosen = next((e for e in estimates if e.device == device), estimates[0])
    text = _("{device}: needs about {needed}").format(
        device=chosen.description, needed=sizeText(chosen.needed_bytes)
    )
    if chosen.free_bytes is not None:
        text = _("{text}, {free} free").format(text=text, free=sizeText(chosen.free_bytes))
    if not chosen.fits:
        text = _("{text}; that may not fit").format(text=text)
    return f"{text}."


def resultText(record: ResultRecord) -> str:
    """The numbers of a result; HTML."""
    seconds = sum(record.timings.values())
    names = {structure.key: structure.name for structure in record.structures}
    head = _("{model} on {device} in {seconds} s, {samples} samples").format(
        model=record.model, device=record.device, seconds=f"{seconds:.0f}", samples=record.samples
    )
    found = [s for s in record.summaries if s.volume_ml > 0]
    rows = [
        f"<tr><td>{escape(names.get(s.key, s.key))}</td><td align='right'>{s.volume_ml:.2f} ml</td>"
        f"<td align='right'>{_number(s.confidence, '{:.0%}')}</td>"
        f"<td align='right'>{_number(s.expected_dice, '{:.2f}')}</td></tr>"
        for s in found[:_ROWS]
    ]
    titles = (_("Structure"), _("Volume"), _("Confidence"), _("Exp. Dice"))
    header = "".join(f"<th align='{'right' if n else 'left'}'>{title}</th>" for n, title in enumerate(titles))
    table = f"<table cellspacing='0' cellpadding='2' width='100%'><tr>{header}</tr>{''.join(rows)}</table>"
    lines = [f"<b>{escape(head)}</b>", table if rows else escape(_("No structure was found."))]
    if len(found) > _ROWS:
        lines.append(escape(_("and {count} more").format(count=len(found) - _ROWS)))
    if record.paths:
        numbered = ", ".join(f"{n} {name}" for n, name in enumerate(record.paths, start=1))
        lines.append(escape(_("Paths of the layer Reliable path: {names}").format(names=numbered)))
    lines += [f"⚠ {escape(warning)}" for warning in record.warnings]
    return "".join(f"<div>{line}</div>" for line in lines)


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)
