# SPDX-License-Identifier: Apache-2.0
"""The folder a run leaves behind: every map on the input's grid, the numbers, and a report to read.

How the folder comes to be there complete or not at all is in `staging`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from DIANetLib.acwi.review import Region, find_regions, regions_to_csv, regions_to_json
from DIANetLib.errors import InputError
from DIANetLib.formats.image import write_volume
from DIANetLib.formats.report import render_report
from DIANetLib.formats.result import result_record
from DIANetLib.formats.segmentation import write_segmentation
from DIANetLib.formats.staging import (
    RESULT,
    check_complete,
    check_output_directory,
    file_names,
    staged,
    write_map,
)
from DIANetLib.inference.prediction import UNCERTAINTY_KINDS, InnerMaps, Prediction
from DIANetLib.volume import Volume

__all__ = ["OutputPaths", "write_output"]


@dataclass(frozen=True)
class OutputPaths:
    """Where everything of an output folder is.

    Attributes:
        directory: The folder.
        segmentation: Segments with names, colours and terminology, as 3D Slicer reads them.
        labels: The labelmap, NIfTI.
        uncertainty: Map by kind: total, aleatoric, epistemic; nats.
        error_probability: Calibrated probability that the label is wrong; regions are found in it.
        variance: Map by structure key.
        gradcam: Map by structure key, where asked for.
        attention: Attention and saliency by name, where asked for.
        reliable_path: Number of the path that counts most, where asked for; `result` names the paths.
        regions_json: Low-confidence regions.
        regions_csv: The same as a table.
        result: Model, inputs, timings and numbers per structure.
        report: The report to read.
    """

    directory: Path
    segmentation: Path
    labels: Path
    uncertainty: Mapping[str, Path]
    error_probability: Path
    variance: Mapping[str, Path]
    gradcam: Mapping[str, Path]
    attention: Mapping[str, Path]
    reliable_path: Path | None
    regions_json: Path
    regions_csv: Path
    result: Path
    report: Path


def write_output(
    prediction: Prediction,
    gradcam: Mapping[str, Volume],
    inputs: Sequence[Volume],
    directory: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    regions: Sequence[Region] | None = None,
    inner: InnerMaps | None = None,
) -> OutputPaths:
    """Write an output folder; it appears only when it is complete.

    Args:
        prediction: What was computed.
        gradcam: Grad-CAM maps by structure key, 0 to 1, on the prediction's grid; may be empty.
        inputs: The images in the order of the model's modalities; the first is on the prediction's grid.
        directory: The folder to make. Missing parents are made too.
        overwrite: Replace an earlier output folder of DIANet.
        regions: Low-confidence regions; looked for with the default options when None.
        inner: Attention and reliable path, where asked for.

    Returns:
        Where everything is.

    Raises:
        InputError: A Grad-CAM map is of no structure; or a map or the first input is on another grid.
        OutputError: The folder exists and may not be replaced, cannot be written, or the disk is full.
            Nothing is left behind then, and a folder that was there is as it was.
    """
    inner = inner or InnerMaps()
    _check_maps(prediction, gradcam, inner, inputs)
    target = Path(directory).resolve()
    check_output_directory(target, overwrite=overwrite)
    if regions is None:
        regions = find_regions(prediction.error_probability, prediction.labels, prediction.structures)
    one_map = prediction.labels.array.size * np.dtype(np.float32).itemsize
    with staged(target, largest_file=one_map) as folder:
        _write_files(folder, prediction, gradcam, inner, inputs, regions)
    return _paths(target, prediction, gradcam, inner)


def _check_maps(
    prediction: Prediction, gradcam: Mapping[str, Volume], inner: InnerMaps, inputs: Sequence[Volume]
) -> None:
    keys = [structure.key for structure in prediction.structures]
    for key, volume in gradcam.items():
        if key not in keys:
            raise InputError(
                f"A Grad-CAM map is for '{key}', expected one of the structures {', '.join(keys)}."
            )
        if not volume.geometry.same_grid(prediction.geometry):
            raise InputError(f"The Grad-CAM map of '{key}' is not on the grid of the segmentation.")
    for name, volume in inner.attention.items():
        if not volume.geometry.same_grid(prediction.geometry):
            raise InputError(f"The map '{name}' is not on the grid of the segmentation.")
    if not inputs:
        raise InputError("An output folder needs at least one input image, got none.")
    if not inputs[0].geometry.same_grid(prediction.geometry):
        raise InputError(
            f"The first input ({inputs[0].name or 'image'}) is not on the grid of the segmentation."
        )


def _paths(
    folder: Path, prediction: Prediction, gradcam: Mapping[str, Volume], inner: InnerMaps
) -> OutputPaths:
    keys = [structure.key for structure in prediction.structures]
    return OutputPaths(
        directory=folder,
        segmentation=folder / "segmentation.seg.nrrd",
        labels=folder / "labels.nii.gz",
        uncertainty={kind: folder / f"uncertainty_{kind}.nrrd" for kind in UNCERTAINTY_KINDS},
        error_probability=folder / "error_probability.nrrd",
        variance={key: folder / f"variance_{key}.nrrd" for key in keys},
        gradcam={key: folder / f"gradcam_{key}.nrrd" for key in keys if key in gradcam},
        attention={name: folder / f"{name}.nrrd" for name in inner.attention},
        reliable_path=None if inner.path is None else folder / "reliable_path.nrrd",
        regions_json=folder / "regions.json",
        regions_csv=folder / "regions.csv",
        result=folder / RESULT,
        report=folder / "report.html",
    )


def _write_files(
    folder: Path,
    prediction: Prediction,
    gradcam: Mapping[str, Volume],
    inner: InnerMaps,
    inputs: Sequence[Volume],
    regions: Sequence[Region],
) -> None:
    paths = _paths(folder, prediction, gradcam, inner)
    started = time.perf_counter()
    name = inputs[0].name or "image"
    labels = prediction.labels
    write_segmentation(paths.segmentation, labels, prediction.structures, source_name=name)
    wide = any(structure.value > 255 for structure in prediction.structures)
    check_complete(paths.segmentation, labels.array.size * (2 if wide else 1))
    write_volume(labels, paths.labels)
    for kind, path in paths.uncertainty.items():
        write_map(prediction.uncertainty[kind], path)
    write_map(prediction.error_probability, paths.error_probability)
    for key, path in paths.variance.items():
        write_map(prediction.variance[key], path)
    for key, path in paths.gradcam.items():
        write_map(gradcam[key], path)
    for name, path in paths.attention.items():
        write_map(inner.attention[name], path)
    if inner.path is not None and paths.reliable_path is not None:
        write_volume(inner.path.chosen, paths.reliable_path)
        check_complete(paths.reliable_path, inner.path.chosen.array.nbytes)
    paths.regions_json.write_text(regions_to_json(regions), encoding="utf-8")
    paths.regions_csv.write_text(regions_to_csv(regions), encoding="utf-8", newline="")
    timed = replace(prediction, timings={**prediction.timings, "write": time.perf_counter() - started})
    paths.report.write_text(render_report(timed, gradcam, inputs, regions, inner), encoding="utf-8")
    record = result_record(
        timed, inputs, low_confidence_regions=len(regions), files=file_names(paths), path=inner.path
    )
    paths.result.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
