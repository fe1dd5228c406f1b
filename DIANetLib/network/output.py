# SPDX-License-Identifier: Apache-2.0
"""What the network puts out: one part per task-specific head, equation (16)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

from DIANetLib.errors import InputError
from DIANetLib.network.latent import GaussianDistribution

_Part = TypeVar("_Part")


@dataclass(frozen=True)
class SegmentationOutput:
    """Moments of the Gaussian over the logits, (19, 32).

    Attributes:
        mean: logit mean, (N, K, *S).
        log_variance: log of the logit variance, (N, K, *S), or None for a homoscedastic head.
        auxiliary: logit means of coarser decoder scales, finest first, (N, K, *S_l); training only.
        features: what the logits were made of, the decoder's finest features (N, C, *S); None unless asked
            for.
    """

    mean: Tensor
    log_variance: Tensor | None = None
    auxiliary: tuple[Tensor, ...] = field(default=())
    features: Tensor | None = None

    def flipped(self, axes: Sequence[int]) -> SegmentationOutput:
        """The output turned round along axes of its tensors, as that of a mirrored image is."""

        def turned(tensor: Tensor) -> Tensor:
            return tensor.flip(*axes)

        return replace(
            self,
            mean=turned(self.mean),
            log_variance=None if self.log_variance is None else turned(self.log_variance),
            auxiliary=tuple(turned(part) for part in self.auxiliary),
            features=None if self.features is None else turned(self.features),
        )

    def logits(self) -> Tensor:
        """Logits with their noise integrated out, (N, K, *S) float32: their softmax is `probabilities()`.

        The mean-field softmax of a Gaussian logit divides each mean by sqrt(1 + pi/8 sigma^2)
        (MacKay, Neural Computation 1992; Lu et al., arXiv:2006.07584).
        """
        logits = self.mean.float()
        if self.log_variance is not None:
            # not in place on the exponential itself: its backward needs it
            scale = (torch.exp(self.log_variance.float()) * (math.pi / 8.0)).add_(1.0).rsqrt_()
            logits = logits * scale
        return logits

    def probabilities(self, temperature: float = 1.0) -> Tensor:
        """Class probabilities with the logit noise integrated out, (N, K, *S) float32."""
        logits = self.logits()
        if temperature != 1.0:
            logits = logits / temperature
        return torch.softmax(logits, dim=1)


@dataclass(frozen=True)
class ClassificationOutput:
    """Class of a whole image, (17).

    Attributes:
        logits: W h + b, (N, C).
    """

    logits: Tensor

    def probabilities(self, temperature: float = 1.0) -> Tensor:
        """Class probabilities (17, 18), (N, C) float32."""
        return torch.softmax(self.logits.float() / temperature, dim=1)


@dataclass(frozen=True)
class ReconstructionOutput:
    """Image made from the features, (20, 21).

    Attributes:
        image: (N, C_r, *S).
        coarser: the image on coarser grids, finest first, (N, C_r, *S_l); training only.
    """

    image: Tensor
    coarser: tuple[Tensor, ...] = field(default=())


@dataclass(frozen=True)
class DIANetOutput:
    """One pass; None for heads that the network has not.

    Attributes:
        segmentation: voxel-wise logits.
        classification: logits of the whole image.
        reconstruction: image.
        anatomy: logits of P(h), the class distribution decoded from h alone (11, 14), (N, K, *S_L).
        latent: distribution of h; training only.
        h: what was drawn of it, behind diffuser and CodeBook, (N, d, *S_L); training only.
    """

    segmentation: SegmentationOutput | None = None
    classification: ClassificationOutput | None = None
    reconstruction: ReconstructionOutput | None = None
    anatomy: Tensor | None = None
    latent: GaussianDistribution | None = None
    h: Tensor | None = None

    @property
    def segmented(self) -> SegmentationOutput:
        """The segmentation, where it is a mistake to ask a network without that head."""
        return _present(self.segmentation, "segmentation")

    @property
    def classified(self) -> ClassificationOutput:
        """The classification, where it is a mistake to ask a network without that head."""
        return _present(self.classification, "classification")

    @property
    def reconstructed(self) -> ReconstructionOutput:
        """The reconstruction, where it is a mistake to ask a network without that head."""
        return _present(self.reconstruction, "reconstruction")


def _present(part: _Part | None, name: str) -> _Part:
    if part is None:
        raise InputError(f"expected a network with a {name} head, got one without.")
    return part
