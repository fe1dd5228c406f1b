# SPDX-License-Identifier: Apache-2.0
"""The dataclasses of a prediction refuse what does not fit together, and need no torch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from DIANetLib.errors import InputError
from DIANetLib.inference.prediction import UNCERTAINTY_KINDS, Box, ModelRef, Prediction, Progress
from DIANetLib.structures import ANATOMICAL_STRUCTURE, Code, Structure
from DIANetLib.volume import Geometry, Volume

BLOB = Structure(1, "blob", "Blob", (200, 10, 10), ANATOMICAL_STRUCTURE, Code("SCT", "1", "Blob"))


def a_prediction() -> Prediction:
    geometry = Geometry((4, 3, 2), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3))
    volume = Volume(np.zeros(geometry.shape, np.float32), geometry)
    return Prediction(
        geometry=geometry,
        structures=(BLOB,),
        labels=volume.with_array(np.zeros(geometry.shape, np.uint8)),
        uncertainty={kind: volume for kind in UNCERTAINTY_KINDS},
        variance={"blob": volume},
        confidence={"blob": None},
        expected_dice={"blob": None},
        volumes_ml={"blob": 0.0},
        error_probability=volume,
        samples=0,
        device="cpu",
        timings={},
        warnings=(),
        regions_of_interest=(),
        model=ModelRef("toy", "1", "00"),
    )


def test_a_box_tells_its_centre_its_size_and_its_corners() -> None:
    box = Box((0.0, 1.0, 2.0), (2.0, 5.0, 3.0))
    assert box.center == (1.0, 3.0, 2.5)
    assert box.size_mm == (2.0, 4.0, 1.0)
    assert box.corners.min(axis=0).tolist() == [0.0, 1.0, 2.0]
    assert box.corners.max(axis=0).tolist() == [2.0, 5.0, 3.0]
    assert len({tuple(corner) for corner in box.corners.tolist()}) == 8


def test_an_expanded_box_grows_on_every_side() -> None:
    assert Box((0, 0, 0), (1, 1, 1)).expanded(2.0) == Box((-2, -2, -2), (3, 3, 3))


def test_a_box_contains_its_border_and_nothing_beyond() -> None:
    box = Box((0, 0, 0), (1, 1, 1))
    assert box.contains([[0, 0, 1], [0.5, 0.5, 0.5], [0.5, 1.01, 0.5]]).tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("lo", "hi", "message"),
    [
        ((0, 0, 0), (1, 1, 0), "must exceed its lower corner"),
        ((0, 0, 0), (1, float("nan"), 1), "must exceed its lower corner"),
        ((0, 0), (1, 1), "3 coordinates"),
    ],
)
def test_a_box_without_content_is_refused(
    lo: tuple[float, float, float], hi: tuple[float, float, float], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Box(lo, hi)


def test_progress_has_a_fraction_even_when_nothing_is_to_be_done() -> None:
    assert Progress("segment", 1, 4).fraction == 0.25
    assert Progress("segment", 0, 0).fraction == 0.0


def test_a_structure_is_found_by_its_key() -> None:
    assert a_prediction().structure("blob") is BLOB
    with pytest.raises(KeyError, match="no structure 'cloud'; there are blob"):
        a_prediction().structure("cloud")


def test_a_prediction_without_a_map_is_refused() -> None:
    with pytest.raises(ValueError, match="missing epistemic"):
        replace(a_prediction(), uncertainty={k: a_prediction().labels for k in ("total", "aleatoric")})


def test_a_prediction_without_an_entry_for_a_structure_is_refused() -> None:
    with pytest.raises(ValueError, match=r"confidence must have one entry per structure \(blob\), got none"):
        replace(a_prediction(), confidence={})


def test_a_volume_on_another_grid_is_refused() -> None:
    small = Geometry((2, 2, 2), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3))
    with pytest.raises(ValueError, match=r"lies on its grid \(2, 3, 4\).*shape \(2, 2, 2\)"):
        replace(a_prediction(), labels=Volume(np.zeros((2, 2, 2), np.uint8), small))


def test_the_dataclasses_need_no_torch() -> None:
    code = "import sys, DIANetLib.inference.prediction; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
