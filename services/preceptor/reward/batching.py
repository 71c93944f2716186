"""Dynamic batching: sequences from many requests, put together by length and scored in one forward."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from preceptor.common.errors import Overloaded, PreceptorError, Unavailable
from preceptor.common.tasks import cancel_and_wait
from preceptor.common.telemetry import histogram

_batch_items = histogram(
    "preceptor_reward_batch_items", "Sequences in one forward.", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
)
Forward = Callable[[list[Sequence[int]]], Awaitable[list[float]]]


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """`max_tokens` counts padding: a batch is as wide as its longest sequence. `max_wait_s`: how long a batch that is
    not full waits for more while the model has nothing to do; batches form by themselves while it is busy.
    `max_padding`: share of a batch that may be padding, once it holds `enough_tokens`, which keep the device busy."""

    max_items: int = 64
    max_tokens: int = 65_536
    max_wait_s: float = 0.0
    max_queue_items: int = 4096
    max_padding: float = 0.1
    enough_tokens: int = 1024


def choose_batch(lengths: Sequence[int], limits: BatchLimits) -> list[int]:
    """Indexes of the waiting sequences to score next, given their lengths, oldest first.

    The oldest always goes, so that none starves; the rest are those nearest to it in length, which wastes the least
    padding, as many as max_items, max_tokens and max_padding allow.
    """
    nearest = sorted(range(1, len(lengths)), key=lambda i: (abs(lengths[i] - lengths[0]), i))
    chosen, width, tokens = [0], lengths[0], lengths[0]
    for index in nearest:
        if len(chosen) == limits.max_items:
            break
        wider, more = max(width, lengths[index]), tokens + lengths[index]
        padded = wider * (len(chosen) + 1)
        wasteful = padded > limits.enough_tokens and padded - more > limits.max_padding * padded
        if padded <= limits.max_tokens and not wasteful:
            chosen.append(index)
            width, tokens = wider, more
    return chosen


@dataclass(slots=True)
class _Waiting:
    tokens: Sequence[int]
    result: asyncio.Future[float]
    arrived_at: float


class Batcher:
    """A bounded queue in front of one model's forward. Belongs to the event loop it was started in."""

    def __init__(self, forward: Forward, limits: BatchLimits) -> None:
        self._forward = forward
        self._limits = limits
        self._queue: list[_Waiting] = []
        self._arrived = asyncio.Event()
        self._seconds_per_item = 0.001
        self._task: asyncio.Task[None] | None = None

    @property
    def depth(self) -> int:
        """Sequences that wait for a forward."""
        return len(self._queue)

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def submit(self, sequences: Sequence[Sequence[int]]) -> list[asyncio.Future[float]]:
        """One future per sequence; cancelling it takes the sequence out of the queue. Raises Overloaded, as a whole."""
        if len(self._queue) + len(sequences) > self._limits.max_queue_items:
            raise Overloaded(
                f"{len(self._queue)} items wait for this reward model, {self._limits.max_queue_items} are allowed",
                retry_after_s=self._drain_estimate_s(),
            )
        loop = asyncio.get_running_loop()
        entries = [_Waiting(tokens, loop.create_future(), loop.time()) for tokens in sequences]
        self._queue.extend(entries)
        self._arrived.set()
        return [entry.result for entry in entries]

    async def close(self) -> None:
        """Stops; what still waits fails with Unavailable."""
        if self._task is not None:
            await cancel_and_wait(self._task)
        for entry in self._queue:
            if not entry.result.done():
                entry.result.set_exception(Unavailable("the reward model was unloaded"))
        self._queue.clear()

    async def _run(self) -> None:
        while True:
            await self._wait_for_work()
            batch = self._take()
            if batch:
                await self._score(batch)

    async def _wait_for_work(self) -> None:
        """Returns when a batch is full or its oldest sequence has waited long enough, time in the queue while the model
        was busy included."""
        loop = asyncio.get_running_loop()
        while not self._queue:
            self._arrived.clear()
            await self._arrived.wait()
        due = self._queue[0].arrived_at + self._limits.max_wait_s
        while len(self._queue) < self._limits.max_items and (remaining := due - loop.time()) > 0:
            self._arrived.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), remaining)

    def _take(self) -> list[_Waiting]:
        self._queue = [entry for entry in self._queue if not entry.result.cancelled()]
        if not self._queue:
            return []
        chosen = choose_batch([len(entry.tokens) for entry in self._queue], self._limits)
        batch = [self._queue[index] for index in chosen]
        left = set(range(len(self._queue))).difference(chosen)
        self._queue = [self._queue[index] for index in sorted(left)]
        return batch

    async def _score(self, batch: list[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        _batch_items.observe(len(batch))
        try:
            scores = await self._forward([entry.tokens for entry in batch])
        except (PreceptorError, RuntimeError) as error:
            _fail(batch, error)
            return
        except asyncio.CancelledError:
            _fail(batch, Unavailable("the reward model was unloaded"))
            raise
        self._seconds_per_item += 0.2 * ((loop.time() - begun) / len(batch) - self._seconds_per_item)
        for entry, score in zip(batch, scores, strict=True):
            if not entry.result.done():
                entry.result.set_result(score)

    def _drain_estimate_s(self) -> float:
        return min(max(len(self._queue) * self._seconds_per_item, 0.05), 5.0)


def _fail(batch: list[_Waiting], error: Exception) -> None:
    for entry in batch:
        if not entry.result.done():
            entry.result.set_exception(error)
