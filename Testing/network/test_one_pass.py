# SPDX-License-Identifier: Apache-2.0
"""The head that tells from one pass what samples would: bounds, start, batches, half precision."""

from __future__ import annotations

import math

import pytest
import torch

from DIANetLib.labelling import confidence, labels_of
from DIANetLib.network.one_pass import OnePassHead, cropped
from Testing.network.tiny import config, image, network

_SHAPE = (6, 5, 4)


def _head(*, seed: int = 0, scale: float = 2.0, **options) -> OnePassHead:
    """Random weights everywhere, large ones."""
    torch.manual_seed(seed)
    head = OnePassHead(3, 8, 3, **options)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn_like(parameter) * scale)
    return head.eval().requires_grad_(False)


def _input(rows: int = 2, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, 8, *_SHAPE, generator=generator)
    return features, 4 * torch.randn(rows, 3, *_SHAPE, generator=generator)


@torch.no_grad()
def test_a_new_head_gives_the_plain_softmax_and_its_own_doubt_as_error() -> None:
    features, logits = _input()
    told = OnePassHead(3, 8, 3)(features, logits)
    plain = torch.softmax(logits, 1)
    torch.testing.assert_close(told.probabilities, plain, atol=1e-6, rtol=0)
    doubt = torch.stack([1 - confidence(p, labels_of(p)) for p in plain])
    torch.testing.assert_close(told.error, doubt, atol=1e-6, rtol=1e-5)
    share = 1 / (1 + math.exp(3.0))
    torch.testing.assert_close(told.epistemic_share, torch.full_like(told.epistemic_share, share))
    torch.testing.assert_close(told.variance, plain * (1 - plain) * share, atol=1e-6, rtol=0)


@pytest.mark.parametrize("scale", [0.3, 2.0, 30.0])
def test_bounds_hold_whatever_the_weights_are(scale: float) -> None:
    told = _head(scale=scale)(*_input())
    p = told.probabilities
    torch.testing.assert_close(p.sum(1), torch.ones_like(p[:, 0]), atol=1e-5, rtol=0)
    for part in (told.epistemic_share, told.error):
        assert bool(torch.isfinite(part).all())
        assert 0 <= float(part.min()) <= float(part.max()) <= 1
    assert bool((told.variance >= 0).all())
    assert bool((told.variance <= p * (1 - p) + 1e-7).all())


@torch.no_grad()
def test_the_error_of_a_sure_voxel_keeps_its_digits() -> None:
    logits = torch.tensor([40.0, 0.0, 0.0]).view(1, 3, 1, 1, 1)
    told = OnePassHead(3, 8, 3)(torch.zeros(1, 8, 1, 1, 1), logits)
    # 2 exp(-40), which 1 - p in single precision takes for 0
    assert told.error.item() == pytest.approx(2 * math.exp(-40.0), rel=1e-4)


def test_rows_do_not_depend_on_each_other() -> None:
    head, (features, logits) = _head(scale=0.2), _input(rows=3)
    together, near = head(features, logits), {"atol": 1e-5, "rtol": 1e-4}
    for row in range(3):
        alone = head(features[row : row + 1], logits[row : row + 1])
        torch.testing.assert_close(together.log_probabilities[row], alone.log_probabilities[0], **near)
        torch.testing.assert_close(together.error_logit[row], alone.error_logit[0], **near)


def test_true_errors_teach_the_error_alone_and_nothing_reaches_the_network() -> None:
    head = OnePassHead(3, 8, 3)
    features, logits = (part.requires_grad_() for part in _input())
    told = head(features, logits)
    told.error_logit.sum().backward()
    gradient = head.tell.bias.grad
    assert gradient is not None
    # a factor, three offsets, the epistemic share, three shares of variance, the error
    assert gradient.ne(0).tolist() == [False] * 8 + [True]
    assert features.grad is None
    assert logits.grad is None


def test_half_precision_stays_near_full_precision() -> None:
    head, (features, logits) = _head(scale=0.2), _input()
    whole = head(features, logits)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = head(features.bfloat16(), logits)
    # without autocast, features of half precision are read as well
    plain = head(features.bfloat16(), logits)
    for told in (half, plain):
        assert told.log_probabilities.dtype == torch.float32
        torch.testing.assert_close(told.probabilities, whole.probabilities, atol=0.05, rtol=0)
        torch.testing.assert_close(told.error, whole.error, atol=0.05, rtol=0)


def test_a_network_puts_out_what_its_logits_are_made_of_when_asked() -> None:
    setup = config()
    model = network(setup)
    with torch.no_grad():
        encoded = model.encode(image(setup))
        output = model.decode(encoded, keep_features=True).segmented
        assert model.decode(encoded).segmented.features is None
        assert output.features is not None
        assert model.segmentation is not None
        again = model.segmentation.logits(output.features)
    torch.testing.assert_close(again[:, : setup.classes], output.mean)


def test_a_part_of_an_output_has_a_part_of_everything() -> None:
    setup = config()
    with torch.no_grad():
        model = network(setup)
        whole = model.decode(model.encode(image(setup)), keep_features=True).segmented
    part = cropped(whole, (slice(1, 4), slice(0, 12), slice(5, 6)))
    torch.testing.assert_close(part.mean, whole.mean[:, :, 1:4, :, 5:6])
    assert part.features is not None
    assert whole.features is not None
    torch.testing.assert_close(part.features, whole.features[:, :, 1:4, :, 5:6])
    assert part.log_variance is not None
    assert part.log_variance.shape[2:] == (3, 12, 1)
