# SPDX-License-Identifier: Apache-2.0
"""The benchmark runs; its figures are for people, since a test machine's speed says little."""

from __future__ import annotations

import runpy
import sys

import pytest
import torch

from Testing.benchmarks import sampling_cost
from Testing.inference.fakes import tiny_network


def test_both_sides_are_timed_and_compared():
    cost = sampling_cost.measure(tiny_network(), torch.zeros(1, 1, 8, 8, 8), samples=3, batch=1, repeats=1)
    assert cost.plain_s > 0
    assert cost.ratio == cost.sampled_s / cost.plain_s
    assert cost.one_pass_s > 0
    assert cost.one_pass_ratio == cost.one_pass_s / cost.plain_s


def test_each_side_is_timed_by_the_clock_that_is_given():
    ticks = iter(range(1000))
    network, x = tiny_network(), torch.zeros(1, 1, 8, 8, 8)
    cost = sampling_cost.measure(network, x, samples=1, batch=1, repeats=2, clock=lambda: next(ticks))
    assert (cost.plain_s, cost.sampled_s, cost.one_pass_s) == (1, 1, 1)


def test_the_numbers_are_printed(capsys, monkeypatch):
    monkeypatch.setattr(sampling_cost, "HIPPOCAMPUS", tiny_network().config)
    monkeypatch.setattr(sampling_cost, "HIPPOCAMPUS_WINDOW", (8, 8, 8))
    assert sampling_cost.main(["--samples", "2", "--repeats", "1"]) == 0
    printed = capsys.readouterr().out
    assert "random weights: window 8 × 8 × 8, cpu" in printed
    assert "one plain pass" in printed
    assert "2 samples, all maps" in printed
    assert printed.count("ratio") == 2
    assert "one pass, all maps" in printed
    assert sampling_cost.main(["--samples", "1", "--repeats", "1", "--cpu-time"]) == 0


def test_it_runs_as_a_file_too(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sampling_cost.py", "--help"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(sampling_cost.__file__, run_name="__main__")
    assert stopped.value.code == 0
    assert "plain passes" in capsys.readouterr().out
