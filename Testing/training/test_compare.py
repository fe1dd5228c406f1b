# SPDX-License-Identifier: Apache-2.0
"""Methods of uncertainty beside each other: figures against plain computations, and the command."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from DIANetLib.acwi.error_calibration import ErrorCalibration
from DIANetLib.bundle import load_bundle
from DIANetLib.errors import InputError
from Testing.bundle.tiny import structures, write_bundle
from Testing.training.tiny import config, write_config
from training.__main__ import main
from training.compare_cases import Near, Runner, Told
from training.compare_methods import PLAIN, Method, chosen, methods, weights_of
from training.compare_passes import Pass
from training.compare_report import report
from training.compare_scores import case_figures, entropy, over_cases
from training.datasets import find_cases, load_case
from training.start import read_start

NONE = ErrorCalibration((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def told(*columns: tuple[float, float, float], epistemic: float = 0.1) -> Told:
    p = np.array(columns, np.float32).T
    return Told(p, np.full(p.shape[1], epistemic, np.float32), np.array([0.8, 0.6]))


def test_every_method_averages_as_many_different_passes_as_it_says():
    found = {method.name: method for method in methods(["a", "b", "c"])}
    assert len(found["samples-20"].passes) == len(set(found["samples-20"].passes)) == 20
    assert {one.kind for one in found["dropout-10"].passes} == {"dropout"}
    assert len(set(found["mirror-8"].passes)) == 8
    assert found["samples-2"].passes == found["samples-20"].passes[:2]
    dealt = found["samples-mirrored-10"].passes
    assert sum(one.mirrored == (2,) for one in dealt) == 5
    assert {one.sample for one in dealt} == set(range(10))
    assert weights_of([found["snapshots-and-shipped"]]) == ("a", "b", "c")
    assert "snapshots" not in {method.name for method in methods()}


def test_methods_are_chosen_by_name_and_the_plain_one_is_always_there():
    assert [method.name for method in chosen(["samples-5"], methods())] == [PLAIN, "samples-5"]
    with pytest.raises(InputError, match="names sample-5, expected some of plain, noise"):
        chosen(["sample-5"], methods())


def test_figures_of_a_case_worked_by_hand():
    near = Near(np.array([0, 1, 1, 2], np.uint8), np.ones((1, 1, 4), bool))
    # The third voxel is wrong and the least sure; the others are right.
    ours = told((0.9, 0.05, 0.05), (0.1, 0.8, 0.1), (0.5, 0.4, 0.1), (0.02, 0.0, 0.98))
    plain = told((0.9, 0.05, 0.05), (0.8, 0.1, 0.1), (0.2, 0.7, 0.1), (0.02, 0.0, 0.98))
    figures = case_figures(near, ours, NONE, plain)
    assert figures["dice"] == pytest.approx(0.7)
    assert figures["error_rate"] == 0.25
    assert figures["auroc_total"] == figures["auprc_total"] == 1.0
    assert figures["auroc_error"] == 1.0
    assert figures["auroc_epistemic"] == 0.5  # alike everywhere
    assert figures["auprc_epistemic"] == 0.25
    assert figures["aurc_total"] == 0.0
    # The plain pass is wrong at the second voxel, which ours finds the second least sure.
    assert figures["auroc_plain_errors_total"] == pytest.approx(2 / 3)
    # Each voxel alone in its bin: |right - confidence|.
    assert figures["ece"] == pytest.approx((0.1 + 0.2 + 0.5 + 0.02) / 4, abs=1e-6)
    assert figures["ece_error"] == pytest.approx(figures["ece"], abs=1e-6)


def test_a_calibration_changes_the_error_probability_and_not_the_answer():
    near = Near(np.array([0, 1], np.uint8), np.ones((1, 1, 2), bool))
    ours = told((0.9, 0.05, 0.05), (0.1, 0.8, 0.1))
    doubt = ErrorCalibration((5.0, 5.0, 5.0), (1.0, 1.0, 1.0))
    before, after = (case_figures(near, ours, part, ours) for part in (NONE, doubt))
    assert after["ece_error"] > before["ece_error"] + 0.5
    assert after["ece"] == before["ece"]


def test_entropy_is_zero_for_what_is_certain_and_ln_k_where_all_are_alike():
    np.testing.assert_allclose(
        entropy(np.array([[1.0, 1 / 3], [0.0, 1 / 3], [0.0, 1 / 3]])), [0, math.log(3)], atol=1e-12
    )


def test_differences_are_paired_and_other_rankings_meet_the_peers_total():
    rows = {
        "plain": [{"auroc_total": 0.8, "auroc_error": 0.1}, {"auroc_total": 0.9, "auroc_error": 0.1}],
        "ours": [{"auroc_total": 0.85, "auroc_error": 0.9}, {"auroc_total": 0.95, "auroc_error": 1.0}],
    }
    found = over_cases(rows, "plain")["ours"]
    assert found["auroc_total"]["less_peer"] == pytest.approx(0.05)
    assert found["auroc_total"]["less_peer_95"] == pytest.approx([0.05, 0.05])
    assert found["auroc_error"]["less_peer"] == pytest.approx(0.1)


@pytest.fixture(scope="module")
def folders(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with c.yaml, the model folder tiny/ and two fits from it, end-1/ and end-2/."""
    folder = tmp_path_factory.mktemp("compare")
    network = config().network.model_dump(mode="json")
    write_bundle(folder, network=network, structures=structures("front", "back"), window=(16, 16, 12))
    write_config(folder / "c.yaml", optimiser__steps=3)
    before = folder / "tiny"
    for end in ("end-1", "end-2"):
        arguments = [str(folder / "c.yaml"), "--data", str(data), "--output", str(folder / end)]
        assert main(["fit", *arguments, "--from", str(before), "--device", "cpu"]) == 0
        before = folder / end
    return folder


