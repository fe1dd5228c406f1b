# SPDX-License-Identifier: Apache-2.0
"""A fitted network on trial: what the product's engine asks of a model, before there is a bundle.

So the figures of an evaluation come from the very code that users run: preparation, windows, samples, maps
and their way back to the source grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from DIANetLib.acwi.metrics import dilated_mask
from DIANetLib.bundle_schema import LocaliserSpec, ModalitySpec
from DIANetLib.inference.prediction import ModelRef
from DIANetLib.inference.sampling import sample_generators
from DIANetLib.inference.sliding_window import plan_windows, whole_window
from DIANetLib.network import DIANet, DIANetOutput, Encoded
from DIANetLib.operators import ForwardOperator
from DIANetLib.preprocess import PreprocessConfig
from DIANetLib.structures import Code, Structure
from training.config import CodeConfig, TrainingConfig
from training.datasets import PreparedCase
from training.fitted import FittedModel

FloatArray = npt.NDArray[np.float32]


class PlainDIANet(DIANet):
    """The peer of the uncertainty maps: one pass of the same network, softmax of its logit means."""

    def decode(
        self,
        encoded: Encoded,
        generators: Sequence[torch.Generator] | None = None,
        times: torch.Tensor | None = None,
        operator: ForwardOperator | None = None,
    ) -> DIANetOutput:
        """The mean pass, whatever is asked for, without the predicted logit noise."""
        output = super().decode(encoded, None, times, operator)
        return replace(output, segmentation=replace(output.segmented, log_variance=None))


@dataclass(frozen=True, eq=False)
class TrialModel:
    """A model as `DIANetLib.inference.engine` sees it; without localiser, so it reads images as they are.

    Attributes:
        fitted: the fit.
        weights: the network, in evaluation mode.
        temperature: divides the logits.
    """

    fitted: FittedModel
    weights: DIANet
    temperature: float = 1.0

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
        return self.fitted.config.window or self.fitted.config.patch

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


def modalities_of(config: TrainingConfig) -> tuple[ModalitySpec, ...]:
    """The input channels of a configuration."""
    return tuple(
        ModalitySpec(name=part.name, required=part.required, aliases=part.aliases)
        for part in config.data.modalities
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

    Yields:
        Log-probabilities (max(T, 1), V, K) and true classes (V,).
    """
    device = next(network.parameters()).device
    image = torch.from_numpy(case.image)
    mask = dilated_mask(case.labels, margin)
    whole = whole_window(case.labels.shape, window, network.divisor)
    windows = plan_windows(case.labels.shape, whole or window, network.divisor)
    rng = np.random.default_rng(seed)
    for part in windows:
        inside = np.flatnonzero(mask[part.slices])
        most = max(1, voxels // len(windows))
        if inside.size > most:
            inside = np.sort(rng.choice(inside, most, replace=False))
        chosen = torch.from_numpy(inside).to(device)
        encoded = network.encode(part.cut(image).unsqueeze(0).to(device))
        rows = []
        for sample in range(max(1, samples)):
            generators = sample_generators(seed, part.index, [sample]) if samples else None
            probabilities = network.decode(encoded, generators).segmented.probabilities()
            values = probabilities[0][(slice(None), *part.valid)].flatten(1)[:, chosen].T
            rows.append(values.clamp_min(torch.finfo(torch.float32).tiny).log().cpu())
        yield torch.stack(rows).numpy(), case.labels[part.slices].ravel()[inside]
