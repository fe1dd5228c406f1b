# SPDX-License-Identifier: Apache-2.0
"""`report.html` of a classification: the classes, how sure the model is, and where the evidence lies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from html import escape

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
from DIANetLib.formats.report_slices import Slices
from DIANetLib.formats.report_views import Panel
from DIANetLib.inference.classification import Classification, Classified, ClassMaps
from DIANetLib.volume import Volume

__all__ = ["class_section", "render_class_report"]

_MAPS: Mapping[str, tuple[str, str]] = {
    "cam": (
        "Class activation map",
        "Where the features that the classifier pools speak for the class, relative to the map's own "
        "maximum. Nothing is drawn where they speak against it.",
    ),
    "gradcam": (
        "Grad-CAM",
        "Which part of the image the class's score rests on, seen from the encoder, relative to the map's "
        "own maximum.",
    ),
}


def render_class_report(
    classified: Classified,
    maps: ClassMaps,
    inputs: Sequence[Volume],
    *,
    created: datetime | None = None,
) -> str:
    """The report as one HTML document.

    Args:
        classified: What was computed.
        maps: Where the evidence for the classes lies, on the first input's grid.
        inputs: The images; the first is what the pictures show.
        created: Time to state; now, in UTC, when None.
    """
    found = classified.classification
    names = {entry.key: entry.name for entry in found.classes}
    image = inputs[0]
    title = f"DIANet report: {image.name or 'image'}"
    when = (created or datetime.now(timezone.utc)).strftime("%Y-%m-%d %H:%M %Z").strip()
    samples = f"{found.samples} samples" if found.samples else "one plain pass"
    pictures = Slices(image)
    plain = pictures.panels(None, pictures.middle, "the image")
    rows: list[tuple[str, str, tuple[Panel, ...]]] = []
    for kind, volumes in (("cam", maps.cam), ("gradcam", maps.gradcam)):
        for key, volume in volumes.items():
            what = f"{_MAPS[kind][0]}: {names[key]}"
            rows.append((kind, what, pictures.panels(volume, pictures.brightest(volume), what)))
    sources = encode([*plain, *(panel for _, _, panels in rows for panel in panels)])

    def shown(panels: Sequence[Panel]) -> str:
        return f'<div class="pictures">{"".join(figure(p, sources[id(p)]) for p in panels)}</div>'

    body = [
        f"<header><h1>{escape(title)}</h1>",
        f'<p class="meta">{escape(f"Model {classified.model.name} {classified.model.version}, {samples}, ")}'
        f"{escape(f'{classified.device}, {when}')}</p></header>",
        f'<p class="notice" role="note">{notice()}</p>',
        warnings(classified.warnings),
        class_section((found,)),
        f"<section><h2>Image</h2>{shown(plain)}</section>",
    ]
    for kind, (name, text) in _MAPS.items():
        own = [(what, panels) for found_kind, what, panels in rows if found_kind == kind]
        if own:
            body.append(f"<section><h2>{escape(name)}</h2>{scale('gradcam', text)}")
            body += [f"<h3>{escape(what)}</h3>{shown(panels)}" for what, panels in own]
            body.append("</section>")
    models = [("Classification", classified.model)]
    body.append(details(inputs, models, classified.timings, missing=classified.missing_modalities))
    return page(title, body)


def class_section(classifications: Sequence[Classification]) -> str:
    """What an image, or each of its regions, was taken for: sentence, table, uncertainty."""
    parts = ["<section><h2>Classification</h2>"]
    for place, found in enumerate(classifications, start=1):
        which = f"Region {place}: " if len(classifications) > 1 else ""
        best = found.predicted
        parts.append(
            f'<ul class="summary"><li>{escape(f"{which}{found.classes[best].name}")}, probability '
            f"{number(found.probabilities[best], 2)}.</li></ul>"
        )
        rows = [
            (
                escape(entry.name),
                escape(str(entry.code or "–").replace("^", " ")),
                number(p, 3),
                number(math.sqrt(v), 3),
            )
            for entry, p, v in zip(found.classes, found.probabilities, found.variance, strict=True)
        ]
        head = [("Class", False), ("Code", False), ("Probability", True), ("Deviation of samples", True)]
        most = math.log(len(found.classes))
        note = (
            f"Uncertainty in nats, of at most {number(most, 2)}: total {number(found.total, 3)}, of which "
            f"aleatoric (the image is ambiguous) {number(found.aleatoric, 3)} and epistemic (the samples "
            f"disagree) {number(found.epistemic, 3)}. High means unsure."
        )
        parts.append(table(head, rows, "Calibrated probabilities, mean over the samples", note))
    parts.append("</section>")
    return "".join(parts)
