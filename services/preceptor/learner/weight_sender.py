"""`python -m preceptor.learner.weight_sender RUN_ID`: sends stored versions beside the learner, until its input ends.

A process of its own has a core of its own: sending takes no time from training, and training none from sending.
Settings: PRECEPTOR_LEARNER_*. Its first line on standard output is its port.
"""

from __future__ import annotations

import asyncio
import os
import sys

from preceptor.common.artifacts import ArtifactStore
from preceptor.common.config import load_settings
from preceptor.common.errors import PreceptorError
from preceptor.common.grpc_server import Server, run_service
from preceptor.common.health import Health
from preceptor.common.process import exit_with
from preceptor.common.telemetry import setup_logging
from preceptor.learner.adapters.policy_store import PolicyStore
from preceptor.learner.config import LearnerSettings
from preceptor.learner.server import SERVICE_NAME, WeightFeed, WeightServicer, add_weight_service


def main() -> None:
    """Returns when the parent closes our input, as its end does too."""
    settings = load_settings(LearnerSettings)
    setup_logging(f"{settings.instance}-sender", settings.log_format, settings.log_level)
    run_service(lambda: _serve(settings, sys.argv[1]))


async def _serve(settings: LearnerSettings, run_id: str) -> None:
    server = Server(settings, Health())
    policies = PolicyStore(ArtifactStore(settings.artifacts_url), run_id)
    server.add(add_weight_service, WeightServicer(run_id, policies, WeightFeed(), server.draining), SERVICE_NAME)
    try:
        await server.start()
    except PreceptorError as error:
        exit_with(error)
    server.serve()
    os.write(1, f"{server.port}\n".encode())
    await asyncio.to_thread(sys.stdin.read)
    await server.stop()


if __name__ == "__main__":
    main()
