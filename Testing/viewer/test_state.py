# SPDX-License-Identifier: Apache-2.0
"""The words and rows that the page shows."""

from __future__ import annotations

from DIANetLib.acwi.quality import DiceEstimate, LightLimits
from DIANetLib.acwi.worklist import Worklist, load_worklist
from DIANetLib.viewer.folder import StructureResult, read_folder
from DIANetLib.viewer.layers import Layer
from DIANetLib.viewer.state import legend, position, progress, region_rows, structure_rows
from Testing.viewer.made import STRUCTURES


def row(dice: DiceEstimate | None, limits: LightLimits | None = None) -> dict:
    (made,) = structure_rows([StructureResult(STRUCTURES[0], 1.234, dice)], limits or LightLimits())
    return made


def test_a_structure_has_volume_sentence_and_light():
    made = row(DiceEstimate(0.9, 0.86, 0.93))

    assert made["volume"] == "1.23 ml"
    assert made["quality"] == "Expected Dice 0.90 (0.86–0.93)"
    assert (made["light"], made["light_word"]) == ("green", "good")
    assert made["color"] == "rgb(230, 120, 40)"


def test_the_light_follows_the_limits():
    dice = DiceEstimate(0.8)

    assert row(dice)["light"] == "amber"
    assert row(dice, LightLimits(green=0.8, amber=0.5))["light"] == "green"
    assert row(dice, LightLimits(green=0.95, amber=0.9))["light"] == "red"
    assert row(None)["quality"] == "Not found, so no Dice is expected"


def test_a_region_is_named_by_its_structures_and_says_who_judged_it(result):
    worklist = load_worklist(result).with_state(1, "corrected", reviewer="Ada")

    rows = region_rows(worklist, read_folder(result).structures)

    assert rows[0]["where"] == "Head left"
    assert rows[0]["state_word"] == "corrected elsewhere"
    assert rows[0]["details"].startswith("by Ada, 20")
    assert rows[1]["state_word"] == "open"


def test_progress_counts_and_sums(result):
    worklist = load_worklist(result)
    left = sum(region.expected_error_mm3 for region in worklist.regions[1:])

    state = progress(worklist.with_state(1, "accepted"))

    assert state["percent"] == 25
    assert state["text"] == f"1 of 4 regions judged; {left:.0f} mm³ expected to be wrong in the rest"


def test_no_region_is_good_news_and_no_division_by_zero():
    assert progress(Worklist(())) == {"text": "No region stands out as uncertain.", "percent": 0}


def test_a_legend_has_numbers_a_unit_and_says_what_is_hidden():
    made = legend(Layer("total", "Total uncertainty", "t.nrrd", "total", "nats"), 0.6931, 0.1)

    assert made["ticks"][-1] == "0.693"
    assert made["unit"] == "nats"
    assert made["hidden"] == 10.0
    assert made["text"] == "Hidden below 0.0693 nats"


def test_a_layer_of_numbered_things_has_a_colour_per_name():
    layer = Layer("path", "Reliable path", "p.nrrd", "path", "number of the path", ("coarse", "fine"))

    names = legend(layer, 5.0, 0.1)["names"]

    assert [entry["name"] for entry in names] == ["coarse", "fine"]
    assert len({entry["color"] for entry in names}) == 2


def test_no_layer_has_an_empty_legend():
    assert legend(None, 1.0, 0.1)["title"] == ""


def test_positions_are_written_as_slicer_shows_them():
    assert position((27.0, 20.04, -0.04)).replace("\u00a0", " ") == "R −27.0, A −20.0, S 0.0 mm"
