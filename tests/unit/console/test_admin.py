"""The admin pages and the REST operations about raters."""

import httpx

from tests.unit.console.doubles import EVENT_ID, FeedbackDouble


async def test_a_projects_page_shows_agreement_raters_and_settings(client: httpx.AsyncClient) -> None:
    page = (await client.get("/admin/demo")).text
    for text in (
        "Krippendorff",
        "0.62",
        "careless",
        "below the threshold",
        "Let amber-1 go on",
        "orders 62 % of pairs",
    ):
        assert text in page
    assert 'name="gold_rate"' in page


async def test_the_overview_lists_projects_with_their_queue(client: httpx.AsyncClient) -> None:
    page = (await client.get("/admin")).text
    assert 'href="/admin/demo"' in page
    assert "At work now" in page


async def test_a_project_is_changed_by_what_is_sent(client: httpx.AsyncClient, feedback: FeedbackDouble) -> None:
    answer = await client.patch("/api/v1/projects/demo", json={"default_overlap": 3})
    assert answer.status_code == 200
    assert feedback.known["demo"].default_overlap == 3
    refused = await client.patch("/api/v1/projects/demo", json={"settings": {"gold_rate": 0.9}})
    assert (refused.status_code, refused.json()["field"]) == (400, "settings.gold_rate")


async def test_raters_are_measured_and_paused(client: httpx.AsyncClient) -> None:
    report = (await client.get("/api/v1/projects/demo/raters")).json()
    assert report["raters"][0]["weight"] == 0.24
    answer = await client.post("/api/v1/projects/demo/raters/amber-1/state", json={"paused": True, "reason": "rest"})
    assert answer.json()["reason"] == "rest"


async def test_a_demonstration_is_stored(client: httpx.AsyncClient) -> None:
    body = {"event_id": EVENT_ID, "rater_id": "amber-1", "comparison_id": "run-a/1", "text": "Better so."}
    answer = await client.post("/api/v1/projects/demo/demonstrations", json=body)
    assert answer.json()["text"] == "Better so."
