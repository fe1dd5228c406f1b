# SPDX-License-Identifier: Apache-2.0
"""Whole heads beside DLMUSE: agreement by hand, groups, records that are kept, and failures that are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from DIANetLib.errors import InputError
from DIANetLib.formats.image import write_volume
from DIANetLib.volume import Geometry, Volume
from Testing.benchmarks import whole_heads
from Testing.benchmarks.whole_heads import (
    Head,
    agreement,
    compare,
    find_heads,
    main,
    measure,
    run_head,
    table,
)
from Testing.bundle.tiny import structures, write_bundle

GRID = Geometry((6, 5, 4), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), np.diag([-1.0, -1.0, 1.0]))
SETTINGS = {"model": "tiny", "samples": 0, "device": "cpu"}


def collections(folder: Path) -> Path:
    """Two IXI heads and one NiChart head, the second without labels."""
    rng = np.random.default_rng(0)
    for name, labelled in (("brain-ixi/A", True), ("brain-ixi/B", False), ("brain-nichart/C", True)):
        place, head = name.split("/")
        for part in ("images", "labels"):
            (folder / place / part).mkdir(parents=True, exist_ok=True)
        image = Volume(rng.normal(size=GRID.shape).astype(np.float32), GRID)
        write_volume(image, folder / place / "images" / f"{head}.nii.gz")
        if labelled:
            labels = np.zeros(GRID.shape, np.uint8)
            labels[1:3, 1:3, 0:2], labels[1:3, 1:3, 4:6] = 48, 47
            write_volume(Volume(labels, GRID), folder / place / "labels" / f"{head}.nii.gz")
    return folder


def record(name: str, group: str, dice: float | None = None, failure: str | None = None) -> dict:
    found = {"name": name, "group": group, "seconds": 10.0, "peak_mb": 900.0, "failure": failure}
    if dice is not None:
        part = {"dice": dice, "hd95_mm": 2.0, "volume_ml": 7.0, "reference_ml": 8.0}
        found |= {"stages_s": {"localise": 4.0}, "agreement": dict.fromkeys(whole_heads.PARTS, part)}
    return found


def test_sides_are_compared_with_their_own_value_and_both_together():
    labels = np.zeros(GRID.shape, np.uint8)
    labels[0, 0, 0:2], labels[0, 0, 4:6] = 48, 47
    left, right = labels == 48, np.zeros(GRID.shape, bool)
    right[0, 0, 4] = True
    found = agreement({"left": left, "right": right}, labels, GRID)
    assert found["left"].dice == 1.0
    assert found["right"].dice == pytest.approx(2 / 3)
    assert found["both"].dice == pytest.approx(6 / 7)
    assert found["left"].hd95_mm == 0.0
    assert found["both"].volume_ml == pytest.approx(3 * 0.008)
    assert found["both"].reference_ml == pytest.approx(4 * 0.008)


def test_heads_that_the_localiser_was_not_fitted_on_are_a_group_of_their_own(tmp_path: Path):
    heads = find_heads(collections(tmp_path), ["B"])
    assert [(head.name, head.group) for head in heads] == [
        ("B", "IXI, held out"),
        ("C", "NiChart"),
        ("A", "IXI, fitted"),
    ]
    assert heads[0].labels is None
    assert heads[1].labels is not None
    with pytest.raises(InputError, match="holds no head"):
        find_heads(tmp_path / "elsewhere", [])


def test_the_table_names_the_worst_head_and_what_failed():
    rows = table(
        [
            record("a", "NiChart", 0.8),
            record("b", "NiChart", 0.7),
            record("c", "MNI152", failure="nothing found on the left side"),
        ]
    )
    assert rows[2].startswith(
        "| NiChart | 2 | 0 | 0.750 / 0.750 / 0.750 | 0.700 (b) | 1 | 2.00 | 7.00 / 8.00 |"
    )
    assert rows[3].startswith("| MNI152 | 1 | 1 | – |")
    assert rows[-1] == "- c: nothing found on the left side"


def test_a_head_goes_through_the_command_and_is_not_done_again(tmp_path: Path, monkeypatch, capsys):
    data = collections(tmp_path / "data")
    sides = structures("hippocampus_left", "hippocampus_right")
    model = write_bundle(tmp_path, structures=sides, window=(8, 8, 8))
    settings = SETTINGS | {"model": str(model)}
    heads = find_heads(data, ["A"])[:1]
    (found,) = measure(heads, tmp_path / "out", **settings)
    assert found["seconds"] > 0
    assert found["peak_mb"] > 100
    assert {"localise", "segment"} & set(found["stages_s"])
    result = tmp_path / "out" / "results" / "A"
    again = compare(heads[0], result)
    assert again["agreement"] == found["agreement"]
    monkeypatch.setattr(whole_heads, "run_head", lambda *_, **__: pytest.fail("run again"))
    assert measure(heads, tmp_path / "out", **settings) == [found]
    assert "1/1 A: " in capsys.readouterr().out


def test_a_head_that_fails_is_told_in_the_commands_words(tmp_path: Path):
    head = Head("missing", "NiChart", tmp_path / "missing.nii.gz", None)
    found = run_head(head, tmp_path / "result", **(SETTINGS | {"model": str(write_bundle(tmp_path))}))
    assert "missing.nii.gz" in found["failure"]
    assert "agreement" not in found


def test_a_mean_below_the_bar_is_a_bad_exit_status(tmp_path: Path, monkeypatch, capsys):
    arguments = ["--data", str(tmp_path), "--output", str(tmp_path)]
    monkeypatch.setattr(whole_heads, "chosen_heads", lambda *_: ())
    for dice, status in ((0.8, 0), (0.7, 1)):
        monkeypatch.setattr(whole_heads, "measure", lambda *_, d=dice, **__: [record("a", "NiChart", d)])
        assert main(arguments) == status
    assert (tmp_path / "whole-heads.md").read_text(encoding="utf-8") in capsys.readouterr().out
    monkeypatch.undo()
    assert main(["--data", str(tmp_path / "none"), "--output", str(tmp_path)]) == 2
