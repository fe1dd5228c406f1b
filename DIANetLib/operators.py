# SPDX-License-Identifier: Apache-2.0
"""Forward operators F of the reconstruction task, equations (3, 4, 20, 21): what was measured of an image.

An observation lives in image space, x_obs = F^H (F x + noise), so that networks read one grid whatever was
measured. Cartesian undersampling as in Zbontar et al., "fastMRI", 2018; the step that makes an image
consistent with its measurement as in Schlemper et al., "A deep cascade of CNNs", IEEE TMI 2018; several coils
as in Pruessmann et al., "SENSE", MRM 1999.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from DIANetLib.errors import ConfigError, InputError

_PLANE = (-2, -1)


class ForwardOperator(Protocol):
    """What is measured of an image: F, seen through F^H F and through observations."""

    @property
    def exact(self) -> bool:
        """Whether F^H F is a projection and nothing is noisy, so that an image may be made consistent."""
        ...

    def normal(self, image: Tensor) -> Tensor:
        """F^H F image: (B, C, *S) to the same shape and type."""
        ...

    def observe(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """x_obs = F^H (F image + noise) of a clean image, (B, C, *S) to the same; None: torch's stream."""
        ...


def consistent(image: Tensor, observed: Tensor, operator: ForwardOperator) -> Tensor:
    """The image next to `image` that shows what was measured: image - F^H F image + x_obs.

    For an exact operator F^H F of the result is `observed`.

    Args:
        image: (B, C, *S).
        observed: x_obs, of the same shape.
        operator: the one that `observed` comes from.
    """
    return image - operator.normal(image) + observed


