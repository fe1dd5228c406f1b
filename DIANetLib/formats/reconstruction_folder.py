# SPDX-License-Identifier: Apache-2.0
"""The folder that a reconstruction leaves behind: the image, its deviation over the samples, a report."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from html import escape
from pathlib import Path

import numpy as np

from DIANetLib.formats.image import write_volume
from DIANetLib.formats.report_parts import details, encode, figure, notice, number, page, warnings
from DIANetLib.formats.report_slices import Slices
from DIANetLib.formats.report_views import Panel
from DIANetLib.formats.result import geometry_record, head_record, input_record, model_record
from DIANetLib.formats.staging import (
    RESULT,
    check_complete,
    check_output_directory,
    file_names,
    staged,
)
from DIANetLib.inference.reconstruction import Reconstruction

__all__ = ["ReconstructionPaths", "write_reconstruction"]


@dataclass(frozen=True)
class ReconstructionPaths:
    """Where everything of such a folder is.

    Attributes:
        directory: The folder.
        reconstruction: The image.
        uncertainty: Standard deviation over the samples, in the image's units.
        result: Model, input, timings.
        report: The report to read.
    """

    directory: Path
    reconstruction: Path
    uncertainty: Path
    result: Path
    report: Path


def write_reconstruction(
    made: Reconstruction, directory: str | os.PathLike[str], *, overwrite: bool = False
) -> ReconstructionPaths:
    """Write the folder; it appears only when it is complete.

    Args:
        made: What was computed.
        directory: The folder to make. Missing parents are made too.
        overwrite: Replace an earlier output folder of DIANet.

    Raises:
        OutputError: The folder exists and may not be replaced, cannot be written, or the disk is full.
    """
    target = Path(directory).resolve()
    check_output_directory(target, overwrite=overwrite)
    with staged(target, largest_file=made.image.array.size * np.dtype(np.float32).itemsize) as folder:
        paths, started = _paths(folder), time.perf_counter()
        for volume, path in ((made.image, paths.reconstruction), (made.deviation, paths.uncertainty)):
            write_volume(volume, path)
            check_complete(path, volume.array.nbytes)
        timed = replace(made, timings={**made.timings, "write": time.perf_counter() - started})
        paths.report.write_text(_report(timed), encoding="utf-8")
        record = {
            **head_record("reconstruction"),
            "model": model_record(made.model),
            "inputs": [input_record(made.observed)],
            "geometry": geometry_record(made.image.geometry),
            "device": made.device,
            "samples": made.samples,
            "timings_s": {stage: float(seconds) for stage, seconds in timed.timings.items()},
            "mean_deviation": made.mean_deviation,
            "warnings": list(made.warnings),
            "files": file_names(paths),
        }
        paths.result.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return _paths(target)


def _paths(folder: Path) -> ReconstructionPaths:
    return ReconstructionPaths(
        directory=folder,
        reconstruction=folder / "reconstruction.nrrd",
        uncertainty=folder / "uncertainty.nrrd",
        result=folder / RESULT,
        report=folder / "report.html",
    )


def _report(made: Reconstruction) -> str:
    observed, image = Slices(made.observed), Slices(made.image, like=made.observed)
    most = float(made.deviation.array.max())
    rows: list[tuple[str, str, tuple[Panel, ...]]] = [
        ("Input", "", observed.panels(None, observed.middle, "input")),
        (
            "Reconstruction",
            "In the grey scale of the input.",
            image.panels(None, image.middle, "reconstruction"),
        ),
    ]
    if most > 0:
        text = f"From 0 to {most:.4g}, its greatest value, in the image's units: where samples disagree."
        panels = image.panels(made.deviation, image.middle, "deviation", maximum=most)
        rows.append(("Deviation over the samples", text, panels))
    sources = encode([panel for _, _, panels in rows for panel in panels])
    title = f"DIANet report: {made.observed.name or 'image'}"
    samples = f"{made.samples} samples" if made.samples else "one plain pass"
    when = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M %Z").strip()
    body = [
        f"<header><h1>{escape(title)}</h1>",
        f'<p class="meta">{escape(f"Model {made.model.name} {made.model.version}, {samples}, {made.device}")}'
        f", {escape(when)}</p></header>",
        f'<p class="notice" role="note">{notice()}</p>',
        warnings(made.warnings),
        '<ul class="summary"><li>Mean deviation of the samples: '
        f"{number(made.mean_deviation, 4)} in the image's units.</li></ul>",
    ]
    for name, text, panels in rows:
        figures = "".join(figure(panel, sources[id(panel)]) for panel in panels)
        body.append(
            f'<section><h2>{escape(name)}</h2><p class="meta">{escape(text)}</p>'
            f'<div class="pictures">{figures}</div></section>'
        )
    body.append(details([made.observed], [("Reconstruction", made.model)], made.timings))
    return page(title, body)
