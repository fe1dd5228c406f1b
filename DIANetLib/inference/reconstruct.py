# SPDX-License-Identifier: Apache-2.0
"""Denoising an image, equations (3, 4, 20, 21): the reconstruction head's image on the input's grid.

What the head changes is a correction of the image that it reads. That correction is what is brought back to
the input's grid and added to the input's own voxels: where nothing is corrected they stay what they were, at
their own resolution, also beyond the range that the network's intensities are clipped to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from DIANetLib.bundle_schema import ReconstructionSpec
from DIANetLib.errors import InputError
from DIANetLib.inference.engine import Model
from DIANetLib.inference.grid import for_inference
from DIANetLib.inference.memory import (
    Plan,
    available_bytes,
    describe_device,
    divisors,
    is_out_of_memory,
    make_plan,
    resolve_device,
)
from DIANetLib.inference.meter import Meter
from DIANetLib.inference.prediction import Progress
from DIANetLib.inference.reconstruction import Reconstruction
from DIANetLib.inference.sampling import autocast, check_draws, interruptible, sample_generators
from DIANetLib.inference.sliding_window import Window, gaussian_weights, plan_windows
from DIANetLib.preprocess import Prepared, deviation_of, part_of, prepare, restore
from DIANetLib.volume import Volume

__all__ = ["ReconstructionModel", "Reconstructor", "check_denoises"]

FloatArray = npt.NDArray[np.float32]


class ReconstructionModel(Model, Protocol):
    """What is asked of a model that reconstructs; `DIANetLib.bundle.LoadedModel` has all of it."""

    @property
    def reconstruction(self) -> ReconstructionSpec | None:
        """What the reconstruction head is for."""


class Reconstructor:
    """Reconstructs images with one model; the network stays loaded between calls.

    Args:
        model: The model.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        DeviceError: The device is not there.
        InputError: The model does not denoise images of one channel.
    """

    def __init__(self, model: ReconstructionModel, device: str = "auto") -> None:
        check_denoises(model)
        self.model = model
        self.device = resolve_device(device)

    def reconstruct(
        self,
        image: Volume,
        *,
        samples: int = 10,
        seed: int = 0,
        progress: Callable[[Progress], None] | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> Reconstruction:
        """Reconstruct one image.

        Args:
            image: What was observed.
            samples: Stochastic passes, T; 0 is one plain pass.
            seed: Equal seeds give equal results.
            progress: Called with every step.
            cancel: Asked before every layer of the network; True ends the call.

        Raises:
            Cancelled: ``cancel`` said so.
            InputError: The image is not what the model needs.
        """
        check_draws(samples, seed)
        model, meter = self.model, Meter(progress, cancel)
        warnings: list[str] = []
        with meter.stage("prepare"):
            config = model.network(self.device).config
            if config.spatial_dims == 3 and min(image.geometry.size) == 1:
                raise InputError(
                    f"model '{model.name}' needs a volume, got a single slice.",
                    remedy="Give the whole series, or choose a 2-D model.",
                )
            prepared = prepare([image], model.preprocess)
            warnings += prepared.warnings
            unit = deviation_of(part_of(image.array, prepared), model.preprocess.clip_percentiles)
        with meter.stage("reconstruct"):
            try:
                correction, deviation = self._run(prepared, samples, seed, meter)
            except Exception as error:
                if not is_out_of_memory(error) or self.device.type == "cpu":
                    raise
                warnings.append(f"Memory ran out on {self.device}; went on on the CPU.")
                self.device = torch.device("cpu")
                correction, deviation = self._run(prepared, samples, seed, meter)
        with meter.stage("restore"):
            whole = image.array.astype(np.float32) + restore(correction, prepared) * np.float32(unit)
            spread = restore(deviation, prepared) * np.float32(unit)
        return Reconstruction(
            image=image.with_array(whole, name=f"{image.name or 'image'} reconstruction"),
            deviation=image.with_array(spread, name=f"{image.name or 'image'} deviation"),
            observed=image,
            samples=samples,
            model=model.ref,
            device=describe_device(self.device),
            timings=meter.timings,
            warnings=tuple(warnings),
        )

    @torch.inference_mode()
    def _run(
        self, prepared: Prepared, samples: int, seed: int, meter: Meter
    ) -> tuple[FloatArray, FloatArray]:
        """Correction and deviation over the samples on the network's grid, (k, j, i), of unit deviation."""
        network = for_inference(self.model.network(self.device), self.device)
        source = torch.from_numpy(prepared.array)
        plan = self._plan(prepared, samples)
        windows = plan_windows(prepared.array.shape[1:], plan.window, divisors(network.config))
        flat = network.config.spatial_dims == 2
        total, square = torch.zeros(2, *prepared.array.shape[1:])
        weight = torch.zeros(prepared.array.shape[1:])
        meter.extend(len(windows) * max(samples, 1) - 1)
        with interruptible(network, meter.check):
            for part in windows:
                x = part.cut(source)[None].to(self.device)
                x = x.squeeze(2) if flat else x
                with autocast(self.device):
                    encoded = network.encode(x, heads=["reconstruction"])
                weights = gaussian_weights(part.size)
                for sample in range(max(samples, 1)):
                    generators = sample_generators(seed, part.index, [sample]) if samples else None
                    with autocast(self.device):
                        output = network.decode(encoded, generators, heads=["reconstruction"])
                        made = output.reconstructed.image
                    change = _inside((made.float() - x)[0, 0].cpu(), part, flat=flat)
                    total[part.slices] += change * weights
                    square[part.slices] += change.square() * weights
                    meter.advance()
                weight[part.slices] += weights * max(samples, 1)
        mean = total / weight
        deviation = (square / weight - mean.square()).clamp_min(0.0).sqrt()
        if samples < 2:  # windows that disagree are no samples
            deviation.zero_()
        return mean.numpy(), deviation.numpy()

    def _plan(self, prepared: Prepared, samples: int) -> Plan:
        config = self.model.network(self.device).config
        shape = prepared.array.shape[1:]
        free = available_bytes(self.device)
        return make_plan(
            config, shape, self.model.window[::-1], self.device, samples=min(samples, 1), free_bytes=free
        )


def check_denoises(model: ReconstructionModel) -> None:
    """Refuse models that do not make an image of one channel from a noisy one.

    Raises:
        InputError: With the reason.
    """
    spec = model.reconstruction
    if spec is None:
        raise InputError(
            f"model '{model.name}' does not reconstruct images.",
            remedy="Choose a model that does; `dianet models` lists what each model does.",
        )
    if spec.task != "denoising" or len(model.modalities) != 1 or model.preprocess.normalisation != "zscore":
        raise InputError(
            f"model '{model.name}' is for {spec.task} with {len(model.modalities)} channels, expected one"
            " that denoises images of one channel.",
            remedy="`python -m training evaluate` runs such models on measured k-space.",
        )


def _inside(window: torch.Tensor, part: Window, *, flat: bool) -> torch.Tensor:
    """What of a window (*S) is image, as (k, j, i)."""
    volume = window.unsqueeze(0) if flat else window
    return volume[part.valid]
