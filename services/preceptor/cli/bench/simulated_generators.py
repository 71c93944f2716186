"""Generators without a model: the real service, its admission, versions and protocol, over an engine that only waits.

`python -m preceptor.cli.bench.simulated_generators`, with SimulatedGenerators in PRECEPTOR_SIMULATED_GENERATION_*:
as many generators as asked in one process, each on a port and with a discovery record of its own.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import AsyncExitStack

import grpc.aio
import uvloop
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from preceptor.api.generation.v1.generation_service_pb2_grpc import add_GenerationServiceServicer_to_server
from preceptor.api.learner.v1.weights_pb2 import WeightManifest
from preceptor.cli.bench.processes import Answering
from preceptor.common.completions import Sampling, VersionSpan
from preceptor.common.config import ServiceSettings, load_settings
from preceptor.common.discovery import AsyncRegistry, Record
from preceptor.common.interceptors import EdgeInterceptor
from preceptor.common.tasks import cancel_and_wait
from preceptor.common.telemetry import BusyClock, setup_logging
from preceptor.generation.adapters.announcer import Announcer
from preceptor.generation.adapters.learner_watch import LearnerWatch
from preceptor.generation.admission import Admission
from preceptor.generation.engine import OnPiece, Piece
from preceptor.generation.server import GenerationServicer
from preceptor.generation.service import Generation, Identity
from preceptor.generation.types import Limits, State, Turn
from preceptor.generation.versions import VersionClock

_VOCABULARY = 8192
_ANNOUNCE_INTERVAL_S = 2.0  # as the real one


class SimulatedGenerators(ServiceSettings):
    """What the process is told, beside where Redis is."""

    model_config = SettingsConfigDict(env_prefix="PRECEPTOR_SIMULATED_GENERATION_")

    run_id: str
    generators: int = Field(ge=1)
    max_num_seqs: int = Field(8, ge=1, description="completions that one generator writes at the same time")
    token_s: float = Field(0.02, gt=0, description="seconds per token and sequence, whatever runs beside it")
    jitter: float = Field(0.3, ge=0, lt=1, description="a completion takes up to this share more or less")


class Letters:
    """A codec that takes each character for a token."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) % _VOCABULARY for letter in text]

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(chr(ord("a") + token % 26) for token in token_ids)

    def render(self, turns: Sequence[Turn]) -> list[int]:
        return self.encode("".join(turn.content for turn in turns))


class WaitingEngine:
    """Sampler whose completions take as long as the latency model says and hold random tokens.

    A completion is labelled with the version in force at its first token: new weights are taken between completions.
    """

    def __init__(self, settings: SimulatedGenerators, clock: VersionClock, seed: int) -> None:
        self.codec = Letters()
        self.limits = Limits(max_model_len=4096, vocab_size=_VOCABULARY, seeds=True)
        self._settings = settings
        self._clock = clock
        self._places = asyncio.Semaphore(settings.max_num_seqs)
        self._random = random.Random(seed)

    async def sample(
        self,
        token_ids: Sequence[int],
        sampling: Sampling,
        *,
        cache_salt: str,
        on_piece: OnPiece | None = None,
        piece_tokens: int = 1,
        decode_pieces: bool = True,
    ) -> Piece:
        """See Sampler."""
        del token_ids, cache_salt, piece_tokens, decode_pieces
        count, jitter = sampling.max_tokens, self._settings.jitter
        async with self._places:
            version = self._clock.version
            await asyncio.sleep(count * self._settings.token_s * self._random.uniform(1 - jitter, 1 + jitter))
        written = [self._random.randrange(_VOCABULARY) for _ in range(count)]
        piece = Piece(written, None, [-1.0] * count, "length", (VersionSpan(version, 0, count),))
        if on_piece is not None:
            on_piece(piece)
        return piece

    async def release_all(self) -> int:
        """See Sampler. Nothing is let go of: completions are short."""
        return 0


class SimulatedGenerator:
    """One of them: server, record, and a watch on the run's learner."""

    def __init__(self, settings: SimulatedGenerators, index: int) -> None:
        self._clock = VersionClock()
        self._id = f"simulated-{index}"
        admission = Admission(4 * settings.max_num_seqs, BusyClock("generation"))
        self._generation = Generation(
            Identity(self._id, settings.run_id),
            WaitingEngine(settings, self._clock, index),
            self._clock,
            admission,
            busy=BusyClock("generation"),
            max_num_seqs=settings.max_num_seqs,
            max_wait_s=600.0,
            updates=lambda: (),
        )
        self._registry = AsyncRegistry(settings.redis_url)
        self._announcer = Announcer(self._registry, self._id, _ANNOUNCE_INTERVAL_S, self._record)
        self._watch = LearnerWatch(self._registry, settings.run_id, self._offer)
        self._address = ""

    async def start(self, stack: AsyncExitStack) -> None:
        """Serves until the stack is closed."""
        server = grpc.aio.server(interceptors=[EdgeInterceptor(1024)])
        servicer = GenerationServicer(self._generation, self._update, self._generation.drain)
        add_GenerationServiceServicer_to_server(servicer, server)
        self._address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        stack.push_async_callback(server.stop, None)
        stack.push_async_callback(self._registry.close)
        tasks = [asyncio.create_task(part.run()) for part in (self._announcer, self._watch)]
        stack.push_async_callback(cancel_and_wait, *tasks)

    def _offer(self, manifest: WeightManifest) -> None:
        if manifest.policy_version > self._clock.version:
            self._clock.advance(manifest.policy_version)
            self._generation.enter(State.SERVING, "serving")
            self._announcer.refresh()

    async def _update(self, manifest: WeightManifest | None) -> int:
        if manifest is not None:
            self._offer(manifest)
        return self._clock.version

    def _record(self) -> Record:
        status = self._generation.status()
        return {
            "address": self._address,
            "run_id": status.run_id,
            "policy_version": status.policy_version,
            "load": status.running + status.waiting,
            "max_requests": status.max_requests,
        }


async def serve(settings: SimulatedGenerators, answering: Answering) -> None:
    """Serves until standard input ends."""
    async with AsyncExitStack() as stack:
        for index in range(settings.generators):
            await SimulatedGenerator(settings, index).start(stack)
        await asyncio.to_thread(lambda: [answering.reply({}) for _ in answering.requests()])


def main() -> None:
    answering = Answering()
    settings = load_settings(SimulatedGenerators)
    setup_logging(settings.instance, settings.log_format, settings.log_level)
    uvloop.run(serve(settings, answering))


if __name__ == "__main__":
    main()
