"""Curves: what becomes of a loop's values."""

from hypothesis import given
from hypothesis import strategies as st

from preceptor.console.curves import Curve, CurveBook


def points(book: CurveBook, name: str) -> list[tuple[float, float]]:
    [curve] = book.named([name])
    return curve.points


def test_policy_versions_go_on_over_stages_of_one_kind() -> None:
    book = CurveBook(100)
    book.add("rl-1", 0, {"policy_version": 1, "step": 1, "objective/kl": 0.1})
    book.add("rl-2", 5, {"policy_version": 2, "step": 2, "objective/kl": 0.2})
    assert points(book, "objective/kl") == [(1, 0.1), (2, 0.2)]


def test_steps_begin_anew_in_each_stage() -> None:
    book = CurveBook(100)
    book.add("sft", 0, {"step": 1, "loss": 3.0})
    book.add("reward-1", 1, {"step": 1, "loss": 0.7})
    assert [(curve.stage, curve.points) for curve in book.named(["loss"])] == [
        ("sft", [(1, 3.0)]),
        ("reward-1", [(1, 0.7)]),
    ]


def test_without_version_or_step_time_is_the_axis() -> None:
    book = CurveBook(100)
    book.add("collect-1", 2.5, {"rankings": 40})
    [curve] = book.named(["rankings"])
    assert (curve.x_name, curve.points) == ("minutes", [(2.5, 40)])


def test_what_cannot_be_drawn_and_what_only_counts_is_left_out() -> None:
    book = CurveBook(100)
    book.add("rl-1", 0, {"step": 1, "a": float("nan"), "b": float("inf"), "total_steps": 40, "reward_model_version": 1})
    book.add("rl-1", 0, {"step": float("nan"), "c": 1.0})
    assert book.all() == []


def test_a_learner_that_went_back_to_a_checkpoint_takes_its_later_points_back() -> None:
    curve = Curve("kl", "step", "rl")
    for x in (1, 2, 3, 4):
        curve.add(x, x / 10, 100)
    curve.add(2, 0.9, 100)
    assert curve.points == [(1, 0.1), (2, 0.9)]


def test_repeating_a_point_replaces_it() -> None:
    curve = Curve("kl", "step", "rl")
    curve.add(1, 0.1, 100)
    curve.add(1, 0.2, 100)
    assert curve.points == [(1, 0.2)]


@given(st.integers(1, 400), st.integers(1, 40))
def test_a_curve_stays_bounded_and_keeps_its_ends(count: int, limit: int) -> None:
    curve = Curve("kl", "step", "rl")
    for x in range(count):
        curve.add(x, x, limit)
    assert len(curve.points) <= 2 * limit
    assert curve.points[0][0] == 0
    assert curve.points[-1][0] == count - 1


def test_the_number_of_curves_is_bounded() -> None:
    book = CurveBook(10, max_curves=3)
    book.add("rl-1", 0, {"step": 1, **{f"m{index}": 1.0 for index in range(10)}})
    assert len(book.all()) == 3
    book.add("rl-1", 0, {"step": 2, "m0": 2.0})
    assert points(book, "m0") == [(1, 1.0), (2, 2.0)]
