"""Odd input over REST to the real services: always an answer that names what is wrong, never a defect."""

import uuid
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.integration.console.stack import Stack

ODD_TEXT = [
    "\x00",
    "a\x00b",
    "\u202e\u0000",
    "x" * 300,
    "é" * 60,
    "../../etc/passwd",
    "%s%n",
    "'; DROP TABLE votes; --",
    " ",
]
ODD_TIMES = ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00", -1e15, 1e300, "now", True]


@pytest.fixture
def http(stack: Stack) -> Any:
    headers = {"X-Preceptor-Client": "odd/1"}
    with httpx.Client(base_url=f"{stack.url}/api/v1", headers=headers, timeout=20) as client:
        yield client


def vote(**changes: Any) -> dict[str, Any]:
    values = {
        "event_id": str(uuid.uuid4()),
        "comparison_id": "none",
        "rater_id": "odd-1",
        "tie_groups": [["c0"], ["c1"]],
    }
    return {**values, **changes}


def assert_refused(answer: httpx.Response) -> None:
    assert 400 <= answer.status_code < 500, (answer.status_code, answer.text)
    assert answer.json()["message"]


@pytest.mark.parametrize("text", ODD_TEXT)
def test_odd_text_in_any_id_is_refused(http: httpx.Client, stack: Stack, text: str) -> None:
    for changes in ({"comparison_id": text}, {"lease_id": text}, {"tie_groups": [[text], ["c1"]]}, {"rater_id": text}):
        assert_refused(http.post("/rankings", json=vote(**changes)))
    part = quote(text, safe="")
    assert_refused(http.post(f"/projects/{part}/leases", json={"rater_id": "odd-1"}))
    assert_refused(http.get(f"/comparisons/{part}"))
    assert_refused(http.get(f"/loops/{part}"))
    assert http.get("/projects", params={"page_token": text}).status_code < 500


@pytest.mark.parametrize("moment", ODD_TIMES)
def test_odd_times_are_refused_or_taken_but_never_a_defect(http: httpx.Client, stack: Stack, moment: Any) -> None:
    assert_refused(http.post("/rankings", json=vote(shown_at=moment)))


def test_a_comment_of_control_characters_is_answered(http: httpx.Client, stack: Stack) -> None:
    project_id = stack.make_project(1, texts=("a", "b"))
    held = http.post(f"/projects/{project_id}/leases", json={"rater_id": "odd-1"}).json()["lease"]
    body = vote(comparison_id=held["comparison"]["comparison_id"], comment="a\x00b\x1b[31m\u202e")
    answer = http.post("/rankings", json=body)
    assert answer.status_code in (200, 400), answer.text


@pytest.mark.parametrize("seconds", ["NaN", "Infinity", "-1", "1e9", '"soon"'])
def test_odd_lease_times_are_refused(http: httpx.Client, stack: Stack, seconds: str) -> None:
    project_id = stack.make_project(1)
    body = f'{{"rater_id": "odd-1", "lease_seconds": {seconds}}}'
    headers = {"Content-Type": "application/json"}
    assert_refused(http.post(f"/projects/{project_id}/leases", content=body, headers=headers))
