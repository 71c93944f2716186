"""Charts: ticks, places, words."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preceptor.console.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, draw, nice_ticks, short

NUMBERS = st.floats(-1e9, 1e9, allow_nan=False)


def test_ticks_are_the_round_numbers_around_the_data() -> None:
    assert nice_ticks(0, 10) == [0, 5, 10]
    assert nice_ticks(0.12, 0.97) == pytest.approx([0.0, 0.5, 1.0])
    assert nice_ticks(-3, 5) == [-4, -2, 0, 2, 4, 6]


@given(NUMBERS, NUMBERS)
def test_ticks_cover_any_range_and_stay_few(one: float, other: float) -> None:
    low, high = min(one, other), max(one, other)
    ticks = nice_ticks(low, high)
    slack = 1e-9 * max(1.0, abs(low), abs(high))
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack
    assert 2 <= len(ticks) <= 8
    assert ticks == sorted(ticks)


@pytest.mark.parametrize(("low", "high"), [(1, 0), (math.nan, 1), (0, math.inf)])
def test_no_range_is_an_error(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="no range"):
        nice_ticks(low, high)


def test_numbers_are_short() -> None:
    values = (0.1 + 0.2, 1234.4, 12_345, 2_500_000, -0.0, 0.00012345)
    assert [short(value) for value in values] == ["0.3", "1234", "12.3k", "2.5M", "0", "1.23e-4"]


def test_nothing_to_draw_is_no_chart() -> None:
    assert draw("KL", [("kl", [])], x_label="step") is None


def test_the_first_and_last_point_stand_at_the_frame() -> None:
    chart = draw("KL", [("kl", [(0, 0), (10, 10)])], x_label="step")
    assert chart is not None
    assert chart.lines[0].path == f"M{LEFT:g} {HEIGHT - BOTTOM:g}L{WIDTH - RIGHT:g} {TOP:g}"
    assert chart.summary == "KL. kl: 0 at step 0, 10 at step 10"
    assert chart.lines[0].last_value == "10"


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=40))
def test_every_point_stands_inside_the_frame(points: list[tuple[float, float]]) -> None:
    chart = draw("x", [("x", sorted(points))], x_label="step")
    assert chart is not None
    for x, y in chart.lines[0].dots:
        assert LEFT - 0.5 <= x <= WIDTH - RIGHT + 0.5
        assert TOP - 0.5 <= y <= HEIGHT - BOTTOM + 0.5


def test_whole_numbers_stand_under_versions() -> None:
    chart = draw("KL", [("kl", [(1, 0.5), (2, 0.7), (3, 0.1)])], x_label="policy version")
    assert chart is not None
    assert [tick.label for tick in chart.x_ticks] == ["1", "2", "3"]


def test_a_single_point_is_drawn() -> None:
    chart = draw("KL", [("kl", [(4, 2)])], x_label="step")
    assert chart is not None
    assert [tick.label for tick in chart.x_ticks] == ["4"]
