"""Measuring two things against each other on a machine whose speed drifts: turn by turn, compared round by round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from preceptor.cli.bench.report import Figure

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure taken once per round: the median, and the extremes."""

    median: float
    low: float
    high: float

    def figures(self, name: str, unit: str) -> list[Figure]:
        """The extremes as figures of their own, to stand beside the median's."""
        return [Figure(f"{name}.low", self.low, unit), Figure(f"{name}.high", self.high, unit)]


def alternate(
    sides: Mapping[str, Callable[[], T]],
    rounds: int,
    *,
    warm_up: int = 1,
    on_round: Callable[[], None] = lambda: None,
) -> dict[str, list[T]]:
    """Runs every side once per round, in an order that turns round each time, so that drift favours none.

    Args:
        sides: what to run, by name.
        rounds: how many count.
        warm_up: rounds before, whose results are thrown away.
        on_round: called after each round, warm-up included.

    Returns:
        By side its results in the order of rounds: the i-th of all sides were taken together.
    """
    names = list(sides)
    taken: dict[str, list[T]] = {name: [] for name in names}
    for index in range(-warm_up, rounds):
        for name in reversed(names) if index % 2 else names:
            result = sides[name]()
            if index >= 0:
                taken[name].append(result)
        on_round()
    return taken


def spread(values: Sequence[float]) -> Spread:
    """Median and extremes of one value per round."""
    return Spread(statistics.median(values), min(values), max(values))


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    """The ratio of two sides, taken round by round."""
    return spread([above / below for above, below in zip(numerators, denominators, strict=True)])


def differences(minuends: Sequence[float], subtrahends: Sequence[float]) -> Spread:
    """The difference of two sides, taken round by round."""
    return spread([left - right for left, right in zip(minuends, subtrahends, strict=True)])


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of them do not exceed."""
    ordered = sorted(values)
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[int(rank) - 1]
