"""The REST interface: what it takes, what it answers, how it refuses."""

import json
from datetime import timedelta
from typing import Any

import httpx
import pytest

from preceptor.common import errors
from preceptor.console import types
from tests.unit.console.doubles import EVENT_ID, NOW, FeedbackDouble, LoopDouble, comparison, event


def vote(**changes: Any) -> dict[str, Any]:
    values = {
        "event_id": EVENT_ID,
        "comparison_id": "run-a/1",
        "rater_id": "amber-1",
        "lease_id": "L1",
        "tie_groups": [["c1"], ["c0", "c2"]],
        "all_bad": False,
        "strength": "clear",
        "shown_at": "2026-11-23T12:00:00Z",
    }
    return {**values, **changes}


async def test_a_lease_shows_the_candidates_in_the_order_drawn_and_nothing_of_their_origin(
    client: httpx.AsyncClient, feedback: FeedbackDouble
) -> None:
    feedback.offer = types.LeaseOffer(
        lease=types.Lease(
            lease_id="L1",
            comparison=comparison("first", "second"),
            leased_at=NOW,
            expires_at=NOW + timedelta(minutes=5),
            expires_in_seconds=300,
            guideline_version=3,
        ),
        retry_after_seconds=0,
    )
    answer = await client.post("/api/v1/projects/demo/leases", json={"rater_id": "amber-1"})
    assert answer.status_code == 200
    candidates = answer.json()["lease"]["comparison"]["candidates"]
    assert [candidate["text"] for candidate in candidates] == ["first", "second"]
    assert set(candidates[0]) == {"candidate_id", "text"}


async def test_no_work_is_an_answer_with_a_time_to_ask_again(client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/v1/projects/demo/leases", json={"rater_id": "amber-1"})
    assert answer.json() == {"lease": None, "retry_after_seconds": 2.5}


async def test_a_vote_reaches_the_service_with_the_name_of_the_program(
    client: httpx.AsyncClient, feedback: FeedbackDouble
) -> None:
    answer = await client.post("/api/v1/rankings", json=vote())
    assert answer.status_code == 200
    [(request, name)] = feedback.submitted
    assert (request.tie_groups, request.strength, name) == ((("c1",), ("c0", "c2")), "clear", "test/1")
    assert answer.json()["event_id"] == EVENT_ID


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"event_id": "1"}, "event_id"),
        ({"rater_id": "Anna Smith"}, "rater_id"),
        ({"tie_groups": []}, "tie_groups"),
        ({"tie_groups": [["c0"], [7]]}, "tie_groups.1.0"),
        ({"strength": "very"}, "strength"),
        ({"colour": "red"}, "colour"),
        ({"axis_ratings": [{"axis": "kind", "candidate_id": "c0", "value": 8}]}, "axis_ratings.0.value"),
    ],
)
async def test_a_wrong_field_is_named_and_nothing_is_stored(
    client: httpx.AsyncClient, feedback: FeedbackDouble, changes: dict[str, Any], field: str
) -> None:
    answer = await client.post("/api/v1/rankings", json=vote(**changes))
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["field"]) == (400, "INVALID_ARGUMENT", field)
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["message"].startswith(field)
    assert feedback.submitted == []


async def test_a_time_out_of_range_says_what_is_allowed(client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/v1/rankings", json=vote(shown_at="9999-12-31T23:59:59-14:00"))
    assert answer.json()["message"] == "shown_at: it must lie between 1970 and 9000"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"rater_id": "\\ud800"}', b"\xff\xfe"])
async def test_a_broken_body_is_a_bad_request(client: httpx.AsyncClient, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = await client.post("/api/v1/projects/demo/leases", content=body, headers=headers)
    assert answer.status_code == 400
    assert set(answer.json()) == {"code", "reason", "field", "message"}


@pytest.mark.parametrize("query", ["page_size=0", "page_size=many", "page_size=5000", "pagesize=5"])
async def test_a_wrong_query_parameter_is_named(client: httpx.AsyncClient, query: str) -> None:
    answer = await client.get(f"/api/v1/projects?{query}")
    assert (answer.status_code, answer.json()["field"]) == (400, query.split("=")[0])


async def test_a_raters_own_votes_need_a_rater(client: httpx.AsyncClient) -> None:
    assert (await client.get("/api/v1/projects/demo/rankings")).json()["field"] == "rater_id"
    assert (await client.get("/api/v1/projects/demo/rankings?rater_id=amber-1")).status_code == 200


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidInput("wrong"), 400),
        (errors.PermissionDenied("no"), 403),
        (errors.NotFound("none"), 404),
        (errors.AlreadyExists("other body"), 409),
        (errors.FailedPrecondition("gone"), 412),
        (errors.Overloaded("full", retry_after_s=2.2), 429),
        (errors.InternalError("trace 12"), 500),
        (errors.DataLoss("torn"), 500),
        (errors.Unavailable("down"), 503),
        (errors.DeadlineExceeded("late"), 504),
    ],
)
async def test_each_error_has_its_status_and_code(
    client: httpx.AsyncClient, feedback: FeedbackDouble, error: errors.PreceptorError, status: int
) -> None:
    feedback.error = error
    answer = await client.post("/api/v1/rankings", json=vote())
    assert (answer.status_code, answer.json()["code"], answer.json()["message"]) == (status, error.code, error.message)
    if status in (429, 503, 504):
        assert answer.headers["retry-after"] == ("3" if status == 429 else "2")


