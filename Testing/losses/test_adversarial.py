# SPDX-License-Identifier: Apache-2.0
"""The discriminator and the encoder's play against it (15): closed forms, bounds, and one game to the end."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from DIANetLib.losses.adversarial import (
    Discriminator,
    discriminator_loss,
    encoder_loss,
    latent_vectors,
    prior_draws,
    warm_up,
)


class FirstEntry(nn.Module):
    """Takes a vector's first entry for the logit."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, vectors: Tensor) -> Tensor:
        return self.gain * vectors[:, 0]


def column(*values: float) -> Tensor:
    return torch.tensor(values).unsqueeze(1)


def test_the_discriminator_s_loss_is_equation_15_with_the_prior_as_class_one() -> None:
    prior, encoded = column(2.0, -1.0), column(0.5, -3.0, 1.0)
    verdict = discriminator_loss(FirstEntry(), encoded, prior)
    on_prior, on_encoded = torch.sigmoid(prior), torch.sigmoid(encoded)
    expected = -on_prior.log().mean() - (1 - on_encoded).log().mean()
    torch.testing.assert_close(verdict.loss, expected)
    assert verdict.accuracy.item() == pytest.approx((1 / 2 + 1 / 3) / 2)


def test_a_discriminator_that_cannot_tell_costs_twice_log_two_and_is_right_by_chance() -> None:
    verdict = discriminator_loss(FirstEntry(), torch.zeros(4, 1), torch.zeros(6, 1))
    assert verdict.loss.item() == pytest.approx(2 * math.log(2))
    assert verdict.accuracy.item() == 0.5
    assert encoder_loss(FirstEntry(), torch.zeros(4, 1)).item() == pytest.approx(math.log(2))


def test_the_encoder_s_loss_falls_as_its_latents_are_taken_for_the_prior() -> None:
    encoded = column(0.5, -3.0).requires_grad_()
    loss = encoder_loss(FirstEntry(), encoded)
    torch.testing.assert_close(loss, -torch.sigmoid(encoded).log().mean())
    loss.backward()
    assert encoded.grad is not None
    assert (encoded.grad < 0).all()
    assert encoded.grad[1] < -0.4  # where the discriminator is sure, the pull is strongest


def test_each_player_s_step_leaves_the_other_s_gradient_alone() -> None:
    discriminator = Discriminator(3)
    encoded = torch.randn(5, 3, requires_grad=True)
    encoder_loss(discriminator, encoded).backward()
    assert encoded.grad is not None
    assert encoded.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in discriminator.parameters())
    assert all(parameter.requires_grad for parameter in discriminator.parameters())
    encoded.grad = None
    discriminator_loss(discriminator, encoded, torch.randn(5, 3)).loss.backward()
    assert encoded.grad is None
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in discriminator.parameters())


def test_parameters_that_were_frozen_stay_frozen() -> None:
    discriminator = FirstEntry().requires_grad_(False)
    encoder_loss(discriminator, torch.randn(2, 1, requires_grad=True))
    assert not discriminator.gain.requires_grad


def test_no_layer_stretches_any_vector() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(4, width=16)
    with torch.no_grad():
        for parameter in discriminator.parameters():
            parameter.mul_(50.0)
        for _ in range(30):  # the norm is estimated by power iteration, a step a pass
            discriminator(torch.zeros(1, 4))
    discriminator.eval()
    for layer in discriminator.layers:
        if isinstance(layer, nn.Linear):
            assert torch.linalg.matrix_norm(layer.weight, 2).item() == pytest.approx(1.0, abs=0.01)
    x, y = torch.randn(200, 4), torch.randn(200, 4)
    assert ((discriminator(x) - discriminator(y)).abs() <= 1.01 * (x - y).norm(dim=1)).all()


def test_depth_and_width_set_the_layers() -> None:
    linear = [m for m in Discriminator(5, width=7, depth=3).layers if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(5, 7), (7, 7), (7, 7), (7, 1)]


