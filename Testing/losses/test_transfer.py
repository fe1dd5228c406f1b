# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from DIANetLib.losses.transfer import l2_sp


def test_l2_sp_is_the_squared_distance_of_all_weights():
    weights = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[3.0]])}
    start = {"a": torch.tensor([0.0, 4.0]), "b": torch.tensor([[1.0]])}
    assert float(l2_sp(weights, start)) == 1.0 + 4.0 + 4.0


def test_its_gradient_points_away_from_the_start():
    theta = torch.tensor([1.0, -1.0], requires_grad=True)
    l2_sp({"a": theta}, {"a": torch.tensor([0.5, 1.0])}).backward()
    assert theta.grad is not None
    assert theta.grad.tolist() == [1.0, -4.0]  # 2 (theta - start)


def test_weights_of_a_new_head_are_free():
    weights = {"body": torch.ones(2), "head": torch.full((2,), 9.0)}
    assert float(l2_sp(weights, {"body": torch.zeros(2), "buffer": torch.ones(1)})) == 2.0


def test_it_is_zero_at_the_start_and_refuses_a_start_of_another_model():
    assert float(l2_sp({"a": torch.ones(3)}, {"a": torch.ones(3)})) == 0.0
    with pytest.raises(ValueError, match="share a name"):
        l2_sp({"a": torch.ones(3)}, {"b": torch.ones(3)})
