# SPDX-License-Identifier: Apache-2.0
"""The folder that a classification leaves behind: numbers, maps on the input's grid, and a report to read."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from DIANetLib.errors import InputError
from DIANetLib.formats.class_report import render_class_report
from DIANetLib.formats.result import (
    classification_record,
    geometry_record,
    head_record,
    input_record,
    model_record,
)
from DIANetLib.formats.staging import RESULT, check_output_directory, file_names, staged, write_map
from DIANetLib.inference.classification import Classified, ClassMaps
from DIANetLib.volume import Volume

__all__ = ["ClassPaths", "write_classification"]


@dataclass(frozen=True)
class ClassPaths:
    """Where everything of such a folder is.

    Attributes:
        directory: The folder.
        cam: Class activation map by key of the class.
        gradcam: Grad-CAM by key of the class.
        result: Model, inputs, timings, probabilities and uncertainty.
        report: The report to read.
    """

    directory: Path
    cam: Mapping[str, Path]
    gradcam: Mapping[str, Path]
    result: Path
    report: Path


def write_classification(
    classified: Classified,
    maps: ClassMaps,
    inputs: Sequence[Volume],
    directory: str | os.PathLike[str],
    *,
    overwrite: bool = False,
) -> ClassPaths:
    """Write the folder; it appears only when it is complete.

    Args:
        classified: What was computed.
        maps: Where the evidence for the classes lies; may be empty.
        inputs: The images in the order of the model's modalities.
        directory: The folder to make. Missing parents are made too.
        overwrite: Replace an earlier output folder of DIANet.

    Raises:
        InputError: A map is on another grid than the first input.
        OutputError: The folder exists and may not be replaced, cannot be written, or the disk is full.
    """
    for key, volume in (*maps.cam.items(), *maps.gradcam.items()):
        if not volume.geometry.same_grid(classified.geometry):
            raise InputError(f"The map of class '{key}' is not on the grid of the image.")
    target = Path(directory).resolve()
    check_output_directory(target, overwrite=overwrite)
    largest = classified.image.array.size * np.dtype(np.float32).itemsize
    with staged(target, largest_file=largest) as folder:
        paths = _paths(folder, maps)
        started = time.perf_counter()
        for written, volumes in ((paths.cam, maps.cam), (paths.gradcam, maps.gradcam)):
            for key, path in written.items():
                write_map(volumes[key], path)
        timings = {**classified.timings, "write": time.perf_counter() - started}
        timed = replace(classified, timings=timings)
        paths.report.write_text(render_class_report(timed, maps, inputs), encoding="utf-8")
        record = {
            **head_record("classification"),
            "model": model_record(timed.model),
            "inputs": [input_record(volume) for volume in inputs],
            "missing_modalities": list(timed.missing_modalities),
            "geometry": geometry_record(timed.geometry),
            "device": timed.device,
            "timings_s": {stage: float(seconds) for stage, seconds in timings.items()},
            "classification": [classification_record(timed.classification)],
            "warnings": list(timed.warnings),
            "files": file_names(paths),
        }
        paths.result.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return _paths(target, maps)


def _paths(folder: Path, maps: ClassMaps) -> ClassPaths:
    return ClassPaths(
        directory=folder,
        cam={key: folder / f"cam_{key}.nrrd" for key in maps.cam},
        gradcam={key: folder / f"gradcam_{key}.nrrd" for key in maps.gradcam},
        result=folder / RESULT,
        report=folder / "report.html",
    )
