# SPDX-License-Identifier: Apache-2.0
"""Passes that methods of uncertainty are made of: the product's own, and those that it does not have."""

from __future__ import annotations

import pytest
import torch

from DIANetLib.errors import InputError
from DIANetLib.inference.sampling import sample_window
from DIANetLib.network import LatentConfig
from Testing.inference.fakes import tiny_config, tiny_network
from training.compare_passes import Pass, one_window, run_passes

SHAPE, WINDOW = (7, 8, 6), (8, 8, 8)


def network():
    return tiny_network(tiny_config(latent=LatentConfig(channels=2, path_dropout=0.5)))


def image(seed: int = 0) -> torch.Tensor:
    return torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(seed))


def outputs(net, passes, seed=3):
    window = one_window(net, SHAPE, WINDOW, "case")
    found = run_passes({"shipped": net}, image(), window, passes, seed=seed)
    return {one: output.probabilities() for one, output in found}


def test_the_mean_of_sample_passes_is_what_the_product_gives():
    net = network()
    window = one_window(net, SHAPE, WINDOW, "case")
    product = sample_window(
        net, window.cut(image()).unsqueeze(0), samples=3, seed=3, window=window.index, valid=window.valid
    )
    found = outputs(net, [Pass(kind="sample", sample=n) for n in range(3)])
    mean = torch.cat(list(found.values())).mean(0)
    torch.testing.assert_close(mean, product.mean_probability)


def test_a_mirrored_pass_is_the_pass_through_the_mirrored_image_turned_back():
    net = network()
    window = one_window(net, (8, 8, 6), WINDOW, "case")
    whole = torch.randn(1, 8, 8, 6, generator=torch.Generator().manual_seed(0))
    (_, turned), *_ = run_passes({"shipped": net}, whole, window, [Pass(mirrored=(2,))], seed=0)
    (_, straight), *_ = run_passes({"shipped": net}, whole.flip(3), window, [Pass()], seed=0)
    torch.testing.assert_close(turned.mean, straight.mean.flip(4))
    assert not torch.allclose(turned.mean, outputs_of(net, whole, window).mean)


def outputs_of(net, whole, window):
    (_, output), *_ = run_passes({"shipped": net}, whole, window, [Pass()], seed=0)
    return output


def test_channel_dropout_alone_is_random_but_draws_no_latent_and_drops_no_path():
    config = tiny_config(latent=LatentConfig(channels=2, path_dropout=0.5), dropout=0.0)
    net = tiny_network(config)
    found = outputs(net, [Pass(), *(Pass(kind="dropout", sample=n) for n in range(4))])
    for one, probabilities in found.items():
        torch.testing.assert_close(probabilities, found[Pass()], msg=one.name)  # no dropout: the mean pass
    assert net.latent.path_dropout == 0.5
    varied = outputs(network(), [Pass(kind="dropout", sample=n) for n in range(4)])
    first, *rest = varied.values()
    assert any(not torch.allclose(first, other) for other in rest)


def test_equal_passes_run_once_and_encodings_are_shared(monkeypatch):
    net = network()
    encoded = []
    original = net.encode
    monkeypatch.setattr(net, "encode", lambda *a, **k: encoded.append(1) or original(*a, **k))
    passes = [Pass(), Pass(), Pass(kind="sample"), Pass(mirrored=(2,)), Pass(kind="sample", mirrored=(2,))]
    assert len(outputs(net, passes)) == 4
    assert len(encoded) == 2


def test_a_case_of_several_windows_is_refused():
    with pytest.raises(InputError, match="reads at once, got head of"):
        one_window(network(), (40, 40, 40), WINDOW, "head")
