# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from DIANetLib.losses.task import DiceCrossEntropy
from DIANetLib.network import DIANetOutput, SegmentationOutput
from training.batch import Batch
from training.finetune_cases import Level
from training.finetune_config import FinetuneConfig
from training.finetune_objective import CorrectionObjective, weighted_dice

CLASSES = 3


def scene(rows: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((rows, CLASSES, 3, 4, 5), generator=generator)
    return logits, torch.randint(0, CLASSES, (rows, 3, 4, 5), generator=generator)


def objective(fisher: dict[str, torch.Tensor] | None = None, **weights: float) -> CorrectionObjective:
    settings = FinetuneConfig.model_validate({"weights": weights, "l2_sp": 0.5, "ewc": 2.0})
    return CorrectionObjective(settings, CLASSES, {"w": torch.tensor([1.0, 1.0])}, fisher)


def loss_of(made: CorrectionObjective, logits: torch.Tensor, encoded: torch.Tensor, rows: int = 2) -> float:
    batch = Batch(
        torch.zeros(len(logits), 1, 3, 4, 5), None, encoded, torch.ones(len(logits), dtype=torch.bool)
    )
    output = DIANetOutput(segmentation=SegmentationOutput(logits, None))
    return float(made.corrected(output, batch, rows).total)


class TestWeightedDice:
    def test_equal_weights_give_the_dice_of_the_fit(self):
        logits, labels = scene()
        probabilities = torch.softmax(logits, 1)
        plain = DiceCrossEntropy()
        one_hot = torch.nn.functional.one_hot(labels, CLASSES).movedim(-1, 1).float()
        for weight in (1.0, 3.0):
            found = weighted_dice(probabilities, labels, torch.full(labels.shape, weight))
            torch.testing.assert_close(found, plain.dice(probabilities, one_hot))

    def test_a_weight_of_two_counts_a_voxel_twice(self):
        probabilities = torch.tensor([[[0.2, 0.9, 0.6], [0.8, 0.1, 0.4]]])
        labels, weights = torch.tensor([[1, 0, 1]]), torch.tensor([[2.0, 1.0, 0.0]])
        doubled = weighted_dice(probabilities[..., [0, 0, 1]], labels[:, [0, 0, 1]], torch.ones(1, 3))
        torch.testing.assert_close(weighted_dice(probabilities, labels, weights), doubled)
        by_hand = 1 - 2 * (2 * 0.8) / (2 * 0.8 + 0.1 + 2)
        assert float(doubled) == pytest.approx(by_hand, abs=1e-5)


class TestCorrectionObjective:
    def test_without_levels_it_is_the_loss_of_the_fit(self):
        logits, labels = scene()
        expected = float(DiceCrossEntropy()(torch.softmax(logits, 1), labels))
        assert loss_of(objective(), logits, labels) == pytest.approx(expected, rel=1e-5)

    def test_voxels_that_nobody_judged_do_not_count(self):
        logits, labels = scene()
        opened = labels.clone()
        opened[:, 0] += CLASSES * Level.OPEN
        other = opened.clone()
        other[:, 0] = CLASSES * Level.OPEN + (labels[:, 0] + 1) % CLASSES
        assert loss_of(objective(), logits, opened) == loss_of(objective(), logits, other)
        assert loss_of(objective(open=1.0), logits, opened) != loss_of(objective(open=1.0), logits, other)

    def test_a_change_weighs_more_the_more_it_is_said_to(self):
        logits = torch.zeros(1, CLASSES, 3, 4, 5)
        logits[:, 0] = 5.0  # background everywhere
        labels = torch.zeros((1, 3, 4, 5), dtype=torch.long)
        labels[0, 0, 0, 0] = 1 + CLASSES * Level.CHANGED  # and here it is wrong
        values = [loss_of(objective(changed=weight), logits, labels, 1) for weight in (0.0, 1.0, 4.0)]
        assert values == sorted(values)
        assert len(set(values)) == 3

    def test_rehearsed_rows_count_fully_whatever_the_weights_are(self):
        logits, labels = scene()
        light = objective(elsewhere=0.0)
        alone = float(DiceCrossEntropy()(torch.softmax(logits[1:], 1), labels[1:]))
        assert loss_of(light, logits, labels, rows=1) == pytest.approx(alone, rel=1e-5)

    def test_what_holds_the_weights_adds_up(self):
        made = objective(fisher={"w": torch.tensor([0.0, 4.0])})
        total, terms = made.held({"w": torch.tensor([2.0, 3.0])})
        assert (float(terms["l2_sp"]), float(terms["ewc"])) == (5.0, 8.0)
        assert float(total) == 0.5 * 5.0 + 2.0 * 8.0
        assert "ewc" not in objective().held({"w": torch.ones(2)})[1]
