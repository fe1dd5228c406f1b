# SPDX-License-Identifier: Apache-2.0
"""What an answer tells of each structure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from DIANetLib.worker.answers import _summaries
from Testing.cli import made


def test_a_summary_has_the_interval_of_the_expected_dice_where_there_is_one():
    first, second = (structure.key for structure in made.STRUCTURES)
    found = made.prediction(made.labels(), np.zeros(made.GEOMETRY.shape, np.float32))
    found = replace(found, dice_interval={first: (0.8, 0.9), second: None})
    one, other = _summaries(found)
    assert (one.key, one.expected_dice, one.dice_low, one.dice_high) == (first, 0.85, 0.8, 0.9)
    assert (other.key, other.expected_dice, other.dice_low, other.dice_high) == (second, 0.85, None, None)
