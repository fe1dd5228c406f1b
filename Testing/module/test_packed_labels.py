# SPDX-License-Identifier: Apache-2.0
"""Labelmaps as text."""

from __future__ import annotations

import json

import numpy as np
import pytest
from DIANetGui.PackedLabels import packed, unpacked

from DIANetLib.errors import InputError
from DIANetLib.volume import Volume
from Testing.module.bootstrap import geometry, labels_on, rotation

GRID = geometry(direction=rotation(10, 20, 30))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, bool, ">u2"])
def test_labels_come_back_on_their_grid(dtype):
    labels = Volume(labels_on(GRID).array.astype(dtype), GRID)
    back = unpacked(packed(labels), "a name")

    assert np.array_equal(back.array, labels.array)
    assert back.geometry.same_grid(GRID, 0)
    assert back.array.dtype.isnative
    assert back.name == "a name"


def test_nothing_comes_back_as_nothing():
    empty = Volume(np.zeros(GRID.shape, np.uint8), GRID)

    assert not unpacked(packed(empty)).array.any()


def test_a_single_voxel_in_the_last_corner_comes_back():
    array = np.zeros(GRID.shape, np.uint8)
    array[-1, -1, -1] = 7

    assert np.array_equal(unpacked(packed(Volume(array, GRID))).array, array)


def test_only_what_holds_anything_takes_space():
    wide = geometry(size=(256, 256, 256))
    array = np.zeros(wide.shape, np.uint8)
    array[100:110, 100:110, 100:110] = np.random.default_rng(0).integers(0, 3, (10, 10, 10))

    assert len(packed(Volume(array, wide))) < 2000


def test_the_text_has_nothing_that_mrml_separates_or_escapes_by():
    assert not set(packed(labels_on(GRID))) & set(";%<>&'")


def changed(**entries):
    return json.dumps({**json.loads(packed(labels_on(GRID))), **entries})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "{}",
        "[1]",
        changed(schema="another"),
        changed(voxels="AAAA"),
        changed(voxels="no base64!"),
        changed(box=[[0, 1], [0, 1], [0, 1]]),
        changed(size=[0, 1, 1]),
        changed(type="what"),
        changed(version="one"),
    ],
)
def test_a_text_that_is_no_labelmap_is_refused(text):
    with pytest.raises(InputError, match=r"cannot be read|grid's size"):
        unpacked(text)


def test_a_newer_version_is_refused_with_a_remedy():
    with pytest.raises(InputError, match=r"newer DIANet.*Update"):
        unpacked(changed(version=2))
