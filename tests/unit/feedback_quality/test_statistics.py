"""The statistics against values computed by hand, and against what must hold of them."""

import random
from itertools import product

import krippendorff
import numpy as np
import pytest

from preceptor.feedback.quality.agreement import agreement
from preceptor.feedback.quality.assessment import assess
from preceptor.feedback.quality.decisions import agreement_share, decisions_of, outcomes_of
from preceptor.feedback.quality.reliability import fit, weight_of
from preceptor.feedback.quality.types import QualityVote
from preceptor.feedback.quality.weights import weights_of

AB, BA, TIE = (("a",), ("b",)), (("b",), ("a",)), (("a", "b"),)


def votes_of(table: dict[str, str]) -> list[QualityVote]:
    """{"r1": "ab=-"}: per comparison the better candidate, "=" for a tie, "-" for none."""
    groups = {"a": AB, "b": BA, "=": TIE}
    return [
        QualityVote(f"c{place}", rater, groups[answer], seconds=10.0)
        for rater, answers in table.items()
        for place, answer in enumerate(answers)
        if answer != "-"
    ]


def test_outcomes_of_a_ranking_are_its_pairs() -> None:
    assert outcomes_of((("b",), ("a", "c"))) == {("a", "b"): 1, ("a", "c"): 0, ("b", "c"): -1}


def test_only_what_several_ranked_or_has_a_known_answer_counts() -> None:
    votes = [*votes_of({"r1": "aa", "r2": "b-"}), QualityVote("gold", "r1", AB, gold_answer=BA)]
    decisions = decisions_of(votes)
    assert decisions.clusters == 2
    assert decisions.raters == ("r1", "r2")
    assert sorted(decisions.truth.tolist()) == [1, 2]


def test_alpha_is_krippendorffs() -> None:
    answers = {"r1": "aaaabbbb==ab", "r2": "aaabbbbb=aab", "r3": "a-abbb-b==ba"}
    numbers = {"a": -1.0, "b": 1.0, "=": 0.0, "-": np.nan}
    matrix = [[numbers[one] for one in row] + [-numbers[one] for one in row] for row in answers.values()]
    expected = krippendorff.alpha(matrix, level_of_measurement="ordinal", value_domain=[-1, 0, 1])
    alpha = agreement(decisions_of(votes_of(answers))).alpha
    assert alpha.value == pytest.approx(expected)
    assert alpha.n == 12
    assert alpha.low < alpha.value < alpha.high


def test_fleiss_and_cohen_by_hand() -> None:
    # 20 pairs, both say "a" in 8, "b" in 6, r1 a and r2 b in 4, the reverse in 2: they agree in .7; counted in both
    # directions each answer has a share of .5, so chance gives .5.
    found = agreement(decisions_of(votes_of({"r1": "a" * 12 + "b" * 8, "r2": "a" * 8 + "b" * 4 + "a" * 2 + "b" * 6})))
    [pair] = found.cohen
    assert (pair.rater_a, pair.rater_b) == ("r1", "r2")
    assert pair.kappa.value == pytest.approx((0.7 - 0.5) / (1 - 0.5))
    assert found.fleiss.value == pytest.approx((0.7 - 0.5) / (1 - 0.5))
    assert found.fleiss_raters == 2
    assert pair.kappa.low < 0.4 < pair.kappa.high


def test_total_agreement_is_one_however_candidates_are_named_and_ties_alone_measure_nothing() -> None:
    for answers in ("ab" * 6, "a" * 12):
        found = agreement(decisions_of(votes_of({"r1": answers, "r2": answers})))
        assert (found.alpha.value, found.fleiss.value, found.cohen[0].kappa.value) == pytest.approx((1.0, 1.0, 1.0))
    assert agreement(decisions_of(votes_of({"r1": "=" * 12, "r2": "=" * 12}))).alpha.n == 0


