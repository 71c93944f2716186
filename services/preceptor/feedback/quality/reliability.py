"""Dawid and Skene's model with one coin per rater (Applied Statistics 28, 1979; "one-coin" as in crowd-kit).

Each pair of candidates has a true order; rater r states it with probability p_r, whatever the pair. EM gives p_r and
the probability of each order. Ties say nothing and are left out; a gold item's order is given.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from preceptor.feedback.quality.decisions import Decisions, Floats, resamples
from preceptor.feedback.quality.types import Estimate

PRIOR_RIGHT, PRIOR_WRONG = 3.0, 1.0
"""A rater nobody knows is right three times in four; that counts as much as four decisions."""
MAX_ITERATIONS = 200
TOLERANCE = 1e-6
ROUNDS = 200


@dataclass(frozen=True, slots=True)
class Reliability:
    """p_r of every rater in `decisions.raters`, with intervals from resampling comparisons."""

    estimates: tuple[Estimate, ...]


def reliability(decisions: Decisions, rounds: int = ROUNDS, seed: int = 0) -> Reliability:
    """Args:
    rounds: bootstrap rounds; 0 leaves the intervals as wide as the value itself.
    """
    fitted = fit(decisions, np.ones(decisions.clusters))
    drawn = [fit(decisions, counts) for counts in resamples(decisions.clusters, rounds, seed)] if rounds else [fitted]
    low, high = np.quantile(np.array(drawn), [0.025, 0.975], axis=0)
    judged = _comparisons_judged(decisions)
    return Reliability(
        tuple(
            Estimate(float(fitted[r]), float(low[r]), float(high[r]), int(judged[r]))
            for r in range(len(decisions.raters))
        )
    )


def fit(decisions: Decisions, comparison_weight: Floats) -> Floats:
    """p_r [raters], where comparison c counts `comparison_weight[c]` times."""
    strict = decisions.outcome != 0
    rater, item = decisions.rater[strict], decisions.item[strict]
    says_second = (decisions.outcome[strict] > 0).astype(np.float64)
    items, raters = len(decisions.cluster), len(decisions.raters)
    counts = comparison_weight[decisions.cluster][item]
    known = np.isin(decisions.truth, (-1, 1))
    given = (decisions.truth > 0).astype(np.float64)
    right = np.full(raters, PRIOR_RIGHT / (PRIOR_RIGHT + PRIOR_WRONG))
    total = np.bincount(rater, weights=counts, minlength=raters)
    for _ in range(MAX_ITERATIONS):
        log_odds = np.log(right / (1.0 - right))[rater] * (2.0 * says_second - 1.0)
        second = 1.0 / (1.0 + np.exp(-np.clip(np.bincount(item, weights=log_odds, minlength=items), -50, 50)))
        second = np.where(known, given, second)[item]
        agrees = says_second * second + (1.0 - says_second) * (1.0 - second)
        previous = right
        right = (np.bincount(rater, weights=counts * agrees, minlength=raters) + PRIOR_RIGHT) / (
            total + PRIOR_RIGHT + PRIOR_WRONG
        )
        if np.abs(right - previous).max(initial=0.0) < TOLERANCE:
            break
    return right


def weight_of(right: float) -> float:
    """What a vote is worth in training: 2 p - 1, the share of answers that are no coin tosses; never negative."""
    return round(max(0.0, 2.0 * right - 1.0), 4)


def _comparisons_judged(decisions: Decisions) -> Floats:
    judged = np.unique(np.stack([decisions.rater, decisions.cluster[decisions.item]]), axis=1)
    return np.bincount(judged[0], minlength=len(decisions.raters)).astype(np.float64)
