"""Scores put together from those of other names."""

import math
from collections.abc import Sequence

import pytest

from preceptor.common.errors import InvalidInput
from preceptor.reward.composite import CompositeScorer, parse_composite
from preceptor.reward.types import ItemScore, ScoreItem

ITEMS = [ScoreItem("p", "a"), ScoreItem("p", "b")]
SCORES = {"a": [1.0, -2.0], "b": [3.0, 2.0], "c": [5.0, 0.0]}


async def score(name: str, items: Sequence[ScoreItem]) -> list[ItemScore]:
    assert items == ITEMS
    return [ItemScore(value, {"part": value / 2}) for value in SCORES[name]]


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("composite:sum(0.5*a|b|-1*c)", [0.5 + 3.0 - 5.0, -1.0 + 2.0 - 0.0]),
        ("composite:mean(a|b|c)", [3.0, 0.0]),
        ("composite:min(a|b|c)", [1.0, -2.0]),
        ("composite:uwo=0.5(a|b|c)", [3.0 - 0.5 * 8 / 3, 0.0 - 0.5 * 8 / 3]),
    ],
)
async def test_parts_are_combined(uri: str, expected: list[float]) -> None:
    results = await CompositeScorer(parse_composite(uri), score).score(ITEMS)
    assert [result.score for result in results] == pytest.approx(expected)
    assert results[0].components["a"] == 1.0
    assert results[1].components["b/part"] == 1.0


async def test_an_item_whose_part_failed_fails_alone() -> None:
    async def broken(name: str, items: Sequence[ScoreItem]) -> list[ItemScore]:
        results = await score(name, items)
        return results if name == "a" else [results[0], ItemScore.failed("TIMEOUT", "too slow")]

    first, second = await CompositeScorer(parse_composite("composite:min(a|b)"), broken).score(ITEMS)
    assert first.score == 1.0
    assert second.failure is not None
    assert (second.failure.reason, second.failure.message) == ("TIMEOUT", "b: too slow")
    assert math.isnan(second.score)


@pytest.mark.parametrize(
    "uri",
    [
        "composite:",
        "composite:max(a|b)",
        "composite:sum()",
        "composite:sum(a||b)",
        "composite:uwo(a|b)",
        "composite:uwo=-1(a|b)",
        "composite:mean(0.5*a|b)",
        "composite:min(a|a)",
        "composite:sum(A)",
    ],
)
def test_what_reads_otherwise_is_refused(uri: str) -> None:
    with pytest.raises(InvalidInput, match=r"composite|part twice|weights belong"):
        parse_composite(uri)
