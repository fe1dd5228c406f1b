# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest

from training.card_figures import card_figures


def one(value: float) -> dict[str, Any]:
    return {"mean": value, "sd": 0.1, "interval_95": [value - 0.1, value + 0.1], "n": 3}


def summary(**more: Any) -> dict[str, Any]:
    part = {"dice": one(0.8), "hd95_mm": one(1.5), "nsd_1mm": one(0.9)}
    return {
        "cases": 3,
        "samples": 10,
        "seed": 0,
        "temperature": 1.25,
        "figures": {**part, "ece_before": one(0.2), "ece": one(0.1)},
        "structures": {"nucleus": part},
        "pooled": {},
        **more,
    }


@pytest.mark.parametrize(
    ("correction", "words"),
    [(None, "ECE after temperature |"), ({"any": 1}, "ECE after temperature and correction by class |")],
)
def test_a_card_says_what_its_calibration_was_measured_after(correction: Any, words: str) -> None:
    text = card_figures(summary(error_calibration=correction))
    assert words in text
    assert "ECE before temperature |" in text
