# SPDX-License-Identifier: Apache-2.0
"""The benchmark runs; its figures are for people, since a test machine's speed says little."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from DIANetLib.formats.image import write_volume
from Testing.benchmarks import rerank


def small() -> rerank.Case:
    return rerank.shells("small", (20, 24, 22), (0.6, 0.3), 1.0)


def test_every_list_is_timed():
    cost = rerank.measure(small(), repeats=1)
    assert 0 < cost.median_s <= cost.worst_s
    assert cost.build_s > 0
    assert cost.first_s > 0
    assert cost.counted > 100


def test_the_figures_are_printed(capsys, monkeypatch):
    monkeypatch.setattr(rerank, "stand_ins", lambda: (small(),))
    assert rerank.main(["--repeats", "1"]) == 0
    printed = capsys.readouterr().out
    assert "small: 22 × 24 × 20 voxels" in printed
    assert "list, slowest" in printed


def test_an_output_folder_can_be_measured(tmp_path: Path, capsys):
    case = small()
    write_volume(case.error, tmp_path / "error_probability.nrrd")
    write_volume(case.labels, tmp_path / "labels.nii.gz")
    record = {"model": {"name": "tiny"}}
    (tmp_path / "result.json").write_text(json.dumps(record), encoding="utf-8")
    again = rerank.read(tmp_path)
    np.testing.assert_array_equal(again.labels.array, case.labels.array)
    assert rerank.main([str(tmp_path), "--repeats", "1"]) == 0
    assert "(tiny): 22 × 24 × 20 voxels" in capsys.readouterr().out


def test_it_runs_as_a_file_too(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["rerank.py", "--help"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(rerank.__file__, run_name="__main__")
    assert stopped.value.code == 0
    assert "ranked anew" in capsys.readouterr().out
