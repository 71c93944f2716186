"""Starts the reward service: `python -m preceptor.reward`, settings by PRECEPTOR_REWARD_* (see config.py)."""

import asyncio
import socket

from preceptor.api.reward.v1 import reward_service_pb2_grpc as pb_grpc
from preceptor.common.artifacts import ArtifactStore
from preceptor.common.config import load_settings
from preceptor.common.discovery import AsyncRegistry, Record
from preceptor.common.errors import PreceptorError
from preceptor.common.grpc_server import Server, run_service
from preceptor.common.health import Health
from preceptor.common.process import apply_cpu_plan
from preceptor.common.tasks import cancel_and_wait
from preceptor.common.telemetry import BusyClock, get_logger, setup_logging
from preceptor.reward.adapters.announcer import Announcer
from preceptor.reward.adapters.opener import Opener
from preceptor.reward.adapters.serving_file import ServingFile
from preceptor.reward.config import RewardSettings
from preceptor.reward.server import FULL_NAME, RewardServicer
from preceptor.reward.service import RewardScoring

log = get_logger(__name__)


async def serve(settings: RewardSettings) -> None:
    """Runs until SIGTERM; ready once everything that was served before is loaded again."""
    artifacts = ArtifactStore(settings.artifacts_url)
    scoring = RewardScoring(
        Opener(settings, artifacts),
        ServingFile(artifacts),
        max_request_items=settings.max_request_items,
        allow_functions=settings.allow_functions,
    )

    server = Server(settings, Health())
    servicer = RewardServicer(scoring, BusyClock("reward"))
    server.add(pb_grpc.add_RewardServiceServicer_to_server, servicer, FULL_NAME)
    registry = AsyncRegistry(settings.redis_url)
    address = advertised_host(settings)
    announcer = Announcer(registry, settings.instance, lambda: record_of(scoring, f"{address}:{server.port}"))

    following: list[asyncio.Task[None]] = []

    async def on_start() -> None:
        await scoring.restore(settings.specs, settings.initial_current)
        announcer.start()
        following.append(asyncio.create_task(keep_in_step(scoring, settings.sync_interval_s)))

    async def on_drain(_: float) -> None:
        await cancel_and_wait(*following)
        await announcer.stop()
        await registry.close()

    await server.run(on_start, on_drain)
    await scoring.close()


async def keep_in_step(scoring: RewardScoring, interval_s: float) -> None:
    """Takes over what other servers of the store were told, until cancelled."""
    while True:
        await asyncio.sleep(interval_s)
        try:
            await scoring.sync()
        except (PreceptorError, OSError) as error:
            log.warning("cannot see what other reward servers serve", error=str(error))


def record_of(scoring: RewardScoring, address: str) -> Record:
    """The discovery record as of now."""
    current = next((info.spec for info in scoring.list_models() if info.current), None)
    return {
        "address": address,
        "reward_model": current.name if current else "",
        "reward_model_version": current.reward_model_version if current else 0,
    }


def advertised_host(settings: RewardSettings) -> str:
    """The host that clients reach this process at."""
    if settings.advertised_host:
        return settings.advertised_host
    return socket.gethostname() if settings.host in ("0.0.0.0", "::") else settings.host


def main() -> None:
    settings = load_settings(RewardSettings)
    setup_logging(settings.instance, settings.log_format, settings.log_level)
    apply_cpu_plan(settings.cpu_cores, settings.threads)
    run_service(lambda: serve(settings))


if __name__ == "__main__":
    main()
