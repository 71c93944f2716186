"""The console as a process, and its REST interface over the real feedback service."""

import uuid
from typing import Any

import httpx
import pytest

from tests.integration.console.stack import Stack
from tests.support.ports import free_port
from tests.support.processes import ServiceProcess

HEADERS = {"X-Preceptor-Client": "my-tool/1"}


@pytest.fixture
def http(stack: Stack) -> Any:
    with httpx.Client(base_url=f"{stack.url}/api/v1", headers=HEADERS, timeout=20) as client:
        yield client


def lease(http: httpx.Client, project_id: str, rater: str = "tool-1") -> dict[str, Any]:
    offer = http.post(f"/projects/{project_id}/leases", json={"rater_id": rater})
    assert offer.status_code == 200, offer.text
    return offer.json()["lease"]


def vote_on(held: dict[str, Any], rater: str = "tool-1") -> dict[str, Any]:
    names = [candidate["candidate_id"] for candidate in held["comparison"]["candidates"]]
    return {
        "event_id": str(uuid.uuid4()),
        "comparison_id": held["comparison"]["comparison_id"],
        "rater_id": rater,
        "lease_id": held["lease_id"],
        "tie_groups": [[name] for name in names],
        "shown_at": held["leased_at"],
    }


def test_a_program_ranks_over_rest_and_may_repeat_itself(http: httpx.Client, stack: Stack) -> None:
    project_id = stack.make_project(1)
    vote = vote_on(lease(http, project_id))
    first, second = http.post("/rankings", json=vote), http.post("/rankings", json=vote)
    assert first.json() == second.json()
    assert first.json()["client"] == "my-tool/1"
    assert len(stack.exported(project_id)) == 1
    other = http.post("/rankings", json={**vote, "all_bad": True})
    assert (other.status_code, other.json()["code"]) == (409, "ALREADY_EXISTS")
    assert http.get(f"/projects/{project_id}/stats").json()["rankings"] == 1
    assert lease(http, project_id) is None


def test_the_service_refuses_what_is_no_ranking_of_the_comparison(http: httpx.Client, stack: Stack) -> None:
    project_id = stack.make_project(1)
    vote = vote_on(lease(http, project_id))
    twice = http.post("/rankings", json={**vote, "tie_groups": [["c0"], ["c0"], ["c1", "c2", "c3"]]})
    assert (twice.status_code, twice.json()["code"]) == (400, "INVALID_ARGUMENT")
    assert "c0" in twice.json()["message"]
    missing = http.post("/rankings", json={**vote, "comparison_id": "none"})
    assert missing.status_code == 404
    assert stack.rankings(project_id) == []


def test_votes_are_listed_superseded_and_retracted_over_rest(http: httpx.Client, stack: Stack) -> None:
    project_id = stack.make_project(1)
    vote = vote_on(lease(http, project_id))
    http.post("/rankings", json=vote).raise_for_status()
    again = {**vote, "event_id": str(uuid.uuid4()), "all_bad": True}
    assert http.post("/rankings", json=again).status_code == 409
    http.post("/rankings", json={**again, "supersedes": vote["event_id"]}).raise_for_status()
    listed = http.get(f"/projects/{project_id}/rankings", params={"rater_id": "tool-1"}).json()["rankings"]
    assert [item["event_id"] for item in listed] == [again["event_id"]]
    body = {"event_id": str(uuid.uuid4()), "rater_id": "tool-1"}
    http.post(f"/rankings/{again['event_id']}/retract", json=body).raise_for_status()
    assert stack.rankings(project_id) == []


def test_leases_are_prolonged_and_given_back_over_rest(http: httpx.Client, stack: Stack) -> None:
    project_id = stack.make_project(1)
    held = lease(http, project_id)
    longer = http.post(f"/leases/{held['lease_id']}/extend", json={"rater_id": "tool-1", "lease_seconds": 3000})
    assert longer.json()["expires_in_seconds"] == pytest.approx(3000, abs=30)
    assert lease(http, project_id, "tool-2") is None
    http.post(
        f"/leases/{held['lease_id']}/release", json={"rater_id": "tool-1", "reason": "language"}
    ).raise_for_status()
    assert lease(http, project_id, "tool-2") is not None
    assert lease(http, project_id) is None


def test_probes_and_metrics_are_on_the_metrics_port(http: httpx.Client, stack: Stack) -> None:
    http.get("/projects").raise_for_status()
    assert stack.console.http("/healthz")[0] == 200
    assert stack.console.http("/readyz")[0] == 200
    status, text = stack.console.http("/metrics")
    assert status == 200
    assert 'preceptor_console_requests_total{method="GET",route="/api/v1/projects",status="200"}' in text
    assert "preceptor_console_busy_seconds" in text


def test_sigterm_ends_the_console_with_code_0(stack: Stack) -> None:
    port, metrics_port = free_port(), free_port()
    env = {
        **stack.console.env,
        "PRECEPTOR_CONSOLE_PORT": str(port),
        "PRECEPTOR_CONSOLE_METRICS_PORT": str(metrics_port),
    }
    with ServiceProcess("preceptor.console", env, stack.folder, metrics_port=metrics_port) as process:
        process.wait_ready()
        assert httpx.get(f"http://127.0.0.1:{port}/api/v1/projects").status_code == 200
        assert process.terminate() == 0
    assert "Traceback" not in process.log()


@pytest.mark.parametrize("variable", ["PRECEPTOR_CONSOLE_PORT", "PRECEPTOR_CONSOLE_METRICS_PORT"])
def test_a_port_in_use_is_one_line_and_code_1(stack: Stack, variable: str) -> None:
    free = {"PRECEPTOR_CONSOLE_PORT": str(free_port()), "PRECEPTOR_CONSOLE_METRICS_PORT": str(free_port())}
    env = {**stack.console.env, **free, variable: str(stack.port)}
    process = ServiceProcess("preceptor.console", env, stack.folder).start()
    assert process.wait() == 1
    assert process.log() == f"port {stack.port} is in use: stop what uses it or set {variable}\n"


def test_a_wrong_setting_is_named_and_code_2(stack: Stack) -> None:
    env = {**stack.console.env, "PRECEPTOR_CONSOLE_RPC_TIMEOUT_S": "soon"}
    process = ServiceProcess("preceptor.console", env, stack.folder).start()
    assert process.wait() == 2
    assert "PRECEPTOR_CONSOLE_RPC_TIMEOUT_S" in process.log()
