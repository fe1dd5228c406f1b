# SPDX-License-Identifier: Apache-2.0
"""The command that learns what a model's own images look like to it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from DIANetLib.acwi.familiarity import FamiliarityScale
from DIANetLib.bundle import load_bundle
from DIANetLib.bundle_export import CARD
from DIANetLib.errors import InputError
from DIANetLib.inference.engine import Segmenter
from DIANetLib.model_folders import FAMILIARITY, WEIGHTS
from Testing.bundle.tiny import structures, write_bundle
from Testing.training.tiny import config, write_cases, write_config
from training.__main__ import main
from training.card_familiarity import HEADING
from training.datasets import find_cases, split_cases
from training.familiarity_fit import fit_familiarity
from training.familiarity_judge import auroc, rates, ways
from training.familiarity_runs import Runs, Seen
from training.familiarity_store import store_familiarity
from training.quality_series import Corruption

FEW = (Corruption(), Corruption("noise", 0.4), Corruption("blur", 2.5))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cases, a model of random weights and what the command said of it."""
    folder = tmp_path_factory.mktemp("familiarity")
    data = write_cases(folder / "balls", 30)
    write_config(folder / "c.yaml")
    settings = config()
    split = split_cases(find_cases(data, settings.data), settings.data, 0)
    write_bundle(
        folder,
        settings.name,
        network=settings.network.model_dump(mode="json"),
        preprocess=settings.preprocess.model_dump(mode="json"),
        structures=structures("front", "back"),
        window=settings.patch,
        training={"held_out": list(split.held_out), "fold": 0},
    )
    (folder / "others.yaml").write_text(
        "groups:\n"
        "  - {name: turned, images: [balls/images/*.nii.gz], upside_down: true}\n"
        "  - {name: boxes, images: [balls/images/*.nii.gz], outlier: false}\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.familiarity.series", lambda: FEW)
        assert main(arguments(folder, "--store")) == 0
    return folder


def arguments(folder: Path, *more: str) -> list[str]:
    name = config().name
    common = ["familiarity", str(folder / "c.yaml"), "--data", str(folder / "balls")]
    common += ["--output", str(folder / "out"), "--model", str(folder / name), "--device", "cpu"]
    common += ["--outliers", str(folder / "others.yaml"), "--outlier-data", str(folder)]
    return [*common, "--samples", "2", "--inner", "1", "--held-out", "2", *more]


def test_the_model_folder_judges_its_own_cases_as_usual_and_keeps_its_weights(made: Path):
    folder = made / config().name
    model = load_bundle(folder)
    spec = model.metadata.dianet.familiarity
    assert spec.sha256 == hashlib.sha256((folder / FAMILIARITY).read_bytes()).hexdigest()
    assert hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest() == model.sha256
    summary = json.loads((made / "out/familiarity/summary.json").read_text())
    assert spec.cases == 30 - len(summary["held_out"]) - len(summary["inner"])
    assert summary["rates"]["held out"]["runs"] == len(summary["held_out"])
    assert summary["copies"] == {"inner": 2, "held_out": 4}
    assert {"noise 0.4", "blur 2.5", "turned", "all outliers"} <= set(summary["auroc"])
    assert "boxes" not in summary["auroc"]
    assert summary["rates"]["boxes"]["runs"] == 30
    card = (folder / CARD).read_text()
    assert card.count(HEADING) == 1
    assert "| turned | 30 |" in card


def test_what_is_done_is_not_done_again(made: Path, monkeypatch, capsys):
    monkeypatch.setattr("training.familiarity.series", lambda: FEW)
    monkeypatch.setattr(Segmenter, "segment", lambda *_, **__: pytest.fail("segmented again"))
    before = (made / config().name / FAMILIARITY).read_bytes()
    assert main(arguments(made, "--store")) == 0
    assert (made / config().name / FAMILIARITY).read_bytes() == before
    assert "unusual from" in capsys.readouterr().out


def test_familiarity_of_other_weights_is_not_stored(made: Path):
    model = load_bundle(made / config().name).familiarity
    with pytest.raises(InputError, match="other weights than those in"):
        store_familiarity(made / config().name, model, {"weights_sha256": "0" * 64})


def test_one_sample_gets_a_sentence(made: Path, capsys):
    command = arguments(made)
    command[command.index("--samples") + 1] = "1"
    assert main(command) == 2
    assert "expected two samples or more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "value", "sentence"),
    [
        ("--outliers", "none.yaml", "lists no groups of images"),
        ("--outlier-data", "nowhere", "has no image of the group"),
    ],
)
def test_a_wrong_path_of_outliers_is_told_before_anything_runs(
    made: Path, tmp_path: Path, monkeypatch, capsys, flag: str, value: str, sentence: str
):
    def ran(*_args: object, **_options: object) -> None:
        raise AssertionError("an image was read before the list was looked at")

    monkeypatch.setattr(Runs, "seen", ran)
    command = arguments(made)
    command[command.index(flag) + 1] = str(tmp_path / value)
    assert main(command) == 2
    assert sentence in capsys.readouterr().err


def seen(value: float, volume: float = 1.0, epistemic: float | None = 0.1) -> Seen:
    return Seen("g", "n", np.full(8, value), volume, epistemic, epistemic)


def test_an_area_worked_by_hand():
    assert auroc([1.0, 2.0], [2.0, 3.0]) == 0.875  # 3 of 4 pairs in order, one tie
    assert auroc([1.0], [float("inf")]) == 1.0


def test_ways_to_tell_turn_odder_upwards_and_are_sure_where_nothing_was_found():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 8))
    model, coarse = fit_familiarity(x), fit_familiarity(x[:, :4])
    told = ways(model, coarse, [seen(0.0, volume) for volume in (2.0, 2.0, 8.0)])
    assert all(way(seen(50.0, 9.0, 0.3)) > way(seen(0.0, 2.0, 0.1)) for way in told.values())
    assert told["volume alone"](seen(0, 1.0)) == pytest.approx(told["volume alone"](seen(0, 4.0)))
    nothing = seen(0.0, 0.0, None)
    odd = {name for name, way in told.items() if way(nothing) == float("inf")}
    assert odd == {"epistemic alone", "total entropy alone", "volume alone"}


def test_rates_count_grades():
    x = np.random.default_rng(0).normal(size=(60, 8))
    model = fit_familiarity(x)
    assert isinstance(model.levels, FamiliarityScale)
    found = rates(model, [seen(0.0), seen(0.0), seen(1000.0), seen(1000.0)])
    assert (found.runs, found.unusual, found.unfamiliar) == (4, 0.5, 0.5)
    assert found.lowest < model.levels.unusual < found.highest
