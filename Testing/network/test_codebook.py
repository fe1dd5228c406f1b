# SPDX-License-Identifier: Apache-2.0
"""CodeBook: soft matching of h to learned prototypes; paper, section 3.3."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from DIANetLib.network import DIANet
from DIANetLib.network.codebook import CodeBook, perplexity
from DIANetLib.network.config import CodeBookConfig
from DIANetLib.network.noise import RandomSource
from Testing.network.tiny import config, generators, image, network


def codebook(codes: list[list[float]], gain: float = 1.0, **changes: float) -> CodeBook:
    values = torch.tensor(codes)
    block = CodeBook(values.shape[1], CodeBookConfig(codes=len(codes), **changes))  # type: ignore[arg-type]
    with torch.no_grad():
        block.codes.copy_(values)
        block.gain.fill_(gain)
    return block.eval()


def row(*vectors: list[float]) -> Tensor:
    """One image, one row of positions: (1, d, 1, P)."""
    return torch.tensor(vectors).T.reshape(1, -1, 1, len(vectors))


def test_a_temperature_near_zero_gives_the_nearest_code() -> None:
    block = codebook([[0.0, 0.0], [4.0, 0.0]], temperature=1e-3)
    torch.testing.assert_close(block(row([1.0, 1.0], [3.0, -1.0])), row([0.0, 0.0], [4.0, 0.0]))


def test_codes_weigh_by_their_negative_squared_distance() -> None:
    # squared distances 1 and 9; two channels times temperature 4: weights in the ratio exp(-1/8) : exp(-9/8)
    block = codebook([[0.0, 0.0], [4.0, 0.0]], temperature=4.0)
    near = 1.0 / (1.0 + torch.tensor(-1.0).exp())
    weights = block.assign(row([1.0, 0.0]))
    assert weights.shape == (1, 2, 1, 1)
    torch.testing.assert_close(weights.flatten(), torch.stack([near, 1 - near]))
    torch.testing.assert_close(
        block(row([1.0, 0.0])).flatten(), torch.stack([4 * (1 - near), torch.tensor(0.0)])
    )


def test_a_gain_of_a_half_goes_half_of_the_way() -> None:
    block = codebook([[0.0, 0.0], [4.0, 0.0]], gain=0.5, temperature=1e-3)
    torch.testing.assert_close(block(row([1.0, 1.0])), row([0.5, 0.5]))


def test_far_from_the_origin_distances_keep_their_digits() -> None:
    shift = 4096.0
    h = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)).mul(64).round().div(64)
    codes = torch.randn(5, 3, generator=torch.Generator().manual_seed(1)).mul(64).round().div(64)
    here, there = codebook(codes.tolist()), codebook((codes + shift).tolist())
    torch.testing.assert_close(there.assign(h + shift), here.assign(h), atol=1e-3, rtol=0)


def test_distances_are_taken_in_float32_under_autocast() -> None:
    block = codebook(torch.randn(6, 8, generator=torch.Generator().manual_seed(2)).tolist())
    h = torch.randn(2, 8, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weights = block.assign(h)
        refined = block(h)
    assert weights.dtype == torch.float32
    assert torch.equal(weights, block.assign(h))
    assert torch.equal(refined, block(h))


def test_the_perplexity_of_uniform_use_is_the_number_of_codes() -> None:
    torch.testing.assert_close(perplexity(torch.full((8,), 0.3)), torch.tensor(8.0))
    torch.testing.assert_close(perplexity(torch.tensor([0.0, 2.0, 0.0])), torch.tensor(1.0))
    torch.testing.assert_close(perplexity(torch.tensor([0.5, 0.5, 0.0])), torch.tensor(2.0))
    torch.testing.assert_close(CodeBook(3, CodeBookConfig(codes=16)).perplexity, torch.tensor(16.0))


def test_usage_follows_training_passes_and_no_others() -> None:
    block = codebook([[0.0, 0.0], [4.0, 0.0]], temperature=1e-3, decay=0.75)
    h = row([0.0, 0.0], [0.1, 0.0], [0.0, 0.1], [4.0, 0.0])  # three read the first code, one the second
    block(h)
    assert block.usage.tolist() == [0.5, 0.5]
    block.train()(h)
    torch.testing.assert_close(block.usage, torch.tensor([0.5625, 0.4375]))  # 3/4 * 1/2 + 1/4 * (3/4 or 1/4)


def test_a_dead_code_is_revived_and_the_others_stay() -> None:
    block = codebook([[0.0, 0.0], [4.0, 0.0], [900.0, 900.0]], temperature=1e-3, decay=0.5, revive_below=0.1)
    h = row([0.0, 0.0], [4.0, 0.0], [1.0, 2.0])
    block.train()
    for _ in range(8):
        block(h, RandomSource(generators([0]), stochastic=True))
        if not block.codes[2].eq(900.0).any():
            break
    assert block.codes[:2].tolist() == [[0.0, 0.0], [4.0, 0.0]]
    assert block.codes[2].tolist() in ([0.0, 0.0], [4.0, 0.0], [1.0, 2.0])
    assert float(block.usage[2]) > 0.1 / 3


@pytest.mark.parametrize("revive_below", [0.0, 0.1])
def test_revival_can_be_turned_off(revive_below: float) -> None:
    block = codebook([[0.0, 0.0], [9.0, 9.0]], temperature=1e-3, decay=0.0, revive_below=revive_below).train()
    for _ in range(2):
        block(row([0.0, 0.0]))
    assert (block.codes[1].tolist() == [9.0, 9.0]) == (revive_below == 0.0)


def test_revival_draws_from_the_generator_it_is_given() -> None:
    h = torch.randn(2, 3, 8, 8)

    def revived(seed: int) -> Tensor:
        block = CodeBook(3, CodeBookConfig(codes=4)).train()
        block.usage.zero_()
        block.revive(h, RandomSource(generators([seed, 99]), stochastic=True))
        return block.codes.detach().clone()

    state = torch.get_rng_state()
    first = revived(5)
    torch.set_rng_state(state)
    assert torch.equal(revived(5), first)
    assert not torch.equal(revived(6), first)
    vectors = h.movedim(1, -1).reshape(-1, 3)
    assert all((vectors == code).all(1).any() for code in first)
    assert len(first.unique(dim=0)) == 4  # no vector twice while there are enough


def test_more_codes_than_positions_share_the_positions() -> None:
    drawn = RandomSource(stochastic=True).choose(torch.arange(3.0).view(3, 1), 7)
    assert sorted(drawn.flatten().long().bincount().tolist()) == [2, 2, 3]


def test_two_training_passes_before_one_backward_are_allowed() -> None:
    block = codebook([[0.0, 0.0], [9.0, 9.0]], decay=0.0, temperature=1e-3, revive_below=0.5).train()
    (block(row([0.0, 0.0])).sum() + block(row([1.0, 1.0])).sum()).backward()
    assert block.codes.grad is not None


@pytest.mark.parametrize("dims", [2, 3])
def test_at_step_zero_the_network_equals_the_one_without_codebook(dims: int) -> None:
    setup = config(dims)
    plain = network(setup)
    model = DIANet(config(dims, codebook=CodeBookConfig(codes=6))).eval()
    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert set(missing) == {"codebook.codes", "codebook.gain", "codebook.usage"}
    assert not unexpected
    x = image(setup, 2)
    assert torch.equal(model(x).segmented.mean, plain(x).segmented.mean)
    seeds = range(4)
    assert torch.equal(
        model(x, generators=generators(seeds)).segmented.mean,
        plain(x, generators=generators(seeds)).segmented.mean,
    )


def test_after_one_step_gradient_reaches_every_parameter() -> None:
    torch.manual_seed(0)
    block = CodeBook(4, CodeBookConfig(codes=5)).train()
    optimiser = torch.optim.SGD(block.parameters(), lr=0.1)
    h, target = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    for _ in range(2):
        optimiser.zero_grad()
        (block(h) - target).square().mean().backward()
        optimiser.step()
    assert all(p.grad is not None and p.grad.any() for p in block.parameters())


def test_a_compiled_training_pass_counts_and_revives() -> None:
    torch.manual_seed(0)
    block = CodeBook(4, CodeBookConfig(codes=5)).train()
    block.usage[2] = 0.0
    before = block.codes.detach().clone()
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    compiled(torch.randn(2, 4, 3, 3)).sum().backward()
    changed = (block.codes != before).any(1)
    assert changed.tolist() == [False, False, True, False, False]
    assert len(block.usage.unique()) > 1
