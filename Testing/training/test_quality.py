# SPDX-License-Identifier: Apache-2.0
"""The command that fits expected Dice, of a fit and of a model folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from DIANetLib.bundle import load_bundle
from DIANetLib.bundle_export import CARD
from DIANetLib.errors import InputError
from DIANetLib.inference.engine import Segmenter
from DIANetLib.model_folders import METADATA, WEIGHTS
from DIANetLib.volume import Geometry, Volume
from Testing.bundle.tiny import structures, write_bundle
from Testing.training.tiny import config, write_config
from training.__main__ import main
from training.card_quality import HEADING, with_section
from training.quality import QualityRequest, quality
from training.quality_series import Corruption
from training.quality_store import store_quality

QUICK = ["--samples", "3", "--inner", "2", "--held-out", "1", "--device", "cpu"]
CPU = torch.device("cpu")
FEW = (Corruption(), Corruption("noise", 0.2), Corruption("blur", 1.5))


def common(config_file: Path, data: Path, output: Path) -> list[str]:
    return [str(config_file), "--data", str(data), "--output", str(output)]


@pytest.fixture(autouse=True, scope="module")
def _short_series():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.quality.series", lambda *, middle: FEW)
        yield


@pytest.fixture(scope="module")
def judged(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with c.yaml, the fit out/ that was evaluated, and its quality."""
    folder = tmp_path_factory.mktemp("quality")
    write_config(folder / "c.yaml", optimiser__steps=60, validate_every=20)
    arguments = common(folder / "c.yaml", data, folder / "out")
    assert main(["fit", *arguments, "--device", "cpu"]) == 0
    assert main(["evaluate", *arguments, "--samples", "3", "--device", "cpu"]) == 0
    assert main(["quality", *arguments, *QUICK]) == 0
    return folder


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "out/quality/summary.json").read_text(encoding="utf-8"))


def test_a_fit_gets_an_estimate_and_its_figures(judged: Path):
    summary = summary_of(judged)
    assert set(summary["quality"]["structures"]) == {"front", "back"}
    assert summary["quality"]["cases"] == len(summary["inner"]) == 2
    held_out = summary["held_out_judged"]
    missed = summary["not_found"]["held_out"]
    assert held_out["in_distribution"]["all"]["rows"] == 4
    assert held_out["series"]["all"]["rows"] + missed == 2 * len(FEW)  # of one case of two
    rows = (judged / "out/quality/rows.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 1 + held_out["series"]["all"]["rows"] + 2
    assert rows[0].startswith("case,kind,level,structure,dice,expected,low,high,agreement")


def test_what_is_done_is_not_done_again(judged: Path, data: Path, monkeypatch, capsys):
    before = summary_of(judged)
    monkeypatch.setattr(Segmenter, "segment", lambda *_, **__: pytest.fail("segmented again"))
    assert main(["quality", *common(judged / "c.yaml", data, judged / "out"), *QUICK]) == 0
    assert summary_of(judged)["held_out_judged"] == before["held_out_judged"]
    out = capsys.readouterr().out
    assert "held out, as they are" in out
    assert "inner, cross-validated, and corrupted" in out
    assert "not found: " in out


def test_export_takes_the_estimate_into_the_bundle_and_its_card(judged: Path, data: Path, tmp_path: Path):
    arguments = common(judged / "c.yaml", data, judged / "out")
    assert main(["export", *arguments, "--into", str(tmp_path), "--check-cases", "1", "--device", "cpu"]) == 0
    model = load_bundle(tmp_path / "two-balls")
    assert set(model.quality.structures) == {"front", "back"}
    assert model.metadata.dianet.figures["quality"]["held_out_cases"] == 2
    card = (tmp_path / "two-balls" / CARD).read_text(encoding="utf-8")
    assert card.index(HEADING) < card.index("## Limits")
    image = np.random.default_rng(0).normal(size=(12, 16, 14)).astype(np.float32)
    image[4:8, 4:12, 4:10] += 5
    grid = Geometry((14, 16, 12), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3))
    found = Segmenter(model, "cpu").segment([Volume(image, grid)], samples=3)
    assert all(low <= found.expected_dice[key] <= high for key, (low, high) in found.dice_interval.items())


