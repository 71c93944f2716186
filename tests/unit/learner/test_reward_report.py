"""The report of a reward model, against values worked by hand."""

import math
from typing import Any

import pytest

from preceptor.learner.training.reward_report import (
    JudgedPair,
    calibration,
    correlation,
    doubling_gain,
    length_bias,
    report_of,
    wilson_interval,
)


def pair(margin: float, **other: Any) -> JudgedPair:
    values = {"rater": "r1", "strength": "slight", "chosen_length": 100, "rejected_length": 100, "policy_version": 0}
    return JudgedPair(**{**values, **other}, margin=margin)


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_wilson_interval_of_8_in_10() -> None:
    assert wilson_interval(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert wilson_interval(0, 5)[0] == 0.0
    assert wilson_interval(5, 5)[1] == 1.0


def test_calibration_of_two_bins() -> None:
    """Four pairs at confidence .6, half right; two at .9, both right: ECE = (4 * .1 + 2 * .1) / 6."""
    pairs = [
        pair(logit(0.6)),
        pair(logit(0.6)),
        pair(-logit(0.6)),
        pair(-logit(0.6)),
        pair(logit(0.9)),
        pair(logit(0.9)),
    ]
    found = calibration(pairs)
    assert found["ece"] == pytest.approx(0.1)
    assert [entry["n"] for entry in found["bins"]] == [4, 2]
    assert [entry["accuracy"] for entry in found["bins"]] == [0.5, 1.0]
    assert [entry["confidence"] for entry in found["bins"]] == pytest.approx([0.6, 0.9])
    assert calibration([])["ece"] is None
    assert calibration([pair(1e4)])["bins"][0]["confidence"] == 1.0


def test_accuracy_is_split_by_rater_strength_version_and_length() -> None:
    pairs = [
        pair(1.0),
        pair(-1.0, rater="r2", strength="strong", policy_version=3, chosen_length=300),
        pair(0.0, rater="r2", chosen_length=50),
    ]
    report = report_of(pairs, [(100, 1.0), (300, -1.0)])
    assert report["accuracy"]["accuracy"] == pytest.approx(0.5), "an equal score is half right"
    assert {name: share["accuracy"] for name, share in report["by_rater"].items()} == {"r1": 1.0, "r2": 0.25}
    assert {name: share["n"] for name, share in report["by_strength"].items()} == {"slight": 2, "strong": 1}
    assert {name: share["accuracy"] for name, share in report["by_policy_version"].items()} == {"0": 0.75, "3": 0.0}
    assert {name: share["n"] for name, share in report["by_length_gap"].items()} == {
        "about equal": 1,
        "chosen longer": 1,
        "chosen shorter": 1,
    }


def test_length_bias_shows_a_model_that_likes_length_more_than_its_raters() -> None:
    longer = [pair(1.0, chosen_length=200)] * 2
    shorter = [pair(-1.0, chosen_length=50)] * 2  # the model prefers the longer one that the rater rejected
    found = length_bias([*longer, *shorter, pair(1.0)], [(50, -1.0), (100, 0.0), (200, 2.0)])
    assert found["rater_prefers_longer"] == 0.5
    assert found["model_prefers_longer"] == 1.0
    assert found["accuracy_longer_chosen"]["accuracy"] == 1.0
    assert found["accuracy_shorter_chosen"]["accuracy"] == 0.0
    assert found["score_length_correlation"] == pytest.approx(1.0)
    nothing = length_bias([], [])
    assert nothing["rater_prefers_longer"] is None
    assert nothing["accuracy_longer_chosen"]["accuracy"] is None


def test_correlation() -> None:
    assert correlation([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]) == pytest.approx(1.0)
    assert correlation([1.0, 2.0, 3.0], [1.0, 0.0, 1.0]) == pytest.approx(0.0)
    assert correlation([1.0, 1.0], [1.0, 2.0]) is None
    assert correlation([1.0], [1.0]) is None


@pytest.mark.parametrize(
    ("points", "gain"),
    [
        ([], None),
        ([(100, 0.6)], None),
        ([(100, 0.60), (200, 0.66)], 0.03),
        ([(100, 0.60), (200, 0.66), (400, 0.70)], 0.04 * 0.04 / 0.06),
        ([(100, 0.60), (200, 0.66), (400, 0.65)], 0.0),
        ([(100, 0.60), (200, 0.58), (400, 0.64)], 0.03),
        ([(100, 0.60), (200, 0.61), (400, 0.65)], 0.04),
    ],
)
def test_what_twice_the_labels_would_add(points: list[tuple[int, float]], gain: float | None) -> None:
    assert doubling_gain(points) == (None if gain is None else pytest.approx(gain))
