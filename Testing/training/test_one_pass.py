# SPDX-License-Identifier: Apache-2.0
"""Fitting a one-pass head: maps against the product's engine, the loss by hand, the command as a whole."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from DIANetLib.acwi.error_calibration import ErrorCalibration
from DIANetLib.acwi.metrics import dilated_mask, error_auroc
from DIANetLib.bundle import load_bundle
from DIANetLib.bundle_export import CARD
from DIANetLib.errors import InputError
from DIANetLib.inference.engine import Segmenter
from DIANetLib.labelling import confidence, labels_of
from DIANetLib.model_folders import ONE_PASS, WEIGHTS
from DIANetLib.network.one_pass import OnePassOutput
from Testing.bundle.tiny import structures, write_bundle
from Testing.training.tiny import config, write_config
from training import one_pass_maps
from training.__main__ import main
from training.card_one_pass import HEADING
from training.config import TrainingConfig
from training.datasets import find_cases, read_case
from training.one_pass_fit import HeadSettings, Tensors, as_tensors, block_of, fit_head, loss_terms, new_head
from training.one_pass_judge import answers, case_figures
from training.one_pass_maps import MapSettings, make_maps, read_maps
from training.quality_series import Corruption
from training.trial import named_volumes

FEW = (Corruption(), Corruption("noise", 0.2))
QUICK = ["--samples", "3", "--teacher", "2", "--epochs", "1", "--corrupted", "1"]
QUICK += ["--held-out", "1", "--channels", "4", "--depth", "1", "--device", "cpu"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_config(tmp_path / "c.yaml")
    window = config().window or config().patch
    return write_bundle(tmp_path, structures=structures("front", "back"), seed=3, window=window)


@pytest.fixture
def settings() -> TrainingConfig:
    return config()


def drawn(seed: int = 0, shape: tuple[int, ...] = (12, 10, 8)) -> Tensors:
    """Features of which the first tells the epistemic share and the second where the answer is wrong."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(1, 4, *shape, generator=generator)
    logits = 2 * torch.randn(1, 3, *shape, generator=generator)
    mean = torch.softmax(logits, 1)
    total = -(mean * mean.log()).sum(1)
    share = torch.sigmoid(2 * features[:, 0])
    wrong = features[:, 1] > 0.8
    labels = torch.where(wrong, (logits.argmax(1) + 1) % 3, logits.argmax(1))
    mask = torch.ones_like(labels, dtype=torch.bool)
    variance = mean * (1 - mean) * share.unsqueeze(1)
    return Tensors(features.half(), logits, labels, mean, total * (1 - share), variance, mask)


def test_a_fitted_head_tells_what_features_tell() -> None:
    settings = HeadSettings(channels=8, depth=1, epochs=150, block=8, learning_rate=2e-2)
    head = fit_head([drawn(0), drawn(1)], settings)
    case = drawn(2)
    with torch.no_grad():
        told = head(case.features.float(), case.logits)
        before = new_head(case, settings)(case.features.float(), case.logits)
    share = torch.sigmoid(2 * case.features[:, 0].float())
    assert float((told.epistemic_share - share).abs().mean()) < 0.08
    assert float((before.epistemic_share - share).abs().mean()) > 0.3
    wrong = (told.log_probabilities.argmax(1) != case.labels)[0].numpy()
    assert error_auroc(told.error[0].numpy(), wrong) > 0.95
    assert error_auroc(before.error[0].detach().numpy(), wrong) < 0.6
    torch.testing.assert_close(told.probabilities, case.mean, atol=0.08, rtol=0)


