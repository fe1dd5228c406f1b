# SPDX-License-Identifier: Apache-2.0
"""What a warm worker saves: the second request of a session against the first, in the same run.

    python -m Testing.benchmarks.warm_worker [MODEL] [--image FILE] [--samples T] [--rounds N] [--device D]

Each round starts a worker of its own. The first request is timed from the start of the process, as a user's
first click is: imports, reading the weights, segmenting, files. The second one is the same request again.
Without an image, a crop of 40 mm of noise stands in, on which the hippocampus model needs no localiser.
Import times depend on whether the operating system still has the files in memory: the first round may be
slower than the others.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a file: the repository is not on the path then
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from DIANetLib.volume import Geometry, Volume
from DIANetLib.worker.client import LocalWorker
from DIANetLib.worker.protocol import Segment, Segmented


@dataclass(frozen=True)
class Saving:
    """Medians over the rounds.

    Attributes:
        first_s: Seconds from starting the process to the first result.
        second_s: Seconds of the same request again.
    """

    first_s: float
    second_s: float

    @property
    def ratio(self) -> float:
        """How many times faster the second request is."""
        return self.first_s / self.second_s


def crop(size: tuple[int, int, int] = (40, 40, 40)) -> Volume:
    """Smooth noise, 1 mm, small enough to be taken for a crop around one structure."""
    geometry = Geometry(size, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.diag([-1.0, -1.0, 1.0]))
    array = np.random.default_rng(0).normal(size=geometry.shape).cumsum(axis=0)
    return Volume(array.astype(np.float32), geometry, "crop", "T1")


def measure(
    model: str, image: Volume, *, samples: int, rounds: int = 1, device: str = "cpu", base: Path | None = None
) -> Saving:
    """Time first and second request in workers of their own.

    Args:
        model: Name of a model or its folder.
        image: What to segment.
        samples: Stochastic passes.
        rounds: Workers to start.
        device: Where to run.
        base: Where the exchange folder is made.
    """
    first, second = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        with LocalWorker(base=base) as worker:
            _request(worker, "first", model, image, samples, device)
            first.append(time.perf_counter() - start)
            start = time.perf_counter()
            _request(worker, "second", model, image, samples, device)
            second.append(time.perf_counter() - start)
    return Saving(statistics.median(first), statistics.median(second))


def _request(worker: LocalWorker, name: str, model: str, image: Volume, samples: int, device: str) -> None:
    assert worker.exchange is not None
    shared = worker.exchange.write(image)
    result = worker.ask(Segment(name, model, (shared,), device=device, samples=samples))
    assert isinstance(result, Segmented)
    worker.exchange.delete(shared, result.labels, *(entry.volume for entry in result.maps))


def main(argv: list[str] | None = None) -> int:
    """Print the three numbers."""
    parser = argparse.ArgumentParser(description="What a warm worker saves.")
    parser.add_argument("model", nargs="?", default="hippocampus", help="a model's name or folder")
    parser.add_argument("--image", type=Path, help="default: a crop of noise")
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(argv)
    if options.image is None:
        image = crop()
    else:
        from DIANetLib.formats.image import read_volume

        image = read_volume(options.image)
    saving = measure(
        options.model, image, samples=options.samples, rounds=options.rounds, device=options.device
    )
    size = " × ".join(map(str, image.geometry.size))
    print(f"{options.model}: {size} voxels, {options.samples} samples, {options.device}, ", end="")
    print(f"median of {options.rounds}")
    print(f"first request           {saving.first_s:8.3f} s")
    print(f"second request          {saving.second_s:8.3f} s")
    print(f"ratio                   {saving.ratio:8.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
