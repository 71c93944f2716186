"""A reward that another HTTP server computes.

POST of {"items": [{"prompt": text, "messages": [...], "completion": text, "prompt_id": text, "truncated": bool}]},
answered with {"scores": [...]}: per item a number, or an object with "score" and components, or {"error": "why"}.
"""

import asyncio
import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp

from preceptor.common.errors import Overloaded
from preceptor.reward.adapters.function_scorer import messages_of, prompt_text_of
from preceptor.reward.types import ItemScore, ScoreItem

_TRIES = 3
_FIRST_PAUSE_S = 0.2
_LONGEST_ANSWER = 16 * 2**20
_PASSING = (429, 502, 503, 504)


class RemoteScorer:
    """A `Scorer`. What goes wrong (REMOTE_FAILED, TIMEOUT, REMOTE_BAD_RESULT) is an error of the items asked for.

    Args:
        url: where to POST.
        timeout_s: for all tries of one request together.
        concurrency: requests at a time.
        max_queue_items: items that may wait; beyond them Overloaded.
    """

    def __init__(self, url: str, *, timeout_s: float, concurrency: int, max_queue_items: int) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._slots = asyncio.Semaphore(concurrency)
        self._max_queue_items = max_queue_items
        self._waiting_items = 0
        self._busy_seconds = 0.0
        self._session: aiohttp.ClientSession | None = None

    @property
    def busy_seconds(self) -> float:
        return self._busy_seconds

    async def score(self, items: Sequence[ScoreItem]) -> list[ItemScore]:
        if self._waiting_items + len(items) > self._max_queue_items:
            raise Overloaded(
                f"{self._waiting_items} items wait for {self._url}, {self._max_queue_items} are allowed",
                retry_after_s=1,
            )
        self._waiting_items += len(items)
        try:
            async with self._slots:
                return await self._within_time(items)
        finally:
            self._waiting_items -= len(items)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _within_time(self, items: Sequence[ScoreItem]) -> list[ItemScore]:
        begun = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._ask(items)
        except TimeoutError:
            text = f"{self._url} did not answer within {self._timeout_s:g} s"
            return [ItemScore.failed("TIMEOUT", text)] * len(items)
        finally:
            self._busy_seconds += time.monotonic() - begun

    async def _ask(self, items: Sequence[ScoreItem]) -> list[ItemScore]:
        body = {"items": [_item(item) for item in items]}
        problem = ""
        for attempt in range(_TRIES):
            if attempt:
                await asyncio.sleep(_FIRST_PAUSE_S * 2**attempt)
            try:
                async with self._connected().post(self._url, json=body) as response:
                    if response.status == 200:
                        return _results(await _read(response), len(items), self._url)
                    problem = f"HTTP {response.status}"
                    if response.status not in _PASSING:
                        break
            except (aiohttp.ClientError, OSError) as error:
                problem = str(error) or type(error).__name__
        return [ItemScore.failed("REMOTE_FAILED", f"{self._url}: {problem}")] * len(items)

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))
        return self._session


async def _read(response: aiohttp.ClientResponse) -> Any:
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > _LONGEST_ANSWER:
            return f"more than {_LONGEST_ANSWER} bytes"
    try:
        return json.loads(data)
    except ValueError as error:
        return f"no JSON: {error}"


def _item(item: ScoreItem) -> dict[str, Any]:
    return {
        "prompt": prompt_text_of(item),
        "messages": messages_of(item),
        "completion": item.completion,
        "prompt_id": item.prompt_id,
        "truncated": item.truncated,
    }


def _results(answer: Any, expected: int, url: str) -> list[ItemScore]:
    scores = answer.get("scores") if isinstance(answer, Mapping) else None
    if not isinstance(scores, list) or len(scores) != expected:
        said = answer if isinstance(answer, str) else f"{answer!s:.100}"
        text = f'{url} answered {said}; wanted {{"scores": [{expected} entries]}}'
        return [ItemScore.failed("REMOTE_BAD_RESULT", text)] * expected
    return [_result(value, url) for value in scores]


def _result(value: Any, url: str) -> ItemScore:
    if isinstance(value, Mapping) and "error" in value:
        return ItemScore.failed("REMOTE_FAILED", f"{url}: {value['error']!s:.500}")
    try:
        if isinstance(value, Mapping):
            components = {str(key): float(part) for key, part in value.items() if key != "score"}
            value = value["score"]
        else:
            components = {}
        score = float(value)
    except (TypeError, ValueError, KeyError):
        return ItemScore.failed("REMOTE_BAD_RESULT", f"{url} answered {value!r:.100} for a score")
    if not math.isfinite(score):
        return ItemScore.failed("NAN_SCORE", f"{url} answered {score}, which is not a finite number")
    return ItemScore(score, components)
