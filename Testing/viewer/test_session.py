# SPDX-License-Identifier: Apache-2.0
"""Judgements go into the folder at once, and none is lost."""

from __future__ import annotations

import json

import pytest

from DIANetLib.acwi.worklist import load_worklist, save_worklist
from DIANetLib.errors import OutputError
from DIANetLib.viewer import session as module
from DIANetLib.viewer.session import ReviewSession


def states(folder) -> list[str]:
    return [region.state for region in load_worklist(folder).regions]


def test_a_judgement_is_in_the_file_with_its_reviewer_and_time(result):
    session = ReviewSession(result, "Ada")

    assert session.judge(2, "accepted")

    region = load_worklist(result).regions[1]
    assert (region.state, region.reviewer) == ("accepted", "Ada")
    assert region.changed
    assert session.problem == ""


def test_a_new_session_goes_on_where_the_last_one_stopped(result):
    ReviewSession(result).judge(1, "skipped")

    session = ReviewSession(result)

    assert session.region(1).state == "skipped"
    assert session.worklist.progress().open == 3


def test_what_another_program_said_in_the_meantime_stays(result):
    session = ReviewSession(result)
    ReviewSession(result).judge(3, "corrected")

    session.judge(1, "accepted")

    assert states(result) == ["accepted", "open", "corrected", "open"]


def test_a_list_with_other_places_is_read_again_and_nothing_set(result):
    session = ReviewSession(result)
    moved = load_worklist(result).reranked(load_worklist(result).regions[2:])
    save_worklist(result, moved)

    assert not session.judge(1, "accepted")

    assert states(result) == ["open", "open"]
    assert session.worklist == moved
    assert "changed the list" in session.problem


def test_a_rank_that_is_not_there_changes_nothing(result):
    session = ReviewSession(result)

    assert not session.judge(9, "accepted")
    assert session.region(9) is None


def test_where_nothing_can_be_written_it_is_said_and_made_up_for_later(result, monkeypatch):
    def refuse(*_):
        raise OutputError("The worklist cannot be written: Read-only file system.")

    with monkeypatch.context() as patched:
        patched.setattr(module, "save_worklist", refuse)
        session = ReviewSession(result)
        assert not session.judge(1, "accepted")
        assert "not kept" in session.problem
        assert session.region(1).state == "accepted"
        assert states(result)[0] == "open"

    assert session.judge(2, "skipped")
    assert states(result) == ["accepted", "skipped", "open", "open"]
    assert session.problem == ""


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_judged(result, monkeypatch):
    monkeypatch.setattr(module.os, "access", lambda *_: False)

    session = ReviewSession(result)

    assert "will not be kept" in session.problem
    assert len(session.worklist.regions) == 4


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"schema": "dianet.regions", "schema_version": 99})])
def test_a_list_that_cannot_be_read_is_said_and_never_written_over(result, text):
    (result / "regions.json").write_text(text)

    session = ReviewSession(result)

    assert session.worklist.regions == ()
    assert "cannot be shown" in session.problem
    assert not session.judge(1, "accepted")
    assert (result / "regions.json").read_text() == text


def test_a_list_that_is_missing_is_said(result):
    (result / "regions.json").unlink()

    assert "There is no worklist" in ReviewSession(result).problem
