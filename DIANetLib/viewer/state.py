# SPDX-License-Identifier: Apache-2.0
"""What the page shows, as plain values for its templates: rows of the tables, the legend, the messages.

Pure functions from what is in the folder to dictionaries of JSON types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from DIANetLib.acwi.quality import DiceEstimate, Light, LightLimits, light, sentence
from DIANetLib.acwi.review import Region, State
from DIANetLib.acwi.worklist import Worklist
from DIANetLib.formats.colormap import color_table, css_gradient
from DIANetLib.viewer.folder import StructureResult
from DIANetLib.viewer.layers import SCALES, Layer, ticks

__all__ = [
    "NOTICE",
    "STATE_WORDS",
    "legend",
    "millimetres",
    "position",
    "progress",
    "region_rows",
    "structure_rows",
]

NOTICE = "For research use only. Not a medical device. Every result must be reviewed by a qualified person."
#: What each state is called on the page.
STATE_WORDS: Mapping[State, str] = {
    "open": "open",
    "accepted": "accepted",
    "corrected": "corrected elsewhere",
    "skipped": "skipped",
}
_LIGHT_WORDS: Mapping[Light, str] = {"green": "good", "amber": "check", "red": "look closely"}
# Of equal contrast on the page's dark ground, and told apart by the words beside them as well.
_LIGHT_COLORS: Mapping[Light, str] = {"green": "#4caf50", "amber": "#ffb300", "red": "#ff5252"}
_STATE_COLORS: Mapping[State, str] = {
    "open": "#9e9e9e",
    "accepted": "#4caf50",
    "corrected": "#4fc3f7",
    "skipped": "#ffb300",
}


def structure_rows(found: Sequence[StructureResult], limits: LightLimits) -> list[dict[str, Any]]:
    """A row per structure: colour, name, volume, expected Dice in words, traffic light."""
    rows = []
    for entry in found:
        shade = light(entry.dice, limits)
        rows.append(
            {
                "key": entry.structure.key,
                "name": entry.structure.name,
                "color": "rgb({}, {}, {})".format(*entry.structure.color),
                "volume": f"{entry.volume_ml:.2f} ml",
                "quality": _quality(entry.structure.name, entry.dice),
                "light": shade,
                "light_word": _LIGHT_WORDS[shade],
                "light_color": _LIGHT_COLORS[shade],
            }
        )
    return rows


def region_rows(worklist: Worklist, found: Sequence[StructureResult]) -> list[dict[str, Any]]:
    """A row per region, in the order of the ranks."""
    names = {entry.structure.key: entry.structure.name for entry in found}
    return [
        {
            "rank": region.rank,
            "where": " / ".join(names.get(key, key) for key in region.structures) or "background",
            "expected": f"{region.expected_error_mm3:.0f} mm³",
            "position": position(region.centre),
            "details": _details(region),
            "state": region.state,
            "state_word": STATE_WORDS[region.state],
            "state_color": _STATE_COLORS[region.state],
        }
        for region in worklist.regions
    ]


def progress(worklist: Worklist) -> dict[str, Any]:
    """How far the review is: a sentence, and the judged share in percent."""
    state = worklist.progress()
    if not state.total:
        return {"text": "No region stands out as uncertain.", "percent": 0}
    left = f"; {state.expected_error_mm3_open:.0f} mm³ expected to be wrong in the rest" if state.open else ""
    return {
        "text": f"{state.judged} of {state.total} regions judged{left}",
        "percent": round(100 * state.judged / state.total),
    }


def legend(layer: Layer | None, scale: float, threshold: float) -> dict[str, Any]:
    """The colour bar of a layer.

    Args:
        layer: Which; None for an empty legend.
        scale: Value at its upper end.
        threshold: Share of the scale below which the layer is transparent.
    """
    if layer is None:
        return {"title": "", "unit": "", "gradient": "", "ticks": [], "hidden": 0, "text": "", "names": []}
    lowest = f"{threshold * scale:.3g} {layer.unit if layer.unit == 'nats' else ''}".strip()
    return {
        "title": layer.title,
        "unit": layer.unit,
        "gradient": css_gradient(33),
        "ticks": list(ticks(scale)),
        "hidden": round(100 * threshold, 1),
        "text": f"Hidden below {lowest}" if threshold > 0 else "Hidden where it is 0",
        "names": _named_colors(layer),
    }


def position(point_lps: Sequence[float]) -> str:
    """A point as 3D Slicer shows it: `"R −27.0, A −20.0, S −16.0 mm"`."""
    x, y, z = point_lps
    # No-break spaces: a number stays with its letter.
    return f"R\u00a0{millimetres(-x)}, A\u00a0{millimetres(-y)}, S\u00a0{millimetres(z)}\u00a0mm"


def millimetres(value: float) -> str:
    """A number of mm with one digit and a true minus sign; none for zero."""
    return f"{round(value, 1) + 0.0:.1f}".replace("-", "−")


def _quality(name: str, dice: DiceEstimate | None) -> str:
    """The sentence without the name, which stands above it."""
    text = sentence(name, dice).removeprefix(f"{name}: ")
    return text[:1].upper() + text[1:]


def _details(region: Region) -> str:
    text = (
        f"{region.volume_mm3:.0f} mm³, error probability up to {region.peak:.2f}, {position(region.centre)}"
    )
    if not region.changed:
        return text
    by = f"by {region.reviewer}, " if region.reviewer else ""
    return f"{by}{region.changed.replace('T', ' ')[:16]}; {text}"


def _named_colors(layer: Layer) -> list[dict[str, str]]:
    table = color_table(256)
    scale = SCALES.get(layer.kind, 1.0)
    colors = [table[min(255, round(255 * n / scale))].tolist() for n in range(1, len(layer.names) + 1)]
    return [
        {"name": name, "color": "rgb({}, {}, {})".format(*color)}
        for name, color in zip(layer.names, colors, strict=True)
    ]
