# SPDX-License-Identifier: Apache-2.0
"""P(h) against the shares of the labels."""

from __future__ import annotations

import pytest
import torch

from DIANetLib.losses.distribution import class_shares, distribution_divergence


def test_shares_count_the_voxels_of_each_cell() -> None:
    labels = torch.tensor([[[0, 1, 2, 2], [0, 0, 2, 2]]])  # two cells of 2 x 2
    shares = class_shares(labels, 3, (1, 2))
    expected = torch.tensor([[[[0.75, 0.0]], [[0.25, 0.0]], [[0.0, 1.0]]]])
    torch.testing.assert_close(shares, expected)


def test_unlabelled_voxels_count_as_background() -> None:
    assert class_shares(torch.full((1, 2, 2), -1), 2, (1, 1)).flatten().tolist() == [1.0, 0.0]


@pytest.mark.parametrize("size", [(8, 8), (4, 8, 8)])
def test_the_divergence_vanishes_where_p_of_h_is_the_shares(size: tuple[int, ...]) -> None:
    labels = torch.randint(3, (2, *size), generator=torch.Generator().manual_seed(0))
    grid = tuple(side // 2 for side in size)
    logits = class_shares(labels, 3, grid).clamp_min(1e-12).log()
    assert float(distribution_divergence(logits, labels)) == pytest.approx(0.0, abs=1e-5)
    assert float(distribution_divergence(torch.zeros_like(logits), labels)) > 0.1


def test_a_uniform_p_of_h_costs_the_logarithm_of_the_classes_where_a_cell_is_pure() -> None:
    labels = torch.ones(1, 4, 4, dtype=torch.long)
    value = distribution_divergence(torch.zeros(1, 3, 2, 2), labels)
    torch.testing.assert_close(value, torch.tensor(3.0).log())


def test_rows_without_labels_do_not_count() -> None:
    labels = torch.ones(2, 4, 4, dtype=torch.long)
    logits = torch.zeros(2, 3, 2, 2)
    logits[1] = 100.0 * torch.randn(3, 2, 2)
    logits.requires_grad_()
    value = distribution_divergence(logits, labels, torch.tensor([True, False]))
    torch.testing.assert_close(value, torch.tensor(3.0).log())
    value.backward()
    assert logits.grad is not None
    assert not logits.grad[1].any()
    none = torch.tensor([False, False])
    assert float(distribution_divergence(logits.detach(), labels, none)) == 0.0
