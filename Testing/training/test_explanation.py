# SPDX-License-Identifier: Apache-2.0
"""Do explanations mean anything: randomised weights, perturbed images, gates, and the command."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from DIANetLib.bundle import load_bundle
from DIANetLib.bundle_export import CARD
from DIANetLib.errors import InputError
from DIANetLib.inference.sliding_window import Window
from DIANetLib.model_folders import WEIGHTS
from DIANetLib.network import DIANet, NetworkConfig, SegmentationOutput
from DIANetLib.network.output import DIANetOutput
from Testing.bundle.tiny import structures, write_bundle
from Testing.training.tiny import config, write_config
from training.__main__ import main
from training.explanation import ExplanationRequest, explanations
from training.explanation_cascade import STAGES, randomised
from training.explanation_case import Place, pointing, regions, values_of
from training.explanation_maps import CAMS, Shown, cubes, gradient, occlusion
from training.explanation_measures import area_under
from training.explanation_perturb import Perturbed, PerturbSettings, areas, cube_order, soft_dice
from training.explanation_store import HEADING, store_explanations
from training.explanation_tables import GATES, passed, summarise

SHAPE = (8, 10, 12)


class Bright(torch.nn.Module):
    """Class 1 is where the image is above 0.5, and nothing else counts."""

    def forward(self, x: torch.Tensor) -> DIANetOutput:
        logit = 20 * (x[:, :1] - 0.5)
        return DIANetOutput(SegmentationOutput(torch.cat([-logit, logit], 1), None, ()), None, None, None)


def bright_case() -> Shown:
    """A bright box in darkness."""
    image = torch.zeros(1, 1, *SHAPE)
    image[0, 0, 2:5, 3:6, 4:8] = 1
    labels = image[0, 0].numpy().astype(np.uint8)
    window = Window(0, (0, 0, 0), SHAPE, SHAPE)
    return Shown("case", image, window, window.slices, labels, labels, (1.0, 1.0, 1.0))


def small() -> DIANet:
    torch.manual_seed(0)
    sizes = {"widths": (4, 6, 8), "blocks": (0, 0, 0), "strides": (2, 2), "deep_supervision": 0}
    return DIANet(NetworkConfig(classes=3, latent={"channels": 2}, **sizes)).eval()


def test_weights_are_drawn_anew_from_the_last_layer_on_and_come_back():
    network = small()
    before = {name: values.clone() for name, values in network.state_dict().items()}
    changed = []
    for stage in STAGES:
        with randomised(network, stage, seed=5):
            now = network.state_dict()
            changed.append({name for name, values in before.items() if not torch.equal(values, now[name])})
        assert all(torch.equal(values, before[name]) for name, values in network.state_dict().items())
    assert changed[0] == {"segmentation.logits.weight", "segmentation.logits.bias"}
    assert all(first < second for first, second in pairwise(changed))
    assert all(name.startswith("segmentation.") for name in changed[1])
    assert any(name.startswith("encoder.stages.2.") for name in changed[2])
    assert not any(name.startswith("encoder.stages.0.") for name in changed[2])
    assert any(name.startswith("encoder.stages.0.") for name in changed[3])
    with randomised(network, "all", seed=5):
        torch.manual_seed(5)
        fresh = DIANet(network.config).state_dict()
        assert all(torch.equal(values, fresh[name]) for name, values in network.state_dict().items())


def test_cubes_cover_a_grid_once_and_come_by_their_mean():
    counted = np.zeros((5, 4, 9), int)
    for cube in cubes(counted.shape, 4):
        counted[cube] += 1
    assert (counted == 1).all()
    values = np.zeros((4, 4, 12))
    values[0, 0, 5] = 9  # the middle cube has the one hot voxel, the last is warm throughout
    values[:, :, 8:] = 0.5
    order = cube_order(values, 4, np.random.default_rng(0))
    _, _, i = np.unravel_index(order, values.shape)
    assert set(i[:64]) == {8, 9, 10, 11}
    assert set(i[64:128]) == {4, 5, 6, 7}
    assert sorted(order) == list(range(values.size))


def test_soft_dice_by_hand():
    assert soft_dice(np.array([0.5, 1.0, 0.2]), np.array([True, True, False])) == pytest.approx(3 / 3.7)
    assert soft_dice(np.zeros(3), np.zeros(3, bool)) == 0.0


def test_blurring_what_counts_first_harms_most_and_bringing_it_back_helps_most():
    case = bright_case()
    settings = PerturbSettings(levels=(1.0, 4.0), edge=1, blurred_mm=6.0)
    perturbed = Perturbed(Bright(), case, 1, settings)
    generator = np.random.default_rng(0)
    right = perturbed.curves(cube_order(case.found.astype(float), 1, generator))
    wrong = perturbed.curves(cube_order(1.0 - case.found, 1, generator))
    assert right.deletion[0] == pytest.approx(1.0, abs=0.01)
    assert right.deletion[1:] == pytest.approx((0.0, 0.0), abs=0.01)  # all of the box is blurred
    assert right.insertion == pytest.approx((0.0, 1.0, 1.0), abs=0.01)
    assert wrong.deletion == pytest.approx((1.0, 1.0, 1.0), abs=0.01)
    assert wrong.insertion == pytest.approx((0.0, 0.0, 0.0), abs=0.01)
    found = areas(right, settings.levels)
    assert found["deletion"] == pytest.approx(area_under((0, 1, 4), (1, 0, 0)), abs=0.01)


def test_gradient_and_occlusion_find_what_the_network_reads():
    case = bright_case()
    mask = case.found == 1
    found = gradient(Bright(), case, 1, mask)
    assert ((found > 0) == mask).all()
    occluded = occlusion(Bright(), case, {1: mask}, blurred_mm=6.0, edge=1)[1]
    assert ((occluded > 1e-3) == mask).all()


def test_the_pointing_game_counts_hits_chance_and_the_middle():
    case = bright_case()
    inside, outside = np.zeros(SHAPE), np.zeros(SHAPE)
    inside[3, 4, 5] = 1
    outside[7, 9, 0] = 1
    usual = {1: (0.4, 0.4, 0.5)}
    found = pointing(case, {("ours", 1): inside, ("printed", 1): outside}, usual)
    assert (found["ours"], found["ours, inside"], found["printed"]) == ([1.0], [1.0], [0.0])
    assert found["usual place"] == [1.0]  # (3, 4, 6) lies in the box
    assert found["centre"] == [1.0]  # (4, 5, 6) does
    brute = sum(
        min(np.hypot(np.hypot(k - a, j - b), i - c) for a, b, c in np.argwhere(case.reference)) <= 3
        for k, j, i in np.ndindex(SHAPE)
    )
    assert found["chance"] == [pytest.approx(brute / np.prod(SHAPE))]


def test_regions_of_a_structure_have_their_own_maps():
    network = small()
    x = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(2))
    labels = np.ones((16, 16, 16), np.uint8)
    window = Window(0, (0, 0, 0), x.shape[2:], x.shape[2:])
    case = Shown("case", x, window, window.slices, labels, labels, (1.0, 1.0, 1.0))
    maps = {(method, 1): np.random.default_rng(0).random((16, 16, 16)) for method in CAMS}
    masks = [np.zeros(labels.shape, bool) for _ in range(2)]
    masks[0][:4, :4, :4] = masks[1][12:, 12:, 12:] = True
    found = regions(network, case, maps, [Place(1, mask) for mask in masks])
    for method in CAMS:
        assert len(found[method]["to structure"]) == len(found[method]["near"]) == 2
        assert len(found[method]["between"]) == 1
    assert values_of(case) == [1]


def figures(ours: float, rival: float) -> dict[str, dict[str, list[float]]]:
    return {
        name: {"deletion": [1 - value], "insertion": [value]}
        for name, value in (("ours", ours), ("printed", rival), ("random", rival), ("prediction", rival))
    }


def told(number: int, better: bool = True) -> dict:
    shift = 0.01 * number
    like = {f"{kind} {stage}": [0.3] for kind in ("ssim", "rank") for stage in (*STAGES, "unrelated")}
    unlike = like | {"ssim all": [0.3 if better else 0.9]}
    near = {"to structure": [0.5], "between": [0.1], "near": [0.6], "more near": [0.2 if better else -0.1]}
    hits = {"chance": [0.1], "centre": [0.5 - shift], "usual place": [0.9]}
    hits |= {
        name: [1.0 if better else 0.3] for name in ("ours", "printed", "ours, inside", "printed, inside")
    }
    return {
        "case": str(number),
        "pointing": hits,
        "cascade": {"ours": unlike, "printed": unlike},
        "regions": {"ours": near, "printed": near},
        "perturbation": figures(0.8 + shift if better else 0.4, 0.5),
    }


def test_gates_open_for_maps_that_pass_and_not_for_others():
    good = summarise([told(n) for n in range(5)])
    assert good["passed"]["ours"] == dict.fromkeys(GATES, True)
    assert good["passed"]["printed"]["perturbation"] is False  # as good as its rivals is not better
    bad = summarise([told(n, better=False) for n in range(5)])
    assert bad["passed"]["ours"] == dict.fromkeys(GATES, False)
    apart = good["perturbation_differences"]["ours"]["insertion"]["random"]
    assert apart["value"] == pytest.approx(0.32)
    assert apart["interval_95"][0] > 0.3


def test_what_was_not_measured_passes_no_gate():
    rows = [told(n) for n in range(3)]
    for row in rows:
        del row["cascade"], row["perturbation"], row["regions"]
    found = summarise(rows)
    assert passed(found, "ours") == dict.fromkeys(GATES) | {"pointing": True}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_config(tmp_path / "c.yaml")
    # Weights that find something of both structures, so that there is something to explain.
    return write_bundle(tmp_path, structures=structures("front", "back"), seed=3)


def call(folder: Path, data: Path) -> list[str]:
    place = folder.parent
    return [
        *("explanations", "--model", str(folder), "--data", str(data), "--output", str(place / "out")),
        *("--config", str(place / "c.yaml"), "--cases", "1", "--context", "1", "--samples", "2"),
        *("--device", "cpu"),
    ]


def test_the_command_measures_held_out_cases_and_goes_on_where_it_stopped(
    folder: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    assert main(call(folder, data)) == 0
    out = folder.parent / "out" / "explanations"
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert len(summary["cases"]) == 2
    assert summary["layers"] == ["encoder.stages.0", "segmentation.scales.0"]
    assert summary["cascade"]["ours"]["ssim all own"]["n"] == 1
    assert summary["perturbation_differences"]["ours"]["deletion"]["nearness"]["n"] == 1
    assert set(summary["passed"]["ours"]) == set(GATES)
    assert summary["perturbation"]["random"]["deletion"]["n"] == 1
    assert set(summary["context"]) >= {"ours", "gradient", "occlusion"}
    table = (out / "table.md").read_text(encoding="utf-8")
    assert "| maximum within 3 mm |" in table
    assert table.strip() in capsys.readouterr().out
    monkeypatch.setattr("training.explanation.shown", lambda *_: pytest.fail("read again"))
    assert main(call(folder, data)) == 0
    again = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    for key in ("pointing", "cascade", "perturbation", "regions", "context", "passed"):
        assert again[key] == summary[key]


def test_figures_go_into_the_card_and_the_metadata_and_leave_the_weights(
    folder: Path, data: Path, capsys: pytest.CaptureFixture[str]
):
    weights = (folder / WEIGHTS).read_bytes()
    assert main([*call(folder, data), "--store"]) == 0
    assert main([*call(folder, data), "--store"]) == 0  # in place of what was stored
    assert (folder / WEIGHTS).read_bytes() == weights
    card = (folder / CARD).read_text(encoding="utf-8")
    assert card.count(HEADING) == 1
    stored = load_bundle(folder).metadata.dianet.figures["explanations"]
    assert set(stored["passed"]) == set(GATES)
    summary = json.loads((folder.parent / "out/explanations/summary.json").read_text(encoding="utf-8"))
    value = summary["perturbation_differences"]["ours"]["insertion"]["prediction"]["value"]
    assert f"| perturbation | insertion less prediction first | 1 | {value:.3f}" in card
    (kept,) = (row for row in stored["figures"] if row["figure"] == "insertion less prediction first")
    assert (kept["value"], kept["n"]) == (value, 1)
    assert main([*call(folder, data), "--store", "--inner"]) == 2
    assert "on which choices are made" in capsys.readouterr().err
    with pytest.raises(InputError, match="are of other weights"):
        store_explanations(folder, {"weights_sha256": "0" * 64, "part": "held out"})


def test_what_cannot_be_measured_gets_a_sentence(folder: Path, data: Path, tmp_path: Path):
    def ask(**changes) -> None:
        values = {"config": config(), "model": folder, "data": data, "output": tmp_path / "o"}
        explanations(ExplanationRequest(**(values | {"device": torch.device("cpu")} | changes)))

    other = write_bundle(tmp_path / "other")
    with pytest.raises(InputError, match=r"structures of 'two-balls' \(front, back\), got 'tiny' with head"):
        ask(model=other)
    named = write_bundle(
        tmp_path / "b", structures=structures("front", "back"), training={"held_out": ["elsewhere"]}
    )
    with pytest.raises(InputError, match="not the 1 that the model 'tiny' names as held out"):
        ask(model=named)
