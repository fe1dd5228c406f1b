# SPDX-License-Identifier: Apache-2.0
"""`make demo`: segment a real head MRI, and say where to look.

The head is the MNI152 T1 template at 1 mm, cut free of the skull (Fonov et al., NeuroImage 54(1), 2011),
which the nilearn package carries; nilearn itself is not imported.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from DIANetLib.console import (
    guarded,
    progress_display,
    quality_lines,
    region_line,
    structure_table,
    timing_line,
)
from DIANetLib.errors import DependencyError

__all__ = ["main", "mni_head"]

_OUTPUT = Path("demo-output")
_IN_NILEARN = Path("datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz")


def mni_head() -> Path:
    """The file of the MNI152 head in the installed nilearn.

    Raises:
        DependencyError: nilearn is not installed, or a version without the file.
    """
    spec = find_spec("nilearn")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        file = Path(folder) / _IN_NILEARN
        if file.is_file():
            return file
    what = "is not installed" if spec is None else f"has no {_IN_NILEARN.name}"
    raise DependencyError(
        f"The demo's image comes with nilearn >=0.10.4, which {what}.",
        remedy='Install it with: pip install "dianet[demo]", or give another image with --image.',
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    started = time.perf_counter()
    parser = argparse.ArgumentParser(prog="dianet demo", description="Segment a real head MRI.")
    parser.add_argument("--image", type=Path, help="another head (default: MNI152, from nilearn)")
    parser.add_argument("--model", default="hippocampus", help="default: hippocampus")
    parser.add_argument("--output", type=Path, default=_OUTPUT, help="replaced if it is there")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--samples", type=int, help="default: one pass, where the model is made for it")
    parser.add_argument("--debug", action="store_true")
    options = parser.parse_args(arguments)
    return guarded(lambda: _run(options, started), debug=options.debug)


def _run(options: argparse.Namespace, started: float) -> int:
    from DIANetLib.worker.jobs import SegmentRequest, segment
    from DIANetLib.worker.reading import ImageSource

    image = options.image or mni_head()
    print(f"Segmenting {image.name} with the model {options.model!r}", flush=True)
    request = SegmentRequest(
        images=(ImageSource(image),),
        model=options.model,
        output=options.output,
        device=options.device,
        samples=options.samples,
        overwrite=True,
    )
    with progress_display() as progress:
        result = segment(request, progress=progress)
    prediction, paths = result.prediction, result.paths
    print()
    print(structure_table(prediction))
    print()
    for line in quality_lines(prediction):
        print(line)
    print(region_line(result.regions, prediction))
    for text in prediction.warnings:
        print(f"Warning: {text}")
    seconds = time.perf_counter() - started
    print(f"{timing_line(prediction.timings)}; {seconds:.1f} s in all, on {prediction.device}")
    print()
    print(f"Read the report:          {paths.report}")
    print(f"Look at it in a browser:  {_view_command(options.output)}")
    print(f"Drag into 3D Slicer:      {image}")
    print(f"                          {paths.segmentation}")
    print(f"                          {paths.uncertainty['total']}")
    print("For research use only. Not a medical device.")
    return 0


def _view_command(folder: Path) -> str:
    """What to type to look at the result: the environment need not be active."""
    if find_spec("trame_slicer") is None and folder == _OUTPUT:
        return "make view"
    program = Path(sys.executable).with_name("dianet")
    command = os.path.relpath(program) if program.is_relative_to(Path.cwd()) else str(program)
    return shlex.join([command if program.is_file() else "dianet", "view", str(folder)])


if __name__ == "__main__":
    sys.exit(main())
