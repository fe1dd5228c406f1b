# SPDX-License-Identifier: Apache-2.0
"""Loss of the reconstruction head, equations (3, 4, 20, 21).

Equation (4) as printed, ||x_obs - F(f(x_recon))||^2, feeds the answer to the network. Here f reads x_obs: the
data term is ||x_obs - F(f(x_obs))||^2, and where the clean image x is known, ||f(x_obs) - x|| is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from monai.losses import SSIMLoss
from torch import Tensor, nn

from DIANetLib.losses.precision import at_least_float32
from DIANetLib.losses.task import deep_supervision_weights

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


class ImageOperator(Protocol):
    """The forward operator F as far as a loss needs it, in image space."""

    def normal(self, image: Tensor) -> Tensor:
        """F^H F of an image (B, C, *S), same shape."""


@dataclass(frozen=True)
class ReconstructionTerms:
    """The value to minimise, and its parts without graph and weights.

    Attributes:
        total: weighted sum, a scalar.
        data: mean squared distance from what was measured, in image space.
        clean: distance from the clean image over the rows where it is known, 0 where none is.
        ssim: 1 - SSIM of the finest resolution over those rows, 0 where none is known or it has no weight.
    """

    total: Tensor
    data: Tensor
    clean: Tensor
    ssim: Tensor


class ReconstructionLoss(nn.Module):
    """Data term on all rows, clean term on those whose clean image is known, at every resolution.

    Coarser resolutions count half as much per scale, all of them together as one. A coarse image is compared
    with the clean one averaged down, and brought to the full grid for the data term, where F lives.

    Args:
        data_weight: weight of the data term. It is small because where x_obs is noisy the data term alone is
            least for an image that keeps all the noise; between both terms the network settles at the mean of
            x and x_obs weighted so. Where F measures without noise, both have the same optimum.
        clean_weight: weight of the clean term.
        norm: `"l1"` or `"l2"` (mean absolute or squared difference) for the clean term.
        ssim_weight: weight of 1 - SSIM (Wang et al., IEEE TIP 2004; MONAI's), 0 to leave it out. Intensities
            are scaled to the clean image's range, row by row.
        ssim_window: side of its Gaussian window in voxels; odd, no larger than the image.
    """

    def __init__(
        self,
        *,
        data_weight: float = 0.1,
        clean_weight: float = 1.0,
        norm: Literal["l1", "l2"] = "l1",
        ssim_weight: float = 0.0,
        ssim_window: int = 7,
    ) -> None:
        super().__init__()
        self.data_weight = data_weight
        self.clean_weight = clean_weight
        self.norm = norm
        self.ssim_weight = ssim_weight
        self.ssim_window = ssim_window

    def forward(
        self,
        image: Tensor,
        observed: Tensor,
        operator: ImageOperator,
        *,
        clean: Tensor | None = None,
        known: Tensor | None = None,
        coarser: Sequence[Tensor] = (),
    ) -> ReconstructionTerms:
        """Loss of a reconstruction.

        Args:
            image: f(x_obs), (B, C, *S).
            observed: x_obs in image space, same shape.
            operator: F of these rows.
            clean: x, same shape, or None where it is known of no row.
            known: rows of `clean` that count, (B,) bool; None for all. The others may hold anything.
            coarser: the same image at lower resolutions, finest first, (B, C, *S_l).

        Raises:
            ValueError: if shapes differ.
        """
        for name, other in (("observed", observed), ("clean", clean)):
            if other is not None and other.shape != image.shape:
                raise ValueError(
                    f"expected {name} images of the reconstruction's shape {tuple(image.shape)}, got "
                    f"{tuple(other.shape)}; choose as many reconstruction channels as the images have"
                )
        images = [at_least_float32(level) for level in (image, *coarser)]
        measured = at_least_float32(observed)
        weights = deep_supervision_weights(len(images))
        zero = images[0].sum() * 0.0
        data = clean_term = ssim = zero
        for weight, level in zip(weights, images, strict=True):
            data = data + weight * _data_term(level, measured, operator)
        reference = _known_rows(clean, known)
        if clean is not None and reference is not None:
            truth = at_least_float32(clean[reference])
            for weight, level in zip(weights, images, strict=True):
                clean_term = clean_term + weight * self._clean_term(level[reference], truth)
            if self.ssim_weight > 0:
                ssim = self._ssim_term(images[0][reference], truth)
        total = self.data_weight * data + self.clean_weight * clean_term + self.ssim_weight * ssim
        return ReconstructionTerms(total, data.detach(), clean_term.detach(), ssim.detach())

    def _clean_term(self, image: Tensor, clean: Tensor) -> Tensor:
        if image.shape != clean.shape:
            clean = F.interpolate(clean, size=image.shape[2:], mode="area")
        return F.l1_loss(image, clean) if self.norm == "l1" else F.mse_loss(image, clean)

    def _ssim_term(self, image: Tensor, clean: Tensor) -> Tensor:
        axes = tuple(range(1, clean.ndim))
        low, high = clean.amin(axes, keepdim=True), clean.amax(axes, keepdim=True)
        scale = (high - low).clamp_min(1e-6)
        loss = SSIMLoss(spatial_dims=clean.ndim - 2, data_range=1.0, win_size=self.ssim_window)
        value: Tensor = loss((image - low) / scale, (clean - low) / scale)
        return value


def _data_term(image: Tensor, observed: Tensor, operator: ImageOperator) -> Tensor:
    if image.shape != observed.shape:
        mode = _LINEAR[image.ndim - 2]
        image = F.interpolate(image, size=observed.shape[2:], mode=mode, align_corners=False)
    return F.mse_loss(operator.normal(image), observed)


def _known_rows(clean: Tensor | None, known: Tensor | None) -> Tensor | None:
    """Indices of the rows whose clean image is known, or None where there are none."""
    if clean is None:
        return None
    if known is None:
        return torch.arange(clean.shape[0], device=clean.device)
    rows = known.to(clean.device).nonzero().flatten()
    return rows if rows.numel() else None
