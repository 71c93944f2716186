"""The gRPC face of the conductor: convert, call, convert. Database calls run on threads."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from preceptor.api.conductor.v1 import loop_service_pb2 as pb
from preceptor.api.conductor.v1 import loop_service_pb2_grpc as pb_grpc
from preceptor.conductor import converters
from preceptor.conductor.service import Loops

FULL_NAME = "preceptor.api.conductor.v1.LoopService"


class LoopServicer(pb_grpc.LoopServiceServicer):
    """LoopService.

    Args:
        draining: set when the server begins to leave; watches end then.
    """

    def __init__(self, loops: Loops, draining: asyncio.Event, poll_interval_s: float = 0.5) -> None:
        self._loops = loops
        self._draining = draining
        self._poll_interval_s = poll_interval_s

    async def StartLoop(self, request: pb.StartLoopRequest, context: Any) -> pb.StartLoopResponse:
        loop = await asyncio.to_thread(self._loops.start, request.loop_id, request.config_yaml)
        return pb.StartLoopResponse(loop=converters.loop_to_proto(loop))

    async def GetLoop(self, request: pb.GetLoopRequest, context: Any) -> pb.GetLoopResponse:
        loop = await asyncio.to_thread(self._loops.get, request.loop_id)
        return pb.GetLoopResponse(loop=converters.loop_to_proto(loop))

    async def ListLoops(self, request: pb.ListLoopsRequest, context: Any) -> pb.ListLoopsResponse:
        loops, token = await asyncio.to_thread(self._loops.list_loops, request.page_size, request.page_token)
        return pb.ListLoopsResponse(loops=[converters.loop_to_proto(loop) for loop in loops], next_page_token=token)

    async def StopLoop(self, request: pb.StopLoopRequest, context: Any) -> pb.StopLoopResponse:
        loop = await asyncio.to_thread(self._loops.stop, request.loop_id)
        return pb.StopLoopResponse(loop=converters.loop_to_proto(loop))

    async def WatchLoop(self, request: pb.WatchLoopRequest, context: Any) -> AsyncIterator[pb.WatchLoopResponse]:
        after = request.after_sequence
        while not self._draining.is_set():
            events, ended = await asyncio.to_thread(self._loops.events_after, request.loop_id, after)
            for event in events:
                after = event.sequence
                yield pb.WatchLoopResponse(event=converters.event_to_proto(event))
            if ended:
                return
            if not events:
                await self._poll()

    async def ListRuns(self, request: pb.ListRunsRequest, context: Any) -> pb.ListRunsResponse:
        runs, token = await asyncio.to_thread(
            self._loops.list_runs, request.loop_id, request.page_size, request.page_token
        )
        return pb.ListRunsResponse(runs=[converters.run_to_proto(run) for run in runs], next_page_token=token)

    async def ListRewardModels(self, request: pb.ListRewardModelsRequest, context: Any) -> pb.ListRewardModelsResponse:
        models, token = await asyncio.to_thread(self._loops.list_reward_models, request.page_size, request.page_token)
        return pb.ListRewardModelsResponse(
            reward_models=[converters.model_to_proto(model) for model in models], next_page_token=token
        )

    async def PromoteRewardModel(
        self, request: pb.PromoteRewardModelRequest, context: Any
    ) -> pb.PromoteRewardModelResponse:
        model = await asyncio.to_thread(self._loops.promote, request.reward_model_version, request.reason)
        return pb.PromoteRewardModelResponse(reward_model=converters.model_to_proto(model))

    async def GetLineage(self, request: pb.GetLineageRequest, context: Any) -> pb.GetLineageResponse:
        models, initial = await asyncio.to_thread(self._loops.lineage, request.run_id, request.policy_version)
        return pb.GetLineageResponse(
            reward_models=[converters.model_to_proto(model) for model in models], initial_model_uri=initial
        )

    async def GetLabelLineage(self, request: pb.GetLabelLineageRequest, context: Any) -> pb.GetLabelLineageResponse:
        models, ranges = await asyncio.to_thread(self._loops.label_lineage, request.event_id)
        return pb.GetLabelLineageResponse(
            reward_models=[converters.model_to_proto(model) for model in models],
            policy_versions=[converters.range_to_proto(item) for item in ranges],
        )

    async def _poll(self) -> None:
        try:
            await asyncio.wait_for(self._draining.wait(), self._poll_interval_s)
        except TimeoutError:
            return