def test_an_estimate_of_other_weights_is_not_exported(judged: Path, data: Path, tmp_path: Path, capsys):
    path = judged / "out/quality/summary.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(json.dumps(summary_of(judged) | {"weights_sha256": "0" * 64}), encoding="utf-8")
    try:
        arguments = common(judged / "c.yaml", data, judged / "out")
        assert main(["export", *arguments, "--into", str(tmp_path), "--device", "cpu"]) == 2
        assert "fitted for other weights" in capsys.readouterr().err
    finally:
        path.write_text(text, encoding="utf-8")


def test_a_model_folder_gets_its_estimate_stored_and_keeps_its_weights(data: Path, tmp_path: Path):
    folder = write_bundle(tmp_path, structures=structures("front", "back"), seed=3)
    write_config(tmp_path / "c.yaml")
    weights = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    before = json.loads((folder / METADATA).read_text(encoding="utf-8"))
    arguments = common(tmp_path / "c.yaml", data, tmp_path / "out")
    for _ in range(2):  # the second replaces what the first has stored
        assert main(["quality", *arguments, "--model", str(folder), "--store", *QUICK]) == 0
    after = json.loads((folder / METADATA).read_text(encoding="utf-8"))
    assert hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest() == weights
    assert after["dianet"].pop("quality")["samples"] == 3
    assert set(after["dianet"]["figures"].pop("quality")) >= {"in_distribution", "series"}
    before["dianet"].pop("quality")
    assert after == before
    assert (folder / CARD).read_text(encoding="utf-8").count(HEADING) == 1
    assert load_bundle(folder).quality is not None


def test_what_cannot_be_fitted_gets_a_sentence(data: Path, tmp_path: Path, capsys):
    def request(**changes) -> QualityRequest:
        values = {"config": config(), "data": data, "output": tmp_path, "device": CPU, "samples": 2}
        return QualityRequest(**(values | changes))

    with pytest.raises(InputError, match="two samples or more, which can agree"):
        quality(request(samples=1))
    with pytest.raises(InputError, match="has not been evaluated"):
        quality(request())
    other = write_bundle(tmp_path)
    with pytest.raises(InputError, match=r"structures of 'two-balls' \(front, back\), got 'tiny' with head"):
        quality(request(model=other))
    named = write_bundle(
        tmp_path / "b", structures=structures("front", "back"), training={"held_out": ["elsewhere"]}
    )
    with pytest.raises(InputError, match="not the 1 that the model 'tiny' names as held out"):
        quality(request(model=named))
    with pytest.raises(InputError, match="estimate is of other weights"):
        store_quality(other, {"weights_sha256": "0" * 64})
    write_config(tmp_path / "c.yaml")
    assert main(["quality", *common(tmp_path / "c.yaml", data, tmp_path), "--store"]) == 2
    assert "--model names, and there is none" in capsys.readouterr().err


def test_a_section_goes_before_the_limits_or_to_the_end_and_replaces_the_old_one():
    section = f"{HEADING}\n\nNew."
    assert with_section("# A\n\nText.\n\n## Limits\n\n- b\n", section) == (
        f"# A\n\nText.\n\n{HEADING}\n\nNew.\n\n## Limits\n\n- b\n"
    )
    assert with_section("# A\n", section) == f"# A\n\n{HEADING}\n\nNew.\n"
    again = with_section(f"# A\n\n{HEADING}\n\nOld.\n\n## Limits\n\n- b\n", section)
    assert again == f"# A\n\n{HEADING}\n\nNew.\n\n## Limits\n\n- b\n"
