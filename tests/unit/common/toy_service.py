"""A RewardService that does as its request's `model` says: for tests of what surrounds every servicer."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

from grpc import StatusCode

from preceptor.api.learner.v1 import weight_service_pb2, weight_service_pb2_grpc, weights_pb2
from preceptor.api.reward.v1 import reward_service_pb2, reward_service_pb2_grpc
from preceptor.common.config import ServiceSettings, SettingsConfigDict, load_settings
from preceptor.common.errors import FailedPrecondition, InvalidInput, Overloaded
from preceptor.common.grpc_server import Server, run_service
from preceptor.common.health import Health
from preceptor.common.telemetry import setup_logging, trace_id

REWARD = "preceptor.api.reward.v1.RewardService"
WEIGHTS = "preceptor.api.learner.v1.WeightService"


class ToySettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="PRECEPTOR_TOY_")


class ToyReward(reward_service_pb2_grpc.RewardServiceServicer):
    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.waiting = 0
        self.cancelled = 0

    async def Score(self, request: reward_service_pb2.ScoreRequest, context: Any) -> reward_service_pb2.ScoreResponse:
        if request.model == "wait":
            await self._wait()
        elif request.model == "abort":
            await context.abort(StatusCode.PERMISSION_DENIED, "the servicer's own words")
        elif request.model:
            _fail(request.model)
        return reward_service_pb2.ScoreResponse(model=trace_id())

    async def _wait(self) -> None:
        self.waiting += 1
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1


class ToyWeights(weight_service_pb2_grpc.WeightServiceServicer):
    async def Watch(
        self, request: weight_service_pb2.WatchRequest, context: Any
    ) -> AsyncIterator[weight_service_pb2.WatchResponse]:
        yield weight_service_pb2.WatchResponse(manifest=weights_pb2.WeightManifest(run_id=request.run_id))
        if request.run_id == "wait":
            await asyncio.Event().wait()
        if request.run_id:
            _fail(request.run_id)

    async def FetchWeights(self, request: weight_service_pb2.FetchWeightsRequest, context: Any) -> None:
        await context.write(weight_service_pb2.FetchWeightsResponse(data=b"written through the context"))
        if request.run_id:
            _fail(request.run_id)


def _fail(how: str) -> None:
    if how == "overloaded":
        raise Overloaded("the queue holds 8 of 8", reason="QUEUE_FULL", retry_after_s=2.5, metadata={"limit": "8"})
    if how == "invalid":
        raise InvalidInput("temperature must be above 0", field="sampling.temperature")
    raise ValueError("a secret that no caller may see")


def build(settings: ServiceSettings) -> tuple[Server, ToyReward]:
    server, reward = Server(settings, Health()), ToyReward()
    server.add(reward_service_pb2_grpc.add_RewardServiceServicer_to_server, reward, REWARD)
    server.add(weight_service_pb2_grpc.add_WeightServiceServicer_to_server, ToyWeights(), WEIGHTS)
    return server, reward


async def _main(settings: ToySettings) -> None:
    server, reward = build(settings)
    mode = os.environ.get("TOY_MODE", "")

    async def on_start() -> None:
        print("starting", flush=True)  # noqa: T201
        if mode == "never-starts":
            await asyncio.Event().wait()
        if mode == "breaks":
            raise RuntimeError("a defect")
        if mode == "refuses":
            raise FailedPrecondition("no model at /nowhere: set PRECEPTOR_TOY_MODEL")

    async def on_drain(timeout_s: float) -> None:
        print(f"draining with {timeout_s:g} s", flush=True)  # noqa: T201
        if mode != "hangs":
            reward.release.set()

    await server.run(on_start, on_drain)
    print("left", flush=True)  # noqa: T201


if __name__ == "__main__":
    toy_settings = load_settings(ToySettings)
    setup_logging(toy_settings.instance, toy_settings.log_format, toy_settings.log_level)
    run_service(lambda: _main(toy_settings))
    sys.exit(0)
