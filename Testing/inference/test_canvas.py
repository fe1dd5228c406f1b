# SPDX-License-Identifier: Apache-2.0
"""Maps on the network's grid as labels and error probabilities on the input's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from DIANetLib.acwi.uncertainty import RunningUncertainty
from DIANetLib.inference.canvas import Canvas
from DIANetLib.inference.prediction import ModelRef
from DIANetLib.preprocess import PreprocessConfig, prepare
from Testing.inference.fakes import structures, volume


@pytest.mark.parametrize(
    ("told", "expected"),
    [(None, [0.69, 0.2, 0.1, 0.0]), ([0.6, 0.3, 0.15, 0.05], [0.69, 0.3, 0.15, 0.05])],
    ids=["one less the probability", "a head that tells errors"],
)
def test_what_is_told_of_the_most_probable_class_is_not_taken_for_the_label_where_they_differ(told, expected):
    image = volume((1, 1, 4))
    prepared = prepare([image], PreprocessConfig(orientation="source"))
    probabilities = torch.tensor([[0.4, 0.1, 0.9, 1.0], [0.31, 0.8, 0.05, 0.0], [0.29, 0.1, 0.05, 0.0]])
    running = RunningUncertainty((3, 1, 1, 4))
    running.update(probabilities[None, :, None, None])
    maps = running.finish()
    if told is not None:
        maps = replace(maps, error=torch.tensor(told)[None, None])
    parts = structures("head", "tail")
    canvas = Canvas(image.geometry, parts)
    canvas.add(prepared, maps, parts)
    found = canvas.prediction(
        samples=0,
        device="cpu",
        timings={},
        warnings=(),
        regions=(),
        model=ModelRef("tiny", "1.0.0", "0" * 64),
        localiser=None,
        frame=image,
    )
    np.testing.assert_array_equal(found.labels.array[0, 0], [1, 1, 0, 0])
    np.testing.assert_allclose(found.error_probability.array[0, 0], expected, atol=1e-6)
    assert found.confidence["head"] == pytest.approx((0.31 + 0.8) / 2)
