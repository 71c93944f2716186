"""What votes are worth in training: point estimates alone, which cost little and need numpy only."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from preceptor.feedback.quality.decisions import decisions_of
from preceptor.feedback.quality.reliability import fit, weight_of
from preceptor.feedback.quality.types import QualityVote


@dataclass(frozen=True, slots=True)
class Weights:
    """unknown: of raters with neither shared comparisons nor gold items: the median of the others, 1 without others."""

    known: Mapping[str, float] = field(default_factory=dict)
    unknown: float = 1.0

    def of(self, rater_id: str) -> float:
        return self.known.get(rater_id, self.unknown)


def weights_of(votes: Sequence[QualityVote]) -> Weights:
    """The same votes give the same weights."""
    decisions = decisions_of(votes)
    if decisions.clusters == 0:
        return Weights()
    right = fit(decisions, np.ones(decisions.clusters))
    known = {rater: weight_of(float(p)) for rater, p in zip(decisions.raters, right, strict=True)}
    return Weights(known, pooled(right))


def pooled(right: Iterable[float]) -> float:
    """The weight of a rater nobody knows."""
    return weight_of(statistics.median(float(p) for p in right))
