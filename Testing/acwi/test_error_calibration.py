# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import numpy as np
import pytest

from DIANetLib.acwi.error_calibration import ErrorCalibration
from DIANetLib.errors import InputError

TRUE = ErrorCalibration((-0.4, 0.8, 0.0), (1.2, 0.7, 1.0))


def test_the_correction_is_logistic_for_each_class() -> None:
    error = np.array([0.2, 0.2, 0.2, 0.0, 0.5], np.float32)
    corrected = TRUE.apply(error, np.array([0, 1, 2, 1, 1]))
    odds = 0.25  # of 0.2
    expected = [np.exp(-0.4) * odds**1.2, np.exp(0.8) * odds**0.7, odds, 0.0, np.exp(0.8)]
    np.testing.assert_allclose(corrected / (1 - corrected), expected, rtol=1e-5)
    assert corrected.dtype == np.float32


def test_no_doubt_stays_none_and_certain_error_stays_finite() -> None:
    ends = TRUE.apply(np.array([0.0, 1.0]), np.array([1, 0]))
    assert ends[0] == 0.0
    assert 0.999 < ends[1] <= 1.0


def test_it_is_kept_as_json() -> None:
    assert ErrorCalibration.from_json(json.loads(json.dumps(TRUE.to_json()))) == TRUE


def test_numbers_that_do_not_fit_get_a_sentence() -> None:
    with pytest.raises(InputError, match="offset and a slope per class, got 2 and 3"):
        ErrorCalibration((0.0, 0.0), (1.0, 1.0, 1.0))
    with pytest.raises(InputError, match="finite offsets and positive slopes"):
        ErrorCalibration((0.0, 0.0), (1.0, 0.0))
    with pytest.raises(InputError, match="finite offsets and positive slopes"):
        ErrorCalibration((0.0, float("nan")), (1.0, 1.0))
    for document in ({}, {"offsets": [0, 0], "slopes": None}, {"offsets": ["a", 0], "slopes": [1, 1]}):
        with pytest.raises(InputError, match="entries offsets and slopes"):
            ErrorCalibration.from_json(document)
