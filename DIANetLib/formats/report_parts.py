# SPDX-License-Identifier: Apache-2.0
"""The pieces that reports are put together from, as ready HTML: page, tables, figures, colour bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from DIANetLib import __version__
from DIANetLib.formats.colormap import css_gradient
from DIANetLib.formats.report_pictures import data_uri
from DIANetLib.formats.report_style import STYLE
from DIANetLib.formats.report_views import SCALES, Panel, RowKind
from DIANetLib.formats.result import RESEARCH_USE_NOTICE
from DIANetLib.inference.prediction import ModelRef
from DIANetLib.volume import Volume

__all__ = ["details", "encode", "figure", "notice", "number", "page", "scale", "table", "warnings"]

_PICTURE_BYTES = 2_000_000  # of all data URIs together; base64 takes four bytes for three
_QUALITIES = (88, 80, 70, 55, 40)

_SCALE_TEXT: Mapping[RowKind, str] = {
    "total": "Entropy of the mean probabilities. Fixed scale: ln 2 is as unsure as between two equally "
    "probable labels; values above it are drawn in the brightest colour.",
    "epistemic": "What the model's samples disagree about (mutual information), or would, as one pass tells. "
    "Fixed scale; values above it "
    "are drawn in the brightest colour.",
    "attention": "Softmax over the image of the scores that the network weighs its features by, of the mean "
    "over its scales, relative to the map's own maximum. Laid over the image half transparent.",
    "gradcam": "Which part of the image the model's score for this structure rests on, relative to the map's "
    "own maximum. Laid over the image half transparent.",
}
_SCALE_UNIT: Mapping[RowKind, str] = {
    "total": "nats",
    "epistemic": "nats",
    "attention": "relative",
    "gradcam": "relative",
}


def page(title: str, body: Sequence[str]) -> str:
    """One HTML document that needs no other file; empty parts of the body are left out."""
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            '<head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style></head>",
            "<body><main>",
            *(part for part in body if part),
            "</main></body></html>",
            "",
        ]
    )


def encode(panels: Sequence[Panel]) -> dict[int, str]:
    """Data URIs by the identity of their panel, at the best quality that keeps the page small."""
    sources: dict[int, str] = {}
    for quality in _QUALITIES:
        sources = {id(panel): data_uri(panel.picture, quality) for panel in panels}
        if sum(len(source) for source in sources.values()) <= _PICTURE_BYTES:
            break
    return sources


def notice() -> str:
    """What results may be used for."""
    first, rest = RESEARCH_USE_NOTICE.split(". ", 1)
    return f"<strong>{escape(first)}.</strong> {escape(rest)}"


def number(value: float | None, digits: int) -> str:
    """A number with a real minus sign; a dash for None."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def warnings(sentences: Sequence[str]) -> str:
    """A box with sentences for the reader; nothing where there are none."""
    if not sentences:
        return ""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<section class="warnings"><h2>Warnings</h2><ul>{items}</ul></section>'


def table(
    head: Sequence[tuple[str, bool]], rows: Sequence[Sequence[str]], caption: str, note: str = ""
) -> str:
    """A table of ready HTML cells; `head` says of each column whether it holds numbers."""
    columns = "".join(
        f'<th scope="col"{" class=number" if number else ""}>{escape(text)}</th>' for text, number in head
    )
    lines = []
    for row in rows:
        cells = [f'<th scope="row">{row[0]}</th>']
        cells += [
            f"<td{' class=number' if number else ''}>{cell}</td>"
            for cell, (_, number) in zip(row[1:], head[1:], strict=True)
        ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return (f'<p class="meta">{escape(note)}</p>' if note else "") + (
        f'<div class="scroll"><table><caption>{escape(caption)}</caption><thead><tr>{columns}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def scale(kind: RowKind, text: str | None = None) -> str:
    """The colour bar of a kind of map beside what the map shows; `text` in place of the usual one."""
    top, unit = SCALES[kind], _SCALE_UNIT[kind]
    end = "ln 2 ≈ 0.69" if kind == "total" else f"{top:g}"
    label = f"Colour bar from 0 to {end} ({unit})"
    ticks = "".join(f"<span>{mark}</span>" for mark in ("0", f"{top / 2:.2g}", f"{end} {unit}"))
    bar = (
        f'<div class="bar" role="img" aria-label="{escape(label)}">'
        f'<div class="ramp" style="background:{css_gradient()}"></div><div class="ticks">{ticks}</div></div>'
    )
    return f'<div class="scale"><p>{escape(text or _SCALE_TEXT[kind])}</p>{bar}</div>'


def figure(panel: Panel, source: str) -> str:
    """A picture with its caption; `source` is its data URI."""
    width, height = panel.picture.size
    return (
        f'<figure><img src="{source}" alt="{escape(panel.alt)}" width="{width}" height="{height}">'
        f"<figcaption>{escape(panel.caption)}</figcaption></figure>"
    )


def details(
    inputs: Sequence[Volume],
    models: Sequence[tuple[str, ModelRef]],
    timings: Mapping[str, float],
    *,
    missing: Sequence[str] = (),
) -> str:
    """How a result was made: images, models with what each was used for, seconds per stage."""
    images = []
    for volume in inputs:
        geometry = volume.geometry
        images.append(
            (
                escape(volume.name or "image"),
                escape(volume.modality or "–"),
                "\u00a0×\u00a0".join(str(n) for n in geometry.size),
                "\u00a0×\u00a0".join(f"{v:.3g}" for v in geometry.spacing),
                escape(geometry.anatomical_axes),
                f'<code class="file">{escape(volume.source or "–")}</code>',
                f"<code>{volume.sha256()}</code>",
            )
        )
    images += [("not given", escape(name), "–", "–", "–", "–", "–") for name in missing]
    image_head = [
        ("Image", False),
        ("Modality", False),
        ("Voxels (i, j, k)", False),
        ("Spacing (mm)", False),
        ("Axes", False),
        ("File", False),
        ("SHA-256 of the content", False),
    ]
    model_head = [
        ("Used for", False),
        ("Model", False),
        ("Version", False),
        ("SHA-256 of the weights", False),
    ]
    spent = [(escape(stage), number(seconds, 2)) for stage, seconds in timings.items()]
    parts = [
        "<section><h2>How it was made</h2>",
        table(image_head, images, "Input images"),
        table(model_head, [_model_row(role, model) for role, model in models], "Models"),
        table([("Stage", False), ("Time (s)", True)], spent, "Timings") if spent else "",
        f'<p class="meta">DIANet {escape(__version__)}. Numbers for programs: '
        "<code>result.json</code> in the same folder.</p></section>",
    ]
    return "\n".join(part for part in parts if part)


def _model_row(role: str, model: ModelRef) -> tuple[str, str, str, str]:
    return role, escape(model.name), escape(model.version), f"<code>{escape(model.sha256)}</code>"
