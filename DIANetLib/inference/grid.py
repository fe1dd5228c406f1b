# SPDX-License-Identifier: Apache-2.0
"""One prepared image through one network: windows, samples, blending, and retreat when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from DIANetLib.acwi.uncertainty import UncertaintyMaps
from DIANetLib.errors import DeviceError
from DIANetLib.inference.memory import Plan, available_bytes, divisors, is_out_of_memory, make_plan, retreat
from DIANetLib.inference.meter import Meter
from DIANetLib.inference.sampling import interruptible, sample_window
from DIANetLib.inference.sliding_window import Blend, Sizes, Window, plan_windows
from DIANetLib.network import DIANet, NetworkConfig
from DIANetLib.network.one_pass import OnePassHead

__all__ = ["GridRun", "NetworkSource", "for_inference", "segmentation_layers"]


class NetworkSource(Protocol):
    """What is asked of a model here."""

    @property
    def window(self) -> tuple[int, int, int]:
        """Voxels (i, j, k) read at a time."""

    @property
    def temperature(self) -> float:
        """What the logits are divided by."""

    @property
    def mirror_samples(self) -> bool:
        """Whether every other sample reads the image mirrored left to right."""

    def network(self, device: str | torch.device = ...) -> DIANet:
        """The network in evaluation mode on ``device``, the same object at every call."""

    def one_pass_head(self, device: str | torch.device = ...) -> OnePassHead | None:
        """What tells from one pass what samples would, on ``device``; None where there is none."""


class GridRun:
    """The passes of one model through one prepared image.

    Args:
        model: The model.
        image: (M, k, j, i) float32, normalised.
        device: Where to run.
        available: Per modality whether it is there; None for all of them.
        samples: T; 0 is one plain pass.
        seed: Seed of the run.
        first_window: Number of the first window, part of its samples' seeds.
        pooled: Also pool what the encoder saw.
        one_pass: Have the model's one-pass head read the plain pass, in place of samples.

    Attributes:
        plan: Device, window and batch; what is left of them after the run.
        windows: How the image is cut.
        warnings: A sentence for every retreat.
    """

    def __init__(
        self,
        model: NetworkSource,
        image: npt.NDArray[np.float32],
        device: torch.device,
        *,
        available: Sequence[bool] | None = None,
        samples: int,
        seed: int = 0,
        first_window: int = 0,
        pooled: bool = False,
        one_pass: bool = False,
    ) -> None:
        self.model, self.image = model, torch.from_numpy(image)
        self.available = None if available is None or all(available) else torch.tensor([list(available)])
        self.samples, self.seed, self.first_window = samples, seed, first_window
        self.pooled, self.one_pass = pooled, one_pass and not samples
        self.config: NetworkConfig = model.network(device).config
        self.warnings: list[str] = []
        self.plan = self._planned(device)
        self.windows = self._cut()

    @property
    def steps(self) -> int:
        """Passes that a meter will count."""
        return len(self.windows) * max(self.samples, 1)

    def move(self, device: torch.device) -> None:
        """Plan anew for another device."""
        self.plan = self._planned(device)
        self.windows = self._cut()

    def maps(self, meter: Meter) -> UncertaintyMaps:
        """Do the passes; maps (K, k, j, i) and (k, j, i) on the CPU.

        Raises:
            Cancelled: The meter said so.
            DeviceError: Memory does not suffice for the smallest window on the CPU.
        """
        position, blend = 0, self._blend()
        while True:
            try:
                network = for_inference(self.model.network(self.plan.device), self.plan.device)
                with interruptible(network, meter.check):
                    while position < len(self.windows):
                        maps = self._window(network, self.windows[position], meter.advance)
                        if blend is None:
                            return maps
                        blend.add(self.windows[position], maps)
                        position += 1
                assert blend is not None  # without one the only window has returned
                return blend.finish()
            except Exception as error:
                if not self._is_reason_to_retreat(error):
                    raise
                reason = error.with_traceback(None)  # its frames hold the tensors of the pass that failed
            windows = self.windows
            self._retreat(reason)
            if self.windows is not windows:
                meter.extend(self.steps)
                position, blend = 0, self._blend()
            else:
                meter.extend(max(self.samples, 1))

    def _window(self, network: DIANet, window: Window, on_samples: Callable[[int], None]) -> UncertaintyMaps:
        flat = self.config.spatial_dims == 2
        x = window.cut(self.image).unsqueeze(0)
        maps = sample_window(
            network,
            (x.squeeze(2) if flat else x).to(self.plan.device),
            available=None if self.available is None else self.available.to(self.plan.device),
            samples=self.samples,
            seed=self.seed,
            window=self.first_window + window.index,
            batch=self.plan.batch,
            temperature=self.model.temperature,
            valid=None if window.size == window.padded else window.valid[1 if flat else 0 :],
            counted=None if window.counted is None else window.counted[1 if flat else 0 :],
            on_samples=on_samples,
            pooled=self.pooled,
            head=self.model.one_pass_head(self.plan.device) if self.one_pass else None,
            mirrored=self.model.mirror_samples,
        )
        return _on_cpu(maps, flat)

    def _cut(self) -> tuple[Window, ...]:
        return plan_windows(tuple(self.image.shape[1:]), self.plan.window, divisors(self.config))

    def _planned(self, device: torch.device) -> Plan:
        shape: Sizes = tuple(self.image.shape[1:])
        free = available_bytes(device)
        return make_plan(
            self.config, shape, self.model.window[::-1], device, samples=self.samples, free_bytes=free
        )

    def _blend(self) -> Blend | None:
        if len(self.windows) == 1:
            return None
        shape = tuple(self.image.shape[1:])
        return Blend(self.config.classes, shape, max(self.samples, 1), one_pass=self.one_pass)

    def _is_reason_to_retreat(self, error: Exception) -> bool:
        # Apple's GPUs lack some operations.
        unsupported = self.plan.device.type == "mps" and isinstance(error, NotImplementedError)
        return unsupported or is_out_of_memory(error)

    def _retreat(self, reason: Exception) -> None:
        before = self.plan
        if isinstance(reason, NotImplementedError):
            self.plan = replace(before, device=torch.device("cpu"))
            note = f"{before.device} lacks an operation that the network needs; went on on the CPU."
        else:
            step = retreat(before, self.config)
            if step is None:
                raise DeviceError(
                    "memory does not suffice for the smallest window on the CPU.",
                    remedy="Close other programs, or give a smaller region with --roi.",
                ) from reason
            self.plan, note = step
        self.warnings.append(note)
        if before.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.plan.device != before.device:
            self.plan = self._planned(self.plan.device)
        if self.plan.window != before.window:
            self.windows = self._cut()


def for_inference(network: DIANet, device: torch.device) -> DIANet:
    """The network with its weights in the memory layout that convolutions are fastest in."""
    if device.type == "cpu":
        # Measured: a third faster than contiguous weights for 3-D convolutions in oneDNN.
        flat = network.config.spatial_dims == 2
        layout = torch.channels_last if flat else torch.channels_last_3d
        network.to(memory_format=layout)  # type: ignore[call-overload] # PyTorch's stubs lack it
    return network.eval()


def segmentation_layers(model: DIANet) -> tuple[str, ...]:
    """Names of the layers that a segmentation can be explained at, the default first."""
    return tuple(name for name in model.explainable_layers() if not name.startswith("classification."))


def _on_cpu(maps: UncertaintyMaps, flat: bool) -> UncertaintyMaps:
    """The maps on the CPU, those of a slice as volumes of one slice."""

    def moved(tensor: Tensor, axis: int) -> Tensor:
        tensor = tensor.cpu()
        return tensor.unsqueeze(axis) if flat else tensor

    return UncertaintyMaps(
        mean_probability=moved(maps.mean_probability, 1),
        total=moved(maps.total, 0),
        aleatoric=moved(maps.aleatoric, 0),
        epistemic=moved(maps.epistemic, 0),
        variance=moved(maps.variance, 1),
        heteroscedastic=None if maps.heteroscedastic is None else moved(maps.heteroscedastic, 0),
        samples=maps.samples,
        overlaps=maps.overlaps,
        pooled=maps.pooled,
        error=None if maps.error is None else moved(maps.error, 0),
    )
