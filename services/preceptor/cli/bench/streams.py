"""A load of streams, measured the same way whoever writes them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from preceptor.cli.bench.models import random_prompt


@dataclass(frozen=True, slots=True)
class StreamLoad:
    """What one round asks for.

    Attributes:
        streams: how many.
        tokens: that each writes, unless it draws EOS before.
        prompt_tokens: that each reads.
        interval: tokens per delta, where the writer can be told.
        at_once: whether they run at the same time or one after another.
        seed: of the prompts; other prompts each round, so that no prefix is cached.
    """

    streams: int
    tokens: int
    prompt_tokens: int
    interval: int
    at_once: bool
    seed: int


@dataclass(slots=True)
class Streams:
    """What one round gave: seconds from begin to end, and per stream the seconds to its first token."""

    seconds: float = 0.0
    tokens: int = 0
    first_s: list[float] = field(default_factory=list)
    deltas: list[int] = field(default_factory=list)

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds


Write = Callable[[list[int], StreamLoad], AsyncIterator[int]]
"""Streams one completion of a prompt: yields how many tokens each delta carries."""


async def measure(write: Write, load: StreamLoad) -> Streams:
    """Runs a load."""
    rng = random.Random(load.seed)
    prompts = [random_prompt(load.prompt_tokens, rng) for _ in range(load.streams)]
    taken = Streams()
    begun = time.perf_counter()
    if load.at_once:
        await asyncio.gather(*(_follow(write(prompt, load), taken) for prompt in prompts))
    else:
        for prompt in prompts:
            await _follow(write(prompt, load), taken)
    taken.seconds = time.perf_counter() - begun
    return taken


async def _follow(deltas: AsyncIterator[int], taken: Streams) -> None:
    begun, first = time.perf_counter(), True
    async for count in deltas:
        if count and first:
            taken.first_s.append(time.perf_counter() - begun)
            first = False
        if count:
            taken.deltas.append(count)
        taken.tokens += count
