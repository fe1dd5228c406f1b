# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from DIANetLib.errors import ConfigError, InputError
from DIANetLib.network import DIANet
from Testing.training.tiny import config, deterministic
from training.batch import Batch
from training.checkpoint import load_checkpoint
from training.config import OptimiserConfig, TrainingConfig
from training.datasets import PreparedCase
from training.distributed import Context, single_device
from training.interrupt import stop_request
from training.loop import fit, learning_rate
from training.objective import Objective
from training.optimiser import parameter_groups
from training.precision import autocast_type
from training.predict import structure_dice
from training.validation import validate
from training.weights import WeightAverage

HERE = Context(0, 1, torch.device("cpu"))


def run(
    settings: TrainingConfig,
    cases: list[PreparedCase],
    output: Path,
    *,
    after: int | None = None,
    fold: int = 0,
) -> int:
    """Fit on six cases, validate on two; stopped after so many steps. Returns the step reached."""
    steps = 0

    def stop() -> bool:
        nonlocal steps
        steps += 1
        return steps == after

    return fit(settings, cases[:6], cases[6:], output, HERE, fold=fold, stop=stop).step


def labelled(labels: torch.Tensor) -> Batch:
    """A batch of which the labels alone are read."""
    return Batch(labels.unsqueeze(1).float(), None, labels, torch.ones(len(labels), dtype=torch.bool))


def log_of(output: Path, name: str) -> dict[int, float]:
    with (output / "log.csv").open(newline="") as file:
        return {int(step): float(value) for step, what, value in csv.reader(file) if what == name}


class TestLearningRate:
    settings = OptimiserConfig(steps=110, batch=1, learning_rate=0.8, warmup_steps=10)

    @pytest.mark.parametrize(
        ("step", "rate"),
        [(0, 0.08), (4, 0.4), (9, 0.8), (10, 0.8), (60, 0.4), (35, 0.4 * (1 + math.sqrt(0.5))), (110, 0.0)],
    )
    def test_cosine_rises_linearly_and_falls_by_half_a_cosine(self, step: int, rate: float):
        assert learning_rate(self.settings, step) == pytest.approx(rate)

    @pytest.mark.parametrize(("step", "rate"), [(0, 0.08), (10, 0.8), (60, 0.8 * 0.5**0.9), (110, 0.0)])
    def test_poly_falls_as_in_nnunet(self, step: int, rate: float):
        poly = self.settings.model_copy(update={"schedule": "poly"})

        assert learning_rate(poly, step) == pytest.approx(rate)


def test_the_average_of_weights_follows_the_hand_worked_example():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.0)
    average = WeightAverage(model, 0.5)

    nn.init.constant_(model.weight, 1.0)
    average.update(model, 1)  # decay min(0.5, 2 / 11) = 2 / 11
    assert float(average.values["weight"]) == pytest.approx(9 / 11)
    nn.init.constant_(model.weight, 3.0)
    average.update(model, 100)  # decay min(0.5, 101 / 110) = 0.5
    assert float(average.values["weight"]) == pytest.approx((9 / 11 + 3) / 2)


def test_the_loss_is_the_task_and_the_weighted_divergence_above_the_free_nats():
    settings = config(objective={"kl_weight": 0.5, "kl_free_nats": 0.0}).objective
    torch.manual_seed(0)
    network = DIANet(config().network).train()
    output = network(torch.randn(2, 1, 8, 8, 8))
    labels = torch.randint(0, 3, (2, 8, 8, 8))

    loss = Objective(settings)(output, labelled(labels))

    expected = loss.terms["task"] + 0.5 * loss.terms["kl"]
    torch.testing.assert_close(loss.total.detach(), expected, rtol=1e-5, atol=0)
    assert float(loss.terms["kl"]) > 0


def test_dice_of_structures_follows_the_hand_worked_example():
    predicted, reference = torch.tensor([1, 1, 0, 2]).numpy(), torch.tensor([1, 0, 0, 2]).numpy()

    dice = structure_dice(predicted, reference, 4)

    assert dice[:2].tolist() == pytest.approx([2 / 3, 1.0])
    assert math.isnan(dice[2])


