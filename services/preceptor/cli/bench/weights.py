"""`preceptor bench weights`: publication to all receivers, against plain memcpy and TCP; sizes of deltas."""

from __future__ import annotations

import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from google.protobuf import json_format

from preceptor.cli.bench import weights_chain
from preceptor.cli.bench.processes import Peer
from preceptor.cli.bench.report import Figure, Report, at_least, at_most, environment, finish, progress, step
from preceptor.cli.bench.weights_delta import DeltaFigures, measure_deltas, write_model
from preceptor.cli.bench.weights_stall import Stall, measure_stall
from preceptor.cli.output import json_option
from preceptor.cli.stack.cores import available_cores
from preceptor.common.artifacts import ArtifactStore
from preceptor.common.weights_manifest import build_manifest
from preceptor.learner.adapters.policy_store import PolicyStore
from preceptor.learner.adapters.transports import GrpcTransport, ShmTransport, Transport
from preceptor.learner.adapters.weight_senders import WeightSenders
from preceptor.learner.background import BackgroundServer, Weights
from preceptor.learner.config import LearnerSettings
from preceptor.learner.monitor import RunControl, RunMonitor
from preceptor.learner.server import WeightFeed

RUN = "bench-weights"
_SHM = Path("/dev/shm")
_TIMEOUT_S = 600.0
_LAYER_BYTES = 32 * 1024 * 1024
_SHM_AT_LEAST, _GRPC_AT_LEAST = 0.5, 0.4
_SHARES = {1: 0.03, 16: 0.08}
_STALL_MS_AT_MOST = 150.0
_UPDATES = 8
_GIGABIT_MB_S = 125.0
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


