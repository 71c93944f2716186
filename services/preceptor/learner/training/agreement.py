"""How well scores agree with rankings, and how well they could."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations

from preceptor.learner.data.preferences import RankedCandidates, pairs_of


def ranking_accuracy(comparisons: Sequence[RankedCandidates], scores: Sequence[Sequence[float]]) -> float:
    """Returns the share of untied pairs, over all rankings, that the scores order as the rater did.

    Denominator: pairs with a better and a worse candidate; equal scores count half. NaN where there is no such pair.
    """
    right, total = ranking_counts(comparisons, scores)
    return right / total if total else math.nan


def ranking_counts(comparisons: Sequence[RankedCandidates], scores: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Returns how many untied pairs the scores order as the rater did (equal scores count half), and of how many."""
    right = total = 0.0
    for comparison, values in zip(comparisons, scores, strict=True):
        for ranking in comparison.rankings:
            for pair in pairs_of(ranking):
                if pair.target != 0.5:
                    difference = values[pair.first] - values[pair.second]
                    right += 0.5 if difference == 0 else float(difference > 0)
                    total += 1
    return right, total


def noise_ceiling(comparisons: Iterable[RankedCandidates]) -> float:
    """Returns the accuracy that a perfect scorer could reach against one rater, estimated from repeated rankings.

    Take the candidate pairs that two raters both ordered strictly; a = the share of (pair, two raters) in which they
    agree. If every rater orders a pair "rightly" with probability c, two agree with probability a = c^2 + (1 - c)^2,
    hence c = (1 + sqrt(2 a - 1)) / 2; a below 1/2 gives 1/2. Where c differs between pairs this is somewhat too high,
    where it differs between raters somewhat too low. NaN where no comparison was ranked twice.
    """
    agree = total = 0
    for comparison in comparisons:
        votes: dict[tuple[int, int], list[bool]] = defaultdict(list)
        for ranking in comparison.rankings:
            for pair in pairs_of(ranking):
                if pair.target != 0.5:
                    low, high = sorted((pair.first, pair.second))
                    votes[low, high].append(pair.first == low)
        for orders in votes.values():
            for one, other in combinations(orders, 2):
                agree += one == other
                total += 1
    if total == 0:
        return math.nan
    return (1.0 + math.sqrt(max(0.0, 2.0 * agree / total - 1.0))) / 2.0
