# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from DIANetLib.errors import InputError
from DIANetLib.volume import Geometry, Volume

GRID = Geometry((2, 3, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3))


def test_an_array_in_ijk_order_is_refused():
    with pytest.raises(InputError, match=r"shape \(2, 3, 4\) \(k, j, i\), its grid expects \(4, 3, 2\)"):
        Volume(np.zeros((2, 3, 4)), GRID)


def test_an_array_of_four_axes_is_refused():
    with pytest.raises(InputError, match="needs a 3-D array"):
        Volume(np.zeros((1, 4, 3, 2)), GRID)


def test_complex_voxels_are_refused():
    with pytest.raises(InputError, match="voxels are complex128, expected real"):
        Volume(np.zeros(GRID.shape, dtype=complex), GRID)


def test_with_array_keeps_grid_and_origin_and_may_rename():
    volume = Volume(np.zeros(GRID.shape), GRID, "a", "T1", "1.2.3", "a.nii")
    other = volume.with_array(np.ones(GRID.shape), "b")
    assert (other.name, other.modality, other.frame_of_reference, other.source) == (
        "b",
        "T1",
        "1.2.3",
        "a.nii",
    )
    assert other.geometry is GRID
    assert volume.with_array(np.ones(GRID.shape)).name == "a"


def test_the_hash_is_of_the_content_alone():
    array = np.arange(24, dtype=np.int16).reshape(GRID.shape)
    reference = Volume(array, GRID).sha256()
    assert len(reference) == 64
    assert Volume(np.asfortranarray(array), GRID, "other name", "T2").sha256() == reference
    assert Volume(array.astype(">i2"), GRID).sha256() == reference
    assert Volume(array + 1, GRID).sha256() != reference
    assert Volume(array.astype(np.int32), GRID).sha256() != reference
    moved = Geometry(GRID.size, GRID.spacing, (1e-9, 0.0, 0.0), GRID.direction)
    assert Volume(array, moved).sha256() != reference
