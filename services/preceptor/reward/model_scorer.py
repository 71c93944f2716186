"""A reward model as a scorer: tokenise, batch, forward, normalise."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

from preceptor.common.errors import InvalidInput
from preceptor.reward.batching import Batcher, BatchLimits
from preceptor.reward.types import ItemScore, ScoreItem


class RewardBackend(Protocol):
    """What torch does for the scorer; both calls block and run in worker threads."""

    def encode(self, item: ScoreItem) -> list[int]:
        """Token ids to score. Raises InvalidInput, with reason PROMPT_TOO_LONG where that is the matter."""
        ...

    def forward(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """Raw scores [B], each read at its sequence's last token."""
        ...


@dataclass(frozen=True, slots=True)
class Normalisation:
    """The served score is (raw - mean) / sd; both come from the model's card, measured on reference samples."""

    mean: float = 0.0
    sd: float = 1.0

    def apply(self, raw: float) -> float:
        return (raw - self.mean) / self.sd


class ModelScorer:
    """Scores with one reward model; the event loop stays free while torch and the tokenizer work."""

    def __init__(
        self,
        backend: RewardBackend,
        normalisation: Normalisation,
        limits: BatchLimits,
        *,
        encoding: Executor,
        compute: Executor,
    ) -> None:
        self._backend = backend
        self._normalisation = normalisation
        self._encoding = encoding
        self._compute = compute
        self._batcher = Batcher(self._forward, limits)
        self._batcher.start()
        self._busy_seconds = 0.0

    @property
    def busy_seconds(self) -> float:
        return self._busy_seconds

    async def score(self, items: Sequence[ScoreItem]) -> list[ItemScore]:
        loop = asyncio.get_running_loop()
        encoded = await loop.run_in_executor(self._encoding, self._encode, items)
        futures = iter(self._batcher.submit([ids for ids in encoded if not isinstance(ids, ItemScore)]))
        pending = [one if isinstance(one, ItemScore) else next(futures) for one in encoded]
        await _all_done([one for one in pending if isinstance(one, asyncio.Future)])
        return [one if isinstance(one, ItemScore) else self._normalised(one.result()) for one in pending]

    async def close(self) -> None:
        await self._batcher.close()

    def _encode(self, items: Sequence[ScoreItem]) -> list[list[int] | ItemScore]:
        return [self._encode_one(item) for item in items]

    def _encode_one(self, item: ScoreItem) -> list[int] | ItemScore:
        try:
            return self._backend.encode(item)
        except InvalidInput as error:
            return ItemScore.failed(error.reason or "INVALID_INPUT", str(error))

    async def _forward(self, sequences: list[Sequence[int]]) -> list[float]:
        return await asyncio.get_running_loop().run_in_executor(self._compute, self._timed_forward, sequences)

    def _timed_forward(self, sequences: list[Sequence[int]]) -> list[float]:
        begun = time.monotonic()
        try:
            return self._backend.forward(sequences)
        finally:
            self._busy_seconds += time.monotonic() - begun

    def _normalised(self, raw: float) -> ItemScore:
        return ItemScore(self._normalisation.apply(raw), {"raw": raw})


async def _all_done(futures: list[asyncio.Future[float]]) -> None:
    """Waits for all; a caller that goes away takes its sequences out of the queue."""
    try:
        await asyncio.gather(*futures)
    finally:
        for future in futures:
            future.cancel()
