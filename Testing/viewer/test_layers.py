# SPDX-License-Identifier: Apache-2.0
"""Layers have the names, units and scales that the report and the Slicer module have."""

from __future__ import annotations

import pytest
from DIANetGui.LayerKeys import SCALES as MODULE_SCALES

from DIANetLib.formats.report_views import SCALES as REPORT_SCALES
from DIANetLib.viewer.layers import SCALES, find_layers, ticks
from Testing.viewer.made import STRUCTURES


def test_the_scales_are_those_of_the_report_and_the_module():
    for other in (REPORT_SCALES, MODULE_SCALES):
        shared = SCALES.keys() & other.keys()
        assert {kind: SCALES[kind] for kind in shared} == {kind: other[kind] for kind in shared}
        assert len(shared) >= 4


def test_a_map_of_a_structure_is_called_by_its_name():
    layers = find_layers({"files": {"variance": {"head_left": "v.nrrd"}}}, STRUCTURES)

    assert [(layer.title, layer.kind, layer.scale) for layer in layers] == [
        ("Variance of Head left", "variance", 0.1)
    ]


def test_saliency_has_no_fixed_scale():
    (layer,) = find_layers({"files": {"attention": {"saliency": "saliency.nrrd"}}}, ())

    assert layer.scale is None


@pytest.mark.parametrize("files", [None, 3, [], {"uncertainty": 3, "variance": None, "error_probability": 7}])
def test_entries_of_another_type_are_no_layers(files):
    assert find_layers({"files": files}, ()) == ()


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        (1.0, ("0.00", "0.25", "0.50", "0.75", "1.00")),
        (0.1, ("0.000", "0.025", "0.050", "0.075", "0.100")),
        (713.0, ("0", "178", "356", "535", "713")),
    ],
)
def test_the_numbers_of_a_colour_bar_have_digits_that_count(scale, expected):
    assert ticks(scale) == expected
