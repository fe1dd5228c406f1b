# SPDX-License-Identifier: Apache-2.0
"""The job behind `dianet reconstruct`: a noisy image in, a folder with a better one out."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from DIANetLib.bundle import load_bundle
from DIANetLib.errors import InputError
from DIANetLib.inference.prediction import Progress
from DIANetLib.worker.case import Cancel, Report, stop_if
from DIANetLib.worker.reading import Clock, ImageSource, assign_modalities, read_images

if TYPE_CHECKING:
    from DIANetLib.inference.reconstruct import Reconstruction

__all__ = ["ReconstructPaths", "ReconstructRequest", "ReconstructResult", "reconstruct"]


@dataclass(frozen=True)
class ReconstructRequest:
    """What to reconstruct, with what, and where to; see `DIANetLib.worker.jobs.SegmentRequest`.

    Attributes:
        images: The image.
        model: Name of a model or its folder.
        output: Folder to write.
        device: As for a segmentation.
        samples: T, stochastic passes; 0 for one plain pass.
        seed: Of the stochastic passes.
        series: UID of the DICOM series to read from folders that hold several.
        overwrite: Whether an earlier output folder may be replaced.
    """

    images: tuple[ImageSource, ...]
    model: str | Path
    output: Path
    device: str = "auto"
    samples: int = 10
    seed: int = 0
    series: str | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class ReconstructPaths:
    """Where everything of such a folder is.

    Attributes:
        directory: The folder.
        reconstruction: The image.
        uncertainty: Standard deviation over the samples, in the image's units.
        result: Model, input, timings.
    """

    directory: Path
    reconstruction: Path
    uncertainty: Path
    result: Path


@dataclass(frozen=True, eq=False)
class ReconstructResult:
    """What a reconstruction gave.

    Attributes:
        reconstruction: Images; its timings include reading and writing.
        paths: The files written.
    """

    reconstruction: Reconstruction
    paths: ReconstructPaths


def reconstruct(
    request: ReconstructRequest, *, progress: Report | None = None, cancel: Cancel | None = None
) -> ReconstructResult:
    """Read an image, reconstruct it and write an output folder.

    Args:
        request: What to do.
        progress: Called as the work goes on.
        cancel: Asked between steps.

    Raises:
        DIANetError: With a sentence; nothing is left in the output folder.
    """
    clock, report = Clock(), progress or (lambda _: None)
    from DIANetLib.formats.staging import check_output_directory, staged

    check_output_directory(request.output, overwrite=request.overwrite)
    model = load_bundle(request.model)
    from DIANetLib.inference.reconstruct import Reconstructor, check_denoises

    check_denoises(model)
    if request.samples < 0 or request.seed < 0:
        raise InputError(
            f"Samples and seed are {request.samples} and {request.seed}, expected 0 or more of each."
        )
    sources, _ = assign_modalities(request.images, model)
    (image,) = read_images(sources, request.series, report, cancel)
    clock.lap("read")
    made = Reconstructor(model, request.device).reconstruct(
        image, samples=request.samples, seed=request.seed, progress=report, cancel=cancel
    )
    made = replace(made, timings={"read": clock["read"], **made.timings})
    stop_if(cancel)
    report(Progress("write", 0, 1))
    target = request.output.resolve()
    with staged(target, largest_file=image.array.size * np.dtype(np.float32).itemsize) as folder:
        made = _write(made, _paths(folder))
    report(Progress("write", 1, 1))
    return ReconstructResult(made, _paths(target))


def _paths(folder: Path) -> ReconstructPaths:
    from DIANetLib.formats.staging import RESULT

    return ReconstructPaths(
        folder, folder / "reconstruction.nrrd", folder / "uncertainty.nrrd", folder / RESULT
    )


def _write(made: Reconstruction, paths: ReconstructPaths) -> Reconstruction:
    from DIANetLib.formats.image import write_volume
    from DIANetLib.formats.result import geometry_record, head_record, input_record, model_record
    from DIANetLib.formats.staging import check_complete, file_names

    started = time.perf_counter()
    for volume, path in ((made.image, paths.reconstruction), (made.deviation, paths.uncertainty)):
        write_volume(volume, path)
        check_complete(path, volume.array.nbytes)
    made = replace(made, timings={**made.timings, "write": time.perf_counter() - started})
    record = {
        **head_record("reconstruction"),
        "model": model_record(made.model),
        "inputs": [input_record(made.observed)],
        "geometry": geometry_record(made.image.geometry),
        "device": made.device,
        "samples": made.samples,
        "timings_s": {stage: float(seconds) for stage, seconds in made.timings.items()},
        "mean_deviation": made.mean_deviation,
        "warnings": list(made.warnings),
        "files": file_names(paths),
    }
    paths.result.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return made