def arguments_of(folders: Path, data: Path, output: Path, *more: str) -> list[str]:
    common = [str(folders / "c.yaml"), "--data", str(data), "--output", str(output)]
    return ["compare", *common, "--model", str(folders / "tiny"), "--rounds", "1", *more]


def test_a_fit_starts_from_a_model_folder(folders: Path):
    start = read_start(folders / "tiny")
    state = load_bundle(folders / "tiny").network().state_dict()
    assert set(start.weights) == set(state)
    assert all(torch.equal(start.weights[name], value) for name, value in state.items())
    assert read_start(folders / "end-2").step == 3


def test_the_command_writes_all_methods_and_does_nothing_twice(
    folders: Path, data: Path, tmp_path: Path, monkeypatch, capsys
):
    snapshots = [str(folders / "end-1"), str(folders / "end-2")]
    arguments = arguments_of(folders, data, tmp_path, "--snapshots", *snapshots)
    assert main(arguments) == 0
    text = (tmp_path / "compare/compare.md").read_text(encoding="utf-8")
    assert text.splitlines()[0].startswith("2 held-out cases; all but Dice within three voxels")
    assert "| 2 snapshots and the shipped weights |" in text
    summary = json.loads((tmp_path / "compare/summary.json").read_text(encoding="utf-8"))
    assert set(summary["methods"]) == {method.name for method in methods(["end-1", "end-2"])}
    assert summary["methods"][PLAIN]["cost"] == 1.0
    assert summary["methods"]["samples-20"]["cost"] > summary["methods"]["samples-2"]["cost"]
    assert len(summary["cases"][PLAIN]) == 2
    assert summary["figures"][PLAIN]["auroc_total"]["less_peer"] == 0.0
    monkeypatch.setattr("training.compare_cases.run_passes", lambda *_, **__: pytest.fail("run again"))
    assert main(arguments) == 0
    assert (
        json.loads((tmp_path / "compare/summary.json").read_text(encoding="utf-8"))["cases"]
        == summary["cases"]
    )
    assert "written: " in capsys.readouterr().out


def test_kept_sums_are_the_mean_of_the_passes_at_the_temperature(folders: Path, data: Path, tmp_path: Path):
    settings = config()
    network = load_bundle(folders / "tiny").network()
    runner = Runner({"shipped": network}, {"shipped": "hash"}, settings, tmp_path)
    case = find_cases(data, settings.data)[0]
    asked = [Method(PLAIN, "", (Pass(),), noise=False), Method("two", "", (Pass(), Pass(mirrored=(2,))))]
    for _ in range(2):  # made, then read
        found = runner.told(case, asked, {PLAIN: 1.0, "two": 2.0})["two"]
        logs = runner.log_probabilities(case, asked)["two"]  # (T, V, K) at temperature 1
        softened = np.exp(logs / 2.0) / np.exp(logs / 2.0).sum(2, keepdims=True)
        np.testing.assert_allclose(found.probabilities, softened.mean(0).T, atol=1e-5)
        within = [entropy(part.T) for part in softened]
        expected = entropy(softened.mean(0).T) - np.mean(within, axis=0)
        np.testing.assert_allclose(found.epistemic, expected, atol=1e-5)
    near, labels = runner.near(case), load_case(case, settings).labels
    assert near.true.size == near.mask.sum() == found.probabilities.shape[1]
    np.testing.assert_array_equal(near.true, labels[near.mask])
    assert near.mask[labels > 0].all()


def test_a_report_leaves_out_what_was_not_measured():
    figure = {"mean": 0.5, "interval_95": [0.4, 0.6], "less_peer": 0.0, "less_peer_95": [0.0, 0.0]}
    names = ("dice", "ece", "ece_error")
    ranked = [f"{part}_{n}" for part in ("auroc", "auprc", "aurc", "qubrats") for n in ("total", "error")]
    figures = dict.fromkeys((*names, *ranked, "auroc_plain_errors_total"), figure)
    method = {"title": "one plain pass", "passes": 1, "temperature": 1.5, "cost": None}
    lines = report(
        {"held_out": ["a"], "inner": ["b"], "methods": {PLAIN: method}, "figures": {PLAIN: figures}}
    )
    assert "| one plain pass | – | 1.50 | 0.5000 | 0.5000 |" in "\n".join(lines)
    assert not any("disagreement" in line for line in lines)