def test_half_precision_vectors_are_judged_in_float32() -> None:
    assert Discriminator(3)(torch.randn(2, 3).bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("size", [(3, 4), (2, 3, 4)], ids=["2d", "3d"])
def test_tokens_are_positions_of_the_latent_each_taken_at_most_once(size: tuple[int, ...]) -> None:
    h = torch.arange(2 * 5 * math.prod(size), dtype=torch.float32).reshape(2, 5, *size)
    positions = {tuple(row) for row in h.movedim(1, -1).reshape(-1, 5).tolist()}
    some = [tuple(row) for row in latent_vectors(h, tokens=6).tolist()]
    assert len(set(some)) == 6
    assert set(some) < positions
    assert {tuple(row) for row in latent_vectors(h, tokens=10_000).tolist()} == positions


def test_the_choice_of_tokens_follows_the_generator() -> None:
    h = torch.randn(2, 3, 4, 5)
    draws = [latent_vectors(h, tokens=7, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_pooled_vectors_of_the_prior_have_its_variance() -> None:
    torch.manual_seed(0)
    pooled = latent_vectors(torch.randn(4000, 2, 3, 4), tokens=0, pooled=True)
    assert pooled.shape == (4000, 2)
    assert pooled.var().item() == pytest.approx(1.0, abs=0.05)
    h = torch.randn(2, 3, 2, 2)
    torch.testing.assert_close(latent_vectors(h, tokens=0, pooled=True), h.sum((2, 3)) / 2)
    assert latent_vectors(h, tokens=5, pooled=True).shape == (7, 3)


def test_draws_of_the_prior_are_standard_normal_and_repeatable() -> None:
    like = torch.zeros(5000, 4, dtype=torch.bfloat16)
    first, second = (prior_draws(like, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.dtype == torch.float32
    assert first.mean().item() == pytest.approx(0.0, abs=0.03)
    assert first.std().item() == pytest.approx(1.0, abs=0.03)


def test_the_game_moves_the_latents_onto_the_prior_until_they_cannot_be_told() -> None:
    """An encoder of one scale and shift per dimension starts at N(3, 0.2^2) and ends near N(0, 1)."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    discriminator = Discriminator(2, width=32)
    shift, log_scale = nn.Parameter(torch.full((2,), 3.0)), nn.Parameter(torch.full((2,), -1.6))
    encoder = torch.optim.Adam([shift, log_scale], 0.01, betas=(0.5, 0.9))
    critic = torch.optim.Adam(discriminator.parameters(), 0.02, betas=(0.5, 0.9))

    def vectors() -> Tensor:
        return shift + log_scale.exp() * torch.randn(128, 2, generator=generator)

    accuracies = []
    for _ in range(800):
        h = vectors()
        verdict = discriminator_loss(discriminator, h, prior_draws(h, generator))
        critic.zero_grad()
        verdict.loss.backward()
        critic.step()
        encoder.zero_grad()
        encoder_loss(discriminator, vectors()).backward()
        encoder.step()
        accuracies.append(float(verdict.accuracy))
    assert sum(accuracies[20:60]) / 40 > 0.9
    assert sum(accuracies[-100:]) / 100 == pytest.approx(0.5, abs=0.08)
    assert shift.detach().abs().max() < 0.5
    assert F.l1_loss(log_scale.detach(), torch.zeros(2)) < 0.4


@pytest.mark.parametrize(
    ("step", "weight"), [(0, 0.0), (10, 0.0), (11, 0.25), (12, 0.5), (14, 1.0), (99, 1.0)]
)
def test_the_weight_rises_linearly_after_its_start(step: int, weight: float) -> None:
    assert warm_up(step, 10, 4) == weight


def test_without_a_length_the_weight_sets_in_at_once() -> None:
    assert [warm_up(step, 3, 0) for step in (2, 3, 4)] == [0.0, 1.0, 1.0]
