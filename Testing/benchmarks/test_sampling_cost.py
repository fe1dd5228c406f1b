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


def test_the_three_numbers_are_printed(capsys, monkeypatch):
    monkeypatch.setattr(sampling_cost, "HIPPOCAMPUS", tiny_network().config)
    monkeypatch.setattr(sampling_cost, "HIPPOCAMPUS_WINDOW", (8, 8, 8))
    assert sampling_cost.main(["--samples", "2", "--repeats", "1"]) == 0
    printed = capsys.readouterr().out
    assert "random weights: window 8 × 8 × 8, cpu" in printed
    assert "one plain pass" in printed
    assert "2 samples, all maps" in printed
    assert "ratio" in printed


def test_it_runs_as_a_file_too(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sampling_cost.py", "--help"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(sampling_cost.__file__, run_name="__main__")
    assert stopped.value.code == 0
    assert "plain passes" in capsys.readouterr().out
