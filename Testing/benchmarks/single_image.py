# SPDX-License-Identifier: Apache-2.0
"""A pass over a single crop on the CPU, beside the same network with PyTorch's choice of convolutions.

    python -m Testing.benchmarks.single_image [MODEL] [--voxels K J I] [--threads N] [--repeats N]

For batches of one PyTorch leaves oneDNN out at coarse scales (`DIANetLib.network.blocks.Conv3d`). Both take
turns in one process; what counts is their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from unittest import mock

if not __package__:  # run as a file: the repository is not on the path then
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from DIANetLib.bundle import load_bundle
from DIANetLib.errors import DIANetError
from DIANetLib.inference.grid import for_inference
from DIANetLib.network import DIANet, blocks


def seconds(network: DIANet, x: torch.Tensor) -> float:
    """Processor time of a plain pass."""
    start = time.process_time()
    with torch.inference_mode():
        network(x)
    return time.process_time() - start


def compare(network: DIANet, x: torch.Tensor, repeats: int) -> tuple[float, float]:
    """Medians over the repeats, seconds: ours, and with PyTorch's choice."""
    ours, theirs = [], []
    for round_ in range(repeats + 1):
        first = seconds(network, x)
        with mock.patch.object(blocks, "_declined", return_value=False):
            second = seconds(network, x)
        if round_:  # the first warms up
            ours.append(first)
            theirs.append(second)
    return statistics.median(ours), statistics.median(theirs)


def main(argv: list[str] | None = None) -> int:
    """Print both and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", nargs="?", default="hippocampus")
    parser.add_argument("--voxels", nargs=3, type=int, default=(40, 56, 40), metavar=("K", "J", "I"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    try:
        model = load_bundle(given.model)
        network = for_inference(model.network("cpu"), torch.device("cpu"))
        x = torch.randn((1, len(model.modalities), *given.voxels), generator=torch.Generator().manual_seed(0))
        ours, theirs = compare(network, x, given.repeats)
    except DIANetError as error:
        print(f"single_image: error: {error}", file=sys.stderr)
        return 2
    size = " x ".join(map(str, given.voxels))
    print(f"{given.model}, {size}, {given.threads} thread(s), {given.repeats} rounds")
    print(f"ours {ours:.3f} s, PyTorch's choice {theirs:.3f} s: {theirs / ours:.2f} times as long")
    return 0


if __name__ == "__main__":
    sys.exit(main())