def test_a_few_steps_learn_the_balls(cases: list[PreparedCase], tmp_path: Path):
    settings = config(optimiser__steps=50, validate_every=50)

    assert run(settings, cases, tmp_path) == 50

    with torch.no_grad():
        output, labels = _first_batch(settings, cases)
        before = float(Objective(settings.objective)(output, labelled(labels)).terms["task"])
    assert log_of(tmp_path, "task")[50] < 0.6 * before
    assert log_of(tmp_path, "validation_dice")[50] > 0.6
    assert sorted(file.name for file in tmp_path.glob("*.pt")) == ["best.pt", "checkpoint.pt"]
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_fit_with_modality_dropout_segments_from_either_modality(cases: list[PreparedCase], tmp_path: Path):
    settings = config(
        data__modalities=[{"name": "T1"}, {"name": "T2"}],
        network__modalities=2,
        network__modality_fusion={"channels": 4},
        augment__modality_dropout=0.4,
        optimiser__steps=60,
        validate_every=60,
    )
    both = [
        replace(case, image=np.concatenate([case.image, -case.image]), available=(True, True))
        for case in cases
    ]
    run(settings, both, tmp_path)
    network = DIANet(settings.network).eval()
    network.load_state_dict(load_checkpoint(tmp_path / "best.pt").ema)
    image = torch.zeros(2, 2, 12, 16, 16)
    image[..., :14] = torch.from_numpy(both[7].image)
    labels = torch.from_numpy(both[7].labels.astype(np.int64))
    with torch.no_grad():
        found = network(image, available=torch.tensor([[True, False], [False, True]])).segmented.mean.argmax(
            1
        )

    assert log_of(tmp_path, "validation_dice")[60] > 0.5
    for one in found[..., :14]:
        right = (one == labels)[labels > 0].float().mean()
        assert right > 0.5


def _first_batch(settings: TrainingConfig, cases: list[PreparedCase]):
    torch.manual_seed(settings.seed)
    network = DIANet(settings.network).train()
    image = torch.zeros(1, 1, 12, 16, 16)
    image[..., :14] = torch.from_numpy(cases[0].image)
    labels = torch.zeros(1, 12, 16, 16, dtype=torch.long)
    labels[..., :14] = torch.from_numpy(cases[0].labels)
    return network(image), labels