def test_equal_seeds_give_equal_heads() -> None:
    settings = HeadSettings(channels=4, depth=1, epochs=2, block=6)
    one, other = (fit_head([drawn(0)], settings).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_loss_of_one_voxel_by_hand() -> None:
    p, mean = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.6, 0.3, 0.1])
    total = float(-(mean * mean.log()).sum())
    told = OnePassOutput(
        p.log().view(1, 3, 1, 1, 1),
        torch.full((1, 1, 1, 1), 0.4),
        torch.full((1, 3, 1, 1, 1), -0.5),
        torch.full((1, 1, 1, 1), 1.5),
    )
    case = Tensors(
        torch.zeros(1, 4, 1, 1, 1),
        torch.zeros(1, 3, 1, 1, 1),
        torch.full((1, 1, 1, 1), 2),
        mean.view(1, 3, 1, 1, 1),
        torch.full((1, 1, 1, 1), 0.75 * total),
        (0.2 * mean * (1 - mean)).view(1, 3, 1, 1, 1),
        torch.ones(1, 1, 1, 1, dtype=torch.bool),
    )

    def cross_entropy(z: float, target: float) -> float:
        q = 1 / (1 + math.exp(-z))
        return -(target * math.log(q) + (1 - target) * math.log(1 - q))

    most = float((mean * (1 - mean)).sum())
    expected = [
        -float((mean * p.log()).sum()),
        total * cross_entropy(0.4, 0.25),
        most * cross_entropy(-0.5, 0.2),
        cross_entropy(1.5, 1.0),  # the answer is 0, the truth 2
    ]
    found = loss_terms(told, case, torch.ones(1, 1, 1, 1))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_a_block_leaves_out_what_its_border_cuts_off_and_weighs_the_rest_to_one() -> None:
    case = drawn(0, (20, 10, 20))
    mask = torch.zeros_like(case.mask)
    mask[0, 10, 5, 10] = True
    case = Tensors(case.features, case.logits, case.labels, case.mean, case.aleatoric, case.variance, mask)
    part, weights = block_of(case, HeadSettings(block=8, depth=2), torch.Generator().manual_seed(0))
    assert part.mask.shape == (1, 8, 8, 8)
    assert float(weights.sum()) == pytest.approx(1.0)
    place = tuple(part.mask[0].nonzero()[0].tolist())
    assert float(weights[0][place]) == pytest.approx(10 * float(weights[0][3, 3, 3]))
    cut = weights[0].clone()
    cut[2:6, :, 2:6] = 0  # along j the block of 8 of 10 voxels begins at 1 and ends at 9
    assert float(cut.abs().sum()) == 0
    torch.testing.assert_close(part.logits, case.logits[..., 6:14, 1:9, 6:14])


def test_maps_are_those_of_the_products_engine(
    folder: Path, data: Path, settings: TrainingConfig, tmp_path: Path
) -> None:
    model, case = load_bundle(folder), find_cases(data, settings.data)[0]
    wanted = MapSettings(model.sha256, model.temperature, 3, 0)
    (file,) = make_maps(model.network(), settings, [case], [Corruption()], tmp_path / "maps", wanted)
    made = read_maps(file)
    source = read_case(case, settings.data)
    assert source.labels is not None
    found = Segmenter(model, "cpu").segment(
        named_volumes(source, settings), samples=3, keep_probabilities=True
    )
    assert found.probabilities is not None
    near = dilated_mask((source.labels.array > 0) | (found.labels.array > 0), 2)
    assert made.mask.sum() >= near.sum()
    box = tuple(slice(int(w.min()), int(w.max()) + 1) for w in np.nonzero(made.mask))
    for channel, structure in enumerate(found.structures, start=1):
        ours = np.sort(made.mean[channel][box].ravel())
        theirs = np.sort(found.probabilities[structure.key].array.ravel())
        # the kept box is a part of the image; its largest values are the image's, to half precision
        assert abs(float(ours[-1]) - float(theirs[-1])) < 2e-3
    assert sorted(np.unique(made.labels)) == sorted(np.unique(source.labels.array))


def test_maps_that_are_there_are_not_made_again_unless_the_settings_change(
    folder: Path, data: Path, settings: TrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, case = load_bundle(folder), find_cases(data, settings.data)[0]

    def make(samples: int) -> Path:
        wanted = MapSettings(model.sha256, model.temperature, samples, 0)
        return make_maps(model.network(), settings, [case], [FEW[1]], tmp_path / "maps", wanted)[0]

    before = read_maps(make(2))
    assert before.corruption == FEW[1]
    with monkeypatch.context() as patch:
        patch.setattr(one_pass_maps, "_made", lambda *_: pytest.fail("made again"))
        file = make(2)
    after = read_maps(make(4))
    assert np.abs(after.mean - before.mean).max() > 0
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match="cannot be read"):
        read_maps(file)
    np.testing.assert_array_equal(read_maps(make(4)).mean, after.mean)


