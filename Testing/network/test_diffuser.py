# SPDX-License-Identifier: Apache-2.0
"""Diffuser: self-attention over the positions of h and along time; paper, section 3.3."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from DIANetLib.errors import InputError
from DIANetLib.network import DIANet
from DIANetLib.network.config import DiffuserConfig
from DIANetLib.network.diffuser import Attention, Diffuser, TimeEncoding, position_features
from Testing.network.tiny import config, generators, image, network

GRID = {2: (3, 4), 3: (2, 3, 4)}


def diffuser(dims: int = 2, channels: int = 6, **changes: int) -> Diffuser:
    """A diffuser in evaluation mode whose gains are open."""
    torch.manual_seed(0)
    block = Diffuser(dims, channels, DiffuserConfig(**{"heads": 2, **changes}))  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            if name.endswith("gain"):
                parameter.normal_()
    return block.eval()


def series(dims: int, points: int, rows: int = 2, channels: int = 6) -> Tensor:
    return torch.randn((rows, points, channels, *GRID[dims]), generator=torch.Generator().manual_seed(1))


def test_attention_is_the_mean_of_the_values_weighed_by_the_softmax_of_the_scores() -> None:
    torch.manual_seed(0)
    block = Attention(4, 2)
    torch.nn.init.ones_(block.gain)
    tokens, encoding = torch.randn(1, 3, 4), torch.randn(3, 4)
    query, key, value = block.read(block.norm(tokens) + encoding)[0].split(4, -1)
    seen = []
    for head in (slice(0, 2), slice(2, 4)):
        scores = query[:, head] @ key[:, head].T / math.sqrt(2)
        seen.append(scores.softmax(-1) @ value[:, head])
    expected = tokens[0] + block.write(torch.cat(seen, -1))
    torch.testing.assert_close(block(tokens, encoding)[0], expected)


def test_positions_run_from_zero_to_one_on_every_grid() -> None:
    # two positions lie at 1/4 and 3/4: the lowest frequency has turned by pi/4 and 3 pi/4 there
    features = position_features((2, 1), torch.device("cpu"))
    assert features.shape == (2, 16)
    half = math.sqrt(0.5)
    torch.testing.assert_close(features[:, 0], torch.tensor([half, half]))
    torch.testing.assert_close(features[:, 8], torch.tensor([half, -half]))
    wide = position_features((4, 6), torch.device("cpu"))
    assert len(wide.unique(dim=0)) == 24
    # the middle of three is the middle of five
    three, five = (position_features((size, 1), torch.device("cpu")) for size in (3, 5))
    torch.testing.assert_close(three[1], five[2])


@pytest.mark.parametrize("dims", [2, 3])
def test_any_grid_is_read(dims: int) -> None:
    block = diffuser(dims)
    for grid in ((1, 2, 3)[:dims], (5, 4, 7)[:dims]):
        h = torch.randn(2, 6, *grid)
        assert block(h).shape == h.shape


@pytest.mark.parametrize("dims", [2, 3])
def test_a_position_hears_of_all_others_of_its_image_and_of_no_other_image(dims: int) -> None:
    block, h = diffuser(dims), series(dims, 1)[:, 0]
    changed = h.clone()
    changed[0, :, 0] += torch.randn(6).view(6, *([1] * (dims - 1)))
    difference = (block(changed) - block(h)).abs().amax(1)
    assert (difference[0] > 0).all()
    assert (difference[1] == 0).all()


@pytest.mark.parametrize("dims", [2, 3])
def test_a_batch_equals_its_rows_one_by_one(dims: int) -> None:
    block, h = diffuser(dims, temporal=True), series(dims, 3)
    times = torch.tensor([[0.0, 1.0, 2.5], [0.0, 0.5, 4.0]])
    alone = torch.cat([block(h[i : i + 1], times[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(block(h, times), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("temporal", [False, True])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_sequence_of_one_time_point_equals_the_plain_call(dims: int, temporal: bool) -> None:
    block, h = diffuser(dims, temporal=temporal), series(dims, 1)
    assert torch.equal(block(h, torch.tensor([[3.0], [5.0]]))[:, 0], block(h[:, 0]))


def test_time_points_hear_of_each_other_and_of_when_they_were() -> None:
    block, h = diffuser(temporal=True), series(2, 3, rows=1)
    times = torch.tensor([[0.0, 1.0, 2.0]])
    refined = block(h, times)
    assert refined.shape == h.shape
    assert (refined - block(h, torch.tensor([[0.0, 1.0, 9.0]]))).abs().max() > 1e-4
    changed = h.clone()
    changed[0, 2, :, 0, 0] += 1.0
    assert ((block(changed, times) - refined).abs().amax((0, 2, 3, 4)) > 0).all()


def test_the_order_of_the_time_points_does_not_matter_beside_their_times() -> None:
    block, h = diffuser(temporal=True, layers=2), series(2, 3)
    times, order = torch.tensor([[0.0, 1.0, 2.5], [0.0, 0.5, 4.0]]), [2, 0, 1]
    torch.testing.assert_close(block(h[:, order], times[:, order]), block(h, times)[:, order])


def test_time_is_encoded_by_a_line_and_by_sines() -> None:
    encoding = TimeEncoding(3)
    with torch.no_grad():
        encoding.phase.weight.copy_(torch.tensor([[2.0], [1.0], [0.5]]))
        encoding.phase.bias.copy_(torch.tensor([0.5, 0.0, 0.0]))
    expected = torch.tensor([[[0.5, 0.0, 0.0], [2 * math.pi + 0.5, 0.0, 1.0]]])
    torch.testing.assert_close(encoding(torch.tensor([[0.0, math.pi]])), expected)


def test_times_that_do_not_fit_are_refused() -> None:
    h = series(2, 3)
    with pytest.raises(InputError, match=r"times of 2 sequences of 3 time points, got shape \(2, 2\)"):
        diffuser(temporal=True)(h, torch.zeros(2, 2))
    with pytest.raises(InputError, match=r"expected one time point, got 3; .* diffuser\.temporal"):
        diffuser()(h, torch.zeros(2, 3))


@pytest.mark.parametrize("dims", [2, 3])
def test_at_step_zero_the_network_equals_the_one_without_diffuser(dims: int) -> None:
    setup = config(dims)
    plain = network(setup)
    model = DIANet(config(dims, diffuser=DiffuserConfig(heads=5, layers=2, temporal=True))).eval()
    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert all(name.startswith("diffuser.") for name in missing)
    assert not unexpected
    x = image(setup, 2)
    assert torch.equal(model(x).segmented.mean, plain(x).segmented.mean)
    assert torch.equal(model(x, times=torch.tensor([[0.0, 1.0]])).segmented.mean, plain(x).segmented.mean)
    seeds = range(4)
    assert torch.equal(
        model(x, generators=generators(seeds)).segmented.mean,
        plain(x, generators=generators(seeds)).segmented.mean,
    )


@pytest.mark.parametrize("temporal", [False, True])
def test_after_one_step_gradient_reaches_every_parameter(temporal: bool) -> None:
    torch.manual_seed(0)
    block = Diffuser(2, 6, DiffuserConfig(heads=2, layers=2, temporal=temporal)).train()
    optimiser = torch.optim.SGD(block.parameters(), lr=0.1)
    points = 3 if temporal else 1
    h, times = series(2, points), torch.arange(float(points)).expand(2, points)
    target = torch.randn(h.shape)
    for _ in range(2):
        optimiser.zero_grad()
        (block(h, times) - target).square().mean().backward()
        optimiser.step()
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_a_network_aligns_each_sample_of_a_sequence_with_the_same_sample_of_the_others() -> None:
    setup = config(2, diffuser=DiffuserConfig(heads=5, temporal=True), dropout=0.0, decoder_dropout=0.0)
    model = network(setup)
    x, times = image(setup, 6), torch.tensor([[0.0, 1.0, 3.0], [0.0, 2.0, 2.5]])
    with torch.no_grad():
        mean = model(x, times=times).segmented.mean
        sampled = model(x, generators=generators(range(12)), times=times).segmented.mean
        for case in range(2):
            rows = slice(3 * case, 3 * case + 3)
            alone = model(x[rows], times=times[case : case + 1]).segmented.mean
            torch.testing.assert_close(mean[rows], alone, atol=1e-5, rtol=1e-5)
            for sample in range(2):
                seeds = [6 * case + 2 * point + sample for point in range(3)]
                one = model(
                    x[rows], generators=generators(seeds), times=times[case : case + 1]
                ).segmented.mean
                torch.testing.assert_close(sampled[seeds], one, atol=1e-5, rtol=1e-5)
    assert (mean - model(x).segmented.mean).abs().max() > 1e-4


def test_times_that_the_network_cannot_use_are_refused() -> None:
    plain, model = network(config(2)), network(config(2, diffuser=DiffuserConfig(heads=5, temporal=True)))
    x = image(plain.config, 2)
    with pytest.raises(InputError, match="expected no times, since this network has no diffuser"):
        plain(x, times=torch.zeros(1, 2))
    with pytest.raises(InputError, match=r"\(sequences, time points\) for 2 cases, got shape \(1, 3\)"):
        model(x, times=torch.zeros(1, 3))
