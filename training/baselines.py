# SPDX-License-Identifier: Apache-2.0
"""Plain peers of DIANet from MONAI, fitted by the very same loop on the same stream of patches.

A peer has no stochastic layer: every sample equals the mean pass. Missing modalities are zeros for it. Its
width is chosen so that it has about as many parameters as the DIANet that its configuration describes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from monai.networks.nets import DynUNet, resnet18
from torch import Tensor, nn

from DIANetLib.network import (
    ClassificationOutput,
    DIANet,
    DIANetOutput,
    Head,
    NetworkConfig,
    ReconstructionOutput,
    SegmentationOutput,
)
from DIANetLib.network.fusion import blank_missing
from DIANetLib.operators import ForwardOperator
from training.config import TrainingConfig


@dataclass(frozen=True)
class PlainEncoded:
    """What `decode` needs of B images: all of what the peer put out, since nothing is drawn.

    Attributes:
        output: (B, ...).
        latent: None; peers have none.
    """

    output: DIANetOutput
    latent: None = None


class Baseline(nn.Module):
    """A peer with the interface of `DIANet`.

    Args:
        config: the DIANet whose place it takes; heads and sizes are read from it.
        net: maps (B, M, *S) to logits (B, K, *S), to the correction of an image (B, M, *S), or to logits of
            whole images (B, C). In training (B, P, K, *S) holds P outputs, the main one first.
    """

    def __init__(self, config: NetworkConfig, net: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.net = net
        self.latent = self.codebook = self.pyramid = None  # blocks that are looked for, and not there

    @property
    def divisor(self) -> tuple[int, ...]:
        """What each spatial size of the input must be divisible by."""
        return (self.config.divisor,) * self.config.spatial_dims

    def forward(
        self,
        x: Tensor,
        *,
        available: Tensor | None = None,
        generators: Sequence[torch.Generator] | None = None,
        times: Tensor | None = None,
        operator: ForwardOperator | None = None,
    ) -> DIANetOutput:
        """As `DIANet.forward`; times and operator change nothing."""
        return self.decode(self.encode(x, available), generators, times, operator)

    def encode(
        self, x: Tensor, available: Tensor | None = None, heads: Collection[Head] | None = None
    ) -> PlainEncoded:
        """Run the whole network on (B, M, *S)."""
        if available is not None:
            x = blank_missing(x, available)
        y = self.net(x)
        if self.config.classification is not None:
            return PlainEncoded(DIANetOutput(classification=ClassificationOutput(y)))
        main, *coarser = y.unbind(1) if y.ndim > x.ndim else (y,)
        if self.config.classes:
            return PlainEncoded(DIANetOutput(SegmentationOutput(main, None, tuple(coarser))))
        return PlainEncoded(DIANetOutput(reconstruction=ReconstructionOutput(x + main)))

    def decode(
        self,
        encoded: PlainEncoded,
        generators: Sequence[torch.Generator] | None = None,
        times: Tensor | None = None,
        operator: ForwardOperator | None = None,
        heads: Collection[Head] | None = None,
    ) -> DIANetOutput:
        """What `encode` gave, its rows repeated for as many generators as there are."""
        output = encoded.output
        if generators is None:
            return output
        segmentation, classes, image = output.segmentation, output.classification, output.reconstruction
        count = len(generators)
        return DIANetOutput(
            SegmentationOutput(_repeated(segmentation.mean, count)) if segmentation else None,
            ClassificationOutput(_repeated(classes.logits, count)) if classes else None,
            ReconstructionOutput(_repeated(image.image, count)) if image else None,
        )

    def explainable_layers(self) -> tuple[str, ...]:
        """None: what the parts of a peer are called is MONAI's affair."""
        return ()

    def parameter_count(self) -> int:
        """Number of learned numbers."""
        return sum(parameter.numel() for parameter in self.parameters())


def build_model(config: TrainingConfig) -> DIANet:
    """The network that a configuration fits: DIANet, or a peer that offers what DIANet does."""
    network = config.network
    if config.baseline is None:
        return DIANet(network)
    make = {"unet": _unet, "resnet18": _resnet18}[config.baseline]
    size = _closest(lambda width: _count(make, network, width), _dianet_count(network))
    return cast(DIANet, Baseline(network, make(network, size)))


def _unet(config: NetworkConfig, width: int) -> nn.Module:
    """nnU-Net's plain U-Net, of `width` channels at the finest scale."""
    strides = (1, *config.strides)
    coarser = config.deep_supervision if config.classes else 0
    net: nn.Module = DynUNet(
        config.spatial_dims,
        config.modalities,
        config.classes or config.modalities,
        kernel_size=[3] * len(strides),
        strides=strides,
        upsample_kernel_size=strides[1:],
        filters=[max(1, round(width * level / config.widths[0])) for level in config.widths],
        norm_name=("INSTANCE", {"affine": True}),
        deep_supervision=coarser > 0,
        deep_supr_num=max(1, coarser),
    )
    return net


def _resnet18(config: NetworkConfig, width: int) -> nn.Module:
    """ResNet-18 of `width` channels at the finest scale; its entry is that for small images."""
    assert config.classification is not None  # the configuration has checked it
    net: nn.Module = resnet18(
        spatial_dims=config.spatial_dims,
        n_input_channels=config.modalities,
        num_classes=config.classification.classes,
        conv1_t_size=3,
        conv1_t_stride=1,
        no_max_pool=True,
        widen_factor=width / 64,
        shortcut_type="B",
    )
    return net


def _closest(count: Callable[[int], int], wanted: int) -> int:
    """The width whose number of parameters, which grows with it, is closest to what is wanted."""
    low, high = 1, 2
    while count(high) < wanted:
        low, high = high, 2 * high
    while high - low > 1:
        between = (low + high) // 2
        low, high = (between, high) if count(between) < wanted else (low, between)
    return min((low, high), key=lambda width: abs(count(width) - wanted))


def _count(make: Callable[[NetworkConfig, int], nn.Module], config: NetworkConfig, width: int) -> int:
    with torch.device("meta"):  # nothing is allocated, and nothing is drawn
        return sum(parameter.numel() for parameter in make(config, width).parameters())


def _dianet_count(config: NetworkConfig) -> int:
    with torch.device("meta"):
        return DIANet(config).parameter_count()


def _repeated(rows: Tensor, count: int) -> Tensor:
    return rows.repeat_interleave(count // rows.shape[0], 0)
