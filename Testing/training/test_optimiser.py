# SPDX-License-Identifier: Apache-2.0
"""Muon: orthogonal steps for kernels, AdamW's for the rest, and a fit that goes on as if never stopped."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from DIANetLib.network import DIANet
from Testing.training.tiny import config
from training.config import OptimiserConfig
from training.optimiser import Muon, build_optimiser, orthogonalised

SETTINGS = OptimiserConfig(method="muon", steps=10, batch=1, learning_rate=0.01)


@pytest.mark.parametrize("shape", [(20, 50), (50, 20), (32, 32)])
def test_orthogonalised_keeps_the_directions_and_levels_their_lengths(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    found = orthogonalised(matrix)
    assert found.shape == matrix.shape
    lengths = torch.linalg.svdvals(found)
    assert float(lengths.min()) > 0.6
    assert float(lengths.max()) < 1.25
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    exact = u @ vh
    cosine = float((found * exact).sum() / found.norm() / exact.norm())
    assert cosine > 0.97


def test_gathered_steps_equal_the_iteration_as_published():
    matrix = torch.randn(24, 40, generator=torch.Generator().manual_seed(2))
    x = matrix / matrix.norm()
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    assert torch.allclose(orthogonalised(matrix), x, atol=1e-4)


def test_orthogonalised_of_nothing_is_nothing():
    assert not orthogonalised(torch.zeros(16, 16)).any()


def test_kernels_go_to_muon_and_the_rest_to_adamw():
    model = nn.Sequential(nn.Conv3d(1, 16, 3), nn.Conv3d(16, 32, 3), nn.Conv3d(32, 3, 1))
    optimiser = build_optimiser(model, SETTINGS)
    assert isinstance(optimiser, Muon)
    shapes = {g["orthogonal"]: {tuple(p.shape) for p in g["params"]} for g in optimiser.param_groups}
    assert shapes[True] == {(32, 16, 3, 3, 3)}
    assert shapes[False] == {(16, 1, 3, 3, 3), (16,), (32,), (3, 32, 1, 1, 1), (3,)}


def test_every_parameter_of_a_network_is_moved_once():
    model = DIANet(config().network)
    groups = build_optimiser(model, SETTINGS).param_groups
    moved = [id(p) for group in groups for p in group["params"]]
    assert sorted(moved) == sorted(id(p) for p in model.parameters())


def test_a_step_of_muon_is_as_large_as_one_of_adamw():
    layer = nn.Linear(64, 32, bias=False)
    before = layer.weight.detach().clone()
    optimiser = Muon([{"params": [layer.weight], "weight_decay": 0.0, "orthogonal": True}], lr=0.01)
    layer(torch.randn(8, 64, generator=torch.Generator().manual_seed(3))).square().sum().backward()
    optimiser.step()
    moved = (layer.weight.detach() - before).square().mean().sqrt()
    # Of 32 singular values 8, as many as rows, are near 1: the RMS is sqrt(8 / 32) of 0.2 times the rate.
    assert float(moved) == pytest.approx(0.2 * 0.01 * math.sqrt(8 / 32), rel=0.2)


def test_a_matrix_without_gradient_stays():
    layer = nn.Linear(32, 32, bias=False)
    before = layer.weight.detach().clone()
    Muon([{"params": [layer.weight], "weight_decay": 0.1, "orthogonal": True}], lr=0.01).step()
    assert torch.equal(layer.weight, before)


def test_restored_state_goes_on_as_if_never_stopped():
    torch.manual_seed(4)
    one = nn.Sequential(nn.Linear(16, 32), nn.Linear(32, 16))
    steps = [torch.randn(4, 16) for _ in range(6)]

    def take(model, optimiser, x):
        optimiser.zero_grad()
        model(x).square().mean().backward()
        optimiser.step()

    first = build_optimiser(one, SETTINGS)
    for x in steps[:3]:
        take(one, first, x)
    other = copy.deepcopy(one)
    second = build_optimiser(other, SETTINGS)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for x in steps[3:]:
        take(one, first, x)
        take(other, second, x)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
