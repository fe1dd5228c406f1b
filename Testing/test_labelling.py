# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from DIANetLib.acwi.agreement import RunningOverlaps
from DIANetLib.labelling import confidence, labels_of, labels_of_logits
from DIANetLib.preprocess import PreprocessConfig, prepare, restore_labels
from DIANetLib.volume import Geometry, Volume

# Certain, in doubt between two structures and background, half and half, and a tie of two structures.
PROBABILITIES = np.array(
    [[0.9, 0.4, 0.5, 0.2, 0.1], [0.1, 0.35, 0.5, 0.4, 0.2], [0.0, 0.25, 0.0, 0.4, 0.7]], np.float32
)
LABELS = [0, 1, 0, 1, 2]


def test_doubt_between_structures_is_no_background() -> None:
    assert labels_of(PROBABILITIES).tolist() == LABELS
    assert labels_of(torch.from_numpy(PROBABILITIES)).tolist() == LABELS


def test_logits_are_called_as_their_probabilities() -> None:
    values = np.random.default_rng(0).normal(size=(4, 3, 5, 6)).astype(np.float32)
    logits = torch.from_numpy(values)
    assert torch.equal(labels_of_logits(logits), labels_of(torch.softmax(logits, 0)))
    assert not torch.equal(labels_of_logits(logits), logits.argmax(0))  # or nothing is shown by this


def test_confidence_is_the_probability_of_what_is_called() -> None:
    expected = [0.9, 0.35, 0.5, 0.4, 0.7]
    assert confidence(PROBABILITIES, labels_of(PROBABILITIES)).tolist() == pytest.approx(expected)
    p = torch.from_numpy(PROBABILITIES)
    assert confidence(p, labels_of(p)).tolist() == pytest.approx(expected)


def test_one_class_is_background_everywhere() -> None:
    assert labels_of(np.ones((1, 3), np.float32)).tolist() == [0, 0, 0]


def test_what_is_restored_and_what_samples_are_compared_by_follow_the_same_rule() -> None:
    logits = torch.from_numpy(np.random.default_rng(1).normal(size=(4, 3, 5, 6)).astype(np.float32))
    p = torch.softmax(logits, 0)
    expected = labels_of(p)
    upright = Geometry((6, 5, 3), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.diag([-1.0, -1.0, 1.0]))
    image = Volume(np.random.default_rng(2).normal(size=(3, 5, 6)).astype(np.float32), upright)
    restored = restore_labels(p.numpy(), prepare([image], PreprocessConfig())).labels
    assert np.array_equal(restored, expected.numpy())
    overlaps = RunningOverlaps(p.shape)
    overlaps.update(p[None])
    assert overlaps.finish()[:, 0, 0].tolist() == counts(expected, 4)


def counts(labels: Tensor, classes: int) -> list[int]:
    found: list[int] = torch.bincount(labels.flatten(), minlength=classes).tolist()
    return found
