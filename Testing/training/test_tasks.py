# SPDX-License-Identifier: Apache-2.0
"""Fits of every head, in two dimensions and three, alone and together, from random weights and a start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from DIANetLib.errors import InputError
from DIANetLib.network import DIANet
from DIANetLib.operators import Denoising
from Testing.training.test_loop import HERE, log_of, run
from Testing.training.tiny import config
from training.baselines import Baseline, build_model
from training.checkpoint import load_checkpoint
from training.config import TrainingConfig
from training.datasets import PreparedCase
from training.fit_log import read_log
from training.fitted import load_fitted
from training.loop import fit
from training.predict import middle, predict_classes, predict_mean
from training.start import Start, read_start, take_over
from training.validation import validate

TARGETS = [
    {"key": "small", "name": "Small", "source_values": ["0"]},
    {"key": "large", "name": "Large", "source_values": ["1"]},
]
FLAT = {"network__spatial_dims": 2, "patch": [16, 16, 1], "augment__mirror_axes": [2]}
CLASSIFIES = {
    "network__classes": 0,
    "network__classification": {"classes": 2, "dropout": 0.0},
    "data__structures": [],
    "data__targets": TARGETS,
}
DEEP = {"network__widths": [6, 8, 8], "network__blocks": [0, 0, 0], "network__strides": [2, 1]}
EVERY_TERM = {
    "network__latent": {"channels": 4, "rank": 1, "anatomy": True, "path_dropout": 0.3},
    "network__codebook": {"codes": 8},
    "network__pyramid": {"channels": 4},
    "network__dropout": 0.2,
    "objective": {
        "spatial_prior": 0.1,
        "domain_l2": 0.1,
        "cut": {"structures": ["front", "back"]},
        "adversarial": {"weight": 0.1, "start": 2, "length": 3, "width": 8},
    },
}


def discs(count: int, *, labelled: bool = False) -> list[PreparedCase]:
    """Small images of discs, of which every other one is large."""
    made = []
    for number in range(count):
        rng = np.random.default_rng(number)
        radius = 3.0 + 3.0 * (number % 2)
        j, i = np.mgrid[0:14, 0:15]
        middle_ = np.array([7, 7]) + rng.uniform(-1, 1, 2)
        disc = np.hypot(j - middle_[0], i - middle_[1]) < radius
        image = (2.0 * disc + 0.3 * rng.normal(size=disc.shape)).astype(np.float32)
        labels = disc[None].astype(np.uint8) if labelled else None
        made.append(PreparedCase(f"disc{number}", image[None, None], labels, target=number % 2))
    return made


class TestResuming:
    def test_a_stopped_fit_with_draws_adversary_and_priors_goes_on_to_the_very_same_state(
        self, cases: list[PreparedCase], tmp_path: Path
    ):
        settings = config(**EVERY_TERM, optimiser__steps=7, checkpoint_every=3, validate_every=7)
        assert run(settings, cases, tmp_path / "whole") == 7
        assert run(settings, cases, tmp_path / "parts", after=4) == 4
        assert run(settings, cases, tmp_path / "parts") == 7

        whole, parts = (load_checkpoint(tmp_path / n / "checkpoint.pt") for n in ("whole", "parts"))
        pairs = [(whole.model, parts.model), (whole.ema, parts.ema), (whole.extras, parts.extras)]
        pairs.append((whole.adversary["discriminator"], parts.adversary["discriminator"]))
        for mine, other in pairs:
            assert mine.keys() == other.keys()
            for name, value in mine.items():
                torch.testing.assert_close(value, other[name], rtol=0, atol=1e-6, msg=name)
        assert set(whole.extras) == {"atlas", "cut"}
        figures = read_log(tmp_path / "whole")
        assert {"kl", "kl_active", "codebook_perplexity", "alpha_1", "discriminator_accuracy"} <= set(figures)
        assert figures["alpha_1"][7] + figures["alpha_2"][7] == pytest.approx(1.0, abs=1e-5)

    def test_priors_reach_what_evaluation_and_export_see(self, cases: list[PreparedCase], tmp_path: Path):
        settings = config(**EVERY_TERM, optimiser__steps=1)
        run(settings, cases, tmp_path)

        fitted = load_fitted(tmp_path, settings)

        assert fitted.priors.atlas is not None
        assert fitted.priors.atlas.classes == 3
        assert fitted.priors.cut is not None
        assert 0.0 <= fitted.best_score <= 1.0


class TestHeads:
    def test_a_network_of_two_dimensions_segments_volumes_slice_by_slice(
        self, cases: list[PreparedCase], tmp_path: Path
    ):
        settings = config(**FLAT, optimiser__steps=60, optimiser__batch=4, validate_every=60)
        run(settings, cases, tmp_path)
        network = load_fitted(tmp_path, settings).network(HERE.device)

        found = predict_mean(network, cases[7].image, settings)

        assert log_of(tmp_path, "validation_dice")[60] > 0.5
        assert found.shape == (3, *cases[7].labels.shape)
        np.testing.assert_allclose(found.sum(0), 1.0, atol=1e-4)
        with torch.no_grad():
            sides = [side + side % 2 for side in cases[7].image.shape[2:]]  # no more than the network needs
            padded = middle(torch.from_numpy(cases[7].image[:, 5])[None], sides)
            alone = network(padded).segmented.probabilities()[0, :, : found.shape[2], : found.shape[3]]
        np.testing.assert_allclose(found[:, 5], alone, atol=1e-4)

    def test_classes_of_small_images_are_learned(self, tmp_path: Path):
        settings = config(**FLAT, **CLASSIFIES, optimiser__steps=60, optimiser__batch=4, validate_every=60)
        known = discs(12)
        fit(settings, known[:8], known[8:], tmp_path, HERE)
        network = load_fitted(tmp_path, settings).network(HERE.device)

        probabilities = np.stack([predict_classes(network, case.image, settings) for case in known[8:]])

        assert log_of(tmp_path, "validation_auroc")[60] == pytest.approx(1.0)
        assert log_of(tmp_path, "validation_score")[60] == pytest.approx(1.0)
        np.testing.assert_allclose(probabilities.sum(1), 1.0, atol=1e-5)

    def test_large_images_are_classified_by_the_mean_over_windows(self):
        settings = config(**FLAT, **CLASSIFIES)
        network = DIANet(settings.network).eval()
        image = np.random.default_rng(0).normal(size=(1, 2, 16, 32)).astype(np.float32)

        found = predict_classes(network, image, settings)

        with torch.no_grad():
            parts = torch.from_numpy(image[0]).unsqueeze(1).split(16, 3)
            expected = torch.cat([network(part).classified.probabilities() for part in parts]).mean(0)
        np.testing.assert_allclose(found, expected, atol=1e-6)

    def test_undersampled_images_are_reconstructed_better_than_zero_filled(self, tmp_path: Path):
        settings = config(
            **FLAT,
            network__classes=0,
            data__structures=[],
            network__modalities=2,
            network__latent=None,
            network__reconstruction={"resolutions": 1},
            tasks={
                "reconstruction": {
                    "operator": "kspace",
                    "complex": True,
                    "accelerations": [2.0],
                    "centre_fraction": 0.25,
                }
            },
            augment__affine_probability=0.0,
            optimiser__steps=100,
            optimiser__batch=4,
            validate_every=100,
        )
        known = discs(12)
        fit(settings, known[:8], known[8:], tmp_path, HERE)
        zero_filled = validate(settings, DIANet(settings.network).eval(), known[8:])  # its correction is zero

        psnr = log_of(tmp_path, "validation_psnr")[100]

        assert psnr > zero_filled.figures["psnr"] + 1.0
        assert log_of(tmp_path, "validation_score")[100] == pytest.approx(1 - 10 ** (-psnr / 20), abs=1e-4)

    def test_heads_are_fitted_together_from_partly_missing_labels(self, tmp_path: Path):
        settings = config(
            **FLAT,
            data__targets=TARGETS,
            network__classification={"classes": 2, "dropout": 0.0},
            network__reconstruction={"resolutions": 1},
            tasks={"reconstruction": {"weight": 0.5, "share": 0.5}},
            data__structures=[
                {
                    "key": "disc",
                    "name": "Disc",
                    "color": [1, 2, 3],
                    "source_values": [1],
                    "type": {"value": "1", "meaning": "Disc"},
                }
            ],
            network__classes=2,
            optimiser__steps=60,
            optimiser__batch=4,
            validate_every=60,
        )
        known = discs(12, labelled=True)
        part = [
            replace(case, labels=None) if n % 3 == 0 else replace(case, target=None if n % 3 == 1 else n % 2)
            for n, case in enumerate(known[:9])
        ]
        fit(settings, part, known[8:], tmp_path, HERE)

        figures = {name: values[60] for name, values in read_log(tmp_path).items()}

        assert figures["validation_dice"] > 0.7
        assert figures["validation_auroc"] == pytest.approx(1.0)
        assert figures["validation_psnr"] > 10.0
        scores = (
            figures["validation_dice"],
            figures["validation_auroc"],
            1 - 10 ** (-figures["validation_psnr"] / 20),
        )
        assert figures["validation_score"] == pytest.approx(np.mean(scores), abs=1e-4)


class TestStarting:
    def test_a_fit_starts_from_another_and_says_what_is_new(
        self, cases: list[PreparedCase], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        plain = config(network__latent=None, network__heteroscedastic=False, optimiser__steps=5)
        more = config(network__pyramid={"channels": 4}, optimiser__steps=2)
        run(plain, cases, tmp_path / "plain")
        start = read_start(tmp_path / "plain")

        fit(more, cases[:6], cases[6:], tmp_path / "more", HERE, start=start)

        assert "started from" in capsys.readouterr().out
        assert load_checkpoint(tmp_path / "more" / "checkpoint.pt").start == start.sha256
        with pytest.raises(InputError, match="belongs to another fit: start differ"):
            fit(
                more,
                cases[:6],
                cases[6:],
                tmp_path / "more",
                HERE,
                start=Start(Path("x"), 1, {"a": torch.zeros(1)}),
            )

    def test_what_both_have_is_taken_over_and_the_rest_is_named(self):
        plain = DIANet(config(network__latent=None, network__heteroscedastic=False).network)
        full = DIANet(config().network)
        variance = full.state_dict()["segmentation.logits.weight"][3:].clone()

        taken = take_over(full, Start(Path("plain"), 1, plain.state_dict()))
        back = take_over(plain, Start(Path("full"), 1, full.state_dict()))

        torch.testing.assert_close(full.segmentation.logits.weight[:3], plain.segmentation.logits.weight)
        torch.testing.assert_close(full.segmentation.logits.weight[3:], variance)
        assert {name.split(".")[0] for name in taken.new} == {"latent"}
        assert back.unused == taken.new
        assert "new: latent." in taken.describe()
        assert back.describe() == "new: nothing; left behind: " + taken.describe().removeprefix("new: ")

    def test_other_widths_and_folders_without_a_fit_are_refused(self, tmp_path: Path):
        wide = DIANet(config(network__widths=[6, 10]).network)

        with pytest.raises(InputError, match=r"encoder.stages.1.* has the shape \(10, 6, .*and \(8, 6, "):
            take_over(wide, Start(tmp_path, 1, DIANet(config().network).state_dict()))
        with pytest.raises(InputError, match="shares no weights"):
            take_over(wide, Start(tmp_path, 1, {"other": torch.zeros(1)}))
        with pytest.raises(InputError, match="holds no fit to start from"):
            read_start(tmp_path)


class TestBaselines:
    @pytest.mark.parametrize(
        "changes",
        [
            {"baseline": "unet"},
            {"baseline": "unet", **FLAT},
            {"baseline": "resnet18", **FLAT, **CLASSIFIES},
            {
                "baseline": "unet",
                "network__classes": 0,
                "data__structures": [],
                "network__reconstruction": {"resolutions": 1},
                "tasks": {"reconstruction": {}},
            },
        ],
        ids=["volume", "image", "classes", "reconstruction"],
    )
    def test_a_peer_has_as_many_parameters_and_the_interface_of_dianet(self, changes: dict[str, Any]):
        wide = {**DEEP, "network__widths": [16, 32, 32], "network__blocks": [1, 1, 1]}
        settings = config(**{**wide, **changes})
        model, dianet = build_model(settings).eval(), DIANet(settings.network)
        size = (16, 16) if settings.network.spatial_dims == 2 else (12, 16, 16)
        x = torch.randn(2, 1, *size)
        generators = [torch.Generator().manual_seed(n) for n in range(6)]

        with torch.no_grad():
            whole = model(x, operator=Denoising(0.1))
            rows = model.decode(model.encode(x), generators)

        assert isinstance(model, Baseline)
        assert abs(model.parameter_count() / dianet.parameter_count() - 1) < 0.25
        assert model.divisor == dianet.divisor
        for name in ("segmentation", "classification", "reconstruction"):
            mine = getattr(whole, name)
            assert (mine is None) is (getattr(dianet, name) is None)
            if mine is not None:
                field = next(iter(vars(mine)))
                torch.testing.assert_close(
                    getattr(getattr(rows, name), field), getattr(mine, field).repeat_interleave(3, 0)
                )

    def test_a_missing_modality_is_zeros_for_it(self):
        settings = config(
            **DEEP, baseline="unet", network__modalities=2, data__modalities=[{"name": "T1"}, {"name": "T2"}]
        )
        model = build_model(settings).eval()
        x = torch.randn(1, 2, 12, 16, 16)
        blank = x.clone()
        blank[:, 1] = 0.0

        with torch.no_grad():
            left_out = model(x, available=torch.tensor([[True, False]])).segmented.mean
            torch.testing.assert_close(left_out, model(blank).segmented.mean)

    def test_the_same_loop_fits_it_and_what_it_fitted_is_found_again(
        self, cases: list[PreparedCase], tmp_path: Path
    ):
        settings = config(**DEEP, baseline="unet", optimiser__steps=60, validate_every=60)
        run(settings, cases, tmp_path)

        fitted = load_fitted(tmp_path, settings)

        assert log_of(tmp_path, "validation_dice")[60] > 0.5
        assert isinstance(fitted.network(HERE.device), Baseline)
        with pytest.raises(InputError, match="another model than the configuration: baseline differ"):
            load_fitted(tmp_path, config(**DEEP, optimiser__steps=40))

    def test_a_plain_classifier_learns_too(self, tmp_path: Path):
        settings: TrainingConfig = config(
            **FLAT, **CLASSIFIES, baseline="resnet18", optimiser__learning_rate=0.002, optimiser__batch=4
        )
        known = discs(12)

        fit(settings, known[:8], known[8:], tmp_path, HERE)

        assert log_of(tmp_path, "validation_auroc")[30] > 0.9
