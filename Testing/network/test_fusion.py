# SPDX-License-Identifier: Apache-2.0
"""Several modalities, some of them missing, become one representation (5)."""

from __future__ import annotations

import itertools

import pytest
import torch

from DIANetLib.errors import ConfigError, InputError
from DIANetLib.network import DIANet, NetworkConfig
from DIANetLib.network.config import FusionConfig
from DIANetLib.network.fusion import ModalityFusion, blank_missing
from Testing.network.tiny import SIZES, config, image, network

DIMS = pytest.mark.parametrize("dims", [2, 3])


def fused(dims: int = 2, modalities: int = 3, **changes) -> NetworkConfig:
    return config(dims, modalities=modalities, modality_fusion=FusionConfig(channels=4), **changes)


def moved(setup: NetworkConfig) -> DIANet:
    """A network whose fusion is felt."""
    model = network(setup)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("fusion.project", "fusion.scores")):
                parameter.normal_(std=0.5)
    return model


def mask(*rows: str) -> torch.Tensor:
    return torch.tensor([[letter == "x" for letter in row] for row in rows])


@DIMS
def test_at_step_zero_the_network_equals_the_one_without_stems(dims: int) -> None:
    setup = fused(dims)
    torch.manual_seed(0)
    plain = DIANet(config(dims, modalities=3)).eval()
    whole = DIANet(setup).eval()
    missing = whole.load_state_dict(plain.state_dict(), strict=False)
    x = image(setup, 2)

    assert {name.split(".")[0] for name in missing.missing_keys} == {"fusion"}
    assert torch.equal(whole(x).segmented.mean, plain(x).segmented.mean)


@DIMS
def test_gradient_reaches_every_parameter_after_one_step(dims: int) -> None:
    torch.manual_seed(1)
    model = DIANet(fused(dims, heteroscedastic=False, latent=False)).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    x, target = image(model.config, 2), torch.randn(2, 3, *SIZES[dims])
    for _ in range(2):
        optimiser.zero_grad()
        output = model(x)
        # Not a mean square alone: normalisation before it would leave no gradient in what it removes.
        loss = ((output.segmented.mean - target) ** 2).mean() + sum(
            (a**2).mean() for a in output.segmented.auxiliary
        )
        loss.backward()
        optimiser.step()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]

    assert [name for name in without if name.startswith("fusion")] == []


@DIMS
def test_weights_sum_to_one_over_the_modalities_that_are_there(dims: int) -> None:
    setup = fused(dims)
    model = moved(setup)
    weights = model.fusion.weights(image(setup, 2), mask("xxx", "x-x"))

    torch.testing.assert_close(weights.sum(1), torch.ones(2, *SIZES[dims]))
    assert (weights[1, 1] == 0).all()
    assert (weights[0] > 0).all()


def test_equal_scores_give_the_mean_of_the_stems_that_are_there() -> None:
    fusion = ModalityFusion(2, 3, 4, FusionConfig(channels=4)).eval()
    with torch.no_grad():
        for score in fusion.scores:
            score.weight.zero_()
            score.bias.zero_()
        fusion.project.weight.copy_(torch.eye(4).view(4, 4, 1, 1))
    x = torch.randn(1, 3, 6, 6)
    stems = [stem(x[:, m : m + 1]) for m, stem in enumerate(fusion.stems)]

    torch.testing.assert_close(fusion(x, mask("x-x")), (stems[0] + stems[2]) / 2)
    torch.testing.assert_close(fusion(x), sum(stems) / 3)


@pytest.mark.parametrize("fusion", [True, False])
@pytest.mark.parametrize("filler", [7.0, float("nan")])
def test_what_stands_in_a_missing_channel_has_no_influence(fusion: bool, filler: float) -> None:
    setup = fused() if fusion else config(2, modalities=3)
    model = moved(setup)
    x = image(setup, 2)
    other = x.clone()
    other[1, 1] = filler
    available = mask("xxx", "x-x")

    assert torch.equal(
        model(x, available=available).segmented.mean, model(other, available=available).segmented.mean
    )


def test_every_non_empty_subset_gives_finite_logits_of_its_own() -> None:
    setup = fused()
    model, x = moved(setup), image(setup)
    subsets = ["".join(s) for s in itertools.product("x-", repeat=3) if "x" in s]
    logits = [model(x, available=mask(subset)).segmented.mean for subset in subsets]

    assert all(torch.isfinite(one).all() for one in logits)
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(logits, 2))


def test_all_available_equals_saying_nothing() -> None:
    setup = fused()
    model, x = moved(setup), image(setup, 2)

    assert torch.equal(model(x, available=mask("xxx", "xxx")).segmented.mean, model(x).segmented.mean)


def test_a_batch_of_different_subsets_equals_a_loop() -> None:
    setup = fused()
    model, x, available = moved(setup), image(setup, 2), mask("x--", "-xx")
    together = model(x, available=available).segmented.mean
    one_by_one = torch.cat(
        [model(x[n : n + 1], available=available[n : n + 1]).segmented.mean for n in range(2)]
    )

    torch.testing.assert_close(together, one_by_one)


def test_a_case_without_any_modality_gets_a_sentence() -> None:
    with pytest.raises(InputError, match="at least one available modality per case"):
        blank_missing(torch.zeros(2, 3, 4, 4), mask("xxx", "---"))


@pytest.mark.parametrize("available", [mask("xx"), torch.ones(1, 3)])
def test_availability_of_another_shape_or_type_gets_a_sentence(available: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"booleans of shape \(1, 3\)"):
        moved(fused())(image(fused()), available=available)


def test_fusing_one_modality_gets_a_sentence() -> None:
    with pytest.raises(ConfigError, match="at least 2 modalities to fuse, got 1"):
        NetworkConfig.parse({"classes": 2, "modalities": 1, "modality_fusion": {}})


def test_an_unknown_setting_of_the_fusion_gets_a_sentence() -> None:
    with pytest.raises(ConfigError, match=r"modality_fusion\.width"):
        NetworkConfig.parse({"classes": 2, "modalities": 2, "modality_fusion": {"width": 3}})


def test_it_runs_under_autocast_and_in_channels_last() -> None:
    setup = fused(3)
    model = moved(setup).to(memory_format=torch.channels_last_3d)
    x = image(setup).to(memory_format=torch.channels_last_3d)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(x, available=mask("xx-")).segmented.mean

    torch.testing.assert_close(
        half.float(), model(x, available=mask("xx-")).segmented.mean, atol=0.2, rtol=0.1
    )
