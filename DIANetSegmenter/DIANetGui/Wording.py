# SPDX-License-Identifier: Apache-2.0
"""How the panel puts numbers and states into words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING

from DIANetLib.acwi.quality import DiceEstimate, LightLimits, light, sentence
from DIANetLib.worker.protocol import DeviceEstimate, ModelInfo, StructureSummary

from .Activity import Activity
from .Translate import tr as _

if TYPE_CHECKING:
    from DIANetLib.acwi.review import Region
    from DIANetLib.acwi.worklist import Progress

    from .Editing import Outcome
    from .Records import ResultRecord

__all__ = [
    "activityText",
    "memoryText",
    "modelText",
    "outcomeText",
    "progressText",
    "resultText",
    "saidText",
    "sizeText",
    "stateText",
]

_ROWS = 12
_SENTENCES = 3
_COLORS = {"green": "#1b9e77", "amber": "#e6a700", "red": "#d01c1f"}


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


def resultText(record: ResultRecord, limits: LightLimits | None = None) -> str:
    """The numbers of a result, with a traffic light for each structure; HTML.

    Args:
        record: The result's record.
        limits: From which expected Dice on a structure is green or amber.
    """
    limits = limits or LightLimits()
    seconds = sum(record.timings.values())
    names = {structure.key: structure.name for structure in record.structures}
    head = _("{model} on {device} in {seconds} s, {uncertainty}").format(
        model=record.model,
        device=record.device,
        seconds=f"{seconds:.0f}",
        uncertainty=uncertaintyText(record),
    )
    found = [s for s in record.summaries if s.volume_ml > 0]
    rows = [_row(summary, names.get(summary.key, summary.key), limits) for summary in found[:_ROWS]]
    titles = (_("Structure"), _("Volume"), _("Confidence"), _("Expected Dice"))
    header = "".join(f"<th align='{'right' if n else 'left'}'>{title}</th>" for n, title in enumerate(titles))
    table = f"<table cellspacing='0' cellpadding='2' width='100%'><tr>{header}</tr>{''.join(rows)}</table>"
    lines = [f"<b>{escape(head)}</b>", table if rows else escape(_("No structure was found."))]
    if len(found) > _ROWS:
        lines.append(escape(_("and {count} more").format(count=len(found) - _ROWS)))
    lines += [escape(record.familiarity)] if record.familiarity else []
    lines += _warnings(record, names, limits)
    if record.paths:
        numbered = ", ".join(f"{n} {name}" for n, name in enumerate(record.paths, start=1))
        lines.append(escape(_("Paths of the layer Reliable path: {names}").format(names=numbered)))
    lines += [f"⚠ {escape(warning)}" for warning in record.warnings]
    return "".join(f"<div>{line}</div>" for line in lines)


def uncertaintyText(record: ResultRecord) -> str:
    """What the uncertainty of a result comes from, in a few words."""
    if record.uncertainty == "one-pass":
        return _("one pass in place of samples")
    if record.uncertainty == "plain":
        return _("one plain pass")
    return _("{samples} samples").format(samples=record.samples)


def stateText(state: str) -> str:
    """The state of a place, told by a sign and a word."""
    states = {
        "open": _("○ open"),
        "accepted": _("✓ accepted"),
        "corrected": _("✎ corrected"),
        "skipped": _("→ skipped"),
    }
    return states.get(state, state)


def saidText(region: Region) -> str:
    """When a place was judged, and by whom; empty while it is open."""
    if region.state == "open" or not region.changed:
        return ""
    when = datetime.fromisoformat(region.changed).astimezone().strftime("%Y-%m-%d %H:%M")
    if region.reviewer:
        return _("{state}, {when}, {reviewer}").format(
            state=stateText(region.state), when=when, reviewer=region.reviewer
        )
    return _("{state}, {when}").format(state=stateText(region.state), when=when)


def progressText(progress: Progress) -> str:
    """How far a review is."""
    if not progress.open:
        return _("All {total} places are judged.").format(total=progress.total)
    return _("{judged} of {total} judged, {error} mm³ expected to be wrong still open.").format(
        judged=progress.judged, total=progress.total, error=f"{progress.expected_error_mm3_open:.0f}"
    )


def outcomeText(outcome: Outcome) -> str:
    """What an edit has changed."""
    if outcome.changed:
        text = _("Place {rank}: {count} voxels corrected.").format(rank=outcome.rank, count=outcome.inside)
    else:
        text = _("Nothing was changed in place {rank}; its state is as before.").format(rank=outcome.rank)
    if outcome.outside:
        beyond = _("⚠ {count} voxels changed beyond the place ({names}); undo it in the Segment Editor.")
        text = f"{text} {beyond.format(count=outcome.outside, names=', '.join(outcome.structuresOutside))}"
    return text


def _row(summary: StructureSummary, name: str, limits: LightLimits) -> str:
    estimate = _estimate(summary)
    dice = "–"
    if estimate is not None:
        dice = f"{estimate.value:.2f}"
        if estimate.interval is not None:
            dice += " ({:.2f}–{:.2f})".format(*estimate.interval)
        shown = light(estimate, limits)
        # A word beside the colour, for those who see no difference between red and green.
        word = {"green": _("green"), "amber": _("amber"), "red": _("red")}[shown]
        dice = f"{dice} <span style='color:{_COLORS[shown]}'>●</span>&nbsp;{escape(word)}"
    cells = (f"{summary.volume_ml:.2f} ml", _number(summary.confidence, "{:.0%}"), dice)
    others = "".join(f"<td align='right'>{cell}</td>" for cell in cells)
    return f"<tr><td>{escape(name)}</td>{others}</tr>"


def _warnings(record: ResultRecord, names: Mapping[str, str], limits: LightLimits) -> list[str]:
    """Sentences on the structures with a red light, the worst first, and those that were not found."""
    told = {s.key: _estimate(s) for s in record.summaries if s.volume_ml > 0}
    red = [
        (e.value, sentence(names.get(k, k), e)) for k, e in told.items() if e and light(e, limits) == "red"
    ]
    lines = [f"⚠ {escape(text)}" for _value, text in sorted(red)[:_SENTENCES]]
    missing = [names.get(s.key, s.key) for s in record.summaries if s.volume_ml <= 0]
    if missing and len(missing) < len(record.summaries):
        shown = ", ".join(missing[:_ROWS]) + (" …" if len(missing) > _ROWS else "")
        lines.append(escape(_("Not found: {names}").format(names=shown)))
    return lines


def _estimate(summary: StructureSummary) -> DiceEstimate | None:
    if summary.expected_dice is None:
        return None
    return DiceEstimate(summary.expected_dice, summary.dice_low, summary.dice_high)


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)
