"""`preceptor bench generation`: tokens through gRPC against bare AsyncLLM."""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import click
import uvloop

from preceptor.api.common.v1 import text_pb2
from preceptor.api.generation.v1 import generation_service_pb2 as pb
from preceptor.cli.bench.models import CONTEXT_TOKENS, build_policy
from preceptor.cli.bench.options import threads_option
from preceptor.cli.bench.processes import Peer, ServiceProcess, service_env
from preceptor.cli.bench.report import Figure, Report, at_least, at_most, environment, finish, progress, step
from preceptor.cli.bench.rounds import alternate, differences, ratios, spread
from preceptor.cli.bench.streams import StreamLoad, Streams, Write, measure
from preceptor.cli.output import json_option
from preceptor.cli.stack.cores import available_cores
from preceptor.clients.generation import AsyncGenerationClient

_START_TIMEOUT_S = 300.0
_ROUND_TIMEOUT_S = 600.0
_RATE_AT_LEAST = 0.95
_FIRST_TOKEN_MS_AT_MOST = 5.0
_IDLE_TOKENS = 4
Side = Callable[[StreamLoad], Streams]


@click.command()
@click.option("--streams", type=click.IntRange(1, 1024), default=64, show_default=True, help="At the same time.")
@click.option("--tokens", type=click.IntRange(2, 900), default=129, show_default=True, help="Per stream.")
@click.option("--prompt-tokens", type=click.IntRange(1, 100), default=32, show_default=True)
@click.option("--delta-tokens", type=click.IntRange(1, 64), default=16, show_default=True, help="Of both sides.")
@click.option("--idle-streams", type=click.IntRange(1), default=20, show_default=True, help="One after another.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--hidden", type=click.IntRange(64), default=512, show_default=True, help="The model's width.")
@click.option("--layers", type=click.IntRange(1), default=6, show_default=True)
@threads_option
@json_option
def generation(
    streams: int,
    tokens: int,
    prompt_tokens: int,
    delta_tokens: int,
    idle_streams: int,
    rounds: int,
    hidden: int,
    layers: int,
    threads: int | None,
    as_json: bool,
) -> int:
    """Tokens per second of 64 streams, and the time that gRPC adds to a first token, on a model of 25 million
    parameters."""
    machine = environment()
    busy = StreamLoad(streams, tokens, prompt_tokens, delta_tokens, at_once=True, seed=0)
    idle = StreamLoad(idle_streams, _IDLE_TOKENS, prompt_tokens, 1, at_once=False, seed=0)
    with tempfile.TemporaryDirectory(prefix="preceptor-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        parameters = build_policy(folder / "model", hidden=hidden, layers=layers)
        settings = _settings(folder / "model", streams, threads or len(available_cores()))
        with progress("starting two engines", 2 * (rounds + 1)) as bar:
            sides = _start(folder, settings, stack)
            taken = alternate(_rounds(sides.all, busy), rounds, on_round=lambda: step(bar, "busy"))
            first = alternate(_rounds(sides.streaming, idle), rounds, on_round=lambda: step(bar, "idle"))
    said = {name: value for name, value in settings.items() if name != "model_dir"}
    said |= {"parameters": parameters, "streams": streams, "tokens": tokens, "delta_tokens": delta_tokens}
    return finish(Report("generation", figures_of(taken, first), said, machine), as_json=as_json)


def figures_of(taken: Mapping[str, Sequence[Streams]], first: Mapping[str, Sequence[Streams]]) -> list[Figure]:
    """Of the busy rounds and the idle ones, by side: "stream", "unary" (busy alone) and "bare"."""
    rates = {side: [streams.tokens_per_s for streams in rounds] for side, rounds in taken.items()}
    stream, unary = (ratios(rates[side], rates["bare"]) for side in ("stream", "unary"))
    deltas = [count for streams in taken["stream"] for count in streams.deltas]
    idle = {side: [statistics.median(streams.first_s) * 1e3 for streams in rounds] for side, rounds in first.items()}
    loaded = {side: [statistics.median(streams.first_s) * 1e3 for streams in rounds] for side, rounds in taken.items()}
    added, added_loaded = (differences(side["stream"], side["bare"]) for side in (idle, loaded))
    return [
        at_least("stream.rate_over_bare", stream.median, "ratio", _RATE_AT_LEAST),
        *stream.figures("stream.rate_over_bare", "ratio"),
        at_least("stream.delta_tokens.p50", statistics.median(deltas), "tokens", 16),
        Figure("unary.rate_over_bare", unary.median, "ratio"),
        *unary.figures("unary.rate_over_bare", "ratio"),
        *(Figure(f"{side}.rate", spread(rates[side]).median, "tokens/s") for side in rates),
        at_most("first_token.added", added.median, "ms", _FIRST_TOKEN_MS_AT_MOST),
        *added.figures("first_token.added", "ms"),
        *(Figure(f"first_token.{side}", spread(idle[side]).median, "ms") for side in idle),
        Figure("first_token.added_under_load", added_loaded.median, "ms"),
    ]


@dataclass(frozen=True, slots=True)
class Sides:
    """A real server, and bare AsyncLLM. Only one of them runs at a time."""

    server: ServiceProcess
    bare: Peer

    @property
    def streaming(self) -> dict[str, Side]:
        """The sides that say when the first token comes."""
        return {"stream": self.streamed, "bare": self.by_engine}

    @property
    def all(self) -> dict[str, Side]:
        return {"stream": self.streamed, "unary": self.whole, "bare": self.by_engine}

    def streamed(self, load: StreamLoad) -> Streams:
        """By GenerateStream, with deltas as bare AsyncLLM makes them."""
        return self._by_server(_stream, load)

    def whole(self, load: StreamLoad) -> Streams:
        """By Generate, which answers once with all of a completion: as rollouts are collected."""
        return self._by_server(_whole, load)

    def by_engine(self, load: StreamLoad) -> Streams:
        with self.server.stopped():
            fields = {name: getattr(load, name) for name in load.__slots__}
            return Streams(**self.bare.ask(fields, _ROUND_TIMEOUT_S))

    def _by_server(self, write: Callable[[AsyncGenerationClient], Write], load: StreamLoad) -> Streams:
        async def run() -> Streams:
            async with AsyncGenerationClient(self.server.address) as client:
                await client.status(pb.GetStatusRequest())  # connects
                return await measure(write(client), load)

        with self.bare.stopped():
            return uvloop.run(run())


def _stream(client: AsyncGenerationClient) -> Write:
    async def write(prompt: list[int], load: StreamLoad) -> AsyncIterator[int]:
        request = pb.GenerateStreamRequest(request=_request(prompt, load), delta_tokens=load.interval)
        async for answer in client.generate_stream(request, timeout_s=_ROUND_TIMEOUT_S):
            yield len(answer.delta.token_ids)

    return write


def _whole(client: AsyncGenerationClient) -> Write:
    async def write(prompt: list[int], load: StreamLoad) -> AsyncIterator[int]:
        answer = await client.generate(_request(prompt, load), timeout_s=_ROUND_TIMEOUT_S)
        yield len(answer.completions[0].token_ids)

    return write


def _request(prompt: list[int], load: StreamLoad) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        prompt=text_pb2.Prompt(token_ids=text_pb2.TokenIds(ids=prompt)),
        sampling=text_pb2.SamplingParameters(max_tokens=load.tokens),
        mode=pb.SAMPLING_MODE_RL,
    )


def _settings(model: Path, streams: int, threads: int) -> dict[str, object]:
    return {
        "model_dir": model,
        "threads": threads,
        "max_num_seqs": max(streams, 8),
        "max_model_len": CONTEXT_TOKENS,
        "kv_cache_gib": 1.0,
    }


def _start(folder: Path, settings: Mapping[str, object], stack: ExitStack) -> Sides:
    server = stack.enter_context(ServiceProcess("generation", folder, settings))
    env = service_env("generation", {**settings, "artifacts_url": folder.as_uri()})
    bare = stack.enter_context(Peer("preceptor.cli.bench.bare_engine", env, folder / "bare.log"))
    return Sides(server.wait_ready(_START_TIMEOUT_S), bare.wait_ready(_START_TIMEOUT_S))


def _rounds(sides: Mapping[str, Side], load: StreamLoad) -> dict[str, Callable[[], Streams]]:
    """Each side with other prompts every round, the same ones for all sides of a round."""

    def seeded(side: Side) -> Callable[[], Streams]:
        seeds = itertools.count()
        return lambda: side(replace(load, seed=next(seeds)))

    return {name: seeded(side) for name, side in sides.items()}
