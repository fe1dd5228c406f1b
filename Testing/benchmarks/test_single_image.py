# SPDX-License-Identifier: Apache-2.0
"""The benchmark runs; its figures are for people, since a test machine's speed says little."""

from __future__ import annotations

import pytest

from Testing.benchmarks import single_image


def test_both_ways_are_timed_in_turn(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[bool] = []

    def seconds(_network: object, x: object) -> float:
        taken.append(single_image.blocks._declined(x))
        return 2.0 if len(taken) % 2 else 3.0

    monkeypatch.setattr(single_image, "seconds", seconds)
    monkeypatch.setattr(single_image.blocks, "_declined", lambda _x: True)
    assert single_image.main(["hippocampus", "--voxels", "8", "8", "8", "--repeats", "2"]) == 0
    assert taken == [True, False] * 3
    assert "1.50 times as long" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(["nosuch"], "no model 'nosuch'"), (["--voxels", "41", "56", "40"], "divisible by 8")],
)
def test_what_cannot_be_measured_is_told_in_a_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert single_image.main(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("single_image: error: ")
    assert sentence in told
