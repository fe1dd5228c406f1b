# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from DIANetLib.losses.continual import diagonal_fisher, drawn_log_likelihood, elastic, normalised


def test_the_fisher_information_of_a_gaussian_mean_is_the_squared_slope():
    # y ~ N(theta x, 1): d log p / d theta = (y - theta x) x, whose square has the mean x^2.
    generator = torch.Generator().manual_seed(1)
    theta = torch.tensor([0.7, -0.2], requires_grad=True)
    x = torch.tensor([2.0, 0.5])

    def draws():
        for _ in range(1500):
            y = (theta * x).detach() + torch.randn(2, generator=generator)
            yield -0.5 * (y - theta * x).square().sum()

    found = diagonal_fisher({"theta": theta}, draws())["theta"]
    torch.testing.assert_close(found, x.square(), rtol=0.12, atol=0.0)  # 1500 draws: sd 3.7 %


def test_the_fisher_information_of_logistic_regression_is_that_of_its_closed_form():
    # One voxel with logits (0, w x): F = x^2 p (1 - p).
    generator = torch.Generator().manual_seed(2)
    w, x = torch.tensor([0.8], requires_grad=True), 1.5

    def draws():
        for _ in range(1500):
            logits = torch.stack([torch.zeros(1), w * x]).reshape(1, 2, 1)
            yield drawn_log_likelihood(logits, generator)

    p = torch.sigmoid(torch.tensor(0.8 * x))
    found = diagonal_fisher({"w": w}, draws())["w"]
    torch.testing.assert_close(found, (x**2 * p * (1 - p)).reshape(1), rtol=0.12, atol=0.0)


def test_the_information_of_independent_voxels_adds_up():
    generator = torch.Generator().manual_seed(3)
    w = torch.tensor([0.3], requires_grad=True)

    def draws(voxels: int):
        for _ in range(1200):
            yield drawn_log_likelihood(torch.stack([torch.zeros(voxels), w.expand(voxels)])[None], generator)

    one = diagonal_fisher({"w": w}, draws(1))["w"]
    four = diagonal_fisher({"w": w}, draws(4))["w"]
    torch.testing.assert_close(four / one, torch.tensor([4.0]), rtol=0.15, atol=0.0)


def test_a_confident_prediction_carries_little_information_and_an_unused_weight_none():
    used, unused = torch.tensor([30.0], requires_grad=True), torch.ones(2, requires_grad=True)
    logits = torch.stack([torch.zeros(1), used]).reshape(1, 2, 1)
    found = diagonal_fisher({"used": used, "unused": unused}, [drawn_log_likelihood(logits)])
    assert float(found["used"]) < 1e-10
    assert found["unused"].tolist() == [0.0, 0.0]


def test_elastic_consolidation_is_half_the_weighted_squared_distance():
    theta = torch.tensor([1.0, 3.0], requires_grad=True)
    value = elastic({"a": theta}, {"a": torch.tensor([0.0, 1.0])}, {"a": torch.tensor([2.0, 0.5])})
    assert float(value.detach()) == 0.5 * (2.0 * 1.0 + 0.5 * 4.0)
    value.backward()
    assert theta.grad is not None
    assert theta.grad.tolist() == [2.0, 1.0]  # F (theta - theta*)


def test_two_quadratic_tasks_end_where_the_sum_of_their_losses_is_least():
    # Task A: 1/2 a (t - 1)^2 with information a; task B: 1/2 b (t + 1)^2. EWC then is exact.
    a, b = 3.0, 1.0
    theta = torch.tensor([1.0], requires_grad=True)
    optimiser = torch.optim.SGD([theta], lr=0.1)
    for _ in range(200):
        optimiser.zero_grad()
        loss = 0.5 * b * (theta + 1).square().sum()
        loss = loss + elastic({"t": theta}, {"t": torch.tensor([1.0])}, {"t": torch.tensor([a])})
        loss.backward()
        optimiser.step()
    assert float(theta.detach()) == pytest.approx((a - b) / (a + b), abs=1e-5)


def test_a_normalised_information_has_the_mean_one_over_all_weights():
    found = normalised({"a": torch.tensor([1.0, 3.0]), "b": torch.tensor([[0.0, 0.0]])})
    assert found["a"].tolist() == [1.0, 3.0]
    assert found["b"].tolist() == [[0.0, 0.0]]
    with pytest.raises(ValueError, match="above 0"):
        normalised({"a": torch.zeros(2)})


def test_nothing_observed_or_nothing_shared_is_refused():
    with pytest.raises(ValueError, match="at least one observation"):
        diagonal_fisher({"a": torch.ones(1, requires_grad=True)}, [])
    with pytest.raises(ValueError, match="share a name"):
        elastic({"a": torch.ones(1)}, {"a": torch.ones(1)}, {"b": torch.ones(1)})
