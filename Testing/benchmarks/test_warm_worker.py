# SPDX-License-Identifier: Apache-2.0
"""The benchmark runs; and a warm worker is at least five times faster, which is what it is there for."""

from __future__ import annotations

import pytest

from Testing.benchmarks import warm_worker
from Testing.bundle.tiny import write_bundle


def test_the_second_request_of_the_shipped_model_is_five_times_faster_than_the_first(tmp_path):
    saving = warm_worker.measure("hippocampus", warm_worker.crop(), samples=1, base=tmp_path)
    assert saving.ratio == saving.first_s / saving.second_s
    assert saving.ratio >= 5, f"first {saving.first_s:.2f} s, second {saving.second_s:.2f} s"
    assert list(tmp_path.iterdir()) == []


def test_the_three_numbers_are_printed(tmp_path, capsys, monkeypatch):
    model = write_bundle(tmp_path)
    small = warm_worker.crop((12, 12, 12))
    monkeypatch.setattr(warm_worker, "crop", lambda: small)
    assert warm_worker.main([str(model), "--samples", "1", "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    assert "12 × 12 × 12 voxels, 1 samples, cpu" in printed
    assert "first request" in printed
    assert "second request" in printed
    assert "ratio" in printed


def test_it_explains_itself(capsys):
    with pytest.raises(SystemExit) as stopped:
        warm_worker.main(["--help"])
    assert stopped.value.code == 0
    assert "warm worker" in capsys.readouterr().out
