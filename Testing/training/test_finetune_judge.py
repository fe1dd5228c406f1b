# SPDX-License-Identifier: Apache-2.0
"""Before and after: what is compared, when a candidate is stopped, and how the table reads."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from Testing.training.tiny import deterministic
from training.baselines import build_model
from training.datasets import PreparedCase
from training.finetune_cases import CorrectedCase, Level
from training.finetune_config import JudgingConfig
from training.finetune_judge import (
    CaseJudgement,
    as_json,
    as_markdown,
    judge_corrected,
    judge_rehearsed,
    verdict,
)

LIMITS = JudgingConfig()


def judged(before: float, after: float, *, whole: tuple[float, float] = (0.9, 0.9)) -> CaseJudgement:
    return CaseJudgement("a", "a", *whole, reviewed_before=before, reviewed_after=after)


def old(before: float, after: float, name: str = "b") -> CaseJudgement:
    return CaseJudgement(name, name, before, after)


class TestVerdict:
    def test_a_gain_on_new_cases_without_a_loss_on_old_ones_ships(self):
        found = verdict([judged(0.4, 0.7)], [old(0.9, 0.895)], LIMITS, 0)
        assert found.reasons == ()
        assert found.notes == ()
        assert found.figures["new_reviewed"].value == pytest.approx(0.3)
        assert found.figures["old"].value == pytest.approx(-0.005)

    @pytest.mark.parametrize(
        ("new", "before", "sentence"),
        [
            (
                judged(0.6, 0.5),
                old(0.9, 0.9),
                "cases were reviewed went from 0.6000 to 0.5000",
            ),
            (judged(0.4, 0.7, whole=(0.9, 0.7)), old(0.9, 0.9), "over the whole of the corrected cases"),
            (judged(0.4, 0.7), old(0.9, 0.85), "on the rehearsed cases .* tolerated is a loss of 0.01"),
        ],
    )
    def test_each_loss_beyond_its_tolerance_stops_the_candidate(
        self, new: CaseJudgement, before: CaseJudgement, sentence: str
    ):
        (reason,) = verdict([new], [before], LIMITS, 0).reasons
        assert re.search(sentence, reason)

    def test_no_gain_at_all_is_said_and_ships(self):
        found = verdict([judged(0.5, 0.5)], [], LIMITS, 0)
        assert found.reasons == ()
        assert "Nothing was gained" in found.notes[0]

    def test_cases_of_one_head_are_drawn_together(self):
        cases = [
            replace(judged(0.5, 0.5 + gain), name=name, group="head")
            for name, gain in (("l", 0.0), ("r", 0.4))
        ]
        assert all(math.isnan(end) for end in verdict(cases, [], LIMITS, 0).figures["new"].interval_95)

    def test_the_table_has_no_number_that_json_lacks(self):
        found = verdict([judged(0.4, 0.7)], [], LIMITS, 0)
        table = as_json(found, [judged(0.4, 0.7)], [old(0.5, 0.6)])
        assert table["figures"]["new_reviewed"]["interval_95"] == [None, None]  # one case has none
        assert table["rehearsed_cases"][0]["reviewed_before"] is None
        lines = as_markdown(table).splitlines()
        assert lines[2] == "| corrected cases, where reviewed | 1 | 0.4000 | 0.7000 | +0.3000 |"


class TestJudging:
    def case(self) -> PreparedCase:
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 3, (12, 16, 16)).astype(np.uint8)
        return PreparedCase("a", rng.normal(size=(1, 12, 16, 16)).astype(np.float32), labels)

    def test_the_same_weights_are_equally_good_and_reviewed_voxels_have_a_figure_of_their_own(self):
        config = deterministic()
        torch.manual_seed(0)
        weights = build_model(config).state_dict()
        levels = np.full((12, 16, 16), Level.OPEN, np.uint8)
        levels[:3] = Level.JUDGED
        corrected = CorrectedCase(self.case(), levels, "g", "id", "Ada")
        (found,) = judge_corrected(config, weights, weights, [corrected], torch.device("cpu"))
        assert found.before == found.after
        assert found.reviewed_before == found.reviewed_after != found.before
        (other,) = judge_rehearsed(config, weights, weights, [self.case()], torch.device("cpu"))
        assert other.before == found.before
        assert math.isnan(other.reviewed_before)
