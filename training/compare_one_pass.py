# SPDX-License-Identifier: Apache-2.0
"""A model's one-pass head among the methods: a network whose logits are the head's log-probabilities."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from DIANetLib.acwi.error_calibration import ErrorCalibration
from DIANetLib.bundle import LoadedModel
from DIANetLib.network import DIANet, DIANetOutput, Encoded, Head, SegmentationOutput
from DIANetLib.network.one_pass import OnePassHead
from DIANetLib.operators import ForwardOperator


class OnePassDIANet(DIANet):
    """The mean pass, read by a head at the model's temperature.

    What it puts out has as `auxiliary` the head's probability of an error and its epistemic share of the
    total uncertainty, (1, 1, *S) each.
    """

    head: OnePassHead
    temperature: float

    def decode(
        self,
        encoded: Encoded,
        generators: Sequence[torch.Generator] | None = None,
        times: Tensor | None = None,
        operator: ForwardOperator | None = None,
        heads: Collection[Head] | None = None,
        *,
        keep_features: bool = False,
    ) -> DIANetOutput:
        """The mean pass and what the head makes of it, whatever is asked for."""
        output = super().decode(encoded, None, heads=["segmentation"], keep_features=True).segmented
        told = self.head.read_output(output, self.temperature)
        extra = (told.error.unsqueeze(1), told.epistemic_share.unsqueeze(1))
        return DIANetOutput(SegmentationOutput(told.log_probabilities, auxiliary=extra))


def one_pass_network(model: LoadedModel) -> OnePassDIANet | None:
    """The model's network with its head; None if it has none."""
    head, shipped = model.one_pass_head(), model.network()
    if head is None:
        return None
    with torch.device("meta"):  # the weights are the shipped ones, and no second copy of them
        network = OnePassDIANet(shipped.config)
    network.load_state_dict(shipped.state_dict(), assign=True)
    network.head, network.temperature = head, model.temperature
    return network.eval().requires_grad_(False)


def one_pass_calibration(model: LoadedModel) -> ErrorCalibration:
    """What corrects the head's probability of an error; one that changes nothing if there is none."""
    found = None if model.one_pass is None else model.one_pass.error_calibration
    classes = model.network().config.classes
    return found or ErrorCalibration((0.0,) * classes, (1.0,) * classes)
