"""What is refused before any handler runs, and what every answer carries."""

from collections.abc import AsyncIterator

import httpx
import pytest

from preceptor.console.web.security import host_name
from tests.unit.console.doubles import EVENT_ID, FeedbackDouble

VOTE = {"event_id": EVENT_ID, "comparison_id": "c", "rater_id": "amber-1", "tie_groups": [["a"], ["b"]]}
OTHER_SITES = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:9999"},
]


@pytest.mark.parametrize("headers", OTHER_SITES)
async def test_a_vote_from_another_site_is_refused(
    client: httpx.AsyncClient, feedback: FeedbackDouble, headers: dict[str, str]
) -> None:
    answer = await client.post("/api/v1/rankings", json=VOTE, headers=headers)
    assert (answer.status_code, answer.json()["reason"]) == (403, "CROSS_SITE")
    assert feedback.submitted == []


async def test_our_own_page_may_vote(client: httpx.AsyncClient, feedback: FeedbackDouble) -> None:
    headers = {"Origin": "http://localhost:8080", "Sec-Fetch-Site": "same-origin"}
    assert (await client.post("/api/v1/rankings", json=VOTE, headers=headers)).status_code == 200
    assert len(feedback.submitted) == 1


async def test_a_request_without_the_clients_name_is_refused(client: httpx.AsyncClient) -> None:
    del client.headers["X-Preceptor-Client"]
    answer = await client.post("/api/v1/rankings", json=VOTE)
    assert (answer.status_code, answer.json()["reason"]) == (403, "CLIENT_HEADER_MISSING")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_what_a_form_can_send_is_refused(client: httpx.AsyncClient, kind: str) -> None:
    answer = await client.post("/session", content=b'{"rater_id": "amber-1"}', headers={"content-type": kind})
    assert answer.status_code == 415
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
async def test_no_method_gets_around_the_check(client: httpx.AsyncClient, method: str) -> None:
    answer = await client.request(method, "/api/v1/rankings", headers={"Origin": "https://evil.example"})
    assert answer.status_code == 403


async def test_another_sites_name_for_this_address_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.get("/api/v1/projects", headers={"Host": "rebound.example:8080"})
    assert (answer.status_code, answer.json()["reason"]) == (421, "UNKNOWN_HOST")
    assert "PRECEPTOR_CONSOLE_ALLOWED_HOSTS" in answer.json()["message"]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8080", "[::1]:8080", "LOCALHOST:1"])
async def test_the_names_of_loopback_are_known(client: httpx.AsyncClient, host: str) -> None:
    assert (await client.get("/api/v1/projects", headers={"Host": host})).status_code == 200


def test_a_host_loses_its_port_and_nothing_else() -> None:
    assert [host_name(host) for host in ("A:80", "[::1]:8080", "[::1]", "")] == ["a", "[::1]", "[::1]", ""]


async def test_a_body_over_the_limit_is_refused_whatever_it_declares(client: httpx.AsyncClient) -> None:
    headers = {"content-type": "application/json"}
    declared = await client.post("/session", content=b" " * 5000, headers=headers)
    assert (declared.status_code, declared.json()["reason"]) == (413, "BODY_TOO_LARGE")
    assert "4096" in declared.json()["message"]

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b" " * 1000

    streamed = await client.post("/session", content=pieces(), headers=headers)
    assert streamed.status_code == 413


@pytest.mark.parametrize("path", ["/", "/api/v1/projects", "/static/console.css", "/nothing", "/loops/none"])
async def test_every_answer_carries_the_headers(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe-inline" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in answer.headers


async def test_a_preflight_gives_no_permission(client: httpx.AsyncClient) -> None:
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    answer = await client.options("/api/v1/rankings", headers=headers)
    assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_the_name_is_kept_in_a_cookie_that_scripts_and_other_sites_do_not_get(client: httpx.AsyncClient) -> None:
    answer = await client.post("/session", json={"rater_id": "amber-1"})
    cookie = answer.headers["set-cookie"].lower()
    assert answer.status_code == 204
    assert "preceptor_rater=amber-1" in cookie
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "secure" not in cookie


async def test_over_https_the_cookie_is_secure(client: httpx.AsyncClient) -> None:
    answer = await client.post("https://localhost/session", json={"rater_id": "amber-1"})
    assert "secure" in answer.headers["set-cookie"].lower()
