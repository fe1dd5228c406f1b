# SPDX-License-Identifier: Apache-2.0
"""A fitted network on trial: what the product's engine asks of a model, before there is a bundle.

So the figures of an evaluation come from the very code that users run: preparation, windows, samples, maps
and their way back to the source grid.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from DIANetLib.acwi.error_calibration import ErrorCalibration
from DIANetLib.acwi.familiarity import FamiliarityModel
from DIANetLib.acwi.metrics import dilated_mask
from DIANetLib.acwi.quality import QualityModel
from DIANetLib.bundle_schema import ClassSpec, LocaliserSpec, ModalitySpec, OnePassSpec
from DIANetLib.errors import InputError
from DIANetLib.inference.memory import divisors
from DIANetLib.inference.prediction import ModelRef
from DIANetLib.inference.sampling import sample_generators
from DIANetLib.inference.sliding_window import usual_windows
from DIANetLib.network import DIANet, DIANetOutput, Encoded, Head
from DIANetLib.network.one_pass import OnePassHead
from DIANetLib.operators import ForwardOperator
from DIANetLib.preprocess import PreprocessConfig
from DIANetLib.structures import Code, Structure
from DIANetLib.volume import Volume
from training.config import CodeConfig, DataConfig, TrainingConfig
from training.datasets import Case, PreparedCase, SourceCase
from training.fitted import FittedModel

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Trial:
    """A fit and the cases that judge it.

    Attributes:
        fitted: the fit.
        network: its network, in evaluation mode on the device that is used.
        held_out: cases that neither the weights nor the temperature have seen.
        inner: cases that set the temperature.
        folder: where the figures of single cases are kept.
        samples: T.
        seed: of samples, masks and bootstrap.
        elsewhere: how the held-out cases are read if they are of another data set than the fit's.
    """

    fitted: FittedModel
    network: DIANet
    held_out: tuple[Case, ...]
    inner: tuple[Case, ...]
    folder: Path
    samples: int = 10
    seed: int = 0
    elsewhere: DataConfig | None = None

    @property
    def config(self) -> TrainingConfig:
        """The configuration, with its present words and names."""
        return self.fitted.config

    @property
    def reading(self) -> TrainingConfig:
        """The configuration by which held-out cases are read."""
        config = self.fitted.config
        return config if self.elsewhere is None else config.model_copy(update={"data": self.elsewhere})

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device


class PlainDIANet(DIANet):
    """The peer of the uncertainty maps: one pass of the same network, softmax of its logit means."""

    def decode(
        self,
        encoded: Encoded,
        generators: Sequence[torch.Generator] | None = None,
        times: torch.Tensor | None = None,
        operator: ForwardOperator | None = None,
        heads: Collection[Head] | None = None,
        *,
        keep_features: bool = False,
    ) -> DIANetOutput:
        """The mean pass, whatever is asked for, without the predicted logit noise."""
        output = super().decode(encoded, None, times, operator, heads, keep_features=keep_features)
        return replace(output, segmentation=replace(output.segmented, log_variance=None))


@dataclass(frozen=True, eq=False)
class TrialModel:
    """A model as `DIANetLib.inference.engine` sees it; without localiser, so it reads images as they are.

    Attributes:
        fitted: the fit.
        weights: the network, in evaluation mode.
        temperature: divides the logits.
        quality: what turns the agreement of samples into expected Dice.
        error_calibration: what corrects the error probability class by class.
        one_pass: describes the one-pass head, if there is one.
        head: the one-pass head.
        familiarity: what tells whether an image is like those fitted.
    """

    fitted: FittedModel
    weights: DIANet
    temperature: float = 1.0
    quality: QualityModel | None = None
    error_calibration: ErrorCalibration | None = None
    one_pass: OnePassSpec | None = None
    head: OnePassHead | None = None
    familiarity: FamiliarityModel | None = None

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.fitted.config.name

    @property
    def ref(self) -> ModelRef:
        """Name, version and hash."""
        return ModelRef(self.name, self.fitted.config.version, self.fitted.sha256)

    @property
    def structures(self) -> tuple[Structure, ...]:
        """What the output channels stand for."""
        return structures_of(self.fitted.config)

    @property
    def modalities(self) -> tuple[ModalitySpec, ...]:
        """What the input channels stand for."""
        return modalities_of(self.fitted.config)

    @property
    def window(self) -> tuple[int, int, int]:
        """Voxels (i, j, k) of the sliding window."""
        return window_of(self.fitted.config)

    @property
    def mirror_samples(self) -> bool:
        """Whether every other sample reads the image mirrored left to right."""
        return self.fitted.config.mirror_samples

    @property
    def localiser(self) -> LocaliserSpec | None:
        """None: the cases of an evaluation are what the network was fitted on."""
        return None

    @property
    def preprocess(self) -> PreprocessConfig:
        """How an image is prepared."""
        return self.fitted.config.preprocess

    def network(self, device: str | torch.device = "cpu") -> DIANet:
        """The network on a device."""
        return self.weights.to(device)

    def one_pass_head(self, device: str | torch.device = "cpu") -> OnePassHead | None:
        """The one-pass head on a device."""
        return None if self.head is None else self.head.to(device)

    def load_localiser(self) -> None:
        """There is none."""


def structures_of(config: TrainingConfig) -> tuple[Structure, ...]:
    """The structures of a configuration, with values 1, 2, ..."""

    def code(part: CodeConfig) -> Code:
        return Code(part.scheme, part.value, part.meaning)

    return tuple(
        Structure(number, part.key, part.name, part.color, code(part.category), code(part.type))
        for number, part in enumerate(config.data.structures, start=1)
    )


def window_of(config: TrainingConfig) -> tuple[int, int, int]:
    """Voxels (i, j, k) that are read at a time."""
    return config.window or config.patch


def classes_of(config: TrainingConfig, temperature: float = 1.0) -> tuple[ClassSpec, ...]:
    """The classes of whole images."""
    return tuple(
        ClassSpec(key=target.key, name=target.name, temperature=temperature) for target in config.data.targets
    )


def modalities_of(config: TrainingConfig) -> tuple[ModalitySpec, ...]:
    """The input channels of a configuration; none is required by itself if the fit left modalities out.

    A complex image of one modality is two of them, its real and its imaginary part.
    """
    task = config.tasks.reconstruction
    if task is not None and task.complex and len(config.data.modalities) == 1:
        name = config.data.modalities[0].name
        return tuple(ModalitySpec(name=f"{name} {part} part") for part in ("real", "imaginary"))
    optional = config.augment.modality_dropout > 0 and len(config.data.modalities) > 1
    return tuple(
        ModalitySpec(name=part.name, required=part.required and not optional, aliases=part.aliases)
        for part in config.data.modalities
    )


def named_volumes(source: SourceCase, config: TrainingConfig) -> tuple[Volume, ...]:
    """The modalities of a case that are there, each with its name, by which the engine knows it."""
    return tuple(
        replace(volume, modality=part.name)
        for volume, part in zip(source.volumes, config.data.modalities, strict=True)
        if volume is not None
    )


@torch.inference_mode()
def sampled_logits(
    network: DIANet,
    case: PreparedCase,
    window: tuple[int, ...],
    *,
    samples: int,
    seed: int,
    voxels: int,
    margin: int = 3,
    mirrored: bool = False,
) -> Iterator[tuple[FloatArray, npt.NDArray[np.uint8]]]:
    """Log-probabilities of every sample at some voxels in and near the structures, window by window.

    Args:
        network: in evaluation mode.
        case: prepared.
        window: voxels (k, j, i).
        samples: T; 0 is one mean pass.
        seed: seed of the samples and of the choice of voxels.
        voxels: at most this many per case.
        margin: voxels around the structures that count.
        mirrored: whether every other sample reads the window mirrored left to right.

    Yields:
        Log-probabilities (max(T, 1), V, K) and true classes (V,).

    Raises:
        InputError: if the case has no labels.
    """
    if case.labels is None:
        raise InputError(f"expected a case with labels to compare with, got {case.name} without.")
    device = next(network.parameters()).device
    image = torch.from_numpy(case.image)
    available = None if all(case.available) else torch.tensor([case.available], device=device)
    mask = dilated_mask(case.labels, margin)
    flat = network.config.spatial_dims == 2
    windows = usual_windows(case.labels.shape, window, divisors(network.config), flat=flat)
    rng = np.random.default_rng(seed)
    for part in windows:
        inside = np.flatnonzero(mask[part.slices])
        most = max(1, voxels // len(windows))
        if inside.size > most:
            inside = np.sort(rng.choice(inside, most, replace=False))
        if flat and not inside.size:
            continue
        chosen = torch.from_numpy(inside).to(device)
        x = part.cut(image).unsqueeze(0).to(device)
        x = x.squeeze(2) if flat else x
        ways = 2 if mirrored and samples > 1 else 1
        encoded = [network.encode(x.flip(-1) if way else x, available) for way in range(ways)]
        valid = part.valid[1:] if flat else part.valid
        rows = []
        for sample in range(max(1, samples)):
            generators = sample_generators(seed, part.index, [sample]) if samples else None
            way = sample % ways
            probabilities = network.decode(encoded[way], generators).segmented.probabilities()
            probabilities = probabilities.flip(-1) if way else probabilities
            values = probabilities[0][(slice(None), *valid)].flatten(1)[:, chosen].T
            rows.append(values.clamp_min(torch.finfo(torch.float32).tiny).log().cpu())
        yield torch.stack(rows).numpy(), case.labels[part.slices].ravel()[inside]
