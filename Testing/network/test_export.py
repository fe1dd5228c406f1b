# SPDX-License-Identifier: Apache-2.0
"""The mean pass as one graph, for runtimes without Python."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from DIANetLib.network import DIANet, NetworkConfig
from Testing.network.test_contract import EVERYTHING
from Testing.network.tiny import config, image, network, parts


class MeanPass(nn.Module):
    def __init__(self, model: DIANet) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        output = self.model(x)
        return (output.segmented.probabilities(), *parts(output).values())


@pytest.mark.slow
@pytest.mark.parametrize(
    "setup",
    [config(2), config(2, **EVERYTHING)],
    ids=["plain", "everything"],
)
def test_the_mean_pass_exports_to_a_graph_with_the_same_results(setup: NetworkConfig) -> None:
    model = MeanPass(network(setup))
    x = image(model.model.config, 2)
    with torch.no_grad():
        exported = torch.export.export(model, (x,)).module()
        for ours, theirs in zip(model(x), exported(x), strict=True):
            torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)
