# SPDX-License-Identifier: Apache-2.0
"""How fast a worklist is ranked anew while its threshold is moved, which should take less than 0.1 s.

    python -m Testing.benchmarks.rerank [FOLDER ...] [--repeats N]

FOLDER is an output folder of `dianet segment`; its error probability and labels are read. Without one, two
stand-ins are made: a head at 1 mm (197 × 233 × 189 voxels) of nested shells of doubt, about as many voxels of
it as 22 brain structures have, and a hippocampus crop. Each threshold from 0.10 to 0.60 in steps of 0.05 is
asked for in turn, as a slider would, and the earlier list's judgements are carried over. Wall-clock times are
what a user waits; processor times tell how much of that was other work on the machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a file: the repository is not on the path then
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from DIANetLib.acwi.worklist import RegionFinder, Worklist
from DIANetLib.structures import ANATOMICAL_STRUCTURE, Code, Structure
from DIANetLib.volume import Geometry, Volume

THRESHOLDS = tuple(round(0.10 + 0.05 * n, 2) for n in range(11))


@dataclass(frozen=True, eq=False)
class Case:
    """What regions are looked for in."""

    name: str
    error: Volume
    labels: Volume
    structures: tuple[Structure, ...]


@dataclass(frozen=True)
class Cost:
    """Seconds.

    Attributes:
        build_s: to make the finder, once per segmentation.
        first_s: of the first list, which also makes the cells of its extent.
        median_s: of a list after that, wall-clock.
        worst_s: the slowest of these.
        processor_s: median processor time of these.
        counted: voxels that count at the lowest threshold.
    """

    build_s: float
    first_s: float
    median_s: float
    worst_s: float
    processor_s: float
    counted: int


def measure(case: Case, *, repeats: int = 5, thresholds: Sequence[float] = THRESHOLDS) -> Cost:
    """Time the finder and every list, with the judgements of the list before carried over."""
    start = time.perf_counter()
    finder = RegionFinder(case.error, case.labels, case.structures)
    build = time.perf_counter() - start
    start = time.perf_counter()
    worklist = Worklist(finder.find(threshold=thresholds[0]))
    first = time.perf_counter() - start
    if worklist.regions:
        worklist = worklist.with_state(1, "accepted")
    walls, processors = [], []
    for _ in range(repeats):
        for threshold in thresholds:
            wall, processor = time.perf_counter(), time.process_time()
            worklist = worklist.reranked(finder.find(threshold=threshold))
            processors.append(time.process_time() - processor)
            walls.append(time.perf_counter() - wall)
    counted = int(np.count_nonzero(case.error.array >= np.float32(thresholds[0])))
    return Cost(build, first, statistics.median(walls), max(walls), statistics.median(processors), counted)


def shells(name: str, shape: tuple[int, int, int], radii: Sequence[float], thickness: float) -> Case:
    """Nested ellipsoids, a structure each, with doubt around every boundary.

    Args:
        name: for people.
        shape: (k, j, i), 1 mm.
        radii: of the boundaries, as shares of the half axes, the outermost first.
        thickness: how far doubt reaches, in mm along the mean half axis.
    """
    axes = [(np.arange(n, dtype=np.float32) - (n - 1) / 2) / (n / 2) for n in shape]
    k, j, i = np.meshgrid(*axes, indexing="ij", sparse=True)
    radius = np.sqrt(k * k + j * j + i * i)
    waves = 1 + 0.6 * np.sin(9 * k) * np.sin(7 * j + 1) * np.sin(8 * i + 2)  # doubt is not the same all over
    labels = np.zeros(shape, np.uint8)
    error = np.zeros(shape, np.float32)
    width = thickness / (np.mean(shape) / 2)
    for value, edge in enumerate(radii, start=1):
        labels[radius < edge] = value
        np.maximum(error, 0.5 * waves * np.exp(-(((radius - edge) / width) ** 2)), out=error)
    grid = Geometry(shape[::-1], (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3))
    return Case(name, Volume(np.clip(error, 0, 1), grid), Volume(labels, grid), _structures(len(radii)))


def stand_ins() -> tuple[Case, ...]:
    """A head and a crop."""
    return (
        shells("made-up head", (189, 233, 197), np.linspace(0.7, 0.1, 9).tolist(), 1.5),
        shells("made-up hippocampus crop", (36, 50, 35), (0.5, 0.3), 1.0),
    )


def read(folder: Path) -> Case:
    """What an output folder holds."""
    from DIANetLib.formats.image import read_volume

    labels = read_volume(folder / "labels.nii.gz")
    labels = labels.with_array(labels.array.astype(np.uint16))
    record = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    name = f"{folder.name} ({record['model']['name']})"
    error = read_volume(folder / "error_probability.nrrd")
    return Case(name, error, labels, _structures(int(labels.array.max())))


def _structures(count: int) -> tuple[Structure, ...]:
    code = Code("99TEST", "structure", "Structure")
    return tuple(
        Structure(n, f"structure_{n}", f"Structure {n}", (200, 40, 0), ANATOMICAL_STRUCTURE, code)
        for n in range(1, count + 1)
    )


def main(argv: list[str] | None = None) -> int:
    """Print the figures of each case."""
    parser = argparse.ArgumentParser(description="How fast a worklist is ranked anew.")
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="default: two stand-ins")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(argv)
    for case in [read(folder) for folder in options.folders] or stand_ins():
        cost = measure(case, repeats=options.repeats)
        size = " × ".join(map(str, case.error.geometry.size))
        print(f"{case.name}: {size} voxels, {cost.counted:,} from {THRESHOLDS[0]:.2f} on")
        print(f"finder, once            {cost.build_s * 1000:8.1f} ms")
        print(f"first list              {cost.first_s * 1000:8.1f} ms")
        print(f"list, median            {cost.median_s * 1000:8.1f} ms")
        print(f"list, slowest           {cost.worst_s * 1000:8.1f} ms")
        print(f"list, processor time    {cost.processor_s * 1000:8.1f} ms")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
