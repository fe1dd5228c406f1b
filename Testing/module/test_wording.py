# SPDX-License-Identifier: Apache-2.0
"""Numbers and states in words."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from DIANetGui.Editing import Outcome
from DIANetGui.Records import ResultRecord
from DIANetGui.Wording import outcomeText, progressText, resultText, saidText, stateText

from DIANetLib.acwi.quality import LightLimits
from DIANetLib.acwi.review import Region
from DIANetLib.acwi.worklist import Progress
from DIANetLib.worker.protocol import StructureSummary
from Testing.module.bootstrap import STRUCTURES

LEFT, RIGHT, AMYGDALA = (structure.key for structure in STRUCTURES)


def record(*summaries):
    return ResultRecord(
        "id",
        "hippocampus",
        device="cpu",
        timings={"segment": 3.0},
        structures=STRUCTURES,
        summaries=summaries,
    )


def plain(html):
    return re.sub(r"<[^>]+>", "|", html).replace("&nbsp;", " ")


def lights(*summaries, limits=None):
    return re.findall(r"● ?\|? ?(\w+)", plain(resultText(record(*summaries), limits)))


def test_each_structure_gets_dice_interval_and_a_light_with_a_word():
    text = plain(resultText(record(StructureSummary(LEFT, 1.5, 0.9, 0.9, 0.86, 0.93))))

    assert "Hippocampus left" in text
    assert "0.90 (0.86–0.93)" in text
    assert re.search(r"●\| green", text)


@pytest.mark.parametrize(("dice", "light"), [(0.85, "green"), (0.849, "amber"), (0.7, "amber"), (0.6, "red")])
def test_the_light_is_that_of_the_value(dice, light):
    assert lights(StructureSummary(LEFT, 1.5, 0.9, dice)) == [light]


def test_a_line_says_whether_the_image_is_like_what_the_model_was_fitted_on():
    known = replace(record(StructureSummary(LEFT, 1.5, 0.9, 0.9)), familiarity="Image: unusual <& so on>")

    assert "<div>Image: unusual &lt;&amp; so on&gt;</div>" in resultText(known)
    assert "Image:" not in resultText(record(StructureSummary(LEFT, 1.5, 0.9, 0.9)))


def test_the_limits_are_the_users():
    summary = StructureSummary(LEFT, 1.5, 0.9, 0.6)

    assert lights(summary, limits=LightLimits(0.5, 0.4)) == ["green"]


def test_without_an_interval_there_is_none_shown():
    assert "0.90 |" in plain(resultText(record(StructureSummary(LEFT, 1.5, 0.9, 0.9))))


def test_without_an_estimate_there_is_no_light():
    assert lights(StructureSummary(LEFT, 1.5, 0.9, None)) == []


def test_red_structures_are_named_the_worst_first():
    text = plain(
        resultText(
            record(
                StructureSummary(LEFT, 1.5, 0.9, 0.6, 0.5, 0.7),
                StructureSummary(RIGHT, 1.5, 0.9, 0.4, 0.2, 0.6),
            )
        )
    )
    worst, other = (text.index(f"⚠ Hippocampus {side}: expected Dice") for side in ("right", "left"))

    assert worst < other


@pytest.mark.parametrize(
    ("samples", "source", "text"),
    [
        (10, "samples", "10 samples"),
        (0, "one-pass", "one pass in place of samples"),
        (0, "plain", "one plain pass"),
    ],
)
def test_what_the_uncertainty_comes_from_is_said(samples, source, text):
    made = replace(record(), samples=samples, uncertainty=source)

    assert f"hippocampus on cpu in 3 s, {text}" in plain(resultText(made))


def test_what_was_not_found_is_named():
    found = StructureSummary(LEFT, 1.5, 0.9, 0.9)
    text = resultText(record(found, StructureSummary(RIGHT, 0.0, None, None)))

    assert "Not found: Hippocampus right" in text
    assert "Not found" not in resultText(record(found))


def test_names_cannot_break_the_text():
    text = resultText(
        record(StructureSummary(AMYGDALA, 1.0, 0.9, 0.2), StructureSummary(LEFT, 0.0, None, None))
    )

    assert "Amygdala <&" not in text
    assert "Amygdala &lt;&amp;" in text


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (Progress(9, 2, 1, 0, 41.2), "3 of 12 judged, 41 mm³ expected to be wrong still open."),
        (Progress(0, 2, 1, 1, 0.0), "All 4 places are judged."),
    ],
)
def test_progress_in_words(progress, text):
    assert progressText(progress) == text


def test_states_are_told_by_sign_and_word():
    assert [stateText(s) for s in ("open", "accepted", "corrected", "skipped", "other")] == [
        "○ open",
        "✓ accepted",
        "✎ corrected",
        "→ skipped",
        "other",
    ]


def test_what_was_said_has_its_time_and_reviewer():
    region = Region(1, (LEFT,), (0.0,) * 3, (0.0,) * 3, (1.0,) * 3, 1.0, 1.0, 0.9)
    said = replace(region, state="accepted", changed="2026-11-25T14:03:00+00:00", reviewer="Ada")

    assert saidText(region) == ""
    assert re.fullmatch(r"✓ accepted, 2026-11-2\d \d\d:03, Ada", saidText(said))
    assert saidText(replace(said, reviewer="")).count(",") == 1


def test_outcomes_say_what_happened_in_the_place_and_beyond():
    assert outcomeText(Outcome(3, 12, 0)) == "Place 3: 12 voxels corrected."
    assert "Nothing was changed in place 3" in outcomeText(Outcome(3, 0, 0))
    assert "4 voxels changed beyond the place (Amygdala)" in outcomeText(Outcome(3, 0, 4, ("Amygdala",)))
