"""From a ranking's tie groups to the preferences in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations


@dataclass(frozen=True, slots=True)
class Pair:
    """P(first beats second) = target in the eyes of one rater."""

    first: int
    second: int
    target: float


def pairs_of(ranking: Sequence[Sequence[int]]) -> list[Pair]:
    """Returns all K-choose-2 pairs of one ranking, better candidate first; candidates tied have target 0.5.

    ranking: tie groups of candidate indexes, best group first.
    """
    rank_of = {candidate: rank for rank, group in enumerate(ranking) for candidate in group}
    pairs = []
    for a, b in combinations(sorted(rank_of, key=lambda candidate: (rank_of[candidate], candidate)), 2):
        pairs.append(Pair(a, b, 0.5 if rank_of[a] == rank_of[b] else 1.0))
    return pairs
