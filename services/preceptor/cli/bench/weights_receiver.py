"""One receiver of `preceptor bench weights`, a process of its own: `python -m preceptor.cli.bench.weights_receiver`.

It holds a generator's stager, with host buffers where a generator has an engine, and takes the plain chain as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from preceptor.api.learner.v1.weights_pb2 import WeightManifest
from preceptor.cli.bench import weights_chain
from preceptor.cli.bench.processes import Answering
from preceptor.common.artifacts import ArtifactStore
from preceptor.common.errors import NotFound
from preceptor.generation.adapters.fetchers import ShmFetcher, StoreFetcher
from preceptor.generation.adapters.grpc_fetcher import GrpcFetcher
from preceptor.generation.adapters.spares import SpareFiles
from preceptor.generation.adapters.stager import PolicyStager
from preceptor.generation.adapters.staging import StagingFolder
from preceptor.generation.weights import WeightFetcher


def main() -> None:
    """Answers each request with the seconds it took."""
    answering = Answering()
    staging = StagingFolder(None)
    spares = SpareFiles(staging.path)
    buffer = bytearray()
    try:
        for request in answering.requests():
            if request["do"] == "buffer":
                # Touched once: the plain chain then pays for no new pages, as a pinned buffer would not.
                buffer = bytearray(b"\1") * request["size"]
                answering.reply({"seconds": 0.0})
                continue
            work = _work(request, staging, spares, buffer)
            begun = time.perf_counter()
            work()
            answering.reply({"seconds": time.perf_counter() - begun})
    finally:
        staging.remove()


def _work(request: dict[str, Any], staging: StagingFolder, spares: SpareFiles, buffer: bytearray) -> Callable[[], None]:
    if request["do"] == "memcpy":
        return lambda: weights_chain.read_segment(Path(request["segment"]), buffer)
    if request["do"] == "tcp_verified":
        return lambda: weights_chain.tcp_verified(request["port"], buffer, request["digest"])
    if request["do"] == "tcp":
        return lambda: weights_chain.tcp_receive(request["port"], buffer)
    manifest = json_format.ParseDict(request["manifest"], WeightManifest())
    store = ArtifactStore(request["store"], cache_dir=staging.path / "downloads")
    fetchers: list[WeightFetcher] = [ShmFetcher(), GrpcFetcher(spares), StoreFetcher(store, staging.path / "downloads")]
    stager = PolicyStager(manifest.run_id, fetchers, staging.path, _no_base, spares)
    return lambda: stager.discard([stager.stage(manifest)])


def _no_base(version: int) -> WeightManifest:
    raise NotFound(f"the bench publishes whole versions; {version} is not asked for")


if __name__ == "__main__":
    main()
