# SPDX-License-Identifier: Apache-2.0
"""Plain predictions of a fit: one mean pass over windows, in two dimensions or three, for each head."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from monai.data.utils import dense_patch_slices
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from DIANetLib.inference.sliding_window import usual_windows
from DIANetLib.network import DIANetOutput
from training.config import TrainingConfig

#: Slices of a volume that a network of two dimensions reads at once.
_SLICES = 16


@torch.inference_mode()
def predict_mean(
    model: nn.Module,
    image: npt.NDArray[np.float32],
    config: TrainingConfig,
    available: Sequence[bool] | None = None,
) -> npt.NDArray[np.float32]:
    """Probabilities (K, k, j, i) of the mean pass over a prepared image (M, k, j, i).

    A small image is padded no further than the product's engine pads it: instance normalisation counts what
    lies around (`hippocampus` loses 0.002 to 0.004 of Dice where crops are padded to its whole window).

    Args:
        model: in evaluation mode, with a segmentation head.
        image: prepared; a network of two dimensions reads it slice by slice.
        config: of the window.
        available: which modalities are there; None for all.
    """
    flat = config.network.spatial_dims == 2
    x = _rows(model, image, flat=flat)
    window = _window(tuple(x.shape[2:]), config)
    read = _reader(model, available, lambda output: output.segmented.probabilities())
    parts = []
    for rows in x.split(_SLICES):
        blended = sliding_window_inference(rows, window, 1, read, overlap=0.25, mode="gaussian")
        assert isinstance(blended, Tensor)  # one output, so no tuple or dict
        parts.append(blended.cpu())
    found = torch.cat(parts)
    return np.asarray((found.transpose(0, 1) if flat else found[0]).numpy())


@torch.inference_mode()
def predict_classes(
    model: nn.Module,
    image: npt.NDArray[np.float32],
    config: TrainingConfig,
    available: Sequence[bool] | None = None,
) -> npt.NDArray[np.float32]:
    """Probabilities (C,) of the whole case: the mean over windows that cover it, and over slices in 2-D.

    Args:
        model: in evaluation mode, with a classification head.
        image: prepared, (M, k, j, i).
        config: of the window.
        available: which modalities are there; None for all.
    """
    flat = config.network.spatial_dims == 2
    window = config.window_kji[1:] if flat else config.window_kji
    x = pad_to(_rows(model, image, flat=flat), window)
    read = _reader(model, available, lambda output: output.classified.probabilities())
    size = tuple(x.shape[2:])
    parts = [
        read(rows[(slice(None), slice(None), *place)]).cpu()
        for place in dense_patch_slices(size, window, window)
        for rows in x.split(_SLICES)
    ]
    return np.asarray(torch.cat(parts).mean(0).numpy())


def middle(image: Tensor, window: Sequence[int]) -> Tensor:
    """The middle (B, C, *window) of images (B, C, *S), with 0 around those that are smaller."""
    image = pad_to(image, window)
    place = [
        slice((have - want) // 2, (have - want) // 2 + want)
        for have, want in zip(image.shape[2:], window, strict=True)
    ]
    return image[(slice(None), slice(None), *place)]


def pad_to(image: Tensor, window: Sequence[int]) -> Tensor:
    """Images (B, C, *S) with 0 around them where they are smaller than a window."""
    padding: list[int] = []
    for have, want in zip(reversed(image.shape[2:]), reversed(tuple(window)), strict=True):
        missing = max(0, want - have)
        padding += [missing // 2, missing - missing // 2]
    return F.pad(image, padding) if any(padding) else image


def structure_dice(
    predicted: npt.NDArray[np.integer], reference: npt.NDArray[np.integer], classes: int
) -> npt.NDArray[np.float64]:
    """Dice of structures 1..classes-1, (classes - 1,); NaN where neither map has the structure."""
    paired = np.bincount(
        predicted.astype(np.int64).ravel() * classes + reference.astype(np.int64).ravel(),
        minlength=classes**2,
    ).reshape(classes, classes)
    overlap, sizes = np.diag(paired), paired.sum(0) + paired.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((2.0 * overlap / sizes)[1:])


def _window(shape: tuple[int, ...], config: TrainingConfig) -> tuple[int, ...]:
    """What is read at once of images (*S), as the engine chooses it."""
    dims = len(shape)
    flat, around = dims == 2, (1,) * (3 - dims)
    divisor = (*around, *(config.network.divisor,) * dims)
    return usual_windows((*around, *shape), config.window_kji, divisor, flat=flat)[0].padded[-dims:]


def _rows(model: nn.Module, image: npt.NDArray[np.float32], *, flat: bool) -> Tensor:
    """The case as rows on the model's device: (1, M, k, j, i), or its slices (k, M, j, i)."""
    x = torch.from_numpy(image).to(next(model.parameters()).device)
    return x.transpose(0, 1) if flat else x.unsqueeze(0)


def _reader(
    model: nn.Module, available: Sequence[bool] | None, part: Callable[[DIANetOutput], Tensor]
) -> Callable[[Tensor], Tensor]:
    """A function of patches (B, M, *S) that gives one part of what the model puts out."""

    def read(patches: Tensor) -> Tensor:
        there = None
        if available is not None and not all(available):
            there = torch.tensor(tuple(available), device=patches.device).expand(patches.shape[0], -1)
        return part(model(patches, available=there))

    return read
