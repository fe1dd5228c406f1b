# SPDX-License-Identifier: Apache-2.0
"""Cross-entropy over the rows whose class is known (1, 16-18), worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from DIANetLib.errors import InputError
from DIANetLib.losses.classification import UNKNOWN, classification_loss

# probabilities of class 1: 0.8, 0.6, 0.5
LOGITS = torch.tensor([[0.0, math.log(4.0)], [0.0, math.log(1.5)], [0.0, 0.0]])


def test_the_cross_entropy_as_worked_by_hand() -> None:
    loss = classification_loss(LOGITS, torch.tensor([1, 0, 1]))
    assert loss.item() == pytest.approx(-(math.log(0.8) + math.log(0.4) + math.log(0.5)) / 3)


def test_rows_of_unknown_class_have_no_share() -> None:
    loss = classification_loss(LOGITS, torch.tensor([1, UNKNOWN, 1]))
    assert loss.item() == pytest.approx(-(math.log(0.8) + math.log(0.5)) / 2)


def test_rows_of_unknown_class_get_no_gradient() -> None:
    logits = LOGITS.clone().requires_grad_()
    classification_loss(logits, torch.tensor([1, UNKNOWN, 1])).backward()
    assert logits.grad is not None
    assert logits.grad[1].tolist() == [0.0, 0.0]
    assert logits.grad[0].abs().min() > 0


def test_without_any_known_class_the_loss_is_zero_and_still_on_the_graph() -> None:
    logits = LOGITS.clone().requires_grad_()
    loss = classification_loss(logits, torch.full((3,), UNKNOWN))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_class_weights_weigh_the_rows_of_that_class() -> None:
    loss = classification_loss(LOGITS, torch.tensor([1, 0, -1]), class_weights=torch.tensor([3.0, 1.0]))
    assert loss.item() == pytest.approx(-(math.log(0.8) + 3 * math.log(0.4)) / 4)


def test_label_smoothing_spreads_a_share_of_the_target_evenly() -> None:
    loss = classification_loss(LOGITS[:1], torch.tensor([1]), label_smoothing=0.2)
    assert loss.item() == pytest.approx(-(0.9 * math.log(0.8) + 0.1 * math.log(0.2)))


def test_half_precision_logits_give_a_float32_loss() -> None:
    assert classification_loss(LOGITS.bfloat16(), torch.tensor([1, 0, 1])).dtype == torch.float32


@pytest.mark.parametrize("wrong", [2, -2])
def test_a_class_that_the_head_does_not_have_is_refused(wrong: int) -> None:
    with pytest.raises(InputError, match=r"expected class numbers 0 to 1, .* Check the table"):
        classification_loss(LOGITS, torch.tensor([1, wrong, 0]))
