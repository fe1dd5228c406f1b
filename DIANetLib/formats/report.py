# SPDX-License-Identifier: Apache-2.0
"""`report.html`: what was found and how sure the model is, on one page that needs no other file.

Pictures are inline JPEGs, colour bars are drawn by the browser, all text is escaped. How pictures are made is
in `report_pictures`, which slices are shown in `report_views`, how the page looks in `report_style`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from html import escape
from typing import TYPE_CHECKING

from DIANetLib import __version__
from DIANetLib.formats.colormap import css_gradient
from DIANetLib.formats.report_pictures import Color, data_uri
from DIANetLib.formats.report_style import STYLE
from DIANetLib.formats.report_views import SCALES, Panel, Row, RowKind, View, Views
from DIANetLib.formats.result import (
    EXPECTED_DICE_METHOD,
    RESEARCH_USE_NOTICE,
    mean_uncertainty,
)
from DIANetLib.inference.prediction import InnerMaps, ModelRef, PathMap, Prediction
from DIANetLib.structures import Structure
from DIANetLib.volume import Volume

if TYPE_CHECKING:
    from DIANetLib.acwi.review import Region

__all__ = ["render_report"]

_PICTURE_BYTES = 2_000_000  # of all data URIs together; base64 takes four bytes for three
_QUALITIES = (88, 80, 70, 55, 40)
_CLOSE_UPS = 6

_SCALE_TEXT: Mapping[RowKind, str] = {
    "total": "Entropy of the mean probabilities. Fixed scale: ln 2 is as unsure as between two equally "
    "probable labels; values above it are drawn in the brightest colour.",
    "epistemic": "What the model's samples disagree about (mutual information). Fixed scale; values above it "
    "are drawn in the brightest colour.",
    "attention": "What the network multiplies its features by: the mean over its scales, relative to the "
    "map's own maximum. Laid over the image half transparent.",
    "gradcam": "Which part of the image the model's score for this structure rests on, relative to the map's "
    "own maximum. Laid over the image half transparent.",
}
_SCALE_UNIT: Mapping[RowKind, str] = {
    "total": "nats",
    "epistemic": "nats",
    "attention": "relative",
    "gradcam": "relative",
}


def render_report(
    prediction: Prediction,
    gradcam: Mapping[str, Volume],
    inputs: Sequence[Volume],
    regions: Sequence[Region] = (),
    inner: InnerMaps | None = None,
    *,
    created: datetime | None = None,
) -> str:
    """The report as one HTML document, less than 3 MB for any size of image.

    Args:
        prediction: What was computed.
        gradcam: Grad-CAM maps by structure key, 0 to 1, on the prediction's grid; may be empty.
        inputs: The images; the first is on the prediction's grid and is what the pictures show.
        regions: Low-confidence regions, most important first.
        inner: Attention and reliable path, where asked for.
        created: Time to state; now, in UTC, when None.
    """
    inner = inner or InnerMaps()
    views = Views(prediction, inputs[0], gradcam, inner.attention.get("attention"))
    overview = views.overview()
    detailed = [(view, views.rows(view)) for view in views.views]
    close_ups = [views.close_up(region.centre) for region in regions[:_CLOSE_UPS]]
    panels = [*overview.panels, *close_ups, *(p for _, rows in detailed for row in rows for p in row.panels)]
    sources = _encode(panels)

    name = inputs[0].name or "image"
    title = f"DIANet report: {name}"
    when = (created or datetime.now(timezone.utc)).strftime("%Y-%m-%d %H:%M %Z").strip()
    by_value = {structure.key: structure for structure in prediction.structures}
    body = [
        f"<header><h1>{escape(title)}</h1>",
        f'<p class="meta">{escape(_subtitle(prediction, when))}</p></header>',
        f'<p class="notice" role="note">{_notice()}</p>',
        _warnings([*prediction.warnings]),
        "<section><h2>Summary</h2>",
        '<ul class="summary">',
        *(f"<li>{_swatch(s.color)}{escape(_sentence(s, prediction))}</li>" for s in prediction.structures),
        "</ul></section>",
        _structure_table(prediction),
        "<section><h2>Where it is</h2>",
        f"<p>{escape(_convention(prediction))}</p>",
        _pictures(overview, sources),
        "</section>",
        *(_view(view, rows, sources) for view, rows in detailed),
        "".join(f'<p class="meta">{escape(sentence)}</p>' for sentence in views.omitted),
        "" if inner.path is None else _paths(inner.path, prediction),
        _regions(regions, close_ups, by_value, sources),
        _details(prediction, inputs),
    ]
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


def _encode(panels: Sequence[Panel]) -> dict[int, str]:
    """Data URIs by the identity of their panel, at the best quality that keeps the page small."""
    sources: dict[int, str] = {}
    for quality in _QUALITIES:
        sources = {id(panel): data_uri(panel.picture, quality) for panel in panels}
        if sum(len(source) for source in sources.values()) <= _PICTURE_BYTES:
            break
    return sources


def _notice() -> str:
    first, rest = RESEARCH_USE_NOTICE.split(". ", 1)
    return f"<strong>{escape(first)}.</strong> {escape(rest)}"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def _swatch(color: Color) -> str:
    return '<span class="swatch" style="background:#{:02x}{:02x}{:02x}"></span>'.format(*color)


def _subtitle(prediction: Prediction, when: str) -> str:
    samples = f"{prediction.samples} samples" if prediction.samples else "one plain pass"
    return f"Model {prediction.model.name} {prediction.model.version}, {samples}, {prediction.device}, {when}"


def _sentence(structure: Structure, prediction: Prediction) -> str:
    confidence = prediction.confidence[structure.key]
    if confidence is None:
        return f"{structure.name}: not found."
    volume = prediction.volumes_ml[structure.key]
    return f"{structure.name}: {volume:.2f} ml, expected confidence {confidence:.2f}."


def _convention(prediction: Prediction) -> str:
    angle = prediction.geometry.oblique_angle_deg
    tilt = (
        f" The slices follow the image's own axes, up to {angle:.0f}° from the patient's."
        if angle >= 0.5
        else ""
    )
    boxes = " Boxes: what the model looked at in detail." if prediction.regions_of_interest else ""
    return (
        "Radiological display: the patient's left is on the right of axial and coronal pictures. "
        "Slice positions are RAS coordinates in mm. "
        f"Pale blue lines on maps: border of the segmentation.{boxes}{tilt}"
    )


def _warnings(sentences: Sequence[str]) -> str:
    if not sentences:
        return ""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<section class="warnings"><h2>Warnings</h2><ul>{items}</ul></section>'


def _table(
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


def _structure_table(prediction: Prediction) -> str:
    means = mean_uncertainty(prediction)
    rows = []
    for s in prediction.structures:
        mean = means[s.key]
        rows.append(
            (
                _swatch(s.color) + escape(s.name),
                _number(prediction.volumes_ml[s.key], 2),
                _number(prediction.confidence[s.key], 3),
                _number(prediction.expected_dice[s.key], 3),
                *(_number(mean[kind], 3) for kind in ("total", "aleatoric", "epistemic")),
            )
        )
    head = [
        ("Structure", False),
        ("Volume (ml)", True),
        ("Expected confidence", True),
        ("Expected Dice", True),
        ("Total (nats)", True),
        ("Aleatoric (nats)", True),
        ("Epistemic (nats)", True),
    ]
    note = (
        "Expected confidence: mean calibrated probability over the structure's voxels. Expected Dice: "
        f"{EXPECTED_DICE_METHOD}. Uncertainty: mean over the structure's voxels; high means unsure."
    )
    return f"<section><h2>Structures</h2>{_table(head, rows, 'Per structure', note)}</section>"


def _color_bar(kind: RowKind) -> str:
    top, unit = SCALES[kind], _SCALE_UNIT[kind]
    end = "ln 2 ≈ 0.69" if kind == "total" else f"{top:g}"
    label = f"Colour bar from 0 to {end} ({unit})"
    ticks = "".join(f"<span>{text}</span>" for text in ("0", f"{top / 2:.2g}", f"{end} {unit}"))
    return (
        f'<div class="bar" role="img" aria-label="{escape(label)}">'
        f'<div class="ramp" style="background:{css_gradient()}"></div><div class="ticks">{ticks}</div></div>'
    )


def _figure(panel: Panel, source: str) -> str:
    width, height = panel.picture.size
    return (
        f'<figure><img src="{source}" alt="{escape(panel.alt)}" width="{width}" height="{height}">'
        f"<figcaption>{escape(panel.caption)}</figcaption></figure>"
    )


def _pictures(row: Row, sources: Mapping[int, str]) -> str:
    figures = "".join(_figure(panel, sources[id(panel)]) for panel in row.panels)
    return f'<div class="pictures">{figures}</div>'


def _view(view: View, rows: Sequence[Row], sources: Mapping[int, str]) -> str:
    parts = [f"<section><h2>{escape(view.title)}</h2>"]
    for row in rows:
        parts.append(f"<h3>{escape(row.title)}</h3>")
        if row.kind == "structures":
            chips = "".join(f"<span>{_swatch(s.color)}{escape(s.name)}</span>" for s in view.structures)
            parts.append(f'<p class="legend">{chips}</p>' if chips else "")
        else:
            parts.append(
                f'<div class="scale"><p>{escape(_SCALE_TEXT[row.kind])}</p>{_color_bar(row.kind)}</div>'
            )
        parts.append(_pictures(row, sources))
    parts.append("</section>")
    return "\n".join(part for part in parts if part)


def _paths(path: PathMap, prediction: Prediction) -> str:
    shares = path.shares(prediction.labels.array > 0)
    rows = [
        (str(n), escape(name), f"{100 * share:.1f}")
        for n, (name, share) in enumerate(zip(path.names, shares, strict=True), start=1)
    ]
    head = [("Value", False), ("Path", False), ("Share of the structures' voxels (%)", True)]
    note = (
        "The segmentation fuses several paths through the network; per voxel the one that is surest counts "
        "most. reliable_path.nrrd shows which one that is."
    )
    table = _table(head, rows, "Which path the segmentation relies on", note)
    return f"<section><h2>Reliable path</h2>{table}</section>"


def _regions(
    regions: Sequence[Region],
    close_ups: Sequence[Panel],
    structures: Mapping[str, Structure],
    sources: Mapping[int, str],
) -> str:
    heading = "<section><h2>Low-confidence regions</h2>"
    if not regions:
        return f"{heading}<p>None: no region is large and unsure enough to be listed.</p></section>"
    rows = []
    for region in regions:
        x, y, z = region.centre
        names = [structures[key].name if key in structures else key for key in region.structures]
        rows.append(
            (
                str(region.rank),
                escape(" / ".join(names)),
                "{}, {}, {}".format(*(_number(v + 0.0, 1) for v in (-x, -y, z))),
                _number(region.volume_mm3, 0),
                _number(region.expected_error_mm3, 1),
                _number(region.peak, 2),
            )
        )
    head = [
        ("Rank", False),
        ("In question", False),
        ("Centre R, A, S (mm)", True),
        ("Size (mm³)", True),
        ("Expected error (mm³)", True),
        ("Peak error probability", True),
    ]
    note = (
        "Places to look at first, by expected error: the sum of the calibrated error probability over the "
        "region's volume. Centres are RAS coordinates (right, anterior, superior) in mm, as in 3D Slicer."
    )
    figures = "".join(
        _figure(Panel(p.picture, p.alt, f"Rank {region.rank}: {p.caption}"), sources[id(p)])
        for region, p in zip(regions, close_ups, strict=False)
    )
    table = _table(head, rows, "Ranked regions", note)
    return f'{heading}{table}<div class="pictures small">{figures}</div></section>'


def _details(prediction: Prediction, inputs: Sequence[Volume]) -> str:
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
    images += [("not given", escape(name), "–", "–", "–", "–", "–") for name in prediction.missing_modalities]
    image_head = [
        ("Image", False),
        ("Modality", False),
        ("Voxels (i, j, k)", False),
        ("Spacing (mm)", False),
        ("Axes", False),
        ("File", False),
        ("SHA-256 of the content", False),
    ]
    models = [_model_row("Segmentation", prediction.model)]
    if prediction.localiser is not None:
        models.append(_model_row("Localiser", prediction.localiser))
    model_head = [
        ("Used for", False),
        ("Model", False),
        ("Version", False),
        ("SHA-256 of the weights", False),
    ]
    timings = [(escape(stage), _number(seconds, 2)) for stage, seconds in prediction.timings.items()]
    parts = [
        "<section><h2>How it was made</h2>",
        _table(image_head, images, "Input images"),
        _table(model_head, models, "Models"),
        _table([("Stage", False), ("Time (s)", True)], timings, "Timings") if timings else "",
        f'<p class="meta">DIANet {escape(__version__)}. Numbers for programs: '
        "<code>result.json</code> and <code>regions.json</code> in the same folder.</p></section>",
    ]
    return "\n".join(part for part in parts if part)


def _model_row(role: str, model: ModelRef) -> tuple[str, str, str, str]:
    return role, escape(model.name), escape(model.version), f"<code>{escape(model.sha256)}</code>"
