"""Agreement of raters on pairs of candidates, each with an interval from resampling comparisons.

Which candidate of a pair stands first is arbitrary, so every pair is counted in both directions: chance agreement then
does not depend on how candidates happen to be named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import combinations

import krippendorff
import numpy as np
from statsmodels.stats.inter_rater import cohens_kappa, fleiss_kappa

from preceptor.feedback.quality.decisions import Decisions, Floats, Ints, resamples
from preceptor.feedback.quality.types import Agreement, Estimate, Kappa

ROUNDS = 200
PAIRS_OF_RATERS = 20
"""Of so many pairs of raters, those with most in common, Cohen's kappa is given."""
FEWEST_ITEMS = 10
OUTCOMES = 3


def agreement(decisions: Decisions, rounds: int = ROUNDS, seed: int = 1) -> Agreement:
    """Krippendorff's alpha (ordinal: a tie lies between the two orders), Fleiss' and Cohen's kappa."""
    table = _table(decisions)
    raters_per_item = table.sum(axis=1)
    shared = raters_per_item > 1
    alpha = _with_interval(_alpha, table[shared], decisions.cluster[shared], decisions.clusters, rounds, seed)
    usual = Counter(raters_per_item[shared].tolist()).most_common(1)
    chosen = raters_per_item == (usual[0][0] if usual else -1)
    fleiss = _with_interval(_fleiss, table[chosen], decisions.cluster[chosen], decisions.clusters, rounds, seed)
    return Agreement(alpha, fleiss, int(usual[0][0]) if usual else 0, _cohen(decisions, rounds, seed))


def _table(decisions: Decisions) -> Floats:
    """[items, 3]: how many raters gave each outcome."""
    flat = decisions.item * OUTCOMES + decisions.outcome + 1
    counts = np.bincount(flat, minlength=len(decisions.cluster) * OUTCOMES)
    return counts.reshape(-1, OUTCOMES).astype(np.float64)


def _with_interval(
    measure: Callable[[Floats], float], table: Floats, cluster: Ints, clusters: int, rounds: int, seed: int
) -> Estimate:
    if len(table) < FEWEST_ITEMS:
        return Estimate()
    value = measure(_both_ways(table))
    if not np.isfinite(value):
        return Estimate()
    times = (counts[cluster].astype(int) for counts in resamples(clusters, rounds, seed))
    drawn = (measure(_both_ways(np.repeat(table, repeated, axis=0))) for repeated in times)
    usable = [one for one in drawn if np.isfinite(one)]
    low, high = np.quantile(usable, [0.025, 0.975]) if usable else (value, value)
    return Estimate(float(value), float(low), float(high), len(table))


def _both_ways(table: Floats) -> Floats:
    return np.concatenate([table, table[:, ::-1]])


def _alpha(table: Floats) -> float:
    if np.count_nonzero(table.sum(axis=0)) < 2:
        return float("nan")  # one answer alone: chance agreement is total, and alpha undefined
    return float(
        krippendorff.alpha(value_counts=table.astype(int), value_domain=[-1, 0, 1], level_of_measurement="ordinal")
    )


def _fleiss(table: Floats) -> float:
    if np.count_nonzero(table.sum(axis=0)) < 2:
        return float("nan")
    return float(fleiss_kappa(table, method="fleiss"))


def _cohen(decisions: Decisions, rounds: int, seed: int) -> tuple[Kappa, ...]:
    answers: list[dict[int, int]] = [{} for _ in decisions.raters]
    for rater, item, outcome in zip(decisions.rater, decisions.item, decisions.outcome, strict=True):
        answers[rater][int(item)] = int(outcome)
    common = {
        (a, b): sorted(answers[a].keys() & answers[b].keys()) for a, b in combinations(range(len(decisions.raters)), 2)
    }
    most = sorted(common, key=lambda pair: (-len(common[pair]), pair))[:PAIRS_OF_RATERS]
    kappas = []
    for a, b in most:
        items = common[a, b]
        both = np.zeros((len(items), OUTCOMES**2))
        both[np.arange(len(items)), [(answers[a][i] + 1) * OUTCOMES + answers[b][i] + 1 for i in items]] = 1.0
        cluster = decisions.cluster[items] if items else decisions.cluster[:0]
        estimate = _with_interval(_kappa, both, cluster, decisions.clusters, rounds, seed)
        if estimate.n:
            kappas.append(Kappa(decisions.raters[a], decisions.raters[b], estimate))
    return tuple(kappas)


def _kappa(both: Floats) -> float:
    """both: [pairs, 9], one 1 per row, at 3 * (one rater's outcome + 1) + the other's + 1."""
    table = both.sum(axis=0).reshape(OUTCOMES, OUTCOMES)
    if np.count_nonzero(table.sum(axis=1)) < 2:
        return float("nan")
    return float(cohens_kappa(table, return_results=False))
