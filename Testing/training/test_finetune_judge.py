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
    Score,
    Verdict,
    as_json,
    as_markdown,
    blended,
    choose_share,
    dice_of,
    judge_corrected,
    judge_rehearsed,
    scores_of,
    verdict,
)

LIMITS = JudgingConfig()


def judged(before: float, after: float, *, whole: tuple[float, float] = (0.9, 0.9)) -> CaseJudgement:
    return CaseJudgement("a", "a", *whole, reviewed_before=before, reviewed_after=after)


def old(before: float, after: float, name: str = "b") -> CaseJudgement:
    return CaseJudgement(name, name, before, after)


class TestVerdict:
    def test_a_gain_on_new_cases_without_a_loss_on_old_ones_ships(self):
        found = verdict([judged(0.4, 0.7)], [old(0.9, 0.896)], LIMITS, 0)
        assert found.reasons == ()
        assert found.notes == ()
        assert found.figures["new_reviewed"].value == pytest.approx(0.3)
        assert found.figures["old"].value == pytest.approx(-0.004)

    @pytest.mark.parametrize(
        ("new", "before", "sentence"),
        [
            (
                judged(0.6, 0.5),
                old(0.9, 0.9),
                "cases were reviewed went from 0.6000 to 0.5000",
            ),
            (judged(0.4, 0.7, whole=(0.9, 0.7)), old(0.9, 0.9), "over the whole of the corrected cases"),
            (judged(0.4, 0.7), old(0.9, 0.85), "on the rehearsed cases .* tolerated is a loss of 0.005"),
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

    def test_reviewed_voxels_have_a_figure_of_their_own(self):
        config = deterministic()
        torch.manual_seed(0)
        weights = build_model(config).state_dict()
        levels = np.full((12, 16, 16), Level.OPEN, np.uint8)
        levels[:3] = Level.JUDGED
        case = CorrectedCase(self.case(), levels, "g", "id", "Ada")
        (score,) = scores_of(config, weights, [case], torch.device("cpu"))
        assert score.reviewed != score.whole
        (found,) = judge_corrected([case], [score], [Score(0.8, 0.7)])
        assert (found.before, found.after) == (score.whole, 0.8)
        assert (found.reviewed_before, found.reviewed_after) == (score.reviewed, 0.7)
        (dice,) = dice_of(config, weights, [self.case()], torch.device("cpu"))
        assert dice == score.whole
        (other,) = judge_rehearsed([self.case()], [dice], [0.5])
        assert (other.before, other.after) == (dice, 0.5)
        assert math.isnan(other.reviewed_before)


class TestShares:
    def verdicts(self, *pairs: tuple[float, float]) -> dict[float, Verdict]:
        """Verdicts at 0.25, 0.5, ... of Dice on new and on old cases, 0.4 and 0.9 before."""
        return {
            0.25 * n: verdict([judged(0.4, new)], [old(0.9, kept)], LIMITS, 0)
            for n, (new, kept) in enumerate(pairs, start=1)
        }

    def test_the_best_of_those_that_do_not_forget_is_chosen(self):
        assert choose_share(self.verdicts((0.5, 0.9), (0.6, 0.896), (0.7, 0.85), (0.8, 0.8))) == 0.5
        assert choose_share(self.verdicts((0.5, 0.9), (0.7, 0.9), (0.6, 0.9), (0.65, 0.9))) == 0.5

    def test_where_none_may_be_shipped_the_nearest_is_told_of(self):
        assert choose_share(self.verdicts((0.5, 0.8), (0.6, 0.7))) == 0.25

    def test_without_corrected_cases_to_judge_the_farthest_that_does_not_forget_is_chosen(self):
        unjudged = {
            share: verdict([], [old(0.9, kept)], LIMITS, 0) for share, kept in ((0.5, 0.9), (1.0, 0.896))
        }
        assert choose_share(unjudged) == 1.0
        assert choose_share({**unjudged, 1.0: verdict([], [old(0.9, 0.8)], LIMITS, 0)}) == 0.5

    def test_weights_in_between_lie_on_the_straight_way(self):
        start, fitted = {"w": torch.tensor([0.0, 2.0])}, {"w": torch.tensor([1.0, -2.0])}
        assert blended(start, fitted, 0.25)["w"].tolist() == [0.25, 1.0]
        assert blended(start, fitted, 1.0)["w"].tolist() == [1.0, -2.0]
