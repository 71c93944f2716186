"""Client of LoopService. Requests and answers are the protos of preceptor.api.conductor.v1."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import grpc
import grpc.aio

from preceptor.api.conductor.v1 import loop_service_pb2 as pb
from preceptor.api.conductor.v1 import loop_service_pb2_grpc
from preceptor.clients.base import AsyncClient, SyncClient


class LoopClient(SyncClient):
    """LoopService, for threads."""

    def __init__(self, target: str | grpc.Channel) -> None:
        super().__init__(target)
        self._stub = loop_service_pb2_grpc.LoopServiceStub(self._channel)

    def start_loop(self, request: pb.StartLoopRequest, *, timeout_s: float = 30.0) -> pb.StartLoopResponse:
        """Starts a loop from its YAML; the same config returns the loop that exists."""
        return self._call(self._stub.StartLoop, request, timeout_s)

    def get_loop(self, request: pb.GetLoopRequest, *, timeout_s: float = 10.0) -> pb.GetLoopResponse:
        """Returns a loop."""
        return self._call(self._stub.GetLoop, request, timeout_s)

    def list_loops(self, request: pb.ListLoopsRequest, *, timeout_s: float = 10.0) -> pb.ListLoopsResponse:
        """Returns a page of loops."""
        return self._call(self._stub.ListLoops, request, timeout_s)

    def stop_loop(self, request: pb.StopLoopRequest, *, timeout_s: float = 60.0) -> pb.StopLoopResponse:
        """Stops a loop and its runs at the next safe point."""
        return self._call(self._stub.StopLoop, request, timeout_s)

    def watch_loop(self, request: pb.WatchLoopRequest, *, timeout_s: float = 3600.0) -> Iterator[pb.WatchLoopResponse]:
        """Yields a loop's events, then live ones until the loop ends."""
        return self._stream(self._stub.WatchLoop, request, timeout_s)

    def list_runs(self, request: pb.ListRunsRequest, *, timeout_s: float = 10.0) -> pb.ListRunsResponse:
        """Returns a page of a loop's runs."""
        return self._call(self._stub.ListRuns, request, timeout_s)

    def list_reward_models(
        self, request: pb.ListRewardModelsRequest, *, timeout_s: float = 10.0
    ) -> pb.ListRewardModelsResponse:
        """Returns a page of the reward-model registry."""
        return self._call(self._stub.ListRewardModels, request, timeout_s)

    def promote_reward_model(
        self, request: pb.PromoteRewardModelRequest, *, timeout_s: float = 300.0
    ) -> pb.PromoteRewardModelResponse:
        """Makes a registered version the one that serves."""
        return self._call(self._stub.PromoteRewardModel, request, timeout_s)

    def get_lineage(self, request: pb.GetLineageRequest, *, timeout_s: float = 10.0) -> pb.GetLineageResponse:
        """Returns the reward models and labels behind a policy version."""
        return self._call(self._stub.GetLineage, request, timeout_s)

    def get_label_lineage(
        self, request: pb.GetLabelLineageRequest, *, timeout_s: float = 10.0
    ) -> pb.GetLabelLineageResponse:
        """Returns every reward model and policy version that a vote touched."""
        return self._call(self._stub.GetLabelLineage, request, timeout_s)


class AsyncLoopClient(AsyncClient):
    """As `LoopClient`, for asyncio."""

    def __init__(self, target: str | grpc.aio.Channel) -> None:
        super().__init__(target)
        self._stub = loop_service_pb2_grpc.LoopServiceStub(self._channel)

    async def start_loop(self, request: pb.StartLoopRequest, *, timeout_s: float = 30.0) -> pb.StartLoopResponse:
        return await self._call(self._stub.StartLoop, request, timeout_s)

    async def get_loop(self, request: pb.GetLoopRequest, *, timeout_s: float = 10.0) -> pb.GetLoopResponse:
        return await self._call(self._stub.GetLoop, request, timeout_s)

    async def list_loops(self, request: pb.ListLoopsRequest, *, timeout_s: float = 10.0) -> pb.ListLoopsResponse:
        return await self._call(self._stub.ListLoops, request, timeout_s)

    async def stop_loop(self, request: pb.StopLoopRequest, *, timeout_s: float = 60.0) -> pb.StopLoopResponse:
        return await self._call(self._stub.StopLoop, request, timeout_s)

    def watch_loop(
        self, request: pb.WatchLoopRequest, *, timeout_s: float = 3600.0
    ) -> AsyncIterator[pb.WatchLoopResponse]:
        return self._stream(self._stub.WatchLoop, request, timeout_s)

    async def list_runs(self, request: pb.ListRunsRequest, *, timeout_s: float = 10.0) -> pb.ListRunsResponse:
        return await self._call(self._stub.ListRuns, request, timeout_s)

    async def list_reward_models(
        self, request: pb.ListRewardModelsRequest, *, timeout_s: float = 10.0
    ) -> pb.ListRewardModelsResponse:
        return await self._call(self._stub.ListRewardModels, request, timeout_s)

    async def promote_reward_model(
        self, request: pb.PromoteRewardModelRequest, *, timeout_s: float = 300.0
    ) -> pb.PromoteRewardModelResponse:
        return await self._call(self._stub.PromoteRewardModel, request, timeout_s)

    async def get_lineage(self, request: pb.GetLineageRequest, *, timeout_s: float = 10.0) -> pb.GetLineageResponse:
        return await self._call(self._stub.GetLineage, request, timeout_s)

    async def get_label_lineage(
        self, request: pb.GetLabelLineageRequest, *, timeout_s: float = 10.0
    ) -> pb.GetLabelLineageResponse:
        return await self._call(self._stub.GetLabelLineage, request, timeout_s)
