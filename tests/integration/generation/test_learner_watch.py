"""Hearing from a learner, and being heard of, over real gRPC and a real Redis. No engine."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from preceptor.api.learner.v1 import weight_service_pb2 as pb
from preceptor.api.learner.v1 import weight_service_pb2_grpc
from preceptor.api.learner.v1.weights_pb2 import WeightManifest
from preceptor.common.discovery import KIND_GENERATION, KIND_LEARNER, AsyncRegistry
from preceptor.common.tasks import cancel_and_wait
from preceptor.common.waiting import wait_until_aio
from preceptor.generation.adapters.announcer import Announcer
from preceptor.generation.adapters.learner_watch import LearnerWatch
from tests.support.redis import RedisProcess


class Learner(weight_service_pb2_grpc.WeightServiceServicer):
    """Sends versions 1 and 2 to whoever watches the run."""

    async def Watch(self, request: pb.WatchRequest, context: Any) -> AsyncIterator[pb.WatchResponse]:
        for version in (1, 2):
            yield pb.WatchResponse(manifest=WeightManifest(run_id=request.run_id, policy_version=version))
        await asyncio.Event().wait()


async def start_learner() -> tuple[grpc.aio.Server, str]:
    server = grpc.aio.server()
    weight_service_pb2_grpc.add_WeightServiceServicer_to_server(Learner(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, f"127.0.0.1:{port}"


async def test_what_the_runs_learner_publishes_is_offered_and_other_runs_are_not(redis_url: str) -> None:
    registry = AsyncRegistry(redis_url)
    server, address = await start_learner()
    offered: list[WeightManifest] = []
    await registry.announce(KIND_LEARNER, "other", {"run_id": "other", "address": "127.0.0.1:1"}, 30)
    await registry.announce(KIND_LEARNER, "mine", {"run_id": "mine", "address": address}, 30)
    watching = asyncio.ensure_future(LearnerWatch(registry, "mine", offered.append).run())
    await wait_until_aio(lambda: len(offered) == 2, 10, "both versions")
    assert [(one.run_id, one.policy_version) for one in offered] == [("mine", 1), ("mine", 2)]
    await server.stop(0)
    again, address = await start_learner()  # the learner comes back elsewhere
    await registry.announce(KIND_LEARNER, "mine", {"run_id": "mine", "address": address}, 30)
    await wait_until_aio(lambda: len(offered) == 4, 20, "the learner to be found again")
    await cancel_and_wait(watching)
    await again.stop(0)
    await registry.close()


async def test_the_record_comes_back_with_redis_and_goes_when_withdrawn(tmp_path: Any) -> None:
    with RedisProcess(tmp_path) as redis:
        registry = AsyncRegistry(redis.url)
        announcer = Announcer(registry, "g0", 0.1, lambda: {"address": "a:1", "policy_version": 3})
        running = asyncio.ensure_future(announcer.run())
        await wait_until_aio(lambda: records(registry), 5, "the record")
        redis.kill()
        redis.start()
        await wait_until_aio(lambda: records(registry), 15, "the record after Redis came back")
        await cancel_and_wait(running)
        await announcer.withdraw()
        assert await registry.list(KIND_GENERATION) == []
        await registry.close()


async def records(registry: AsyncRegistry) -> list[dict[str, Any]]:
    from preceptor.common.errors import PreceptorError

    try:
        return await registry.list(KIND_GENERATION)
    except PreceptorError:
        return []
