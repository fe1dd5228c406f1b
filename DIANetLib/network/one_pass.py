# SPDX-License-Identifier: Apache-2.0
"""A small head that tells from one mean pass what T samples would have told, and where the answer is wrong.

Distilling the samples of a frozen network into one pass follows Shen et al., "Real-Time Uncertainty
Estimation in Computer Vision via Uncertainty-Aware Distribution Distillation" (WACV 2021); judging the
network's own errors from its features follows Corbiere et al., "Addressing Failure Prediction by Learning
Model Confidence" (NeurIPS 2019). What the head puts out obeys the same bounds as the samples' maps whatever
its weights are, and with its last layer at zero the probabilities are those of the plain pass.

Axes: N rows, C decoder features, K classes (background included), *S two or three spatial axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from DIANetLib.network.blocks import activation, conv, pointwise
from DIANetLib.network.output import SegmentationOutput

__all__ = ["OnePassHead", "OnePassOutput"]

#: Shares of epistemic uncertainty and of the greatest possible variance at step 0.
_START = -3.0


@dataclass(frozen=True, eq=False)
class OnePassOutput:
    """What one pass tells; all float32.

    Attributes:
        log_probabilities: (N, K, *S), their exponentials sum to one over K.
        epistemic_logit: (N, *S) logit of the share of the total uncertainty that is epistemic.
        variance_logits: (N, K, *S) logit of the variance's share of the greatest possible one, p (1 - p).
        error_logit: (N, *S) logit of the probability that the most probable class is wrong.
    """

    log_probabilities: Tensor
    epistemic_logit: Tensor
    variance_logits: Tensor
    error_logit: Tensor

    @property
    def probabilities(self) -> Tensor:
        """What stands for the mean of the samples' probabilities, (N, K, *S)."""
        return self.log_probabilities.exp()

    @property
    def epistemic_share(self) -> Tensor:
        """Share of the total uncertainty that is epistemic, (N, *S), 0 to 1."""
        return torch.sigmoid(self.epistemic_logit)

    @property
    def variance(self) -> Tensor:
        """What stands for the variance over the samples, (N, K, *S), 0 to p (1 - p)."""
        p = self.probabilities
        return p * (1.0 - p) * torch.sigmoid(self.variance_logits)

    @property
    def error(self) -> Tensor:
        """Probability that the most probable class is wrong, (N, *S), 0 to 1."""
        return torch.sigmoid(self.error_logit)


class OnePassHead(nn.Module):
    """Two 1 x 1 layers around 3 x 3 x 3 convolutions of few channels, beside the network and after it.

    Args:
        spatial_dims: 2 or 3.
        features: C, width of the decoder's finest scale.
        classes: K.
        channels: of the layers in between.
        depth: number of 3 x 3 x 3 convolutions.
    """

    def __init__(
        self, spatial_dims: int, features: int, classes: int, *, channels: int = 16, depth: int = 2
    ) -> None:
        super().__init__()
        self.classes, self.channels, self.depth = classes, channels, depth
        self.read = pointwise(spatial_dims, features, channels)
        self.read_classes = pointwise(spatial_dims, 2 * classes, channels)
        self.layers = nn.ModuleList(conv(spatial_dims, channels, channels) for _ in range(depth))
        self.activation = activation()
        # A factor and K offsets of the logits, the epistemic share, K shares of variance, and the error.
        self.tell = pointwise(spatial_dims, channels, 2 * classes + 3)
        nn.init.zeros_(self.tell.weight)
        assert self.tell.bias is not None  # pointwise() builds it; for the type checker
        with torch.no_grad():
            self.tell.bias.zero_()
            self.tell.bias[1 + classes : 2 + 2 * classes].fill_(_START)

    def forward(self, features: Tensor, logits: Tensor) -> OnePassOutput:
        """Read a mean pass.

        Args:
            features: (N, C, *S), the decoder's finest features; no gradient goes back into them.
            logits: (N, K, *S) float32, noise integrated out, divided by the temperature.
        """
        features = features.detach()
        if not torch.is_autocast_enabled(features.device.type):
            features = features.to(self.read.weight.dtype)
        told = self._told(features, logits.detach()).float()
        factor, offset, share, variance, error = told.split((1, self.classes, 1, self.classes, 1), dim=1)
        student = logits.detach() * torch.exp(factor.clamp(-3.0, 3.0)) + offset
        logarithm = torch.log_softmax(student, dim=1)
        return OnePassOutput(
            log_probabilities=logarithm,
            epistemic_logit=share[:, 0],
            variance_logits=variance,
            # True errors must not change what the samples alone are to teach.
            error_logit=_error_logit(logarithm.detach()) + error[:, 0],
        )

    def read_output(self, output: SegmentationOutput, temperature: float = 1.0) -> OnePassOutput:
        """Read what a segmentation head put out with its features kept."""
        assert output.features is not None  # the caller asked for them
        return self(output.features, output.logits() / temperature)

    def parameter_count(self) -> int:
        """Number of learned numbers."""
        return sum(parameter.numel() for parameter in self.parameters())

    def _told(self, features: Tensor, logits: Tensor) -> Tensor:
        known = torch.cat((logits, torch.softmax(logits, dim=1)), dim=1)
        x = self.activation(self.read(features) + self.read_classes(known))
        for layer in self.layers:
            x = self.activation(layer(x))
        told: Tensor = self.tell(x)
        return told


def cropped(output: SegmentationOutput, where: tuple[slice, ...]) -> SegmentationOutput:
    """The part `where` of the spatial axes of an output and its features."""
    part = (slice(None), slice(None), *where)
    return replace(
        output,
        mean=output.mean[part],
        log_variance=None if output.log_variance is None else output.log_variance[part],
        features=None if output.features is None else output.features[part],
    )


def _error_logit(logarithm: Tensor) -> Tensor:
    """ln((1 - p) / p) of what each voxel is called, from the logarithms of the probabilities (N, K, *S)."""
    background = logarithm[:, 0]  # as in `DIANetLib.labelling`
    best = torch.where(background >= -math.log(2.0), background, logarithm[:, 1:].amax(dim=1))
    # 1 - p loses its digits where p is almost one, which is most of an image; expm1 keeps them.
    return torch.log((-torch.expm1(best)).clamp_min(torch.finfo(best.dtype).tiny)) - best
