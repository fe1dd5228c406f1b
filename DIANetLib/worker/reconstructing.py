# SPDX-License-Identifier: Apache-2.0
"""The job behind `dianet reconstruct`: a noisy image in, a folder with a better one out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from DIANetLib.bundle import load_bundle
from DIANetLib.inference.prediction import Progress
from DIANetLib.worker.case import Cancel, Report, stop_if
from DIANetLib.worker.reading import Clock, ImageSource, assign_modalities, check_draws, read_images

if TYPE_CHECKING:
    from DIANetLib.formats.reconstruction_folder import ReconstructionPaths
    from DIANetLib.inference.reconstruction import Reconstruction

__all__ = ["ReconstructRequest", "ReconstructResult", "reconstruct"]


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


@dataclass(frozen=True, eq=False)
class ReconstructResult:
    """What a reconstruction gave.

    Attributes:
        reconstruction: Images; its timings include reading and writing.
        paths: The files written.
    """

    reconstruction: Reconstruction
    paths: ReconstructionPaths


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
    from DIANetLib.formats.staging import check_output_directory

    check_output_directory(request.output, overwrite=request.overwrite)
    model = load_bundle(request.model)
    from DIANetLib.inference.reconstruct import Reconstructor, check_denoises

    check_denoises(model)
    check_draws(request.samples, request.seed)
    sources, _ = assign_modalities(request.images, model)
    (image,) = read_images(sources, request.series, report, cancel)
    clock.lap("read")
    made = Reconstructor(model, request.device).reconstruct(
        image, samples=request.samples, seed=request.seed, progress=report, cancel=cancel
    )
    made = replace(made, timings={"read": clock["read"], **made.timings})
    clock.lap("reconstruct")
    stop_if(cancel)
    report(Progress("write", 0, 1))
    from DIANetLib.formats.reconstruction_folder import write_reconstruction

    paths = write_reconstruction(made, request.output, overwrite=request.overwrite)
    clock.lap("write")
    report(Progress("write", 1, 1))
    return ReconstructResult(replace(made, timings={**made.timings, "write": clock["write"]}), paths)