class Size(click.ParamType):
    """Bytes: "1GiB", "64MiB", "1000000"."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)(?:iB)?", value)
        size = int(float(match[1]) * _UNITS[match[2]]) if match else 0
        if size < _LAYER_BYTES:
            self.fail(f"{value!r} is no size of at least 32 MiB: give e.g. 1GiB or 256MiB", param, ctx)
        return size


@click.command()
@click.option("--size", type=Size(), default="1GiB", show_default=True, help="Of the model.")
@click.option("--receivers", type=click.IntRange(1, 64), default=4, show_default=True, help="Processes that verify it.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--delta-size", type=Size(), default="128MiB", show_default=True, help="Of the model that Adam moves.")
@click.option("--engine/--no-engine", default=True, help="Whether an engine's stall is measured.")
@json_option
def weights(size: int, receivers: int, rounds: int, delta_size: int, engine: bool, as_json: bool) -> int:
    """From an exported model to all receivers having verified every tensor, over shm and over grpc, as a ratio to the
    same bytes by plain memcpy and by TCP; what a delta of bf16 weights costs; how long a real engine stands still.

    The clock starts with the exported files in the page cache: checksums, the segment, fetching and verifying count.
    The disk that makes a version durable does not: it is the figure store_publish_seconds. The chain by memcpy verifies
    nothing. The chain by TCP is the same work with plain sockets in place of gRPC: digest, one connection per receiver,
    into memory that is there already, digest compared; grpc_over_bare_tcp is against sockets that verify nothing. The
    first round, in which receivers get their memory, warms up and does not count.

    The stall is taken on vLLM with 25 million float32 parameters while 16 requests run, from before the pause until
    after the resumption, less a memcpy of the same bytes."""
    machine = environment()
    settings = {"size_bytes": size, "receivers": receivers, "rounds": rounds, "delta_size_bytes": delta_size}
    with ExitStack() as stack, progress("starting receivers", rounds + 2) as bar:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="preceptor-bench-")))
        parts = stack.enter_context(ExitStack())
        bench = parts.enter_context(_bench(folder, size, receivers))
        taken: dict[str, list[float]] = {}
        for _ in bench.round():
            pass
        for number in range(rounds):
            step(bar, f"round {number + 1} of {rounds}")
            for name, seconds in bench.round():
                taken.setdefault(name, []).append(seconds)
        parts.close()
        step(bar, "deltas")
        deltas = list(measure_deltas(folder / "deltas", delta_size, (1, 2, 4, 8, 16)))
        step(bar, "stall of an engine")
        stall = measure_stall(folder / "stall", _UPDATES, len(available_cores())) if engine else None
    figures = [*_transport_figures(taken, size), *_delta_figures(deltas), *(_stall_figures(stall) if stall else ())]
    return finish(Report("weights", figures, settings, machine), as_json=as_json)


class _Bench:
    """One publisher and its receivers.

    Args:
        folder: for files.
        export: the model's folder, as a learner exports it.
        peers: the receivers.
        stack: closes what is opened here.
    """

    def __init__(self, folder: Path, export: Path, peers: Sequence[Peer], stack: ExitStack) -> None:
        self._export = export
        self._data = np.memmap(export / "model.safetensors", np.uint8, "r").data
        self._peers = peers
        self._pool = stack.enter_context(ThreadPoolExecutor(len(peers)))
        self._store = ArtifactStore((folder / "artifacts").as_uri())
        self._policies = PolicyStore(self._store, RUN)
        settings = _settings(folder)
        server = BackgroundServer(
            settings, RUN, RunMonitor(RUN, "rl"), RunControl(), Weights(self._policies, WeightFeed())
        )
        server.start()
        stack.callback(server.stop)
        shm = ShmTransport(RUN)
        stack.callback(shm.close)
        grpc = GrpcTransport(server.address, WeightSenders(settings, RUN, settings.senders))
        stack.callback(grpc.close)
        self._transports: dict[str, Transport] = {"shm": shm, "grpc": grpc}
        self._all({"do": "buffer", "size": len(self._data)})

    def round(self) -> Iterator[tuple[str, float]]:
        """Yields the seconds of each way, the plain one right after the one it is held against."""
        version = self._policies.reserve()
        staged = self._copy()
        yield "store", _timed(lambda: self._policies.publish(version, staged, step=version))
        yield "shm", _timed(lambda: self._transport("shm", version))
        yield "memcpy", _timed(self._memcpy)
        yield "grpc", _timed(lambda: self._transport("grpc", version))
        yield "tcp", _timed(self._tcp_verified)
        yield "bare_tcp", _timed(self._tcp)
        self._policies.collect_garbage(keep_newest=1, keep_every=0, pinned=set())

    def _transport(self, name: str, version: int) -> None:
        source = self._transports[name].offer(version, self._export)
        if source is None:
            raise click.ClickException(f"{name} cannot take {len(self._data)} bytes: free some of /dev/shm")
        manifest = build_manifest(RUN, version, self._export, sources=[source])
        self._all({"do": "stage", "manifest": json_format.MessageToDict(manifest), "store": self._store.url})

    def _memcpy(self) -> None:
        with tempfile.TemporaryDirectory(prefix="preceptor-bench-", dir=_SHM) as folder:
            segment = Path(folder) / "segment"
            weights_chain.write_segment(self._data, segment)
            self._all({"do": "memcpy", "segment": str(segment)})

    def _tcp(self) -> None:
        with weights_chain.tcp_sender(self._data) as port:
            self._all({"do": "tcp", "port": port})

    def _tcp_verified(self) -> None:
        digest = weights_chain.digest_of(self._data)
        with weights_chain.tcp_sender(self._data) as port:
            self._all({"do": "tcp_verified", "port": port, "digest": digest})

    def _copy(self) -> Path:
        return Path(shutil.copytree(self._export, self._export.with_name("staged")))

    def _all(self, request: dict[str, Any]) -> None:
        list(self._pool.map(lambda peer: peer.ask(request, _TIMEOUT_S), self._peers))


@contextmanager
def _bench(folder: Path, size: int, receivers: int) -> Iterator[_Bench]:
    with ExitStack() as stack:
        peers = [
            stack.enter_context(Peer("preceptor.cli.bench.weights_receiver", {}, folder / f"receiver-{index}.log"))
            for index in range(receivers)
        ]
        rng = np.random.default_rng(0)
        layer = rng.integers(0, 2**16, _LAYER_BYTES // 2, dtype=np.uint16)
        write_model(folder / "export", [np.roll(layer, index) for index in range(max(1, size // _LAYER_BYTES))])
        for peer in peers:
            peer.wait_ready(_TIMEOUT_S)
        yield _Bench(folder, folder / "export", peers, stack)


def _settings(folder: Path) -> LearnerSettings:
    artifacts = (folder / "artifacts").as_uri()
    return LearnerSettings(
        artifacts_url=artifacts, redis_url="redis://127.0.0.1:1/0", port=0, metrics_port=0, log_level="WARNING"
    )


def _timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _transport_figures(taken: dict[str, list[float]], size: int) -> Iterator[Figure]:
    for name, plain, limit in (("shm", "memcpy", _SHM_AT_LEAST), ("grpc", "tcp", _GRPC_AT_LEAST)):
        ratios = [theirs / ours for ours, theirs in zip(taken[name], taken[plain], strict=True)]
        yield at_least(f"{name}_over_{plain}", statistics.median(ratios), "ratio", limit)
        yield Figure(f"{name}_seconds", statistics.median(taken[name]), "s")
        yield Figure(f"{plain}_seconds", statistics.median(taken[plain]), "s")
    bare = [theirs / ours for ours, theirs in zip(taken["grpc"], taken["bare_tcp"], strict=True)]
    yield Figure("grpc_over_bare_tcp", statistics.median(bare), "ratio")
    yield Figure("bare_tcp_seconds", statistics.median(taken["bare_tcp"]), "s")
    yield Figure("store_publish_seconds", statistics.median(taken["store"]), "s")
    yield Figure("gigabit_seconds", size / 1e6 / _GIGABIT_MB_S, "s")


def _stall_figures(stall: Stall) -> Iterator[Figure]:
    yield at_most("stall_beyond_copy", 1e3 * stall.beyond_copy_s, "ms", _STALL_MS_AT_MOST)
    yield Figure("stall", 1e3 * stall.stall_s, "ms")
    yield Figure("stall_copy", 1e3 * stall.copy_s, "ms")
    yield Figure("stall_apply", 1e3 * stall.apply_s, "ms")
    yield Figure("stall_completions_spanning_updates", stall.spanning, "completions")


def _delta_figures(deltas: Sequence[DeltaFigures]) -> Iterator[Figure]:
    for row in deltas:
        name = f"delta_share_{row.steps}_steps"
        limit = _SHARES.get(row.steps)
        yield (
            Figure(name, row.size_share, "of full")
            if limit is None
            else at_most(name, row.size_share, "of full", limit)
        )
        yield Figure(f"delta_changed_{row.steps}_steps", row.changed_share, "of elements")
    yield at_least("delta_encode", min(row.encode_mb_s for row in deltas), "MB/s", _GIGABIT_MB_S)
    yield at_least("delta_decode", min(row.decode_mb_s for row in deltas), "MB/s", _GIGABIT_MB_S)
