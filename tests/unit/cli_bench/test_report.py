"""What a bench prints, and what its exit code says."""

import json
import math

import pytest

from preceptor.cli.bench.report import Figure, Report, at_least, at_most, environment, finish

MACHINE = {"cores": 2, "machine_cores": 4, "cpu": "a cpu", "load_average": [0.1, 0.2, 0.3]}


@pytest.mark.parametrize(
    ("figure", "holds"),
    [
        (at_least("rate", 0.95, "ratio", 0.95), True),
        (at_least("rate", 0.949, "ratio", 0.95), False),
        (at_least("rate", math.nan, "ratio", 0.95), False),
        (at_most("added", 5.0, "ms", 5.0), True),
        (at_most("added", 5.01, "ms", 5.0), False),
        (at_most("added", math.nan, "ms", 5.0), False),
    ],
)
def test_a_goal_holds_up_to_its_limit(figure: Figure, holds: bool) -> None:
    assert figure.holds is holds


def test_a_goal_is_said_in_words() -> None:
    assert at_least("rate", 1, "ratio", 0.95).goal == ">= 0.95"
    assert at_most("added", 1, "ms", 10.0).goal == "<= 10"


@pytest.mark.parametrize(
    ("figures", "code"),
    [
        ([Figure("size", 3, "MiB")], 0),
        ([at_least("rate", 1, "ratio", 0.9), Figure("size", 3, "MiB")], 0),
        ([at_least("rate", 1, "ratio", 0.9), at_most("added", 11, "ms", 10)], 1),
    ],
)
def test_the_exit_code_is_one_when_a_goal_is_missed(figures: list[Figure], code: int) -> None:
    for as_json in (True, False):
        assert finish(Report("name", figures, {}, MACHINE), as_json=as_json) == code


def test_json_is_one_object_with_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("name", [at_least("rate", 0.5, "ratio", 0.9), Figure("p50", 2.5, "ms")], {"rounds": 3}, MACHINE)
    finish(report, as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "bench": "name",
        "environment": {**MACHINE, "settings": {"rounds": 3}},
        "figures": [
            {"name": "rate", "value": 0.5, "unit": "ratio", "goal": ">= 0.9", "holds": False},
            {"name": "p50", "value": 2.5, "unit": "ms", "goal": None, "holds": None},
        ],
    }


def test_json_has_null_for_what_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    finish(Report("name", [Figure("a", math.nan, "ms"), Figure("b", math.inf, "ms")], {}, MACHINE), as_json=True)
    assert [figure["value"] for figure in json.loads(capsys.readouterr().out)["figures"]] == [None, None]


def test_people_read_which_goal_is_missed(capsys: pytest.CaptureFixture[str]) -> None:
    finish(Report("name", [at_most("added", 11, "ms", 10)], {}, MACHINE), as_json=False)
    said = capsys.readouterr()
    assert "added" in said.out
    assert "NO" in said.out
    assert "missed: added is 11 ms, goal <= 10" in said.err


def test_the_environment_tells_machine_versions_and_load() -> None:
    found = environment()
    assert 1 <= found["cores"] <= found["machine_cores"]
    assert found["cpu"]
    assert found["memory_gib"] > 0
    assert len(found["load_average"]) == 3
    assert {"grpcio", "sqlalchemy", "preceptor"} <= set(found["versions"])
