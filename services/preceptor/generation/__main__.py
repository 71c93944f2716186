"""`python -m preceptor.generation`: one generator, configured by PRECEPTOR_GENERATION_*."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable
from typing import NoReturn

from preceptor.api.generation.v1.generation_service_pb2_grpc import add_GenerationServiceServicer_to_server
from preceptor.common.artifacts import ArtifactStore
from preceptor.common.config import load_settings
from preceptor.common.discovery import AsyncRegistry, Record
from preceptor.common.errors import PreceptorError
from preceptor.common.grpc_server import Server, run_service
from preceptor.common.health import Health
from preceptor.common.process import apply_cpu_plan, exit_with, new_process_group
from preceptor.common.tasks import cancel_and_wait
from preceptor.common.telemetry import BusyClock, setup_logging
from preceptor.generation import metrics
from preceptor.generation.adapters import vllm_env
from preceptor.generation.adapters.announcer import Announcer
from preceptor.generation.adapters.fetchers import ShmFetcher, StoreFetcher
from preceptor.generation.adapters.grpc_fetcher import GrpcFetcher
from preceptor.generation.adapters.learner_watch import LearnerWatch
from preceptor.generation.adapters.policy_store import PolicyStore
from preceptor.generation.adapters.spares import SpareFiles
from preceptor.generation.adapters.stager import PolicyStager
from preceptor.generation.adapters.staging import StagingFolder
from preceptor.generation.adapters.vllm_engine import EngineOptions, VllmEngine
from preceptor.generation.admission import Admission
from preceptor.generation.config import GenerationSettings
from preceptor.generation.follower import Follower
from preceptor.generation.process import GeneratorProcess, RunParts
from preceptor.generation.server import SERVICE_NAME, GenerationServicer
from preceptor.generation.service import Generation, Identity
from preceptor.generation.updates import WeightUpdater
from preceptor.generation.versions import VersionClock
from preceptor.generation.weights import WeightFetcher


def main() -> None:
    """Runs until SIGTERM. Exit codes: 0 drained, 1 failed (the supervisor restarts it), 2 wrong settings."""
    settings = load_settings(GenerationSettings)
    setup_logging(settings.instance, settings.log_format, settings.log_level)
    logging.getLogger("vllm").setLevel(settings.engine_log_level)
    new_process_group()
    try:
        options = prepare(settings)
    except PreceptorError as error:
        exit_with(error)
    end(lambda: run_service(lambda: serve(settings, options)))


def end(run: Callable[[], None]) -> NoReturn:
    """Runs, then leaves at once: tearing down an interpreter that holds vLLM takes 2 to 9 s."""
    code: object = 0
    try:
        run()
    except SystemExit as leaving:
        code = leaving.code
    logging.shutdown()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


def prepare(settings: GenerationSettings) -> EngineOptions:
    """Sets up the process for vLLM and returns how the engine is to be built. Imports neither torch nor vLLM.

    Raises:
        PreceptorError: a library is missing, or a core is not ours.
    """
    build = vllm_env.installed_build()
    vllm_env.check_libraries(build)
    cores = apply_cpu_plan(settings.cpu_cores, settings.threads)
    eager = build.cpu if settings.enforce_eager is None else settings.enforce_eager
    vllm_env.prepare(build, threads=settings.threads or len(cores), eager=eager, log_level=settings.engine_log_level)
    return EngineOptions(
        build=build,
        dtype=settings.dtype,
        max_model_len=settings.max_model_len,
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        kv_cache_gib=settings.kv_cache_gib,
        enforce_eager=eager,
        chunked_prefill=not build.cpu if settings.chunked_prefill is None else settings.chunked_prefill,
        seed=settings.seed,
        tensor_parallel_size=settings.tensor_parallel_size,
    )


async def serve(settings: GenerationSettings, options: EngineOptions) -> None:
    """Serves until SIGTERM; exits with code 1 and one line when the engine dies first."""
    health, clock, busy, engine = Health(), VersionClock(), BusyClock("generation"), VllmEngine(options)
    registry = AsyncRegistry(settings.redis_url)
    server = Server(settings, health)
    updates: list[WeightUpdater] = []
    admission = Admission(settings.max_requests, busy)
    metrics.ACTIVE.set_function(lambda: admission.active)
    metrics.POLICY_VERSION.set(clock.version)
    generation = Generation(
        Identity(settings.instance, settings.run_id),
        engine,
        clock,
        admission,
        busy=busy,
        max_num_seqs=settings.max_num_seqs,
        max_wait_s=settings.max_version_wait_s,
        delta_tokens=settings.stream_delta_tokens,
        updates=lambda: updates[0].recent if updates else (),
    )
    announcer = Announcer(
        registry,
        settings.instance,
        settings.announce_interval_s,
        lambda: record_of(generation, f"{advertised_host(settings)}:{server.port}"),
    )
    source = settings.model_dir or run_parts(settings, engine, clock, registry, announcer)
    if isinstance(source, RunParts):
        updates.append(source.updater)
    process = GeneratorProcess(generation, engine, clock, announcer, health, source, settings.drain_timeout_s)
    servicer = GenerationServicer(generation, process.update, process.drain)
    server.add(add_GenerationServiceServicer_to_server, servicer, SERVICE_NAME)
    try:
        await run_until_dead(server, process, engine)
    finally:
        await process.close()
        await registry.close()


def run_parts(
    settings: GenerationSettings,
    engine: VllmEngine,
    clock: VersionClock,
    registry: AsyncRegistry,
    announcer: Announcer,
) -> RunParts:
    """Returns what following a run takes."""
    staging = StagingFolder(settings.staging_dir)
    downloads = staging.path / "downloads"
    store = ArtifactStore(settings.artifacts_url, cache_dir=downloads)
    source = PolicyStore(store, settings.run_id)
    spares = SpareFiles(staging.path)
    grpc = GrpcFetcher(spares, settings.fetch_streams, idle_timeout_s=settings.fetch_idle_timeout_s)
    fetchers: list[WeightFetcher] = [ShmFetcher(), grpc, StoreFetcher(store, downloads)]
    stager = PolicyStager(settings.run_id, fetchers, staging.path, source.manifest, spares)
    drop_kv = settings.kv_policy == "recompute"
    updater = WeightUpdater(engine, stager, clock, settings.load_timeout_s, drop_kv=drop_kv)
    follower = Follower(source, updater, clock, settings.watch_interval_s, announcer.refresh)
    return RunParts(follower, updater, stager, LearnerWatch(registry, settings.run_id, follower.offer), staging)


async def run_until_dead(server: Server, process: GeneratorProcess, engine: VllmEngine) -> None:
    """Returns after a drain. SystemExit(1), after one line, when the engine has died."""
    running = asyncio.ensure_future(server.run(process.start, process.on_drain))
    dying = asyncio.ensure_future(engine.died())
    await asyncio.wait({running, dying}, return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        dying.cancel()
        running.result()
        return
    why = dying.result()
    await process.fail(why)
    await cancel_and_wait(running)
    await server.stop()
    print(f"generator ends: {why}; restart it", file=sys.stderr)  # noqa: T201  the one line a person reads
    raise SystemExit(1)


def record_of(generation: Generation, address: str) -> Record:
    """Returns the discovery record as of now."""
    status = generation.status()
    return {
        "address": address,
        "run_id": status.run_id,
        "policy_version": status.policy_version,
        "load": status.running + status.waiting,
        "max_requests": status.max_requests,
    }


def advertised_host(settings: GenerationSettings) -> str:
    """Returns the host that clients reach this process at."""
    if settings.advertised_host:
        return settings.advertised_host
    return socket.gethostname() if settings.host in ("0.0.0.0", "::") else settings.host


if __name__ == "__main__":
    main()
