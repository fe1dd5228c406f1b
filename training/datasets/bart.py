# SPDX-License-Identifier: Apache-2.0
"""Measured k-space as BART and ESPIRiT keep it: pairs NAME.hdr and NAME.cfl, complex numbers per coil.

The header's second line has the sizes of the axes: three of space, then the coils; others have to be of size
1. The numbers are little-endian complex64, the first axis fastest. The model's two modalities are the real
and the imaginary part of the image, by the inverse unitary Fourier transform with the origin in the middle.
Voxels are called 1 mm, because the file does not say.

Format: https://mrirecon.github.io/bart/. Combining coils by weights from the middle of k-space: McKenzie et
al., Magnetic Resonance in Medicine 47, 529 (2002).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.fft import fftn, fftshift, ifftn, ifftshift

from DIANetLib.errors import InputError
from DIANetLib.volume import Geometry, Volume
from training.config import DataConfig
from training.config_tasks import Section
from training.datasets.base import Case, SourceCase, options_of

ComplexArray = npt.NDArray[np.complex64]

#: Share of k-space, along each axis, that the weights of the coils are taken from.
_MIDDLE = 0.12


class Options(Section):
    """How coils become cases.

    Attributes:
        coils: "each" is a case by itself, one group per file; "combined" makes one image of them.
    """

    coils: Literal["each", "combined"] = "each"


def find_cases(folder: Path, config: DataConfig) -> tuple[Case, ...]:
    """List the images of a folder's files; a case's place is the number of its coil, if it is of one.

    Raises:
        InputError: if there is no file, a header is missing or unusable, or the model wants other modalities.
    """
    if len(config.modalities) != 2:
        raise InputError(
            f"expected a model of 2 modalities, real and imaginary part, got one of {len(config.modalities)}."
        )
    files = sorted(folder.glob("*.cfl"))
    if not files:
        raise InputError(f"{folder} holds no .cfl file of k-space.")
    cases = []
    for file in files:
        if options_of(config, Options).coils == "combined":
            cases.append(Case(file.stem, (file, file)))
            continue
        for coil in range(_sizes(file)[3]):
            name = f"{file.stem}_coil{coil:02d}"
            cases.append(Case(name, (file, file), group=file.stem, place=(coil,)))
    return tuple(cases)


def read_case(case: Case, config: DataConfig) -> SourceCase:
    """The image of a coil, or of all of them, as a volume of its real and one of its imaginary part.

    Raises:
        InputError: if the file is shorter or longer than its header says.
    """
    path = case.images[0]
    assert path is not None  # an image without its file is never listed
    coils = coil_images(read_kspace(path))
    image = coils[case.place[0]] if case.place else combined(coils)
    k, j, i = image.shape
    grid = Geometry((i, j, k), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3))
    parts = zip((image.real, image.imag), config.modalities, strict=True)
    volumes = tuple(
        Volume(np.ascontiguousarray(part), grid, name=modality.name, source=str(path))
        for part, modality in parts
    )
    return SourceCase(case.name, volumes)


def read_kspace(path: Path) -> ComplexArray:
    """The numbers of a file as (C, k, j, i); axes of space of size 1 come last, so that a slice has k = 1.

    Raises:
        InputError: if the header is unusable, or the file is of another length than it says.
    """
    sizes = _sizes(path)
    wanted = math.prod(sizes)
    try:
        numbers = np.fromfile(path, "<c8")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    if numbers.size != wanted:
        raise InputError(
            f"{path} holds {numbers.size} numbers, expected {wanted} by its header ({sizes}).",
            remedy="Copy or download it again.",
        )
    space = sorted(sizes[:3], key=lambda size: size == 1)  # stable: only those of size 1 change places
    return np.ascontiguousarray(numbers.reshape(*space, sizes[3], order="F").T)


def coil_images(kspace: ComplexArray) -> ComplexArray:
    """(C, k, j, i) k-space to images of the same shape and energy."""
    axes = (1, 2, 3)
    return fftshift(ifftn(ifftshift(kspace, axes), axes=axes, norm="ortho"), axes)


def combined(coils: ComplexArray) -> ComplexArray:
    """One image (k, j, i) of (C, k, j, i): coils weighted by the conjugates of their smooth sensitivities.

    A sensitivity is the coil's image of low resolution over the root of the sum of squares of all of these.
    """
    axes = (1, 2, 3)
    kspace = fftshift(fftn(ifftshift(coils, axes), axes=axes, norm="ortho"), axes)
    for axis in axes:
        size = kspace.shape[axis]
        if size > 1:
            distance = (np.arange(size) - size // 2) / (_MIDDLE * size / 2)
            window = np.where(np.abs(distance) < 1, np.cos(np.pi * distance / 2) ** 2, 0.0)
            kspace = kspace * window.reshape([-1 if a == axis else 1 for a in range(4)])
    smooth = coil_images(kspace)
    energy = np.sqrt((np.abs(smooth) ** 2).sum(axis=0))
    weights = np.conj(smooth) / np.maximum(energy, np.finfo(np.float32).tiny)
    return (weights * coils).sum(axis=0).astype(np.complex64)


def _sizes(path: Path) -> tuple[int, int, int, int]:
    """Sizes of the axes of space and number of coils.

    Raises:
        InputError: if there is no header, it has no sizes, or other axes than these.
    """
    header = path.with_suffix(".hdr")
    try:
        lines = header.read_text(encoding="ascii").splitlines()
        sizes = [int(word) for word in lines[1].split()]
    except OSError as error:
        raise InputError(f"{path} has no header {header.name}.") from error
    except (ValueError, IndexError) as error:
        raise InputError(f"{header}: expected the sizes of the axes in the second line.") from error
    sizes += [1] * (4 - len(sizes))
    if min(sizes) < 1 or math.prod(sizes[4:]) != 1:
        raise InputError(f"{header}: expected sizes of three axes and of coils, got {sizes}.")
    return sizes[0], sizes[1], sizes[2], sizes[3]
