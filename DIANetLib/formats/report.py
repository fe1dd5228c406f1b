# SPDX-License-Identifier: Apache-2.0
"""`report.html`: what was found and how sure the model is, on one page that needs no other file.

Pictures are inline JPEGs, colour bars are drawn by the browser, all text is escaped. How pictures are made is
in `report_pictures`, which slices are shown in `report_views`, what pages are put together from in
`report_parts`, how they look in `report_style`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from html import escape
from typing import TYPE_CHECKING

from DIANetLib.acwi.familiarity import familiarity_line
from DIANetLib.acwi.quality import DEFAULT_LIMITS, light, sentence
from DIANetLib.formats.class_report import class_section
from DIANetLib.formats.report_parts import (
    details,
    encode,
    figure,
    notice,
    number,
    page,
    scale,
    table,
    warnings,
)
from DIANetLib.formats.report_pictures import Color
from DIANetLib.formats.report_views import Panel, Row, View, Views
from DIANetLib.formats.result import dice_method, mean_uncertainty
from DIANetLib.inference.prediction import InnerMaps, PathMap, Prediction
from DIANetLib.structures import Structure
from DIANetLib.volume import Volume

if TYPE_CHECKING:
    from DIANetLib.acwi.review import Region

__all__ = ["render_report"]

_CLOSE_UPS = 6
_LIGHT = (
    f"green from an expected Dice of {DEFAULT_LIMITS.green:.2f}, amber from {DEFAULT_LIMITS.amber:.2f}, red"
    " below and where nothing was found"
)


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
    sources = encode(panels)

    models = [("Segmentation", prediction.model)]
    if prediction.localiser is not None:
        models.append(("Localiser", prediction.localiser))
    name = inputs[0].name or "image"
    title = f"DIANet report: {name}"
    when = (created or datetime.now(timezone.utc)).strftime("%Y-%m-%d %H:%M %Z").strip()
    by_value = {structure.key: structure for structure in prediction.structures}
    body = [
        f"<header><h1>{escape(title)}</h1>",
        f'<p class="meta">{escape(_subtitle(prediction, when))}</p></header>',
        f'<p class="notice" role="note">{notice()}</p>',
        warnings([*prediction.warnings]),
        "<section><h2>Summary</h2>",
        '<ul class="summary">',
        *(_summary(s, prediction) for s in prediction.structures),
        "</ul>",
        _familiarity(prediction),
        "</section>",
        _structure_table(prediction),
        "<section><h2>Where it is</h2>",
        f"<p>{escape(_convention(prediction))}</p>",
        _pictures(overview, sources),
        "</section>",
        *(_view(view, rows, sources) for view, rows in detailed),
        "".join(f'<p class="meta">{escape(sentence)}</p>' for sentence in views.omitted),
        class_section(prediction.classifications) if prediction.classifications else "",
        "" if inner.path is None else _paths(inner.path, prediction),
        _regions(regions, close_ups, by_value, sources),
        details(inputs, models, prediction.timings, missing=prediction.missing_modalities),
    ]
    return page(title, body)


def _swatch(color: Color) -> str:
    return '<span class="swatch" style="background:#{:02x}{:02x}{:02x}"></span>'.format(*color)


def _subtitle(prediction: Prediction, when: str) -> str:
    model = f"Model {prediction.model.name} {prediction.model.version}"
    return f"{model}, {prediction.uncertainty_text}, {prediction.device}, {when}"


def _summary(structure: Structure, prediction: Prediction) -> str:
    estimate = prediction.estimate(structure.key)
    colour = light(estimate)
    text = sentence(structure.name, estimate)
    if estimate is not None:
        text += f", {prediction.volumes_ml[structure.key]:.2f} ml"
    # The word says what the colour says, for those who cannot tell colours apart.
    badge = f'<span class="light {colour}">{colour}</span>'
    return f"<li>{_swatch(structure.color)}{escape(text)}. {badge}</li>"


def _familiarity(prediction: Prediction) -> str:
    line = familiarity_line(prediction.familiarity)
    return f"<p>{escape(line)}.</p>" if line else ""


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


def _structure_table(prediction: Prediction) -> str:
    means = mean_uncertainty(prediction)
    rows = []
    for s in prediction.structures:
        mean = means[s.key]
        rows.append(
            (
                _swatch(s.color) + escape(s.name),
                number(prediction.volumes_ml[s.key], 2),
                number(prediction.confidence[s.key], 3),
                number(prediction.expected_dice[s.key], 3),
                _interval(prediction.dice_interval.get(s.key)),
                *(number(mean[kind], 3) for kind in ("total", "aleatoric", "epistemic")),
            )
        )
    head = [
        ("Structure", False),
        ("Volume (ml)", True),
        ("Expected confidence", True),
        ("Expected Dice", True),
        ("90 % interval", True),
        ("Total (nats)", True),
        ("Aleatoric (nats)", True),
        ("Epistemic (nats)", True),
    ]
    method = dice_method(prediction, bool(prediction.dice_interval))
    note = (
        "Expected confidence: mean calibrated probability over the structure's voxels. Expected Dice: "
        f"{method}. Light: {_LIGHT}. Uncertainty: mean over the structure's voxels; high means unsure."
    )
    return f"<section><h2>Structures</h2>{table(head, rows, 'Per structure', note)}</section>"


def _interval(ends: tuple[float, float] | None) -> str:
    return "–" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"


def _pictures(row: Row, sources: Mapping[int, str]) -> str:
    figures = "".join(figure(panel, sources[id(panel)]) for panel in row.panels)
    return f'<div class="pictures">{figures}</div>'


def _view(view: View, rows: Sequence[Row], sources: Mapping[int, str]) -> str:
    parts = [f"<section><h2>{escape(view.title)}</h2>"]
    for row in rows:
        parts.append(f"<h3>{escape(row.title)}</h3>")
        if row.kind == "structures":
            chips = "".join(f"<span>{_swatch(s.color)}{escape(s.name)}</span>" for s in view.structures)
            parts.append(f'<p class="legend">{chips}</p>' if chips else "")
        else:
            parts.append(scale(row.kind))
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
    listed = table(head, rows, "Which path the segmentation relies on", note)
    return f"<section><h2>Reliable path</h2>{listed}</section>"


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
                "{}, {}, {}".format(*(number(v + 0.0, 1) for v in (-x, -y, z))),
                number(region.volume_mm3, 0),
                number(region.expected_error_mm3, 1),
                number(region.peak, 2),
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
        figure(Panel(p.picture, p.alt, f"Rank {region.rank}: {p.caption}"), sources[id(p)])
        for region, p in zip(regions, close_ups, strict=False)
    )
    listed = table(head, rows, "Ranked regions", note)
    return f'{heading}{listed}<div class="pictures small">{figures}</div></section>'
