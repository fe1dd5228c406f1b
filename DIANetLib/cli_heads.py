# SPDX-License-Identifier: Apache-2.0
"""The commands for what a model does beside segmenting: `dianet classify` and `dianet reconstruct`."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from DIANetLib.cli_images import add_image_arguments, add_run_arguments, asked, image_sources, region
from DIANetLib.console import NOTICE, progress_display, table, timing_line

if TYPE_CHECKING:
    from DIANetLib.worker.classifying import ClassifyResult
    from DIANetLib.worker.reconstructing import ReconstructResult

__all__ = ["add_classify", "add_reconstruct"]


def add_classify(parser: argparse.ArgumentParser) -> None:
    """The arguments of `dianet classify`."""
    add_image_arguments(parser)
    parser.add_argument(
        "--roi",
        metavar="BOX|MASK",
        help="the only part to look at: x1,x2,y1,y2,z1,z2 in mm (RAS), or the file of a mask",
    )
    parser.add_argument(
        "--explain",
        nargs="+",
        default=["all"],
        metavar="CLASS",
        help="classes to compute activation map and Grad-CAM for; all (default) or none",
    )
    parser.add_argument(
        "--layer", help="layer of the network for Grad-CAM; default: the encoder's last stage but one"
    )
    add_run_arguments(parser)
    parser.set_defaults(run=_classify)


def add_reconstruct(parser: argparse.ArgumentParser) -> None:
    """The arguments of `dianet reconstruct`."""
    add_image_arguments(parser)
    add_run_arguments(parser)
    parser.set_defaults(run=_reconstruct)


def _classify(options: argparse.Namespace) -> int:
    from DIANetLib.worker.classifying import ClassifyRequest, classify

    request = ClassifyRequest(
        images=image_sources(options),
        model=options.model,
        output=options.output,
        roi=region(options.roi),
        device=options.device,
        samples=options.samples,
        seed=options.seed,
        explain=asked(options.explain),
        layer=options.layer,
        series=options.series,
        overwrite=options.overwrite,
    )
    with progress_display(quiet=options.quiet) as progress:
        result = classify(request, progress=progress)
    print(_class_summary(result))
    return 0


def _class_summary(result: ClassifyResult) -> str:
    classified = result.classified
    found = classified.classification
    rows = [
        (entry.name, f"{p:.3f}", f"{math.sqrt(v):.3f}")
        for entry, p, v in zip(found.classes, found.probabilities, found.variance, strict=True)
    ]
    return "\n".join(
        [
            table(("class", "probability", "deviation"), rows),
            "",
            f"{found.classes[found.predicted].name}; uncertainty {found.total:.3f} nats of at most"
            f" {math.log(len(found.classes)):.3f}, of which the samples' disagreement {found.epistemic:.3f}",
            *(f"Warning: {text}" for text in classified.warnings),
            timing_line(classified.timings),
            f"Wrote {result.paths.directory}, to read: {result.paths.report}",
            NOTICE,
        ]
    )


def _reconstruct(options: argparse.Namespace) -> int:
    from DIANetLib.worker.reconstructing import ReconstructRequest, reconstruct

    request = ReconstructRequest(
        images=image_sources(options),
        model=options.model,
        output=options.output,
        device=options.device,
        samples=options.samples,
        seed=options.seed,
        series=options.series,
        overwrite=options.overwrite,
    )
    with progress_display(quiet=options.quiet) as progress:
        result = reconstruct(request, progress=progress)
    print(_reconstruction_summary(result))
    return 0


def _reconstruction_summary(result: ReconstructResult) -> str:
    made = result.reconstruction
    return "\n".join(
        [
            f"Deviation of the samples: {made.mean_deviation:.4g} on average, in the image's own units",
            *(f"Warning: {text}" for text in made.warnings),
            timing_line(made.timings),
            f"Wrote {result.paths.directory}, to read: {result.paths.report}",
            NOTICE,
        ]
    )
