"""From rankings to decisions: what each rater said of each pair of candidates, in numpy arrays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from preceptor.feedback.quality.types import QualityVote
from preceptor.feedback.types import TieGroups

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Decisions:
    """Row d: rater `rater[d]` said `outcome[d]` of pair `item[d]`: -1 the first is better, 0 a tie, 1 the second.

    Attributes:
        cluster: of each item, the comparison that it belongs to; pairs of one comparison are resampled together.
        truth: of each item, the known outcome, or 2 where none is known.
    """

    raters: tuple[str, ...]
    rater: Ints
    item: Ints
    outcome: Ints
    cluster: Ints
    truth: Ints
    clusters: int


def outcomes_of(groups: TieGroups) -> dict[tuple[str, str], int]:
    """{(a, b): -1 | 0 | 1} for a < b."""
    rank_of = {candidate: rank for rank, group in enumerate(groups) for candidate in group}
    return {(a, b): (rank_of[a] > rank_of[b]) - (rank_of[a] < rank_of[b]) for a, b in combinations(sorted(rank_of), 2)}


def decisions_of(votes: Sequence[QualityVote]) -> Decisions:
    """The decisions on comparisons that at least two raters ranked, or whose answer is known."""
    by_comparison: dict[str, list[QualityVote]] = defaultdict(list)
    for vote in votes:
        by_comparison[vote.comparison_id].append(vote)
    shared = [group for group in by_comparison.values() if len(group) > 1 or group[0].gold_answer]
    raters = tuple(sorted({vote.rater_id for group in shared for vote in group}))
    place_of = {rater: place for place, rater in enumerate(raters)}
    rows: list[tuple[int, int, int]] = []
    cluster: list[int] = []
    truth: list[int] = []
    for number, group in enumerate(shared):
        known = outcomes_of(group[0].gold_answer)
        items: dict[tuple[str, str], int] = {}
        for vote in group:
            for pair, outcome in outcomes_of(vote.tie_groups).items():
                if pair not in items:
                    items[pair] = len(cluster)
                    cluster.append(number)
                    truth.append(known.get(pair, 2))
                rows.append((place_of[vote.rater_id], items[pair], outcome))
    columns = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return Decisions(
        raters,
        columns[:, 0],
        columns[:, 1],
        columns[:, 2],
        np.array(cluster, dtype=np.int64),
        np.array(truth, dtype=np.int64),
        len(shared),
    )


def agreement_share(one: TieGroups, other: TieGroups, *, strict_only: bool) -> float | None:
    """The share of pairs ordered alike; with strict_only, of those that `one` orders strictly. None: no pair."""
    mine, theirs = outcomes_of(one), outcomes_of(other)
    pairs = [pair for pair in mine.keys() & theirs.keys() if mine[pair] or not strict_only]
    return sum(mine[pair] == theirs[pair] for pair in pairs) / len(pairs) if pairs else None


def resamples(clusters: int, rounds: int, seed: int) -> Iterable[Floats]:
    """How often each comparison is drawn, per bootstrap round."""
    rng = np.random.default_rng(seed)
    for _ in range(rounds):
        yield rng.multinomial(clusters, np.full(clusters, 1.0 / clusters)).astype(np.float64)
