# SPDX-License-Identifier: Apache-2.0
"""What uncertainty costs: T samples with all maps, and one pass with all maps, in plain passes.

    python -m Testing.benchmarks.sampling_cost [MODEL] [--samples T] [--repeats N] [--threads N] [--device D]
        [--cpu-time]

MODEL is the name of an installed model or a model folder. Without one, or with `random`, a network of
random weights stands in that is built like the shipped hippocampus model. Both sides are the same code on
the same window, from the prepared image in memory to maps in memory; they alternate, and medians are
compared, so that what else the machine does hits both alike; `--cpu-time` counts only what this process
computes, for machines that have much else to do.

The plain pass is the network's forward and the softmax. With samples it is the same encoder once, the
decoder T times, and total, aleatoric, epistemic, variance and heteroscedastic maps. One pass is the plain
pass, the one-pass head (of random weights where the model has none) and all these maps and the error's.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a file: the repository is not on the path then
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import Tensor

from DIANetLib.bundle import load_bundle
from DIANetLib.inference.grid import for_inference
from DIANetLib.inference.memory import describe_device, make_plan, resolve_device
from DIANetLib.inference.sampling import autocast, sample_window
from DIANetLib.network import DIANet, NetworkConfig
from DIANetLib.network.one_pass import OnePassHead

#: The network of training/configs/hippocampus.yaml, and its window (k, j, i).
HIPPOCAMPUS = NetworkConfig(
    classes=3, widths=(16, 32, 96, 128), blocks=(1, 1, 1, 1), strides=(2, 2, 2), latent=None
)
HIPPOCAMPUS_WINDOW = (48, 64, 48)


@dataclass(frozen=True)
class Cost:
    """Medians over the repeats.

    Attributes:
        plain_s: Seconds of one plain pass.
        sampled_s: Seconds of T samples with all maps.
        samples: T.
        one_pass_s: Seconds of one pass that a one-pass head reads, with all maps.
    """

    plain_s: float
    sampled_s: float
    samples: int
    one_pass_s: float

    @property
    def ratio(self) -> float:
        """T samples with all maps, in plain passes."""
        return self.sampled_s / self.plain_s

    @property
    def one_pass_ratio(self) -> float:
        """One pass with all maps, in plain passes."""
        return self.one_pass_s / self.plain_s


def measure(
    network: DIANet,
    x: Tensor,
    *,
    samples: int,
    batch: int,
    repeats: int,
    temperature: float = 1.0,
    head: OnePassHead | None = None,
    mirrored: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> Cost:
    """Time all sides alternately on a window (1, M, *S), after one unmeasured round of each.

    Samples are mirrored, every other one, where the model's are.
    """
    config = network.config
    reader = (
        OnePassHead(config.spatial_dims, config.widths[0], config.classes).to(x.device).eval()
        if head is None
        else head
    )

    def plain() -> None:
        with torch.inference_mode():
            with autocast(x.device):
                output = network(x)
            output.segmented.probabilities(temperature)

    def sampled() -> None:
        sample_window(network, x, samples=samples, batch=batch, temperature=temperature, mirrored=mirrored)

    def one_pass() -> None:
        sample_window(network, x, samples=0, temperature=temperature, head=reader)

    seconds: dict[Callable[[], None], list[float]] = {plain: [], sampled: [], one_pass: []}
    for round_ in range(repeats + 1):
        for work, times in seconds.items():
            start = clock()
            work()
            if x.device.type == "cuda":
                torch.cuda.synchronize(x.device)
            if round_:
                times.append(clock() - start)
    plain_s, sampled_s, one_pass_s = (statistics.median(times) for times in seconds.values())
    return Cost(plain_s, sampled_s, samples, one_pass_s)


def main(argv: list[str] | None = None) -> int:
    """Print the numbers."""
    parser = argparse.ArgumentParser(description="What uncertainty costs, in plain passes.")
    parser.add_argument("model", nargs="?", default="random", help="a model's name or folder, or 'random'")
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="threads of PyTorch; 0 leaves its own choice")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cpu-time", action="store_true", help="count what this process computes, on CPUs")
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)

    device = resolve_device(options.device)
    if options.model == "random":
        torch.manual_seed(0)
        network, window, name = DIANet(HIPPOCAMPUS).to(device), HIPPOCAMPUS_WINDOW, "random weights"
        head, mirrored = None, False
    else:
        model = load_bundle(options.model)
        network, window, name = model.network(device), model.window[::-1], model.name
        head, mirrored = model.one_pass_head(device), model.mirror_samples
    network = for_inference(network, device)
    plan = make_plan(network.config, window, window, device, samples=options.samples, free_bytes=None)
    size = plan.window if network.config.spatial_dims == 3 else plan.window[1:]
    x = torch.randn(1, network.config.modalities, *size, generator=torch.Generator().manual_seed(0)).to(
        device
    )
    cost = measure(
        network,
        x,
        samples=options.samples,
        batch=plan.batch,
        repeats=options.repeats,
        head=head,
        mirrored=mirrored,
        clock=time.process_time if options.cpu_time else time.perf_counter,
    )

    print(f"{name}: window {' × '.join(map(str, size))}, {describe_device(device)}, ", end="")
    print(f"{torch.get_num_threads()} threads, median of {options.repeats}")
    print(f"one plain pass          {cost.plain_s:8.3f} s")
    print(f"{cost.samples:3d} samples, all maps   {cost.sampled_s:8.3f} s{', mirrored' if mirrored else ''}")
    print(f"ratio                   {cost.ratio:8.2f}")
    print(f"one pass, all maps      {cost.one_pass_s:8.3f} s")
    print(f"ratio                   {cost.one_pass_ratio:8.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
