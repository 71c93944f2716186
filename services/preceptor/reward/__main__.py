"""Starts the reward service: `python -m preceptor.reward`, settings by PRECEPTOR_REWARD_* (see config.py)."""

from preceptor.api.reward.v1 import reward_service_pb2_grpc as pb_grpc
from preceptor.common.artifacts import ArtifactStore
from preceptor.common.config import load_settings
from preceptor.common.grpc_server import Server, run_service
from preceptor.common.health import Health
from preceptor.common.process import apply_cpu_plan
from preceptor.common.telemetry import BusyClock, setup_logging
from preceptor.reward.adapters.opener import Opener
from preceptor.reward.adapters.serving_file import ServingFile
from preceptor.reward.config import RewardSettings
from preceptor.reward.server import FULL_NAME, RewardServicer
from preceptor.reward.service import RewardScoring


async def serve(settings: RewardSettings) -> None:
    """Runs until SIGTERM; ready once everything that was served before is loaded again."""
    artifacts = ArtifactStore(settings.artifacts_url)
    scoring = RewardScoring(
        Opener(settings, artifacts),
        ServingFile(artifacts),
        max_request_items=settings.max_request_items,
        allow_functions=settings.allow_functions,
    )

    async def restore() -> None:
        await scoring.restore(settings.specs, settings.initial_current)

    server = Server(settings, Health())
    servicer = RewardServicer(scoring, BusyClock("reward"))
    server.add(pb_grpc.add_RewardServiceServicer_to_server, servicer, FULL_NAME)
    await server.run(on_start=restore)


def main() -> None:
    settings = load_settings(RewardSettings)
    setup_logging(settings.instance, settings.log_format, settings.log_level)
    apply_cpu_plan(settings.cpu_cores, settings.threads)
    run_service(lambda: serve(settings))


if __name__ == "__main__":
    main()
