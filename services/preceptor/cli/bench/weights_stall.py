"""How long a real engine stands still while a version comes into force, beyond copying its bytes."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree

import numpy as np

from preceptor.api.generation.v1 import generation_service_pb2 as pb
from preceptor.api.learner.v1.weights_pb2 import WeightManifest
from preceptor.cli.bench.models import build_policy
from preceptor.cli.bench.processes import ServiceProcess
from preceptor.clients.generation import GenerationClient
from preceptor.common.artifacts import ArtifactStore
from preceptor.common.errors import FailedPrecondition
from preceptor.common.waiting import wait_until
from preceptor.learner.adapters.policy_store import PolicyStore

_RUN = "bench-stall"
_HIDDEN, _LAYERS = 512, 6  # 25 million parameters
_STREAMS, _TOKENS, _PROMPT = 16, 400, 32
_START_TIMEOUT_S = 300.0
_CALL_TIMEOUT_S = 300.0
_COPIES = 5


@dataclass(frozen=True, slots=True)
class Stall:
    """Medians, in seconds. `stall_s`: from before the pause until after the resumption; `copy_s`: a memcpy of the same
    bytes by one thread, from the page cache into memory that was touched before."""

    parameters: int
    stall_s: float
    copy_s: float
    apply_s: float
    spanning: int

    @property
    def beyond_copy_s(self) -> float:
        return self.stall_s - self.copy_s


def measure_stall(folder: Path, updates: int, threads: int) -> Stall:
    """Updates a vLLM engine of 25 million float32 parameters while 16 requests run."""
    folder.mkdir()
    parameters = build_policy(folder / "model", hidden=_HIDDEN, layers=_LAYERS)
    store = ArtifactStore(folder.as_uri())
    policies = PolicyStore(store, _RUN)
    _publish(policies, folder)
    settings = {"run_id": _RUN, "threads": threads, "kv_cache_gib": 0.5, "max_model_len": 1024, "watch_interval_s": 600}
    with ServiceProcess("generation", folder, settings) as server, GenerationClient(server.address) as client:
        server.wait_ready(_START_TIMEOUT_S)
        with _writing(client) as written:
            for _ in range(updates):
                _wait_busy(client)
                client.update_weights(
                    pb.UpdateWeightsRequest(manifest=_publish(policies, folder)), timeout_s=_CALL_TIMEOUT_S
                )
        records = client.status(pb.GetStatusRequest(), timeout_s=_CALL_TIMEOUT_S).recent_updates
    if len(records) != updates or any(record.error for record in records):
        raise FailedPrecondition(f"{len(records)} of {updates} updates came into force: see {server.log_path}")
    return Stall(
        parameters,
        statistics.median(record.stall_seconds for record in records),
        _copy_s(folder / "model" / "model.safetensors"),
        statistics.median(record.apply_seconds for record in records),
        sum(versions > 1 for versions in written),
    )


def _publish(policies: PolicyStore, folder: Path) -> WeightManifest:
    version = policies.reserve()
    return policies.publish(version, Path(copytree(folder / "model", folder / f"staged-{version}")), step=version)


def _wait_busy(client: GenerationClient) -> None:
    def busy() -> bool:
        return client.status(pb.GetStatusRequest(), timeout_s=_CALL_TIMEOUT_S).running_requests >= _STREAMS // 2

    wait_until(busy, _CALL_TIMEOUT_S, "requests to run", interval_s=0.02)


@contextmanager
def _writing(client: GenerationClient) -> Iterator[list[int]]:
    """Requests without pause within the block. Yields how many versions wrote each completion."""
    written: list[int] = []
    over = threading.Event()

    def write(index: int) -> None:
        request = pb.GenerateRequest(mode=pb.SAMPLING_MODE_RL)
        request.prompt.token_ids.ids.extend(range(10 + index, 10 + index + _PROMPT))
        request.sampling.max_tokens = _TOKENS
        while not over.is_set():
            answer = client.generate(request, timeout_s=_CALL_TIMEOUT_S)
            written.append(len(answer.completions[0].version_spans))

    with ThreadPoolExecutor(_STREAMS) as pool:
        writing = [pool.submit(write, index) for index in range(_STREAMS)]
        try:
            yield written
        finally:
            over.set()
        for each in writing:
            each.result()


def _copy_s(file: Path) -> float:
    source = np.memmap(file, np.uint8, "r")
    target = np.ones_like(source)
    taken = []
    for _ in range(_COPIES):
        begun = time.perf_counter()
        np.copyto(target, source)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)
