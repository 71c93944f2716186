"""A Python function as a scorer."""

import asyncio
import inspect
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from preceptor.common.errors import Overloaded
from preceptor.reward.types import ItemScore, ScoreItem

_MAX_STUCK_CALLS = 8


class FunctionScorer:
    """Scores with a user's function, once per request, so that it may compare the completions of one group.

    The function is called with keyword arguments, those of the following that its signature names (all, with **kwargs);
    each is a list with one entry per completion:

      prompts: list[str], the prompt's text; of a conversation, its "role: content" lines.
      completions: list[str], what the policy wrote.
      prompt_ids: list[str], the ids that the prompts came with, "" where there is none.
      truncated: list[bool], True where the completion ended for length, not with EOS.
      messages: list[list[dict]], the prompt as {"role", "content"} messages; a text prompt is one user message.

    It returns one finite number per completion, or one mapping of names to numbers with an entry "score", whose other
    entries become components. It may be a coroutine function. When it raises for several completions it is called again
    for each alone, and those that raise then carry FUNCTION_RAISED with the exception's text. A call that outlasts the
    time limit is left behind in its thread (Python cannot stop one) and its completions carry TIMEOUT.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        wanted: frozenset[str],
        *,
        name: str,
        timeout_s: float,
        threads: int,
        max_queue_items: int,
    ) -> None:
        self._function = function
        self._wanted = wanted
        self._name = name
        self._timeout_s = timeout_s
        self._slots = asyncio.Semaphore(threads)
        self._max_queue_items = max_queue_items
        self._waiting_items = 0
        self._stuck_calls = 0
        self._busy_seconds = 0.0

    @property
    def busy_seconds(self) -> float:
        return self._busy_seconds

    async def score(self, items: Sequence[ScoreItem]) -> list[ItemScore]:
        if self._waiting_items + len(items) > self._max_queue_items:
            raise Overloaded(
                f"{self._waiting_items} items wait for this reward function, {self._max_queue_items} are allowed"
            )
        self._waiting_items += len(items)
        try:
            async with self._slots:
                return await self._score(items)
        finally:
            self._waiting_items -= len(items)

    async def close(self) -> None:
        """Nothing to free: a call left behind ends with its own return."""

    async def _score(self, items: Sequence[ScoreItem]) -> list[ItemScore]:
        results = await self._call(items)
        if len(items) == 1 or not any(result.failure and result.failure.reason == _RAISED for result in results):
            return results
        return [(await self._call([item]))[0] for item in items]

    async def _call(self, items: Sequence[ScoreItem]) -> list[ItemScore]:
        """One call in a thread of its own, which the time limit may leave behind."""
        if self._stuck_calls >= _MAX_STUCK_CALLS:
            text = f"{self._name}: {self._stuck_calls} calls never returned; unload it or restart the server"
            return [ItemScore.failed("TIMEOUT", text)] * len(items)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[list[ItemScore]] = loop.create_future()
        thread = threading.Thread(target=self._run, args=(items, loop, done), name="reward-function", daemon=True)
        thread.start()
        try:
            return await asyncio.wait_for(asyncio.shield(done), self._timeout_s)
        except (TimeoutError, asyncio.CancelledError) as error:
            self._stuck_calls += 1
            done.add_done_callback(self._came_back)
            if isinstance(error, asyncio.CancelledError):
                raise
        text = f"{self._name} did not return within {self._timeout_s:g} s"
        return [ItemScore.failed("TIMEOUT", text)] * len(items)

    def _came_back(self, _: asyncio.Future[list[ItemScore]]) -> None:
        self._stuck_calls -= 1

    def _run(self, items: Sequence[ScoreItem], loop: asyncio.AbstractEventLoop, done: asyncio.Future[Any]) -> None:
        begun = time.monotonic()
        results = self._results(items)
        self._busy_seconds += time.monotonic() - begun
        if not loop.is_closed():
            loop.call_soon_threadsafe(_set, done, results)

    def _results(self, items: Sequence[ScoreItem]) -> list[ItemScore]:
        available = _arguments(items)
        try:
            returned = self._function(**{name: available[name] for name in self._wanted})
            if inspect.isawaitable(returned):
                returned = asyncio.run(_awaited(returned))
            values = list(returned)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's code may raise anything
            text = f"{self._name} raised {type(error).__name__}: {error}"
            return [ItemScore.failed(_RAISED, text)] * len(items)
        if len(values) != len(items):
            text = f"{self._name} returned {len(values)} scores for {len(items)} completions"
            return [ItemScore.failed(_BAD_RESULT, text)] * len(items)
        return [self._item_score(value) for value in values]

    def _item_score(self, value: Any) -> ItemScore:
        try:
            if isinstance(value, Mapping):
                rest = {str(key): float(part) for key, part in value.items() if key != "score"}
                return self._checked(float(value["score"]), rest)
            return self._checked(float(value), {})
        except (TypeError, ValueError, KeyError, RuntimeError):
            return ItemScore.failed(_BAD_RESULT, f"{self._name} returned {value!r:.100}, which is not a number")

    def _checked(self, score: float, components: dict[str, float]) -> ItemScore:
        if not math.isfinite(score):
            return ItemScore.failed("NAN_SCORE", f"{self._name} returned {score}, which is not a finite number")
        return ItemScore(score, components)


_RAISED = "FUNCTION_RAISED"
_BAD_RESULT = "FUNCTION_BAD_RESULT"


def _arguments(items: Sequence[ScoreItem]) -> dict[str, list[Any]]:
    return {
        "prompts": [prompt_text_of(item) for item in items],
        "completions": [item.completion for item in items],
        "prompt_ids": [item.prompt_id for item in items],
        "truncated": [item.truncated for item in items],
        "messages": [messages_of(item) for item in items],
    }


def prompt_text_of(item: ScoreItem) -> str:
    """The prompt as one text; of a conversation, its "role: content" lines."""
    if isinstance(item.prompt, str):
        return item.prompt
    return "\n".join(f"{message['role']}: {message['content']}" for message in item.prompt)


def messages_of(item: ScoreItem) -> list[dict[str, str]]:
    """The prompt as messages; a text is one user message."""
    if isinstance(item.prompt, str):
        return [{"role": "user", "content": item.prompt}]
    return [dict(message) for message in item.prompt]


def _set(done: asyncio.Future[Any], results: list[ItemScore]) -> None:
    if not done.done():
        done.set_result(results)


async def _awaited(awaitable: Any) -> Any:
    return await awaitable