class TestResuming:
    settings = deterministic(optimiser__steps=8, checkpoint_every=3, validate_every=8)

    def test_a_stopped_fit_goes_on_to_the_very_same_weights(self, cases: list[PreparedCase], tmp_path: Path):
        assert run(self.settings, cases, tmp_path / "whole") == 8
        assert run(self.settings, cases, tmp_path / "parts", after=4) == 4
        assert load_checkpoint(tmp_path / "parts" / "checkpoint.pt").step == 4
        assert run(self.settings, cases, tmp_path / "parts") == 8

        whole, parts = (load_checkpoint(tmp_path / n / "checkpoint.pt") for n in ("whole", "parts"))
        assert (whole.step, whole.best_score) == (parts.step, pytest.approx(parts.best_score))
        for mine, other in ((whole.model, parts.model), (whole.ema, parts.ema)):
            for name, value in mine.items():
                torch.testing.assert_close(value, other[name], rtol=0, atol=1e-7)

    def test_a_killed_fit_goes_on_from_its_last_checkpoint_and_logs_no_step_twice(
        self, cases: list[PreparedCase], tmp_path: Path
    ):
        def kill() -> bool:
            raise RuntimeError("killed")

        with pytest.raises(RuntimeError, match="killed"):
            fit(self.settings, cases[:6], cases[6:], tmp_path, HERE, stop=kill)
        assert not (tmp_path / "checkpoint.pt").exists()
        run(self.settings, cases, tmp_path, after=3)
        with (tmp_path / "log.csv").open("a") as log:
            log.write("3,loss,1\n5,loss,1\n7,lo")  # what a fit logs between a checkpoint and its death

        run(self.settings, cases, tmp_path)

        rows = [line.split(",")[0] for line in (tmp_path / "log.csv").read_text().splitlines()]
        assert rows[0] == "3"
        assert set(rows[1:]) == {"8"}

    def test_a_finished_fit_is_left_as_it_is(self, cases: list[PreparedCase], tmp_path: Path):
        run(self.settings, cases, tmp_path)
        before = (tmp_path / "checkpoint.pt").read_bytes()

        assert run(self.settings, cases, tmp_path) == 8
        assert (tmp_path / "checkpoint.pt").read_bytes() == before

    def test_another_configuration_or_fold_is_refused(self, cases: list[PreparedCase], tmp_path: Path):
        run(self.settings, cases, tmp_path, after=1)

        other = deterministic(optimiser__steps=8, seed=5, augment__noise=0.9)
        with pytest.raises(InputError, match=r"belongs to another fit: augment, seed differ.*--restart"):
            run(other, cases, tmp_path)
        with pytest.raises(InputError, match="belongs to another fit: fold differ"):
            run(self.settings, cases, tmp_path, fold=1)

    def test_a_damaged_checkpoint_is_told_in_a_sentence(self, cases: list[PreparedCase], tmp_path: Path):
        run(self.settings, cases, tmp_path, after=1)
        file = tmp_path / "checkpoint.pt"
        file.write_bytes(file.read_bytes()[:500])

        with pytest.raises(InputError, match=r"cannot be read .*Delete it to start the fit anew"):
            run(self.settings, cases, tmp_path)

    def test_a_checkpoint_that_cannot_be_written_whole_leaves_the_old_one(
        self, cases: list[PreparedCase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        run(self.settings, cases, tmp_path, after=3)

        def full_disk(_: object, path: Path) -> None:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(torch, "save", full_disk)
        with pytest.raises(OSError, match="No space left"):
            run(self.settings, cases, tmp_path)
        assert load_checkpoint(tmp_path / "checkpoint.pt").step == 3


def test_validation_of_no_cases_is_zero():
    settings = config()

    assert validate(settings, DIANet(settings.network).eval(), []).score == 0.0


def test_a_gradient_that_is_not_finite_ends_the_fit_in_a_sentence(cases, tmp_path: Path):
    spoilt = [replace(case, image=np.full_like(case.image, np.nan)) for case in cases]

    with pytest.raises(ConfigError, match=r"of step 1 is not finite .*Lower optimiser.learning_rate"):
        run(config(), spoilt, tmp_path)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_gains_learn_at_a_rate_of_their_own_and_do_not_decay():
    settings = config(network__pyramid={}, optimiser__gain_rate=5.0)
    rest, gains = parameter_groups(DIANet(settings.network), settings.optimiser)

    assert (rest["scale"], gains["scale"]) == (1.0, 5.0)
    assert (rest["weight_decay"], gains["weight_decay"]) == (settings.optimiser.weight_decay, 0.0)
    assert sorted(gain.numel() for gain in gains["params"]) == sorted(settings.network.widths)
    assert len(parameter_groups(DIANet(config().network), config().optimiser)) == 1


def test_half_precision_is_taken_where_it_is_asked_for():
    cpu = torch.device("cpu")
    named = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}

    for name, expected in named.items():
        assert autocast_type(config(optimiser__precision=name), cpu) is expected


def test_features_of_two_slices_are_fitted_in_float32_on_a_cpu(monkeypatch: pytest.MonkeyPatch):
    """torch 2.13 fills the weight gradients of such convolutions with numbers that nothing computed."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    cpu, three_deep, two_deep = torch.device("cpu"), (4, 4, 6), (4, 4, 4)

    assert autocast_type(config(patch=two_deep, optimiser__precision="auto"), cpu) is None
    assert autocast_type(config(patch=three_deep, optimiser__precision="auto"), cpu) is torch.bfloat16
    with pytest.raises(ConfigError, match=r"bfloat16 on a CPU cannot fit patches of 4 slices, .* gradients"):
        autocast_type(config(patch=two_deep, optimiser__precision="bfloat16"), cpu)


@pytest.mark.parametrize(
    ("supported", "expected"),
    [
        ((), None),
        (("_is_avx512_bf16_supported",), torch.bfloat16),
        (("_is_amx_tile_supported",), torch.bfloat16),
    ],
)
def test_a_cpu_takes_bfloat16_by_itself_where_it_multiplies_it(
    supported: tuple[str, ...], expected: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name in supported, raising=False)

    assert autocast_type(config(optimiser__precision="auto"), torch.device("cpu")) is expected


def test_the_device_is_the_cpu_where_there_is_no_gpu():
    expected = "cuda" if torch.cuda.is_available() else "cpu"

    assert single_device("auto").type == expected
    assert single_device("cpu") == torch.device("cpu")


def test_ctrl_c_is_a_wish_at_first_and_an_order_when_repeated(monkeypatch: pytest.MonkeyPatch):
    clock = [100.0]
    monkeypatch.setattr("training.interrupt.time.monotonic", lambda: clock[0])
    before = signal.getsignal(signal.SIGINT)

    with stop_request() as stopped:
        assert not stopped()
        os.kill(os.getpid(), signal.SIGINT)
        assert stopped()
        os.kill(os.getpid(), signal.SIGINT)  # at once: what a launcher passes on
        clock[0] += 5
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
