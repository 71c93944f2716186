"""Everything that is said of the raters of a project, from its votes in force."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence

from statsmodels.stats.proportion import proportion_confint

from preceptor.feedback.quality.agreement import agreement
from preceptor.feedback.quality.decisions import agreement_share, decisions_of, outcomes_of
from preceptor.feedback.quality.reliability import reliability, weight_of
from preceptor.feedback.quality.types import Agreement, Assessment, Estimate, QualityVote, RaterQuality
from preceptor.feedback.quality.weights import pooled
from preceptor.feedback.types import TieGroups

FEWEST_COMPARISONS = 20
"""On fewer shared comparisons nobody is called careless."""
CARELESS_BELOW = 0.75
"""A rater is found careless whose weight is surely below this share of the median weight of the others."""
FENCE = 1.5
FAST_SHARE = 0.2


def assess(votes: Sequence[QualityVote], high_water_mark: int) -> Assessment:
    """Takes votes in force; the same votes give the same assessment."""
    decisions = decisions_of(votes)
    if decisions.clusters == 0:
        return Assessment(high_water_mark, len(votes), 0, _NO_AGREEMENT, _raters(votes, {}, 1.0), 1.0)
    fitted = reliability(decisions)
    by_rater = dict(zip(decisions.raters, fitted.estimates, strict=True))
    unknown = pooled(one.value for one in fitted.estimates)
    return Assessment(
        high_water_mark,
        len(votes),
        decisions.clusters,
        agreement(decisions),
        _raters(votes, by_rater, unknown),
        unknown,
    )


_NO_AGREEMENT = Agreement(Estimate(), Estimate(), 0, ())


def _raters(
    votes: Sequence[QualityVote], by_rater: dict[str, Estimate], unknown_weight: float
) -> tuple[RaterQuality, ...]:
    of: dict[str, list[QualityVote]] = defaultdict(list)
    answers: dict[tuple[str, str], TieGroups] = {}
    for vote in votes:
        of[vote.rater_id].append(vote)
        answers[vote.comparison_id, vote.rater_id] = vote.tie_groups
    fences = _fences(votes)
    return tuple(_rater(rater_id, of[rater_id], answers, fences, by_rater, unknown_weight) for rater_id in sorted(of))


def _rater(
    rater_id: str,
    votes: list[QualityVote],
    answers: dict[tuple[str, str], TieGroups],
    fences: tuple[float, float],
    by_rater: dict[str, Estimate],
    unknown_weight: float,
) -> RaterQuality:
    known = by_rater.get(rater_id, Estimate())
    repeats = [
        (answers[vote.repeat_of, rater_id], vote.tie_groups) for vote in votes if (vote.repeat_of, rater_id) in answers
    ]
    gold = [(vote.gold_answer, vote.tie_groups) for vote in votes if vote.gold_answer]
    seconds = [vote.seconds for vote in votes]
    fast = sum(one < fences[0] for one in seconds) / len(seconds)
    careless = _careless(rater_id, by_rater)
    return RaterQuality(
        rater_id=rater_id,
        rankings=len(votes),
        reliability=known,
        weight=weight_of(known.value) if known.n else unknown_weight,
        gold_accuracy=_shares(agreement_share(answer, given, strict_only=True) for answer, given in gold),
        left_wins=_shares(_left_share(vote) for vote in votes),
        self_consistency=_shares(agreement_share(first, again, strict_only=False) for first, again in repeats),
        median_seconds=statistics.median(seconds),
        fast_share=fast,
        slow_share=sum(one > fences[1] for one in seconds) / len(seconds),
        careless=bool(careless),
        findings=tuple(filter(None, (careless, _hurried(fast, len(votes))))),
    )


def _shares(values: Iterable[float | None]) -> Estimate:
    """The mean of per-item shares with Wilson's interval, each item counted as one observation."""
    given = [value for value in values if value is not None]
    if not given:
        return Estimate()
    total = math.fsum(given)
    low, high = proportion_confint(total, len(given), alpha=0.05, method="wilson")
    return Estimate(total / len(given), float(low), float(high), len(given))


def _left_share(vote: QualityVote) -> float | None:
    """Of the pairs that the vote orders strictly, the share won by the candidate shown earlier."""
    place = {candidate: index for index, candidate in enumerate(vote.shown_order)}
    wins = [
        (outcome < 0) == (place[a] < place[b])
        for (a, b), outcome in outcomes_of(vote.tie_groups).items()
        if outcome and a in place and b in place
    ]
    return sum(wins) / len(wins) if wins else None


def _fences(votes: Sequence[QualityVote]) -> tuple[float, float]:
    """Tukey's fences of the logarithm of all votes' seconds, as seconds."""
    logs = [math.log(max(vote.seconds, 0.001)) for vote in votes]
    if len(logs) < FEWEST_COMPARISONS:
        return 0.0, math.inf
    first, _, third = statistics.quantiles(logs, n=4)
    spread = FENCE * (third - first)
    return math.exp(first - spread), math.exp(min(third + spread, 700.0))


def _careless(rater_id: str, by_rater: dict[str, Estimate]) -> str:
    """Why the rater is found careless; empty when not."""
    own = by_rater.get(rater_id, Estimate())
    others = [weight_of(one.value) for name, one in by_rater.items() if name != rater_id and one.n]
    if own.n < FEWEST_COMPARISONS or not others:
        return ""
    usual = statistics.median(others)
    if weight_of(own.high) >= CARELESS_BELOW * usual:
        return ""
    return (
        f"orders {own.value:.0%} of pairs rightly (95 % interval {own.low:.0%} to {own.high:.0%}, {own.n} shared "
        f"comparisons); the others' median is {(usual + 1) / 2:.0%}"
    )


def _hurried(fast_share: float, votes: int) -> str:
    if votes < FEWEST_COMPARISONS or fast_share < FAST_SHARE:
        return ""
    return f"{fast_share:.0%} of the votes came far quicker than votes usually do"
