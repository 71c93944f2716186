"""The HTML pages: what they show, that text stays text, and what they say when a service is down."""

from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import httpx
import pytest

from preceptor.common.errors import DeadlineExceeded, Unavailable
from preceptor.console import types
from preceptor.console.web.rendering import ago, duration, markdown, percent
from tests.unit.console.doubles import FeedbackDouble, LoopDouble, event, loop, project, reward_model, stage

ATTACK = """<script>alert(1)</script><img src=x onerror="alert(2)">'"><svg onload=alert(3)>"""
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Tags(HTMLParser):
    """Collects tags and the names of attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]


def parsed(html: str) -> Tags:
    tags = Tags()
    tags.feed(html)
    return tags


def assert_inert(html: str) -> None:
    tags = parsed(html)
    assert not [name for name in tags.attributes if name.startswith("on")]
    assert "style" not in tags.attributes
    assert all(link.startswith(("/", "#")) for link in tags.links), tags.links
    assert "<script>alert" not in html


async def test_the_start_page_offers_the_projects_and_remembers_the_name(client: httpx.AsyncClient) -> None:
    client.cookies.set("preceptor_rater", "amber-1")
    page = (await client.get("/")).text
    assert 'value="amber-1"' in page
    assert "Replies" in page


async def test_a_malformed_name_in_the_cookie_is_ignored(client: httpx.AsyncClient) -> None:
    client.cookies.set("preceptor_rater", "a%22onfocus=alert(1)")
    page = await client.get("/")
    assert "onfocus" not in page.text
    assert (await client.get("/rank/demo")).headers["location"] == "/"


async def test_without_projects_the_start_page_says_how_to_get_one(
    client: httpx.AsyncClient, feedback: FeedbackDouble
) -> None:
    feedback.known = {}
    assert "make demo" in (await client.get("/")).text


async def test_the_labelling_page_holds_no_inline_script_and_escapes_the_project(
    client: httpx.AsyncClient, feedback: FeedbackDouble
) -> None:
    feedback.known["demo"] = project(title=ATTACK, guidelines=ATTACK, axes=(ATTACK,))
    client.cookies.set("preceptor_rater", "amber-1")
    page = (await client.get("/rank/demo")).text
    assert_inert(page)
    assert parsed(page).tags.count("script") == 1


def test_guidelines_are_markdown_without_html_or_script_links() -> None:
    html = str(markdown(f"# Be kind\n\n**now** {ATTACK} [a](javascript:alert(1)) ![x](http://e.example/i.png)"))
    assert "<h1>Be kind</h1>" in html
    assert "<strong>now</strong>" in html
    assert not {"script", "img", "svg"} & set(parsed(html).tags)
    assert not [link for link in parsed(html).links if link.startswith("javascript")]


def test_links_in_guidelines_open_beside_the_ranking() -> None:
    html = str(markdown("[more](https://example.org/a?b=1&c=2)"))
    assert '<a href="https://example.org/a?b=1&amp;c=2" target="_blank" rel="noopener noreferrer">more</a>' in html


async def test_a_project_that_does_not_exist_is_a_page_that_says_so(client: httpx.AsyncClient) -> None:
    client.cookies.set("preceptor_rater", "amber-1")
    page = await client.get("/rank/other")
    assert page.status_code == 404
    assert "There is no project other." in page.text


async def test_the_loop_page_shows_stages_curves_models_labels_and_processes(
    client: httpx.AsyncClient, loops: LoopDouble
) -> None:
    loops.models = (reward_model(1), reward_model(7, run_id="another-loops-run"))
    loops.events = [
        event(n, values={"policy_version": n, "objective/kl": n / 10, "objective/scores": n / 5}) for n in range(1, 6)
    ]
    page = (await client.get("/loops/demo")).text
    for text in ("reward-1", "step 4 of 10", "KL to the reference", "Proxy reward", "Reward-model accuracy"):
        assert text in page
    assert "generation-0" in page
    assert "v1" in page
    assert "another-loops-run" not in page
    assert '<progress max="1" value="0.4"' in page


async def test_text_of_models_and_services_stays_text_on_the_loop_page(
    client: httpx.AsyncClient, feedback: FeedbackDouble, loops: LoopDouble
) -> None:
    prompt = (types.Message(role="prompt", content=ATTACK),)
    feedback.shown = (types.Sample(prompt=prompt, text=ATTACK, policy_version=1, truncated=True, run_id=ATTACK),)
    loops.known["demo"] = loop(error=ATTACK, stages=(stage(ATTACK, "running", message=ATTACK),))
    loops.events = [event(1, kind="error", message=ATTACK, stage=ATTACK, values={ATTACK: 1.0})]
    loops.models = (reward_model(1, gate=ATTACK),)
    page = (await client.get("/loops/demo")).text
    assert page.count("&lt;script&gt;") >= 6
    assert_inert(page)


@pytest.mark.parametrize("error", [Unavailable("no"), DeadlineExceeded("late")])
async def test_a_service_that_is_down_leaves_a_gap_that_names_it_and_what_to_do(
    client: httpx.AsyncClient, feedback: FeedbackDouble, loops: LoopDouble, error: Unavailable
) -> None:
    loops.error = error
    page = await client.get("/loops/demo")
    assert page.status_code == 200
    assert page.text.count("The conductor service") == 1
    assert "generation-0" in page.text
    feedback.error = error
    assert "The feedback service" in (await client.get("/loops/demo")).text
    assert "The feedback service" in (await client.get("/")).text


async def test_a_labelling_page_whose_service_is_down_says_what_to_do(
    client: httpx.AsyncClient, feedback: FeedbackDouble
) -> None:
    feedback.error = Unavailable("connection refused")
    client.cookies.set("preceptor_rater", "amber-1")
    page = await client.get("/rank/demo")
    assert page.status_code == 503
    assert "retry-after" in page.headers
    assert "preceptor up" in page.text
    assert "connection refused" not in page.text


async def test_a_loop_that_does_not_exist_is_not_found(client: httpx.AsyncClient) -> None:
    assert (await client.get("/loops/other")).status_code == 404


@pytest.mark.parametrize("path", ["/loops", "/loops-panel", "/system", "/system/panel", "/api", "/loops/demo/panel"])
async def test_every_other_page_answers(client: httpx.AsyncClient, path: str) -> None:
    page = await client.get(path)
    assert page.status_code == 200
    assert_inert(page.text)
    assert page.text.startswith("<!doctype html>") != path.endswith("panel")


async def test_static_files_are_revalidated(client: httpx.AsyncClient) -> None:
    answer = await client.get("/static/js/rank.js")
    assert answer.headers["cache-control"] == "no-cache"
    again = await client.get("/static/js/rank.js", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304
    assert (await client.get("/static/%2e%2e/config.py")).status_code == 404


@pytest.mark.parametrize(
    ("before", "text"),
    [
        (timedelta(seconds=3), "just now"),
        (timedelta(seconds=50), "1 min ago"),
        (timedelta(minutes=30), "30 min ago"),
        (timedelta(hours=5), "5 h ago"),
        (timedelta(days=9), "23 Dec 2025"),
    ],
)
def test_times_read_like_speech(before: timedelta, text: str) -> None:
    assert ago(NOW - before, NOW) == text


def test_durations_and_shares_read_like_speech() -> None:
    assert duration(None, None) == ""
    assert duration(NOW, NOW + timedelta(seconds=42)) == "42 s"
    assert duration(NOW, NOW + timedelta(seconds=185)) == "3 min 5 s"
    assert duration(NOW, None, NOW + timedelta(hours=2, minutes=10)) == "2 h 10 min"
    assert percent(0.7261) == "72.6 %"
