# SPDX-License-Identifier: Apache-2.0
"""The plain prediction that a fit watches: one mean pass over windows, and its Dice."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor

from DIANetLib.network import DIANet
from training.config import TrainingConfig


@torch.inference_mode()
def predict_mean(
    model: DIANet, image: npt.NDArray[np.float32], config: TrainingConfig
) -> npt.NDArray[np.float32]:
    """Probabilities (K, *S) of the mean pass over a prepared image (M, *S)."""
    device = next(model.parameters()).device
    x = torch.from_numpy(image).unsqueeze(0).to(device)

    def probabilities(patch: Tensor) -> Tensor:
        return model(patch).segmented.probabilities()

    blended = sliding_window_inference(x, config.window_kji, 1, probabilities, overlap=0.25, mode="gaussian")
    assert isinstance(blended, Tensor)  # one output, so no tuple or dict
    return np.asarray(blended[0].cpu().numpy())


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
