"""Builds and runs the conductor: `python -m preceptor.conductor`."""

import asyncio
import os

from preceptor.api.conductor.v1 import loop_service_pb2_grpc as pb_grpc
from preceptor.clients.credentials import use_api_key
from preceptor.clients.feedback import FeedbackClient
from preceptor.clients.reward import RewardClient
from preceptor.common.artifacts import ArtifactStore
from preceptor.common.config import load_settings
from preceptor.common.discovery import Registry
from preceptor.common.grpc_server import Server, run_service
from preceptor.common.health import Health
from preceptor.common.process import apply_cpu_plan, new_process_group
from preceptor.common.telemetry import setup_logging
from preceptor.conductor.adapters.generators import DiscoveredGenerators
from preceptor.conductor.adapters.labels import GrpcLabels
from preceptor.conductor.adapters.learners import GrpcLearners
from preceptor.conductor.adapters.reward_server import GrpcRewardServer
from preceptor.conductor.adapters.supervisord_launcher import SupervisordLauncher
from preceptor.conductor.config import ConductorSettings
from preceptor.conductor.engine import LoopEngine
from preceptor.conductor.ports import Launcher
from preceptor.conductor.server import FULL_NAME, LoopServicer
from preceptor.conductor.service import Loops
from preceptor.conductor.stages.context import World
from preceptor.conductor.store.database import migrate, open_database
from preceptor.conductor.store.loops import LoopStore
from preceptor.conductor.store.registry import RegistryStore

_INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH", "HF_HOME", "HF_HUB_OFFLINE")


def build_launcher(settings: ConductorSettings) -> Launcher:
    """Makes what runs learner jobs; the kubernetes package is imported only where there is a cluster."""
    if settings.launcher == "kubernetes":
        from preceptor.conductor.adapters.kubernetes.launcher import KubernetesLauncher, connect, load_template

        assert settings.job_template is not None  # checked by the settings
        template = load_template(settings.job_template)
        return KubernetesLauncher(connect(), settings.namespace, template, settings.owner_deployment)
    assert settings.supervisor_socket is not None
    assert settings.jobs_dir is not None
    assert settings.logs_dir is not None
    inherited = {key: os.environ[key] for key in _INHERITED if key in os.environ}
    return SupervisordLauncher(
        settings.supervisor_socket,
        settings.jobs_dir,
        settings.logs_dir,
        lambda kind: inherited | settings.job_environment(kind),
    )


def build_world(settings: ConductorSettings) -> World:
    """Opens the database and everything a loop works with."""
    engine = open_database(settings.database_url)
    migrate(engine)
    registry = Registry(settings.redis_url)
    return World(
        loops=LoopStore(engine),
        registry=RegistryStore(engine),
        artifacts=ArtifactStore(settings.artifacts_url),
        launcher=build_launcher(settings),
        learners=GrpcLearners(registry),
        labels=GrpcLabels(FeedbackClient(settings.feedback_address)),
        generators=DiscoveredGenerators(registry),
        reward=GrpcRewardServer(RewardClient(settings.reward_address)),
        poll_interval_s=settings.poll_interval_s,
    )


async def serve(settings: ConductorSettings) -> None:
    """Serves until SIGTERM; loops go on where the database says they were."""
    server = Server(settings, Health())
    world = await asyncio.to_thread(build_world, settings)
    engine = LoopEngine(world, patience_s=settings.patience_s)
    loops = Loops(world.loops, world.registry, engine, world.reward)
    server.add(pb_grpc.add_LoopServiceServicer_to_server, LoopServicer(loops, server.draining), FULL_NAME)

    async def resume() -> None:
        await asyncio.to_thread(engine.resume_all)

    async def leave(timeout_s: float) -> None:
        await asyncio.to_thread(engine.leave, timeout_s)

    await server.run(on_start=resume, on_drain=leave)


def main() -> None:
    """Entry point."""
    settings = load_settings(ConductorSettings)
    use_api_key(settings.api_key.get_secret_value())
    new_process_group()
    setup_logging(settings.instance, settings.log_format, settings.log_level)
    apply_cpu_plan(settings.cpu_cores, settings.threads)
    run_service(lambda: serve(settings))


if __name__ == "__main__":
    main()
