# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from DIANetLib.acwi import agreement
from DIANetLib.acwi.agreement import RunningOverlaps, pairwise_dice
from DIANetLib.acwi.metrics import dice
from DIANetLib.labelling import labels_of


def drawn(samples=5, classes=4, shape=(6, 7, 8), seed=0) -> torch.Tensor:
    """Samples (T, K, *S) that agree in most voxels."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn((classes, *shape), generator=generator)
    noise = torch.randn((samples, classes, *shape), generator=generator)
    return (base + 0.4 * noise).softmax(1)


def overlaps_of(samples: torch.Tensor, batch=1, counted=None) -> torch.Tensor:
    running = RunningOverlaps(samples.shape[1:], counted)
    for part in samples.split(batch):
        running.update(part)
    return running.finish()


def test_overlaps_of_two_samples_by_hand():
    labels = torch.tensor([[0, 1, 1, 2], [0, 1, 2, 2]])
    one_hot = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float()
    assert overlaps_of(one_hot).tolist() == [[[1, 1], [1, 1]], [[2, 1], [1, 1]], [[1, 1], [1, 2]]]
    # Dice 2*1/(1+1), 2*1/(2+1), 2*1/(1+2)
    assert pairwise_dice(overlaps_of(one_hot)) == pytest.approx([1, 2 / 3, 2 / 3])


def test_the_mean_dice_equals_a_loop_over_pairs_of_label_maps():
    samples = drawn()
    labels = np.stack([labels_of(sample).numpy() for sample in samples])
    expected = [
        np.mean([dice(a == k, b == k) for a, b in combinations(labels, 2)]) for k in range(samples.shape[1])
    ]
    assert pairwise_dice(overlaps_of(samples)) == pytest.approx(expected, abs=1e-6)
    assert min(expected) < 0.95


@pytest.mark.parametrize("batch", [2, 5])
def test_batches_give_the_same_counts_as_single_samples(batch):
    assert torch.equal(overlaps_of(drawn(), batch), overlaps_of(drawn()))


def test_counts_of_windows_that_share_no_counted_voxel_add_up():
    samples = drawn()
    halves = [
        overlaps_of(samples, counted=(slice(*ends), slice(None), slice(None))) for ends in ((0, 2), (2, 6))
    ]
    assert torch.equal(halves[0] + halves[1], overlaps_of(samples))


def test_counts_do_not_depend_on_how_voxels_are_cut(monkeypatch):
    whole = overlaps_of(drawn())
    monkeypatch.setattr(agreement, "_VALUES_PER_THREAD", 5)
    monkeypatch.setattr(agreement, "_EXACT", 3)
    assert torch.equal(overlaps_of(drawn()), whole)


def test_equal_probabilities_go_to_the_first_structure():
    assert overlaps_of(torch.full((1, 3, 4), 1 / 3))[:, 0, 0].tolist() == [0, 4, 0]


def test_samples_that_all_lack_a_class_agree_about_it():
    sample = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    assert pairwise_dice(overlaps_of(sample.repeat(3, 1, 1))).tolist() == [1.0, 1.0]


def test_one_sample_has_nothing_to_agree_with():
    assert all(math.isnan(value) for value in pairwise_dice(overlaps_of(drawn(samples=1))))


def test_samples_beyond_those_compared_cost_no_memory(monkeypatch):
    monkeypatch.setattr(agreement, "_COMPARED", 3)
    assert torch.equal(overlaps_of(drawn(), batch=2), overlaps_of(drawn()[:3]))


def test_without_a_sample_there_is_nothing_to_finish():
    with pytest.raises(RuntimeError, match="at least one sample"):
        RunningOverlaps((3, 4, 4, 4)).finish()