def test_figures_of_a_head_that_says_nothing_new_are_those_of_the_plain_pass(
    folder: Path, data: Path, settings: TrainingConfig, tmp_path: Path
) -> None:
    model, case = load_bundle(folder), find_cases(data, settings.data)[0]
    wanted = MapSettings(model.sha256, model.temperature, 3, 0)
    (file,) = make_maps(model.network(), settings, [case], [Corruption()], tmp_path / "maps", wanted)
    made = as_tensors(read_maps(file), 1.0)
    head = new_head(made, HeadSettings(channels=4, depth=1))
    found = case_figures(head, made, temperature=1.0)
    assert found["dice one_pass"] == found["dice plain"]
    assert found["labels changed"] == 0
    assert found["error_auroc_total one_pass"] == pytest.approx(found["error_auroc_total plain"], abs=1e-6)
    assert found["ece one_pass"] == pytest.approx(found["ece plain"], abs=1e-6)
    error, answer, wrong = answers(head, made)
    plain = torch.softmax(made.logits, 1)[0].numpy()
    np.testing.assert_allclose(error, 1 - confidence(plain, labels_of(plain)), atol=1e-6)
    np.testing.assert_array_equal(answer, labels_of(plain))
    np.testing.assert_array_equal(wrong, answer != made.labels[0].numpy())
    # a correction changes the calibration of what it is for, and no order within a class
    worse = ErrorCalibration((2.0, 2.0, 2.0), (1.0, 1.0, 1.0))
    other = case_figures(head, made, temperature=1.0, corrections=(None, worse))
    assert other["ece one_pass"] != found["ece one_pass"]
    assert other["ece samples"] == found["ece samples"]


def test_the_command_fits_judges_stores_and_does_nothing_twice(
    folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr("training.one_pass_quality.series", lambda: FEW)
    weights = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    arguments = [str(tmp_path / "c.yaml"), "--data", str(data), "--output", str(tmp_path / "out")]
    arguments += ["--model", str(folder), *QUICK]
    assert main(["one-pass", *arguments, "--store"]) == 0
    printed = capsys.readouterr().out
    assert "expected Dice of one pass" in printed
    summary = json.loads((tmp_path / "out/one-pass/summary.json").read_text(encoding="utf-8"))
    assert set(summary["figures"]) == {"inner", "held_out"}
    assert summary["figures"]["held_out"]["dice one_pass"]["n"] == len(summary["held_out"]) == 2
    rows = (tmp_path / "out/one-pass/cases.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 1 + 4
    model = load_bundle(folder)
    assert hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest() == weights
    assert model.one_pass is not None
    assert (folder / ONE_PASS).is_file()
    assert (folder / CARD).read_text(encoding="utf-8").count(HEADING) == 1
    case = read_case(find_cases(data, config().data)[0], config().data)
    found = Segmenter(model, "cpu").segment(named_volumes(case, config()), samples=None)
    assert found.uncertainty_from == "one-pass"

    monkeypatch.setattr(one_pass_maps, "_made", lambda *_: pytest.fail("made again"))
    monkeypatch.setattr("training.one_pass.fit_head", lambda *_, **__: pytest.fail("fitted again"))
    monkeypatch.setattr(Segmenter, "segment", lambda *_, **__: pytest.fail("segmented again"))
    assert main(["one-pass", *arguments]) == 0
    again = json.loads((tmp_path / "out/one-pass/summary.json").read_text(encoding="utf-8"))
    assert again["figures"] == summary["figures"]


def test_what_cannot_be_fitted_or_stored_gets_a_sentence(
    folder: Path, data: Path, tmp_path: Path, capsys
) -> None:
    arguments = [str(tmp_path / "c.yaml"), "--data", str(data), "--output", str(tmp_path / "out")]
    assert main(["one-pass", *arguments, "--model", str(folder), "--teacher", "1"]) == 2
    assert "expected two samples or more, whose maps teach, got 1" in capsys.readouterr().err
    other = write_bundle(tmp_path / "other", structures=structures("left", "right"))
    assert main(["one-pass", *arguments, "--model", str(other)]) == 2
    assert "expected a model with the structures of" in capsys.readouterr().err
    with pytest.raises(InputError, match="expected one case or more to fit a one-pass head on"):
        fit_head([], HeadSettings())
