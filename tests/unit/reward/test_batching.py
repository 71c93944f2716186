import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preceptor.common.errors import InternalError, Overloaded, Unavailable
from preceptor.reward.batching import Batcher, BatchLimits, choose_batch

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=40)


@given(LENGTHS, st.integers(1, 16), st.integers(1, 400))
def test_a_batch_has_the_oldest_and_respects_both_limits(lengths: list[int], max_items: int, max_tokens: int) -> None:
    chosen = choose_batch(lengths, BatchLimits(max_items=max_items, max_tokens=max_tokens))
    assert chosen[0] == 0
    assert len(set(chosen)) == len(chosen) <= max_items
    padded = max(lengths[i] for i in chosen) * len(chosen)
    assert padded <= max_tokens or chosen == [0]


def test_a_batch_takes_the_lengths_nearest_to_the_oldest() -> None:
    assert choose_batch([10, 50, 11, 48, 9], BatchLimits(max_items=3)) == [0, 2, 4]


def test_a_sequence_too_wide_is_left_for_a_later_batch() -> None:
    assert choose_batch([10, 100, 10], BatchLimits(max_tokens=60)) == [0, 2]


def test_texts_of_other_lengths_wait_once_a_batch_is_large_enough() -> None:
    lengths = [50, 100, 52, 96, 48, 98]
    apart = BatchLimits(enough_tokens=100, max_padding=0.1)
    assert choose_batch(lengths, apart) == [0, 2, 4]
    assert sorted(choose_batch(lengths, BatchLimits(enough_tokens=1000, max_padding=0.1))) == list(range(6))
    assert sorted(choose_batch(lengths, BatchLimits(enough_tokens=0, max_padding=1.0))) == list(range(6))


@given(LENGTHS, st.floats(0, 0.9), st.integers(0, 200))
def test_padding_past_the_share_is_only_taken_into_small_batches(lengths: list[int], share: float, enough: int) -> None:
    chosen = choose_batch(lengths, BatchLimits(max_padding=share, enough_tokens=enough))
    padded = max(lengths[i] for i in chosen) * len(chosen)
    assert padded <= enough or padded - sum(lengths[i] for i in chosen) <= share * padded + 1e-9


class Recorder:
    """A forward whose score of a sequence is its sum; it can be held back."""

    def __init__(self) -> None:
        self.batches: list[list[Sequence[int]]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, sequences: list[Sequence[int]]) -> list[float]:
        self.batches.append(sequences)
        await self.gate.wait()
        return [float(sum(tokens)) for tokens in sequences]


@contextlib.asynccontextmanager
async def running(forward: Callable[..., object], **limits: float) -> AsyncIterator[Batcher]:
    batcher = Batcher(forward, BatchLimits(**limits))  # type: ignore[arg-type]
    batcher.start()
    try:
        yield batcher
    finally:
        await batcher.close()


async def test_every_sequence_gets_its_own_score() -> None:
    forward = Recorder()
    async with running(forward, max_items=4, max_wait_s=0.001) as batcher:
        futures = batcher.submit([[i, 1] for i in range(10)])
        assert await asyncio.gather(*futures) == [float(i + 1) for i in range(10)]
    assert [len(batch) for batch in forward.batches] == [4, 4, 2]


async def test_requests_that_arrive_within_the_wait_share_a_batch() -> None:
    forward = Recorder()
    async with running(forward, max_items=64, max_wait_s=0.2) as batcher:
        first = batcher.submit([[1]])
        await asyncio.sleep(0)
        second = batcher.submit([[2]])
        await asyncio.gather(*first, *second)
    assert len(forward.batches) == 1


async def test_a_full_batch_does_not_wait() -> None:
    async with running(Recorder(), max_items=2, max_wait_s=60.0) as batcher:
        assert await asyncio.wait_for(asyncio.gather(*batcher.submit([[1], [2]])), 5) == [1.0, 2.0]


async def test_a_full_queue_refuses_the_whole_request_with_a_hint() -> None:
    forward = Recorder()
    forward.gate.clear()
    async with running(forward, max_items=1, max_wait_s=0, max_queue_items=2) as batcher:
        batcher.submit([[1], [2]])
        with pytest.raises(Overloaded) as refused:
            batcher.submit([[3]])
        assert refused.value.retry_after_s is not None
        assert 0 < refused.value.retry_after_s <= 5
        assert batcher.depth <= 2


async def test_a_cancelled_sequence_is_never_scored() -> None:
    forward = Recorder()
    forward.gate.clear()
    async with running(forward, max_items=1, max_wait_s=0) as batcher:
        first, second, third = batcher.submit([[1], [2], [3]])
        await asyncio.sleep(0.01)
        second.cancel()
        forward.gate.set()
        assert await asyncio.gather(first, third) == [1.0, 3.0]
    assert [2] not in [tokens for batch in forward.batches for tokens in batch]


async def test_a_failing_forward_fails_its_batch_and_the_next_one_runs() -> None:
    calls = 0

    async def forward(sequences: list[Sequence[int]]) -> list[float]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise InternalError("out of memory")
        return [0.5] * len(sequences)

    async with running(forward, max_wait_s=0) as batcher:
        (broken,) = batcher.submit([[1]])
        with pytest.raises(InternalError):
            await broken
        (fine,) = batcher.submit([[1]])
        assert await fine == 0.5


async def test_closing_fails_what_still_waits() -> None:
    forward = Recorder()
    forward.gate.clear()
    async with running(forward, max_items=1, max_wait_s=0) as batcher:
        futures = batcher.submit([[1], [2]])
        await asyncio.sleep(0.01)
    for future in futures:
        assert isinstance(future.exception(), Unavailable)
