"""A reward computed by another HTTP server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from preceptor.common.errors import Overloaded
from preceptor.reward.adapters import remote_scorer
from preceptor.reward.adapters.remote_scorer import RemoteScorer
from preceptor.reward.types import ScoreItem

ITEMS = [ScoreItem("p", "one", "id-0"), ScoreItem(({"role": "user", "content": "q"},), "two", truncated=True)]
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Answers as told, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.answers: list[Any] = []  # a JSON value, an HTTP status, or an event to wait for; the last one stays
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(await request.json())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, asyncio.Event):
            await answer.wait()
            return web.Response()
        if isinstance(answer, int):
            return web.Response(status=answer)
        return web.Response(text=answer) if isinstance(answer, str) else web.json_response(answer)


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    monkeypatch.setattr(remote_scorer, "_FIRST_PAUSE_S", 0.01)
    made, app = Server(), web.Application()
    app.router.add_post("/score", made.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/score"
    yield made
    await runner.cleanup()


async def scored(url: str, **options: Any) -> list[Any]:
    limits: dict[str, Any] = {"timeout_s": 5.0, "concurrency": 2, "max_queue_items": 10, **options}
    scorer = RemoteScorer(url, **limits)
    try:
        results = await scorer.score(ITEMS)
        assert scorer.busy_seconds > 0
        return [result.failure.reason if result.failure else (result.score, result.components) for result in results]
    finally:
        await scorer.close()


async def test_items_go_out_whole_and_scores_come_back(server: Server) -> None:
    server.answers = [{"scores": [1, {"score": -0.5, "length": 3}]}]
    assert await scored(server.url) == [(1.0, {}), (-0.5, {"length": 3.0})]
    first, second = server.asked[0]["items"]
    assert first == {
        "prompt": "p",
        "messages": [{"role": "user", "content": "p"}],
        "completion": "one",
        "prompt_id": "id-0",
        "truncated": False,
    }
    assert (second["prompt"], second["messages"], second["truncated"]) == (
        "user: q",
        [{"role": "user", "content": "q"}],
        True,
    )


async def test_an_item_fails_alone(server: Server) -> None:
    server.answers = [{"scores": [{"error": "no judge"}, 2.0]}]
    assert await scored(server.url) == ["REMOTE_FAILED", (2.0, {})]
    server.answers = [{"scores": ["high", float("nan")]}]
    assert await scored(server.url) == ["REMOTE_BAD_RESULT", "NAN_SCORE"]


async def test_passing_trouble_is_tried_again(server: Server) -> None:
    server.answers = [503, 429, {"scores": [1, 2]}]
    assert await scored(server.url) == [(1.0, {}), (2.0, {})]
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("answer", "reason", "asked"),
    [
        (503, "REMOTE_FAILED", 3),
        (400, "REMOTE_FAILED", 1),
        ({"scores": [1]}, "REMOTE_BAD_RESULT", 1),
        ({"score": 1}, "REMOTE_BAD_RESULT", 1),
        ("not json", "REMOTE_BAD_RESULT", 1),
    ],
)
async def test_lasting_trouble_is_the_items_error(server: Server, answer: Any, reason: str, asked: int) -> None:
    server.answers = [answer]
    assert await scored(server.url) == [reason, reason]
    assert len(server.asked) == asked


async def test_a_server_that_hangs_or_is_away_is_not_waited_for(server: Server) -> None:
    hung = asyncio.Event()
    server.answers = [hung]
    assert await scored(server.url, timeout_s=0.2) == ["TIMEOUT", "TIMEOUT"]
    hung.set()
    assert await scored("http://127.0.0.1:9/score") == ["REMOTE_FAILED", "REMOTE_FAILED"]


async def test_the_queue_is_bounded(server: Server) -> None:
    with pytest.raises(Overloaded, match="1 are allowed"):
        await scored(server.url, max_queue_items=1)