@dataclass(frozen=True)
class Denoising:
    """F is the identity; the noise is Gaussian.

    Attributes:
        sigma: deviation of the noise, relative to the deviation of each image over channels and voxels.
    """

    sigma: float

    def __post_init__(self) -> None:
        _check_noise("sigma", self.sigma)

    @property
    def exact(self) -> bool:
        """False: what is measured is noisy."""
        return False

    def normal(self, image: Tensor) -> Tensor:
        """The image itself."""
        return image

    def observe(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The image with noise added."""
        deviation = image.flatten(1).std(dim=1, correction=0)
        scale = self.sigma * deviation.reshape(-1, *[1] * (image.ndim - 1))
        return image + scale * _normal_numbers(image, generator)


@dataclass(frozen=True, eq=False)
class KSpaceUndersampling:
    """F is a unitary Fourier transform over the last two axes, of which a mask keeps a part.

    Images hold a complex number in two channels, real and imaginary part: (B, 2, *S). Volumes are measured
    slice by slice.

    Attributes:
        mask: 1 where k-space is measured, else 0, frequency zero in the middle; (B, 1, *S), or (1, 1, *S) for
            all images alike.
        noise: deviation of the complex noise per measured frequency, relative to the deviation of each image.
        sensitivities: complex (B or 1, Q, *S) of Q coils, for which F is applied to each coil's image; None:
            one coil that is equally sensitive everywhere.
    """

    mask: Tensor
    noise: float = 0.0
    sensitivities: Tensor | None = None

    def __post_init__(self) -> None:
        _check_noise("noise", self.noise)
        if self.mask.ndim < 4 or self.mask.shape[1] != 1:
            raise InputError(
                f"a k-space mask has the shape (B, 1, *S) with at least two axes of space, got "
                f"{tuple(self.mask.shape)}."
            )
        if not ((self.mask == 0) | (self.mask == 1)).all():
            raise InputError("a k-space mask holds 0 and 1 alone, got other values.")
        coils = self.sensitivities
        if coils is not None and (not coils.is_complex() or coils.shape[2:] != self.mask.shape[2:]):
            raise InputError(
                f"sensitivities are complex and of the mask's grid {tuple(self.mask.shape[2:])}, got "
                f"{coils.dtype} of {tuple(coils.shape[2:])}."
            )

    @property
    def exact(self) -> bool:
        """Whether there is no noise and one coil; with several, F^H F is no projection."""
        return self.noise == 0.0 and self.sensitivities is None

    def forward(self, image: Tensor) -> Tensor:
        """F image: (B, 2, *S) to complex (B, Q, *S), 0 where nothing is measured."""
        coils = self._coil_images(_to_complex(image))
        centred = torch.fft.ifftshift(coils, dim=_PLANE)
        frequencies = torch.fft.fftshift(torch.fft.fft2(centred, norm="ortho"), dim=_PLANE)
        return frequencies * self._mask(image)

    def adjoint(self, frequencies: Tensor) -> Tensor:
        """F^H frequencies: complex (B, Q, *S) to (B, 2, *S), the zero-filled image."""
        centred = torch.fft.ifftshift(frequencies * self._mask(frequencies), dim=_PLANE)
        coils = torch.fft.fftshift(torch.fft.ifft2(centred, norm="ortho"), dim=_PLANE)
        if self.sensitivities is not None:
            weights = self.sensitivities.to(coils.device).conj()
            coils = (weights * coils).sum(dim=1, keepdim=True)
        return torch.cat([coils.real, coils.imag], dim=1)

    def normal(self, image: Tensor) -> Tensor:
        """F^H F image: the image as far as it is measured."""
        return self.adjoint(self.forward(image)).to(image.dtype)

    def observe(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The zero-filled image of noisy measurements."""
        frequencies = self.forward(image)
        if self.noise:
            deviation = image.float().flatten(1).std(dim=1, correction=0)
            scale = self.noise * deviation.reshape(-1, *[1] * (image.ndim - 1))
            frequencies = frequencies + scale * _normal_numbers(frequencies, generator)
        return self.adjoint(frequencies).to(image.dtype)

    def _coil_images(self, image: Tensor) -> Tensor:
        return image if self.sensitivities is None else self.sensitivities.to(image.device) * image

    def _mask(self, like: Tensor) -> Tensor:
        if like.shape[2:] != self.mask.shape[2:] or self.mask.shape[0] not in (1, like.shape[0]):
            raise InputError(
                f"expected images of the mask's {tuple(self.mask.shape[2:])} voxels, as many as there are "
                f"masks ({self.mask.shape[0]}) or any number for one mask, got {tuple(like.shape)}."
            )
        return self.mask.to(device=like.device, dtype=torch.float32)


def complex_channels(image: Tensor) -> Tensor:
    """Append an imaginary part of zero: real (B, 1, *S) to (B, 2, *S)."""
    return torch.cat([image, torch.zeros_like(image)], dim=1)


def magnitude(image: Tensor) -> Tensor:
    """Absolute value of complex images in two channels: (B, 2, *S) to (B, 1, *S)."""
    return torch.linalg.vector_norm(image, dim=1, keepdim=True)


def cartesian_masks(
    size: Sequence[int],
    acceleration: float,
    centre_fraction: float,
    generator: torch.Generator,
    count: int = 1,
) -> Tensor:
    """Random Cartesian masks: whole columns along the last axis, the lowest frequencies all of them.

    Exactly round(width / acceleration) columns are measured, the same ones in every slice of a volume.

    Args:
        size: *S, two axes or three.
        acceleration: by how much less is measured than there is, at least 1.
        centre_fraction: share of all columns that are measured around frequency zero.
        generator: decides the other columns; on the CPU.
        count: number of masks.

    Returns:
        float32 (count, 1, *S) of 0 and 1, frequency zero in the middle.

    Raises:
        ConfigError: if the centre alone holds more columns than the acceleration allows.
    """
    width = size[-1]
    columns = round(width / acceleration) if acceleration >= 1 else 0
    centre = round(width * centre_fraction)
    if columns < 1 or not 0 <= centre <= columns:
        raise ConfigError(
            f"acceleration {acceleration:g} leaves {columns} of {width} columns, of which the centre "
            f"({centre_fraction:g}) takes {centre}; expected an acceleration of at least 1 and a centre that "
            "fits in.",
            remedy="Lower the acceleration or the centre fraction, for example 4 and 0.08, or 8 and 0.04.",
        )
    first = width // 2 - centre // 2  # frequency zero is at width // 2
    outside = torch.tensor([c for c in range(width) if not first <= c < first + centre])
    masks = torch.zeros(count, width)
    masks[:, first : first + centre] = 1
    for mask in masks:
        order = torch.randperm(len(outside), generator=generator)
        mask[outside[order[: columns - centre]]] = 1
    shape = (count, 1, *[1] * (len(size) - 1), width)
    return masks.reshape(shape).expand(count, 1, *size).contiguous()


def _to_complex(image: Tensor) -> Tensor:
    if image.shape[1] != 2:
        raise InputError(
            f"expected images of two channels, real and imaginary part, got {image.shape[1]}.",
            remedy="Append an imaginary part of zero to a real image: complex_channels(image).",
        )
    image = image.float()  # half precision has no Fourier transform of every size
    return torch.complex(image[:, :1], image[:, 1:])


def _normal_numbers(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers like a tensor (complex ones of unit deviation in either part)."""
    if like.is_complex():
        parts = torch.view_as_real(like)
        return torch.view_as_complex(_normal_numbers(parts, generator).contiguous())
    if generator is None:
        return torch.randn_like(like)
    numbers = torch.randn(like.shape, generator=generator, device=generator.device)
    return numbers.to(device=like.device, dtype=like.dtype)


def _check_noise(name: str, value: float) -> None:
    if not value >= 0:
        raise ConfigError(f"{name}: expected 0 or more, got {value:g}.")
