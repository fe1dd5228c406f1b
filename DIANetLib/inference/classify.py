# SPDX-License-Identifier: Apache-2.0
"""Classifying whole images: volumes in, probabilities and how sure they are out (16-18, 31-35).

The network reads the image at once, or each slice of it if it reads slices; the mean over the slices is what
counts. A network of pictures (orientation "source") was fitted on pictures of one size, whatever an object in
them measures: others are resampled to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from DIANetLib.bundle_schema import ClassSpec
from DIANetLib.errors import DeviceError, InputError
from DIANetLib.inference.classification import Classification, Classified, summarise
from DIANetLib.inference.engine import Model, assign_modalities, with_missing
from DIANetLib.inference.grid import for_inference
from DIANetLib.inference.memory import describe_device, divisors, is_out_of_memory, resolve_device
from DIANetLib.inference.meter import Meter
from DIANetLib.inference.prediction import Box, Progress
from DIANetLib.inference.sampling import autocast, check_draws, interruptible, sample_generators
from DIANetLib.inference.sliding_window import Sizes, Window, round_up
from DIANetLib.modalities import missing_sentence
from DIANetLib.network import DIANet
from DIANetLib.preprocess import Prepared, PreprocessConfig, on_one_grid, prepare
from DIANetLib.volume import Geometry, Volume

__all__ = ["ClassModel", "Classifier", "classify_prepared", "whole_image_windows"]


class ClassModel(Model, Protocol):
    """What is asked of a model that classifies; `DIANetLib.bundle.LoadedModel` has all of it."""

    @property
    def classes(self) -> tuple[ClassSpec, ...]:
        """What the classification head's logits stand for."""