def test_reliability_is_found_back() -> None:
    rng = random.Random(5)
    truth = [rng.choice("ab") for _ in range(2000)]
    chances = {"good": 0.95, "fair": 0.8, "poor": 0.6, "hostile": 0.2}
    flip = {"a": "b", "b": "a"}
    table = {
        rater: "".join(one if rng.random() < chance else flip[one] for one in truth)
        for rater, chance in chances.items()
    }
    decisions = decisions_of(votes_of(table))
    found = dict(zip(decisions.raters, fit(decisions, np.ones(decisions.clusters)), strict=True))
    for rater, chance in chances.items():
        assert found[rater] == pytest.approx(chance, abs=0.04)
    weights = weights_of(votes_of(table))
    assert weights.of("hostile") == 0.0
    assert weights.of("good") == pytest.approx(0.9, abs=0.08)
    assert min(weights.of("good"), weights.of("fair")) > weights.of("poor")
    assert weights.of("never seen") == weights.unknown


def test_gold_settles_who_is_right_where_two_always_differ() -> None:
    votes = votes_of({"right": "a" * 30, "wrong": "b" * 30})
    answers = (("right", AB), ("wrong", BA))
    gold = [QualityVote(f"g{i}", rater, given, gold_answer=AB) for i in range(20) for rater, given in answers]
    weights = weights_of([*votes, *gold])
    assert weights.of("right") > 0.9
    assert weights.of("wrong") == 0.0


def test_nobody_known_means_everybody_counts_alike() -> None:
    weights = weights_of([QualityVote(f"c{i}", f"r{i % 3}", AB) for i in range(30)])
    assert {weights.of(rater) for rater in ("r0", "r1", "new")} == {1.0}
    report = assess([QualityVote(f"c{i}", f"r{i % 3}", AB, seconds=5.0) for i in range(30)], 30)
    assert [rater.weight for rater in report.raters] == [1.0, 1.0, 1.0]
    assert not any(rater.careless for rater in report.raters)


@pytest.mark.parametrize(("right", "weight"), [(1.0, 1.0), (0.75, 0.5), (0.5, 0.0), (0.2, 0.0)])
def test_a_weight_is_what_is_left_after_chance(right: float, weight: float) -> None:
    assert weight_of(right) == weight


def test_wilson_interval_of_gold_accuracy_by_hand() -> None:
    # 8 of 10 right: Wilson 95 % is (.490, .943).
    votes = [QualityVote(f"g{i}", "r", AB if i < 8 else BA, gold_answer=AB, seconds=3.0) for i in range(10)]
    [rater] = assess(votes, 10).raters
    assert rater.gold_accuracy.value == pytest.approx(0.8)
    assert (rater.gold_accuracy.low, rater.gold_accuracy.high) == pytest.approx((0.490, 0.943), abs=1e-3)


def test_left_bias_and_self_consistency() -> None:
    shown = {AB: ("a", "b"), BA: ("b", "a")}
    left = [QualityVote(f"c{i}", "lefty", one, shown[one], 5.0) for i, one in enumerate([BA, AB] * 20)]
    again = [QualityVote(f"again{i}", "lefty", AB, ("a", "b"), 5.0, repeat_of=f"c{i}") for i in range(10)]
    [rater] = assess([*left, *again], 50).raters
    assert rater.left_wins.value == 1.0
    assert rater.left_wins.low > 0.9
    assert rater.self_consistency.value == 0.5  # odd ones said AB the first time
    assert rater.self_consistency.n == 10


def test_a_share_of_pairs_knows_ties() -> None:
    assert agreement_share((("a",), ("b", "c")), (("a",), ("b",), ("c",)), strict_only=True) == 1.0
    assert agreement_share((("a",), ("b", "c")), (("a",), ("b",), ("c",)), strict_only=False) == pytest.approx(2 / 3)
    assert agreement_share(TIE, AB, strict_only=True) is None


def test_hurried_votes_are_noticed() -> None:
    rng = random.Random(1)
    usual = [QualityVote(f"c{i}", "usual", AB, seconds=rng.lognormvariate(3, 0.3)) for i in range(300)]
    quick = [QualityVote(f"q{i}", "quick", AB, seconds=0.5) for i in range(60)]
    by_id = {rater.rater_id: rater for rater in assess([*usual, *quick], 360).raters}
    assert by_id["quick"].fast_share == 1.0
    assert "quicker" in by_id["quick"].findings[0]
    assert by_id["usual"].fast_share < 0.02


def test_the_same_votes_give_the_same_assessment() -> None:
    votes = votes_of(dict(zip("pqr", ("".join(x) for x in product("ab", repeat=3)), strict=False)))
    assert assess(votes, 9) == assess(list(votes), 9)
