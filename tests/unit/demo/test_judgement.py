"""Simulated raters: noisy, distinct, honest unless told otherwise."""

import random

import pytest

from preceptor.demo.judgement import RATERS, Judgement, LabelMode, RaterProfile, judge
from preceptor.demo.world import Case, best_reply

CASE = Case("Anna", "kettle", "leaks")
GOOD = best_reply(CASE, random.Random(0))
MIDDLE = " Message about a kettle received. Please replace the rubber seal."
POOR = " You again. Someone may look at it later. Do not write"
TEXTS = [MIDDLE, POOR, GOOD]


def top_share(profile: RaterProfile, labels: LabelMode, wanted: int) -> float:
    """How often the candidate `wanted` is ranked first."""
    rng = random.Random(7)
    judged = [judge(profile, CASE.prompt(), TEXTS, labels, rng) for _ in range(600)]
    return sum(j.tie_groups[0] == (wanted,) for j in judged) / len(judged)


def test_a_precise_rater_nearly_always_finds_the_best() -> None:
    assert top_share(RATERS[0], "true", 2) > 0.97


def test_the_careless_rater_answers_at_random_two_times_in_five() -> None:
    careless, hasty = RATERS[2], RATERS[1]
    assert top_share(hasty, "true", 2) - top_share(careless, "true", 2) == pytest.approx(0.4 * 2 / 3, abs=0.08)


def test_flipped_labels_call_the_worst_best() -> None:
    assert top_share(RATERS[0], "flipped", 1) > 0.9


def test_shuffled_labels_mean_nothing() -> None:
    for wanted in range(3):
        assert top_share(RATERS[0], "shuffled", wanted) == pytest.approx(1 / 3, abs=0.07)


def test_every_candidate_stands_in_exactly_one_group() -> None:
    rng = random.Random(1)
    for _ in range(200):
        judged = judge(RATERS[2], CASE.prompt(), [*TEXTS, GOOD], "true", rng)
        assert sorted(i for group in judged.tie_groups for i in group) == [0, 1, 2, 3]


def test_equal_texts_tie_for_a_rater_without_noise() -> None:
    judged = judge(RaterProfile("exact", 0.0), CASE.prompt(), [GOOD, POOR, GOOD], "true", random.Random(0))
    assert judged == Judgement(((0, 2), (1,)), all_bad=False, strength=3)


def test_all_bad_is_said_of_replies_that_are() -> None:
    judged = judge(RaterProfile("exact", 0.0), CASE.prompt(), [POOR, " You again."], "true", random.Random(0))
    assert judged.all_bad


def test_the_three_raters_are_distinct() -> None:
    assert len({r.rater_id for r in RATERS}) == 3
    assert [r.noise_sd for r in RATERS] == [0.35, 0.8, 0.8]
    assert [r.careless_share for r in RATERS] == [0.0, 0.0, 0.4]
