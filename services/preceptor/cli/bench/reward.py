"""`preceptor bench reward`: scores through gRPC against the same model's own batched forward."""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import uvloop

from preceptor.api.common.v1 import text_pb2
from preceptor.api.reward.v1 import reward_service_pb2 as pb
from preceptor.cli.bench.models import build_reward_model, random_text
from preceptor.cli.bench.options import threads_option
from preceptor.cli.bench.processes import Peer, ServiceProcess, service_env
from preceptor.cli.bench.report import Figure, Report, at_least, at_most, environment, finish, progress, step
from preceptor.cli.bench.rounds import alternate, differences, ratios, spread
from preceptor.cli.output import json_option
from preceptor.cli.stack.cores import available_cores
from preceptor.clients.reward import AsyncRewardClient
from preceptor.common.errors import InternalError

_START_TIMEOUT_S = 180.0
_CALL_TIMEOUT_S = 300.0
_RATE_AT_LEAST = 0.9
_ADDED_MS_AT_MOST = 10.0


@dataclass(frozen=True, slots=True)
class Sides:
    """The server, and the peer that calls the model itself. Only one of them runs at a time."""

    server: ServiceProcess
    direct: Peer


@dataclass(frozen=True, slots=True)
class ScoreLoad:
    """How much of what."""

    callers: int
    items: int  # per round
    idle_calls: int  # per round
    tokens: int
    rounds: int


@click.command()
@click.option("--callers", type=click.IntRange(1, 1024), default=64, show_default=True, help="Calls at the same time.")
@click.option("--items", type=click.IntRange(1), default=512, show_default=True, help="Scores per round, one a call.")
@click.option("--idle-calls", type=click.IntRange(1), default=30, show_default=True, help="One after another.")
@click.option("--tokens", type=click.IntRange(2, 1000), default=96, show_default=True, help="Of the longest item.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--hidden", type=click.IntRange(64), default=512, show_default=True, help="The model's width.")
@click.option("--layers", type=click.IntRange(1), default=6, show_default=True)
@threads_option
@json_option
def reward(
    callers: int,
    items: int,
    idle_calls: int,
    tokens: int,
    rounds: int,
    hidden: int,
    layers: int,
    threads: int | None,
    as_json: bool,
) -> int:
    """Scores per second at 64 callers, and what a call adds to the model's own time when nothing else runs."""
    machine = environment()
    load = ScoreLoad(callers, items, idle_calls, tokens, rounds)
    with tempfile.TemporaryDirectory(prefix="preceptor-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        parameters = build_reward_model(folder / "model", hidden=hidden, layers=layers)
        with progress("starting", 2 * (rounds + 1)) as bar:
            sides = _start(folder, stack, threads or len(available_cores()))
            taken = alternate(_busy(sides, load), rounds, on_round=lambda: step(bar, "busy"))
            idle = alternate(_idle(sides, load), rounds, on_round=lambda: step(bar, "idle"))
    settings = {"parameters": parameters, "callers": callers, "items": items, "tokens": tokens, "rounds": rounds}
    return finish(Report("reward", figures_of(taken, idle), settings, machine), as_json=as_json)


def figures_of(taken: dict[str, list[float]], idle: dict[str, list[float]]) -> list[Figure]:
    """From scores per second, and from median latencies in seconds, by side and round."""
    rate = ratios(taken["server"], taken["direct"])
    added = differences(idle["server"], idle["direct"])
    return [
        at_least("score.rate_over_direct", rate.median, "ratio", _RATE_AT_LEAST),
        *rate.figures("score.rate_over_direct", "ratio"),
        Figure("score.rate", spread(taken["server"]).median, "1/s"),
        Figure("direct.rate", spread(taken["direct"]).median, "1/s"),
        at_most("idle.p50_added", added.median * 1e3, "ms", _ADDED_MS_AT_MOST),
        Figure("idle.p50_added.low", added.low * 1e3, "ms"),
        Figure("idle.p50_added.high", added.high * 1e3, "ms"),
        Figure("idle.p50", spread(idle["server"]).median * 1e3, "ms"),
        Figure("direct.p50", spread(idle["direct"]).median * 1e3, "ms"),
    ]


def _start(folder: Path, stack: ExitStack, threads: int) -> Sides:
    settings = {"models": f"bench={folder / 'model'}", "threads": threads}
    server = stack.enter_context(ServiceProcess("reward", folder, settings))
    env = service_env("reward", {**settings, "artifacts_url": folder.as_uri()})
    direct = stack.enter_context(Peer("preceptor.cli.bench.direct_reward", env, folder / "direct.log"))
    return Sides(server.wait_ready(_START_TIMEOUT_S), direct.wait_ready(_START_TIMEOUT_S))


def _busy(sides: Sides, load: ScoreLoad) -> dict[str, Any]:
    """Scores per second, the same texts on both sides of a round."""
    seeds = {side: itertools.count() for side in ("server", "direct")}

    def server() -> float:
        texts = _texts(load.items, load.tokens, next(seeds["server"]))
        with sides.direct.stopped():
            return len(texts) / uvloop.run(score_all(sides.server.address, texts, load.callers))

    def direct() -> float:
        texts = _texts(load.items, load.tokens, next(seeds["direct"]))
        with sides.server.stopped():
            answer = sides.direct.ask({"texts": texts, "single": False}, _CALL_TIMEOUT_S)
        return float(answer["scores"] / answer["seconds"])

    return {"server": server, "direct": direct}


def _idle(sides: Sides, load: ScoreLoad) -> dict[str, Any]:
    """Median seconds of one call at a time."""
    seeds = {side: itertools.count() for side in ("server", "direct")}

    def server() -> float:
        texts = _texts(load.idle_calls, load.tokens, next(seeds["server"]))
        with sides.direct.stopped():
            return statistics.median(uvloop.run(score_one_by_one(sides.server.address, texts)))

    def direct() -> float:
        texts = _texts(load.idle_calls, load.tokens, next(seeds["direct"]))
        with sides.server.stopped():
            answer = sides.direct.ask({"texts": texts, "single": True}, _CALL_TIMEOUT_S)
        return float(statistics.median(answer["latencies"]))

    return {"server": server, "direct": direct}


async def score_all(address: str, texts: Sequence[str], callers: int) -> float:
    """Seconds until all are scored, by as many callers with one item per call."""
    left = iter(texts)

    async def caller() -> None:
        for text in left:  # shared: each takes the next one
            await _score(client, text)

    async with AsyncRewardClient(address) as client:
        await _score(client, texts[0])  # connects
        begun = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(callers)))
        return time.perf_counter() - begun


async def score_one_by_one(address: str, texts: Sequence[str]) -> list[float]:
    """Seconds of each call."""
    latencies = []
    async with AsyncRewardClient(address) as client:
        await _score(client, texts[0])  # connects
        for text in texts:
            begun = time.perf_counter()
            await _score(client, text)
            latencies.append(time.perf_counter() - begun)
    return latencies


async def _score(client: AsyncRewardClient, text: str) -> None:
    first, space, rest = text.partition(" ")
    item = pb.ScoreItem(prompt=text_pb2.Prompt(text=first + space), completion=rest)
    answer = await client.score(pb.ScoreRequest(items=[item]), timeout_s=_CALL_TIMEOUT_S)
    if answer.results[0].HasField("error"):
        raise InternalError(f"an item was not scored: {answer.results[0].error.message}")


def _texts(count: int, tokens: int, seed: int) -> list[str]:
    """From half to all of `tokens` each."""
    rng = random.Random(seed)
    return [random_text(rng.randint(max(2, tokens // 2), tokens), rng) for _ in range(count)]
