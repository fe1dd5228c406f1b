# SPDX-License-Identifier: Apache-2.0
"""Transfer, equation (25): L2-SP, the squared distance of the weights from those that a fit started from.

Li, Grandvalet and Davoine, "Explicit inductive bias for transfer learning with convolutional networks", ICML
2018. Weight decay pulls towards zero and so away from what was learned; this pulls back to it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def l2_sp(parameters: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> Tensor:
    """||theta_s - theta_t||^2, the sum of the squared differences; a scalar on the graph of `parameters`.

    Args:
        parameters: theta_t, the weights that are fitted, by name.
        start: theta_s, the weights that the fit started from. Parameters that are not in it, such as those of
            a new head, are left out; names that are only in it (buffers) too.

    Raises:
        ValueError: if the two share no name.
    """
    shared = [name for name in parameters if name in start]
    if not shared:
        raise ValueError("expected weights and start to share a name, got none")
    return torch.stack([(parameters[name] - start[name]).square().sum() for name in shared]).sum()
