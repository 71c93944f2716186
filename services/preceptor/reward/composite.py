"""Scores put together from those of other loaded names.

mean, min (worst case) and mean - lambda * variance are the ensemble objectives of Coste et al. 2023 (arXiv 2310.02743),
which hold a policy back where reward models disagree; a weighted sum combines rewards for different things.
"""

import asyncio
import re
import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from preceptor.common.errors import InvalidInput
from preceptor.reward.types import ItemScore, ScoreItem

ScoreByName = Callable[[str, Sequence[ScoreItem]], Awaitable[list[ItemScore]]]
_URI = re.compile(r"^composite:(?P<how>sum|mean|min|uwo=(?P<penalty>\d+(\.\d+)?))\((?P<terms>[^()]+)\)$")
_TERM = re.compile(r"^(?:(?P<weight>-?\d+(?:\.\d+)?)\*)?(?P<name>[a-z0-9][a-z0-9._-]{0,62})$")


@dataclass(frozen=True, slots=True)
class Composite:
    """How parts become one score. terms: (name, weight); penalty: lambda of uwo."""

    how: str
    terms: tuple[tuple[str, float], ...]
    penalty: float = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.terms)

    def combine(self, scores: Sequence[float]) -> float:
        """Returns the score of one item from its parts' scores, in the order of terms."""
        if self.how == "sum":
            return sum(weight * score for (_, weight), score in zip(self.terms, scores, strict=True))
        if self.how == "min":
            return min(scores)
        return statistics.fmean(scores) - self.penalty * statistics.pvariance(scores)


def parse_composite(uri: str) -> Composite:
    """Reads "composite:sum(0.7*helpful|0.3*short)", "composite:min(a|b|c)", "composite:uwo=0.5(a|b|c)".

    Raises:
      InvalidInput: it reads otherwise, or names a part twice.
    """
    match = _URI.match(uri)
    terms = [_TERM.match(term.strip()) for term in match["terms"].split("|")] if match else []
    if match is None or not all(terms):
        raise InvalidInput(
            f'"{uri}" is no composite: write composite:how(name|name|…) with how = sum (terms may read 0.3*name), '
            "mean, min or uwo=lambda",
            field="uri",
        )
    found = tuple((term["name"], float(term["weight"] or 1.0)) for term in terms if term)
    if len({name for name, _ in found}) != len(found):
        raise InvalidInput(f'"{uri}" names a part twice', field="uri")
    how = match["how"].partition("=")[0]
    if how != "sum" and any(term["weight"] for term in terms if term):
        raise InvalidInput(f'"{uri}": weights belong to sum', field="uri")
    return Composite("mean" if how == "uwo" else how, found, float(match["penalty"] or 0.0))


class CompositeScorer:
    """A `Scorer`. Its parts score at the same time; their scores become components by name."""

    def __init__(self, composite: Composite, score: ScoreByName) -> None:
        self.composite = composite
        self._score = score

    @property
    def busy_seconds(self) -> float:
        """Its parts' time is counted with them."""
        return 0.0

    async def score(self, items: Sequence[ScoreItem]) -> list[ItemScore]:
        parts = await asyncio.gather(*(self._score(name, items) for name in self.composite.names))
        return [self._combined(results) for results in zip(*parts, strict=True)]

    async def close(self) -> None:
        """Nothing of its own to free."""

    def _combined(self, results: Sequence[ItemScore]) -> ItemScore:
        for name, result in zip(self.composite.names, results, strict=True):
            if result.failure is not None:
                return ItemScore.failed(result.failure.reason, f"{name}: {result.failure.message}")
        components = {name: part.score for name, part in zip(self.composite.names, results, strict=True)}
        for name, part in zip(self.composite.names, results, strict=True):
            components |= {f"{name}/{key}": value for key, value in part.components.items()}
        return ItemScore(self.composite.combine([result.score for result in results]), components)
