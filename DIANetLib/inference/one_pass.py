# SPDX-License-Identifier: Apache-2.0
"""Uncertainty maps from one mean pass, told by a head that was distilled from the maps of samples.

They obey what the samples' maps obey (equations 33 to 35): epistemic and aleatoric add up to the total,
neither is negative, and no variance exceeds p (1 - p).
"""

from __future__ import annotations

import torch

from DIANetLib.acwi.uncertainty import UncertaintyMaps
from DIANetLib.errors import DIANetError
from DIANetLib.network import SegmentationOutput
from DIANetLib.network.one_pass import OnePassHead

__all__ = ["one_pass_maps"]


def one_pass_maps(head: OnePassHead, output: SegmentationOutput, temperature: float = 1.0) -> UncertaintyMaps:
    """What a head makes of a mean pass.

    Args:
        head: On the device of the output.
        output: Of one row, with its features.
        temperature: Divides the logits (calibration).

    Returns:
        Maps (K, *S) and (*S), float32, on the device of the output.

    Raises:
        DIANetError: A probability is not finite.
    """
    told = head.read_output(output, temperature)
    logarithm = told.log_probabilities[0]
    total = (logarithm.exp() * logarithm).sum(0).neg_().clamp_min_(0.0)
    if not bool(torch.isfinite(total).all()):
        raise DIANetError(
            "the network returned probabilities that are not finite numbers.",
            remedy="Run on another device or in full precision, and check the image's intensities.",
        )
    epistemic = total * told.epistemic_share[0]
    log_variance = output.log_variance
    return UncertaintyMaps(
        mean_probability=logarithm.exp(),
        total=total,
        aleatoric=total - epistemic,
        epistemic=epistemic,
        variance=told.variance[0],
        heteroscedastic=None if log_variance is None else log_variance[0].float().exp().mean(0),
        samples=1,
        error=told.error[0],
    )