class Classifier:
    """Classifies images with one model; the network stays loaded between calls.

    Args:
        model: The model.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        DeviceError: The device is not there.
        InputError: The model does not classify.
    """

    def __init__(self, model: ClassModel, device: str = "auto") -> None:
        if not model.classes:
            raise InputError(
                f"model '{model.name}' does not classify images.",
                remedy="Choose a model that has classes; `dianet models` lists what each model does.",
            )
        self.model = model
        self.device = resolve_device(device)

    def classify(
        self,
        volumes: Sequence[Volume],
        *,
        samples: int = 10,
        seed: int = 0,
        roi: Box | None = None,
        progress: Callable[[Progress], None] | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> Classified:
        """Classify one image.

        Args:
            volumes: As for `DIANetLib.inference.engine.Segmenter.segment`.
            samples: Stochastic passes, T; 0 is one plain pass.
            seed: Equal seeds give equal results.
            roi: Only this part is looked at, LPS mm.
            progress: Called with every step.
            cancel: Asked before every layer of the network; True ends the call.

        Raises:
            Cancelled: ``cancel`` said so.
            DeviceError: Memory does not suffice, not even on the CPU.
            InputError: The volumes are not what the model needs.
        """
        check_draws(samples, seed)
        model, meter, warnings = self.model, Meter(progress, cancel), []
        flat = model.network(self.device).config.spatial_dims == 2
        with meter.stage("prepare"):
            assigned = assign_modalities(model, volumes)
            available = tuple(volume is not None for volume in assigned)
            missing = missing_sentence(model.modalities, available, model.name)
            aligned, notes = on_one_grid([volume for volume in assigned if volume is not None])
            if not flat and min(aligned[0].geometry.size) == 1:
                raise InputError(
                    f"model '{model.name}' needs a volume, got a single slice.",
                    remedy="Give the whole series, or choose a 2-D model.",
                )
            config, note = _fitted(model.preprocess, aligned[0].geometry, model.window, flat=flat)
            prepared = with_missing(prepare(aligned, config, region=roi), available)
            warnings += [*([missing] if missing else []), *notes, *prepared.warnings, *note]
        with meter.stage("classify", max(samples, 1)):
            try:
                found = self._run(prepared, available, samples, seed, meter)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if self.device.type == "cpu":
                    raise DeviceError(
                        "memory does not suffice to read the whole image at once.",
                        remedy="Close other programs, or give a smaller region with --roi.",
                    ) from error
                warnings.append(f"Memory ran out on {self.device}; went on on the CPU.")
                self.device = torch.device("cpu")
                meter.extend(max(samples, 1))
                found = self._run(prepared, available, samples, seed, meter)
        return Classified(
            classification=found,
            prepared=prepared,
            available=available,
            image=aligned[0],
            model=model.ref,
            device=describe_device(self.device),
            timings=meter.timings,
            warnings=tuple(dict.fromkeys(warnings)),
            missing_modalities=tuple(
                spec.name for spec, there in zip(model.modalities, available, strict=True) if not there
            ),
        )

    def _run(
        self, prepared: Prepared, available: tuple[bool, ...], samples: int, seed: int, meter: Meter
    ) -> Classification:
        network = for_inference(self.model.network(self.device), self.device)
        with interruptible(network, meter.check):
            return classify_prepared(
                network,
                prepared.array,
                self.model.classes,
                self.model.window,
                available=available,
                samples=samples,
                seed=seed,
                on_sample=lambda: meter.advance(1),
            )


@torch.inference_mode()
def classify_prepared(
    network: DIANet,
    image: npt.NDArray[np.float32],
    classes: Sequence[ClassSpec],
    window: tuple[int, int, int],
    *,
    available: Sequence[bool],
    samples: int,
    seed: int = 0,
    on_sample: Callable[[], None] = lambda: None,
) -> Classification:
    """Classify an image that lies on the network's grid.

    Args:
        network: In evaluation mode; it runs where its weights are.
        image: (M, k, j, i).
        classes: What its logits stand for, each with its temperature.
        window: Voxels (i, j, k) that it was fitted with.
        available: Per modality whether it is there.
        samples: T; 0 is one plain pass.
        seed: Of the samples.
        on_sample: Called after each of them.
    """
    device = next(network.parameters()).device
    flat = network.config.spatial_dims == 2
    there = None if all(available) else torch.tensor([list(available)], device=device)
    temperatures = torch.tensor([entry.temperature for entry in classes])
    source = torch.from_numpy(image)
    windows = whole_image_windows(network, image.shape[1:], window)
    encoded = []
    for part in windows:
        x = part.cut(source)[None].to(device)
        with autocast(device):
            encoded.append(network.encode(x.squeeze(2) if flat else x, there, heads=["classification"]))
    rows = []
    for sample in range(max(samples, 1)):
        each = []
        for part, features in zip(windows, encoded, strict=True):
            generators = sample_generators(seed, part.index, [sample]) if samples else None
            with autocast(device):
                output = network.decode(features, generators, heads=["classification"])
            logits = output.classified.logits
            # Of log-probabilities: what is added to all logits alike must not matter, whatever divides them.
            tempered = torch.log_softmax(logits.float().cpu(), dim=1) / temperatures
            each.append(torch.softmax(tempered, dim=1)[0])
        rows.append(torch.stack(each).mean(0).double().numpy())
        on_sample()
    return summarise(np.stack(rows), classes, stochastic=samples)


def whole_image_windows(network: DIANet, shape: Sizes, window: tuple[int, int, int]) -> tuple[Window, ...]:
    """One window around a whole image (k, j, i), or around every slice of it for a network of slices.

    It is at least as large as the window (i, j, k) that the network was fitted with.
    """
    divisor = divisors(network.config)
    padded = tuple(round_up(max(n, w), d) for n, w, d in zip(shape, window[::-1], divisor, strict=True))
    if network.config.spatial_dims == 3:
        return (Window(0, (0, 0, 0), tuple(shape), padded),)
    return tuple(Window(k, (k, 0, 0), (1, *shape[1:]), (1, *padded[1:])) for k in range(shape[0]))


def _fitted(
    config: PreprocessConfig, grid: Geometry, window: tuple[int, int, int], *, flat: bool
) -> tuple[PreprocessConfig, tuple[str, ...]]:
    """The preprocessing for an image on a grid, and what the user should know about it."""
    size, wanted = grid.size[:2], window[:2]
    if size == wanted:
        return config, ()
    pixels = " × ".join(map(str, size)), " × ".join(map(str, wanted))
    if flat and config.orientation == "source":
        i, j = (extent / n for extent, n in zip(grid.extent_mm, wanted, strict=False))
        note = f"The image of {pixels[0]} pixels was resampled to {pixels[1]}, what the model was fitted on."
        return config.model_copy(update={"spacing_mm": (i, j, None)}), (note,)
    return config, ()
