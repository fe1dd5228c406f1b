# SPDX-License-Identifier: Apache-2.0
"""Stochastic passes through one window."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from DIANetLib.acwi.uncertainty import RunningUncertainty, class_variance, entropy, mutual_information
from DIANetLib.errors import Cancelled
from DIANetLib.inference.sampling import interruptible, sample_generators, sample_window
from Testing.inference.fakes import ThresholdNetwork, tiny_config, tiny_network


def _image(shape=(8, 10, 12)):
    return torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("batch", [1, 3, 10])
def test_cached_batched_passes_equal_a_loop_of_full_forward_passes(batch):
    network, x = tiny_network(), _image()
    maps = sample_window(network, x, samples=7, seed=5, window=2, batch=batch, temperature=1.3)
    with torch.no_grad():
        outputs = [network(x, generators=sample_generators(5, 2, [t])) for t in range(7)]
        samples = torch.cat([output.segmented.probabilities(1.3) for output in outputs])
        logit_variance = torch.cat([output.segmented.log_variance.exp() for output in outputs])
    close = {"atol": 1e-5, "rtol": 0}
    torch.testing.assert_close(maps.mean_probability, samples.mean(0), **close)
    torch.testing.assert_close(maps.total, entropy(samples.mean(0)), **close)
    torch.testing.assert_close(maps.aleatoric, entropy(samples, 1).mean(0), **close)
    torch.testing.assert_close(maps.epistemic, mutual_information(samples), **close)
    torch.testing.assert_close(maps.variance, class_variance(samples), **close)
    torch.testing.assert_close(maps.heteroscedastic, logit_variance.mean((0, 1)), **close)
    assert maps.epistemic.max() > 1e-3  # the samples do differ


def test_a_two_dimensional_network_equals_its_loop_too():
    network, x = tiny_network(tiny_config(spatial_dims=2)), _image((8, 10))
    maps = sample_window(network, x, samples=3, batch=2)
    with torch.no_grad():
        outputs = [
            network(x, generators=sample_generators(0, 0, [t])).segmented.probabilities() for t in range(3)
        ]
    torch.testing.assert_close(maps.mean_probability, torch.cat(outputs).mean(0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_every_other_sample_reads_the_mirrored_window_where_that_is_asked_for(batch):
    network, x = tiny_network(), _image((8, 10, 14))
    valid = (slice(0, 8), slice(1, 10), slice(0, 11))  # padded on one side alone
    maps = sample_window(network, x, samples=5, seed=5, batch=batch, valid=valid, mirrored=True)
    rows = []
    with torch.no_grad():
        for t in range(5):
            turned = x.flip(-1) if t % 2 else x
            found = network(turned, generators=sample_generators(5, 0, [t])).segmented.probabilities()[0]
            rows.append((found.flip(-1) if t % 2 else found)[(slice(None), *valid)])
    samples = torch.stack(rows)
    torch.testing.assert_close(maps.mean_probability, samples.mean(0), atol=1e-5, rtol=0)
    torch.testing.assert_close(maps.epistemic, mutual_information(samples), atol=1e-5, rtol=0)
    straight = sample_window(network, x, samples=5, seed=5, valid=valid).mean_probability
    assert float((maps.mean_probability - straight).abs().max()) > 1e-3


@pytest.mark.parametrize("samples", [0, 1])
def test_a_single_pass_is_never_mirrored(samples):
    network, x = tiny_network(), _image()
    mirrored, straight = (sample_window(network, x, samples=samples, mirrored=way) for way in (True, False))
    assert torch.equal(mirrored.mean_probability, straight.mean_probability)


def test_mirrored_samples_encode_a_window_twice():
    network = ThresholdNetwork()
    sample_window(network, _image(), samples=6, batch=2, mirrored=True)
    assert (network.encoded, network.decoded, network.rows) == (2, 6, 2)


def test_no_samples_mean_one_plain_pass_without_epistemic_part():
    network, x = tiny_network(), _image()
    maps = sample_window(network, x, samples=0)
    with torch.no_grad():
        plain = network(x).segmented.probabilities()[0]
    torch.testing.assert_close(maps.mean_probability, plain, atol=1e-6, rtol=0)
    assert maps.epistemic.abs().max() == 0


def test_padding_is_left_out_of_the_maps():
    network, x = tiny_network(), _image()
    valid = (slice(1, 7), slice(0, 10), slice(2, 11))
    inner = sample_window(network, x, samples=3, valid=valid)
    whole = sample_window(network, x, samples=3)
    assert inner.total.shape == (6, 10, 9)
    torch.testing.assert_close(inner.total, whole.total[valid])
    torch.testing.assert_close(inner.variance, whole.variance[(slice(None), *valid)])


@pytest.mark.parametrize("samples", [0, 3])
def test_what_the_encoder_saw_is_pooled_from_the_pass_itself(samples):
    network, x = tiny_network(), _image()
    valid = (slice(1, 7), slice(0, 10), slice(2, 11))
    calls = []
    handle = network.encoder.register_forward_hook(lambda *_: calls.append(1))
    found = sample_window(network, x, samples=samples, valid=valid, pooled=True).pooled
    handle.remove()
    assert len(calls) == 1
    with torch.no_grad():
        encoded = network.encode(x)
    assert found.counts == (3 * 5 * 4, 6 * 10 * 9)  # the coarse grid is half as fine
    coarse, fine = encoded.features[0, :, 0:3, :, 1:5], encoded.prepared[0][(0, slice(None), *valid)]
    np.testing.assert_allclose(found.means[1], fine.flatten(1).mean(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.deviations[1], fine.flatten(1).std(1, correction=0), rtol=1e-4)
    np.testing.assert_allclose(found.means[0], coarse.flatten(1).mean(1), rtol=1e-4, atol=1e-5)
    assert sample_window(network, x, samples=samples).pooled is None


def test_every_sample_of_every_window_draws_its_own_numbers():
    drawn = {
        torch.rand(1, generator=generator).item()
        for seed in (0, 1)
        for window in (0, 1)
        for generator in sample_generators(seed, window, range(3))
    }
    assert len(drawn) == 12
    again = sample_generators(1, 1, [2])[0]
    assert torch.rand(1, generator=again).item() in drawn


def test_the_deterministic_part_runs_once_and_samples_come_in_batches():
    network = ThresholdNetwork()
    done = []
    sample_window(network, _image(), samples=10, batch=4, on_samples=done.append)
    assert (network.encoded, network.decoded, network.rows) == (1, 10, 4)
    assert done == [4, 4, 2]


def test_sums_are_fed_with_one_batch_at_a_time(monkeypatch):
    rows = []
    update = RunningUncertainty.update

    def spy(self, probabilities, variance=None):
        rows.append(len(probabilities))
        update(self, probabilities, variance)

    monkeypatch.setattr(RunningUncertainty, "update", spy)
    sample_window(tiny_network(), _image(), samples=5, batch=2)
    assert rows == [2, 2, 1]


class _LargestTensor(TorchDispatchMode):
    """The largest result of any operation, in numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.untyped_storage().nbytes() // 4)
        return result


def test_no_tensor_grows_with_the_number_of_samples():
    network, x = tiny_network(), _image()
    sizes = []
    for samples in (2, 20):
        with _LargestTensor() as largest:
            sample_window(network, x, samples=samples, batch=2)
        sizes.append(largest.numel)
    assert sizes[0] == sizes[1]
    assert sizes[1] < 20 * 3 * x.numel()


def test_a_pass_can_be_stopped_between_layers_and_leaves_no_hook():
    network = tiny_network()
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 4:
            raise Cancelled

    with pytest.raises(Cancelled), interruptible(network, check):
        sample_window(network, _image(), samples=2)
    assert len(calls) == 4
    assert not any(module._forward_pre_hooks for module in network.modules())
