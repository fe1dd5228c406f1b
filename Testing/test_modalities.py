# SPDX-License-Identifier: Apache-2.0
"""Which image is which modality."""

from __future__ import annotations

import pytest

from DIANetLib.bundle_schema import ModalitySpec
from DIANetLib.errors import InputError
from DIANetLib.modalities import assign, missing_sentence, sequence_of

FLAIR = ModalitySpec(name="FLAIR")
T1C = ModalitySpec(name="T1c", aliases=("T1ce",))
BOTH = (FLAIR, T1C)
#: A model that takes any of four.
ANY = tuple(ModalitySpec(name=name, required=False) for name in ("T1", "T2", "PD", "FLAIR"))
#: One that needs the first and takes the second too.
MORE = (ModalitySpec(name="T1"), ModalitySpec(name="FLAIR", required=False))


def test_names_and_aliases_go_before_the_order():
    assert assign(["t1CE", "flair"], BOTH, "glioma").places == (1, 0)
    assert assign([None, "FLAIR"], BOTH, "glioma").places == (1, 0)
    assert assign([None, None], BOTH, "glioma").places == (0, 1)


@pytest.mark.parametrize("given", [["T1"], ["FLAIR"], ["PD", "T2"], ["FLAIR", "T2", "T1"]])
def test_any_named_subset_of_optional_modalities_is_taken(given):
    found = assign(given, ANY, "wmh")
    names = ["T1", "T2", "PD", "FLAIR"]
    assert found.places == tuple(given.index(name) if name in given else None for name in names)
    assert found.available == tuple(name in given for name in names)
    assert found.guessed == {}


def test_file_names_tell_where_each_speaks_of_one_modality():
    files = ["sub-01_FLAIR.nii.gz", "sub-01_T1w.nii.gz"]
    found = assign([None, None], ANY, "wmh", files=files)
    assert found.places == (1, None, None, 0)
    assert found.guessed == {"T1": "sub-01_T1w.nii.gz", "FLAIR": "sub-01_FLAIR.nii.gz"}
    assert assign([None], ANY, "wmh", files=["pd.nii"]).places == (None, None, 0, None)
    assert assign([None, None], BOTH, "glioma", files=["t1_gd.nii", "T2_flair.nii"]).places == (1, 0)


def test_file_names_in_the_models_own_order_are_nothing_to_tell():
    assert assign([None, None], BOTH, "glioma", files=["FLAIR.nii", "T1c.nii"]).guessed == {}


def test_file_names_that_do_not_tell_leave_the_order():
    assert assign([None, None], BOTH, "glioma", files=["a.nii", "flair.nii"]).places == (0, 1)
    assert assign([None, None], BOTH, "glioma", files=["flair1.nii", "x.nii"]).places == (0, 1)


def test_an_image_that_may_be_any_of_several_is_asked_for():
    with pytest.raises(
        InputError,
        match=r"expected 1 to 4 modalities of T1, T2, PD, FLAIR for model 'wmh', got 2, and it cannot be told"
        r" which one b\.nii is\..*--modalities",
    ):
        assign(["T1", None], ANY, "wmh", files=["a.nii", "b.nii"])
    with pytest.raises(InputError, match="cannot be told which one one_FLAIR and two_FLAIR is"):
        assign([None, None], ANY, "wmh", files=["one_FLAIR", "two_FLAIR"])


def test_one_image_for_a_model_that_needs_one_is_that_one():
    assert assign([None], MORE, "m", files=["scan.nii"]).places == (0, None)


@pytest.mark.parametrize(
    ("names", "modalities", "message"),
    [
        (
            ["T1c"],
            BOTH,
            r"expected 2 modalities \(FLAIR, T1c\) for model 'glioma', got 1 \(T1c\)\. Give FLAIR as well, or"
            r" choose another model\.",
        ),
        (
            [None],
            BOTH,
            r"expected 2 modalities \(FLAIR, T1c\) for model 'glioma', got 1\. Give one image per",
        ),
        ([None] * 3, BOTH, "got 3"),
        ([], ANY, "expected 1 to 4 modalities of T1, T2, PD, FLAIR for model 'glioma', got 0"),
        (["FLAIR"], MORE, r"1 to 2 modalities of T1, FLAIR, T1 among them, .* got 1 \(FLAIR\)\. Give T1 as"),
        (["PET", None], BOTH, "no modality 'PET'; it has FLAIR, T1c"),
        (["T1c", "T1ce"], BOTH, "'T1ce' was given twice"),
    ],
)
def test_a_wrong_set_of_modalities_gets_a_sentence(names, modalities, message):
    with pytest.raises(InputError, match=message):
        assign(names, modalities, "glioma")


def test_what_is_missing_is_said_in_words():
    assert missing_sentence(ANY, (True,) * 4, "wmh") is None
    text = missing_sentence(ANY, (False, False, True, True), "wmh")
    assert text is not None
    assert text.startswith("T1 and T2 were not given: model 'wmh' read PD and FLAIR alone")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("T2 FLAIR", "FLAIR"),
        ("t1-weighted", "T1"),
        ("T1+C", "T1C"),
        ("ax_t1_post", "T1C"),
        ("pd", "PD"),
        ("abdomen CT", "CT"),
        ("victory", None),
    ],
)
def test_whole_words_name_a_sequence(text, kind):
    assert sequence_of(text) == kind