async def test_a_defect_is_a_500_without_its_text(client: httpx.AsyncClient, feedback: FeedbackDouble) -> None:
    async def fail(project_id: str) -> types.Stats:
        raise RuntimeError("password=hunter2")

    feedback.stats = fail  # type: ignore[method-assign]
    answer = await client.get("/api/v1/projects/demo/stats")
    assert (answer.status_code, answer.json()["code"]) == (500, "INTERNAL")
    assert "hunter2" not in answer.text
    assert "content-security-policy" in answer.headers


async def test_ids_with_slashes_and_escapes_arrive_whole(client: httpx.AsyncClient) -> None:
    assert (await client.get("/api/v1/comparisons/run-a/1")).json()["comparison_id"] == "run-a/1"
    assert (await client.get("/api/v1/comparisons/a%20b%3Fc")).json()["comparison_id"] == "a b?c"


async def test_skipping_passes_reason_and_flag_on(client: httpx.AsyncClient, feedback: FeedbackDouble) -> None:
    body = {"rater_id": "amber-1", "reason": "language", "flag": True}
    assert (await client.post("/api/v1/leases/L1/release", json=body)).status_code == 200
    assert feedback.released == [("L1", types.ReleaseRequest(**body))]


async def test_a_lease_is_prolonged_and_a_vote_retracted(client: httpx.AsyncClient) -> None:
    extended = await client.post("/api/v1/leases/L1/extend", json={"rater_id": "amber-1"})
    assert extended.json()["expires_in_seconds"] == 300
    body = {"event_id": EVENT_ID, "rater_id": "amber-1", "reason": "typo"}
    assert (await client.post(f"/api/v1/rankings/{EVENT_ID}/retract", json=body)).json() == {"sequence": 7}


async def test_loops_events_models_and_services_are_listed(client: httpx.AsyncClient, loops: LoopDouble) -> None:
    loops.events = [event(1, kind="stage", message="sft started"), event(2, kind="stage", message="sft done")]
    assert (await client.get("/api/v1/loops")).json()["loops"][0]["loop_id"] == "demo"
    assert (await client.get("/api/v1/loops/demo")).json()["stages"][1]["progress"] == 0.4
    listed = (await client.get("/api/v1/loops/demo/events")).json()["events"]
    assert [item["message"] for item in listed] == ["sft done", "sft started"]
    assert (await client.get("/api/v1/reward-models")).json()["reward_models"] == []
    assert (await client.get("/api/v1/services")).json()["services"][0]["instance"] == "generation-0"


async def test_events_of_a_loop_that_does_not_exist_are_not_found(client: httpx.AsyncClient, loops: LoopDouble) -> None:
    assert (await client.get("/api/v1/loops/other/events")).status_code == 404
    assert loops.watched_after == []


async def test_unknown_paths_and_methods_are_problems_too(client: httpx.AsyncClient) -> None:
    missing = await client.get("/api/v1/nothing")
    assert (missing.status_code, missing.json()["reason"]) == (404, "NO_SUCH_PAGE")
    wrong = await client.get("/api/v1/rankings")
    assert wrong.status_code == 405
    assert "POST" in wrong.headers["allow"]


async def test_the_document_describes_every_operation_and_resolves(client: httpx.AsyncClient) -> None:
    document = (await client.get("/api/openapi.json")).json()
    assert document["openapi"] == "3.1.0"
    operations = {item["operationId"] for path in document["paths"].values() for item in path.values()}
    assert {"leaseComparison", "submitRanking", "listLoops"} <= operations
    names = set(document["components"]["schemas"])
    refs = set(_refs(document))
    assert refs <= {f"#/components/schemas/{name}" for name in names}
    submit = document["paths"]["/api/v1/rankings"]["post"]
    assert {"200", "400", "409", "413", "429", "503"} <= set(submit["responses"])
    json.dumps(document)


def _refs(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if "$ref" in node else []
        return own + [ref for value in node.values() for ref in _refs(value)]
    return [ref for value in node for ref in _refs(value)] if isinstance(node, list) else []
