# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from DIANetLib.errors import InputError
from DIANetLib.structures import ANATOMICAL_STRUCTURE, LEFT, Code, Structure, check_unique

HIPPOCAMPUS = Code("SCT", "5366008", "Hippocampus")


def structure(**changes: object) -> Structure:
    values = {
        "value": 1,
        "key": "hippocampus_anterior",
        "name": "Hippocampus anterior",
        "color": (255, 128, 0),
        "category": ANATOMICAL_STRUCTURE,
        "type": HIPPOCAMPUS,
    }
    return Structure(**(values | changes))


def test_the_terminology_entry_has_slicers_seven_parts():
    entry = structure(modifier=LEFT).terminology_entry
    assert entry == (
        "Segmentation category and type - DICOM master list"
        "~SCT^123037004^Anatomical Structure~SCT^5366008^Hippocampus~SCT^7771000^Left"
        "~Anatomic codes - DICOM master list~^^~^^"
    )
    assert structure().terminology_entry.split("~")[3] == "^^"


def test_a_structure_on_a_side_gets_its_code_and_name():
    left = structure().on_side("left", value=7)
    assert (left.value, left.key, left.name) == (7, "hippocampus_anterior_left", "Hippocampus anterior left")
    assert left.modifier == LEFT
    assert left.side == "left"
    right = structure().on_side("right")
    assert right.value == 1
    assert right.side == "right"
    assert right.modifier.value == "24028007"
    assert structure().side is None
    assert structure(modifier=Code("SCT", "51440002", "Right and left")).side is None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"value": 0}, "has value 0, expected 1 to 65535"),
        ({"key": "Hippo campus"}, "not usable in file names"),
        ({"key": "a__b"}, "not usable in file names"),
        ({"key": "../x"}, "not usable in file names"),
        ({"name": " "}, "has name ' '"),
        ({"name": "a|b"}, "has name 'a|b'"),
        ({"color": (0, 0, 256)}, "expected red, green, blue from 0 to 255"),
        ({"color": (0, 0)}, "expected red, green, blue from 0 to 255"),
    ],
)
def test_a_structure_out_of_range_is_refused_with_a_sentence(change, sentence):
    with pytest.raises(InputError, match=sentence.replace("|", "\\|")):
        structure(**change)


@pytest.mark.parametrize("parts", [("", "1", "x"), ("SCT", "1^2", "x"), ("SCT", "1", "a~b")])
def test_a_code_with_separators_or_gaps_is_refused(parts):
    with pytest.raises(InputError, match="A code's"):
        Code(*parts)


def test_shared_values_and_keys_are_found():
    check_unique([structure(), structure(value=2, key="b")])
    with pytest.raises(InputError, match="have the value 1"):
        check_unique([structure(), structure(key="b")])
    with pytest.raises(InputError, match="have the key 'hippocampus_anterior'"):
        check_unique([structure(), structure(value=2)])
