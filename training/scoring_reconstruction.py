# SPDX-License-Identifier: Apache-2.0
"""How near a reconstructed image is to the clean one, per slice: PSNR and SSIM, MONAI's implementations.

SSIM is that of Wang et al., IEEE TIP 2004. Both are relative to the range of intensities of the clean slice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from monai.metrics import PSNRMetric, SSIMMetric
from torch import Tensor

from DIANetLib.errors import InputError
from DIANetLib.operators import magnitude

#: Side of the window in which SSIM compares, voxels; a smaller slice has none.
WINDOW = 11


@dataclass(frozen=True)
class SliceScore:
    """How near one slice is to the clean one.

    Attributes:
        psnr_db: peak signal-to-noise ratio, dB; infinite where both are equal.
        ssim: structural similarity, up to 1; NaN for slices smaller than its window.
    """

    psnr_db: float
    ssim: float


def score_slices(found: Tensor, clean: Tensor) -> Iterator[SliceScore | None]:
    """Compare images slice by slice; None for slices that are constant in the clean image, such as air.

    Args:
        found: (C, *S), *S two axes or three, of which the first one counts slices.
        clean: the same shape.

    Raises:
        InputError: if the shapes differ.
    """
    if found.shape != clean.shape:
        raise InputError(f"expected an image of {tuple(clean.shape)}, got {tuple(found.shape)}.")
    if clean.ndim == 3:
        found, clean = found.unsqueeze(1), clean.unsqueeze(1)
    for number in range(clean.shape[1]):
        yield _score(found[:, number].float(), clean[:, number].float())


def shown(image: Tensor, clean: Tensor) -> Tensor:
    """The real image that people look at and figures are of, (B, C, *S) or (B, 2, *S) to (B, C', *S).

    Complex images in two channels become magnitudes, except where the clean image has no imaginary part: a
    real image, normalised perhaps so that its values have a sign, is that part alone.

    Args:
        image: real in any number of channels, or complex in two.
        clean: the image that says which it is, of the same shape.
    """
    if clean.shape[1] != 2:
        return image
    return magnitude(image) if bool(clean[:, 1].any()) else image[:, :1]


def _score(found: Tensor, clean: Tensor) -> SliceScore | None:
    low, high = float(clean.min()), float(clean.max())
    if not low < high:
        return None
    span = high - low
    similarity = math.nan
    if min(clean.shape[1:]) >= WINDOW:
        metric = SSIMMetric(spatial_dims=2, data_range=span, win_size=WINDOW)
        # SSIM also compares means, which are to be counted from black.
        similarity = float(metric((found - low)[None], (clean - low)[None]))
    return SliceScore(float(PSNRMetric(max_val=span)(found[None], clean[None])), similarity)
