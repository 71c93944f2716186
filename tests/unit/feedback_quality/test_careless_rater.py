"""The demo's careless rater is found and down-weighted when every rater ranks a fifth of the comparisons."""

import random

import pytest

from preceptor.demo.judgement import RATERS, judge
from preceptor.demo.world import all_cases, write_reply
from preceptor.feedback.quality.assessment import assess
from preceptor.feedback.quality.types import QualityVote
from preceptor.feedback.quality.weights import weights_of

COMPARISONS = 1000
SHARED = 0.2


def demo_votes(seed: int) -> list[QualityVote]:
    rng = random.Random(seed)
    cases, votes = all_cases(), []
    for number in range(COMPARISONS):
        case = rng.choice(cases)
        texts = [write_reply(case, rng) for _ in range(4)]
        raters = RATERS if rng.random() < SHARED else (rng.choice(RATERS),)
        for rater in raters:
            judged = judge(rater, case.prompt(), texts, "true", rng)
            groups = tuple(tuple(f"c{place}" for place in group) for group in judged.tie_groups)
            votes.append(QualityVote(f"cmp-{number}", rater.rater_id, groups, seconds=rng.lognormvariate(2, 0.5)))
    return votes


@pytest.mark.parametrize("seed", range(5))
def test_the_careless_rater_is_found_and_counts_less(seed: int) -> None:
    votes = demo_votes(seed)
    assessment = assess(votes, len(votes))
    assert [rater.rater_id for rater in assessment.raters if rater.careless] == ["rater-careless"]
    weights = weights_of(votes)
    assert weights.of("rater-careless") < 0.75 * weights.of("rater-hasty") < weights.of("rater-precise")
    assert {rater.rater_id: rater.weight for rater in assessment.raters} == weights.known
    [careless] = [rater for rater in assessment.raters if rater.careless]
    assert "of pairs rightly" in careless.findings[0]
    assert 0.2 < assessment.agreement.alpha.value < 0.6
