import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from preceptor.common.errors import InvalidInput, Overloaded
from preceptor.reward.batching import BatchLimits
from preceptor.reward.model_scorer import ModelScorer, Normalisation
from preceptor.reward.types import ScoreItem
from tests.support.waiting import wait_until_aio


class Backend:
    """One token per character; the raw score is their number."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    def encode(self, item: ScoreItem) -> list[int]:
        if "long" in item.completion:
            raise InvalidInput("too long", reason="PROMPT_TOO_LONG")
        return [ord(character) for character in item.completion]

    def forward(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        self.batches.append(len(sequences))
        assert self.gate.wait(10)
        return [float(len(tokens)) for tokens in sequences]


@pytest.fixture
def backend() -> Backend:
    return Backend()


@pytest.fixture
async def scorer(backend: Backend) -> AsyncIterator[ModelScorer]:
    with ThreadPoolExecutor(1) as encoding, ThreadPoolExecutor(1) as compute:
        limits = BatchLimits(max_items=64, max_wait_s=0.001, max_queue_items=70)
        scorer = ModelScorer(backend, Normalisation(2.0, 0.5), limits, encoding=encoding, compute=compute)
        yield scorer
        backend.gate.set()
        await scorer.close()


def items(*texts: str) -> list[ScoreItem]:
    return [ScoreItem("p", text) for text in texts]


async def test_scores_are_normalised_and_carry_the_raw_one(scorer: ModelScorer) -> None:
    results = await scorer.score(items("a", "abc"))
    assert [result.score for result in results] == [-2.0, 2.0]
    assert [dict(result.components) for result in results] == [{"raw": 1.0}, {"raw": 3.0}]
    assert scorer.busy_seconds > 0


async def test_an_item_that_cannot_be_encoded_leaves_the_others_in_place(scorer: ModelScorer) -> None:
    first, second, third = await scorer.score(items("a", "long", "abc"))
    assert (first.score, third.score) == (-2.0, 2.0)
    assert second.failure is not None
    assert (second.failure.reason, second.failure.message) == ("PROMPT_TOO_LONG", "too long")


async def test_sixty_four_items_go_through_one_forward(scorer: ModelScorer, backend: Backend) -> None:
    await scorer.score(items(*["abc"] * 64))
    assert backend.batches == [64]


async def test_the_event_loop_stays_free_during_a_forward(scorer: ModelScorer, backend: Backend) -> None:
    backend.gate.clear()
    pending = asyncio.create_task(scorer.score(items("a")))
    await wait_until_aio(lambda: backend.batches, 10, "the forward to begin", interval_s=0.001)
    assert not pending.done()
    backend.gate.set()
    assert len(await pending) == 1


async def test_a_caller_that_leaves_takes_its_items_out_of_the_queue(scorer: ModelScorer, backend: Backend) -> None:
    backend.gate.clear()
    running = asyncio.create_task(scorer.score(items("a")))
    await wait_until_aio(lambda: backend.batches, 10, "the forward to begin", interval_s=0.001)
    waiting = asyncio.create_task(scorer.score(items(*["b"] * 60)))
    await asyncio.sleep(0.05)
    with pytest.raises(Overloaded):
        await scorer.score(items(*["c"] * 20))
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    backend.gate.set()
    await running
    assert len(await scorer.score(items("d"))) == 1
    assert backend.batches == [1, 1]
