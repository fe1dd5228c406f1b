# SPDX-License-Identifier: Apache-2.0
"""Devices, memory estimates and retreat."""

from __future__ import annotations

import pytest
import torch

from DIANetLib.errors import DeviceError
from DIANetLib.inference.memory import (
    Plan,
    available_bytes,
    describe_device,
    estimate_bytes,
    is_out_of_memory,
    make_plan,
    resolve_device,
    retreat,
)
from Testing.inference.fakes import tiny_config

CPU = torch.device("cpu")


@pytest.fixture
def _no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.usefixtures("_no_gpu")
@pytest.mark.parametrize("request_", ["cuda", "cuda:0", "CUDA:3"])
def test_a_gpu_asked_for_where_there_is_none_gets_a_sentence(request_):
    with pytest.raises(
        DeviceError, match=r"was asked for, but there is no GPU to use.*Choose --device cpu or auto"
    ):
        resolve_device(request_)


@pytest.mark.usefixtures("_no_gpu")
def test_an_apple_gpu_asked_for_where_there_is_none_gets_a_sentence():
    with pytest.raises(DeviceError, match="no Apple GPU"):
        resolve_device("mps")


@pytest.mark.usefixtures("_no_gpu")
def test_auto_is_the_cpu_where_there_is_no_gpu():
    assert resolve_device("auto") == CPU
    assert describe_device(CPU) == "cpu"


def test_auto_is_the_first_gpu_and_numbers_beyond_the_last_get_a_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == torch.device("cuda:0")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(DeviceError, match=r"there are 2 GPUs.*cuda:1 or less"):
        resolve_device("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "cpu:1", "cuda:x", ""])
def test_an_unknown_device_gets_a_sentence(name):
    with pytest.raises(DeviceError, match="Expected auto, cpu, cuda, cuda:N or mps"):
        resolve_device(name)


def test_free_memory_is_known_here():
    free = available_bytes(CPU)
    assert free is None or free > 1_000_000


def test_the_estimate_grows_with_window_and_batch():
    config = tiny_config()
    small = estimate_bytes(config, (16, 16, 16), 1)
    assert estimate_bytes(config, (32, 16, 16), 1) == pytest.approx(2 * small, rel=0.01)
    assert small < estimate_bytes(config, (16, 16, 16), 8) < 8 * small


def _plan(shape, free, samples=10, device=CPU, config=None):
    return make_plan(config or tiny_config(), shape, (16, 16, 16), device, samples=samples, free_bytes=free)


def test_with_memory_enough_the_image_is_read_at_once():
    assert _plan((20, 23, 17), None) == Plan(CPU, (20, 24, 18), 1)


def test_a_gpu_takes_all_samples_at_once_or_as_many_as_fit():
    gpu = torch.device("cuda:0")
    assert _plan((16, 16, 16), None, device=gpu).batch == 10
    fits_four = int(estimate_bytes(tiny_config(), (16, 16, 16), 4) / 0.8)
    assert 1 < _plan((16, 16, 16), fits_four, device=gpu).batch <= 4


def test_with_little_memory_the_models_window_is_used_then_smaller_ones():
    config = tiny_config()
    usual = int(estimate_bytes(config, (16, 16, 16), 1) / 0.79)
    assert _plan((20, 24, 17), usual).window == (16, 16, 16)
    half = int(estimate_bytes(config, (8, 16, 16), 1) / 0.79)
    assert _plan((20, 24, 17), half).window == (8, 16, 16)
    assert _plan((20, 24, 17), 0).window == (8, 8, 8)


def test_a_two_dimensional_network_reads_single_slices():
    assert _plan((7, 20, 20), None, config=tiny_config(spatial_dims=2)).window == (1, 20, 20)


def test_retreat_goes_from_batch_to_window_to_cpu_and_says_so():
    plan, config, notes = Plan(torch.device("cuda:0"), (16, 8, 8), 4), tiny_config(), []
    while (step := retreat(plan, config)) is not None:
        plan, note = step
        notes.append(note)
    assert plan == Plan(CPU, (8, 8, 8), 1)
    assert notes == [
        "Memory ran out on cuda:0; went on with 2 samples at a time.",
        "Memory ran out on cuda:0; went on with 1 samples at a time.",
        "Memory ran out on cuda:0; went on with windows of 8 × 8 × 8 voxels.",
        "Memory ran out on cuda:0; went on on the CPU.",
    ]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_of_memory_are_told_from_others(error, expected):
    assert is_out_of_memory(error) is expected
