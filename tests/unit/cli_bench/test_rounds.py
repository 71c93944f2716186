"""Turn by turn, compared round by round."""

import pytest

from preceptor.cli.bench.rounds import Spread, alternate, differences, percentile, ratios, spread


def test_the_order_of_the_sides_turns_round_each_time() -> None:
    order: list[str] = []
    alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 4, warm_up=0)
    assert "".join(order) == "abbaabba"


def test_warm_up_is_run_and_not_kept() -> None:
    calls = iter(range(100))
    rounds: list[None] = []
    taken = alternate({"a": lambda: next(calls)}, 2, warm_up=3, on_round=lambda: rounds.append(None))
    assert taken == {"a": [3, 4]}
    assert len(rounds) == 5


def test_results_of_one_round_stand_at_one_index() -> None:
    counts = {"a": iter(range(10)), "b": iter(range(10))}
    taken = alternate({name: lambda name=name: next(counts[name]) for name in counts}, 3)
    assert taken == {"a": [1, 2, 3], "b": [1, 2, 3]}


def test_ratios_are_taken_within_rounds() -> None:
    # The machine halves its speed for the second round: both sides feel it, their ratio does not.
    assert ratios([90, 45, 99], [100, 50, 100]) == Spread(0.9, 0.9, 0.99)


def test_differences_are_taken_within_rounds() -> None:
    assert differences([5, 9, 7], [1, 2, 6]) == Spread(4, 1, 7)


def test_sides_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        ratios([1, 2], [1])


def test_a_spread_shows_its_extremes() -> None:
    low, high = spread([3, 1, 2]).figures("rate", "1/s")
    assert (low.name, low.value, high.name, high.value) == ("rate.low", 1, "rate.high", 3)
    assert low.holds is None


@pytest.mark.parametrize(("percent", "value"), [(50, 50), (99, 99), (100, 100), (1, 1), (0.5, 1), (98.5, 99)])
def test_a_percentile_is_one_of_the_values(percent: float, value: int) -> None:
    assert percentile(list(range(100, 0, -1)), percent) == value
