"""Client of RewardService. Requests and answers are the protos of preceptor.api.reward.v1."""

from __future__ import annotations

import grpc
import grpc.aio

from preceptor.api.reward.v1 import reward_service_pb2 as pb
from preceptor.api.reward.v1 import reward_service_pb2_grpc
from preceptor.clients.base import AsyncClient, SyncClient


class RewardClient(SyncClient):
    """RewardService, for threads."""

    def __init__(self, target: str | grpc.Channel) -> None:
        super().__init__(target)
        self._stub = reward_service_pb2_grpc.RewardServiceStub(self._channel)

    def score(self, request: pb.ScoreRequest, *, timeout_s: float = 60.0) -> pb.ScoreResponse:
        """Scores a batch; an item that cannot be scored carries an error of its own."""
        return self._call(self._stub.Score, request, timeout_s)

    def list_models(self, request: pb.ListModelsRequest, *, timeout_s: float = 10.0) -> pb.ListModelsResponse:
        """Returns what is loaded."""
        return self._call(self._stub.ListModels, request, timeout_s)

    def load_model(self, request: pb.LoadModelRequest, *, timeout_s: float = 300.0) -> pb.LoadModelResponse:
        """Loads a version or a function beside those that serve."""
        return self._call(self._stub.LoadModel, request, timeout_s)

    def unload_model(self, request: pb.UnloadModelRequest, *, timeout_s: float = 60.0) -> pb.UnloadModelResponse:
        """Unloads once its last request has finished."""
        return self._call(self._stub.UnloadModel, request, timeout_s)


class AsyncRewardClient(AsyncClient):
    """As `RewardClient`, for asyncio."""

    def __init__(self, target: str | grpc.aio.Channel) -> None:
        super().__init__(target)
        self._stub = reward_service_pb2_grpc.RewardServiceStub(self._channel)

    async def score(self, request: pb.ScoreRequest, *, timeout_s: float = 60.0) -> pb.ScoreResponse:
        return await self._call(self._stub.Score, request, timeout_s)

    async def list_models(self, request: pb.ListModelsRequest, *, timeout_s: float = 10.0) -> pb.ListModelsResponse:
        return await self._call(self._stub.ListModels, request, timeout_s)

    async def load_model(self, request: pb.LoadModelRequest, *, timeout_s: float = 300.0) -> pb.LoadModelResponse:
        return await self._call(self._stub.LoadModel, request, timeout_s)

    async def unload_model(self, request: pb.UnloadModelRequest, *, timeout_s: float = 60.0) -> pb.UnloadModelResponse:
        return await self._call(self._stub.UnloadModel, request, timeout_s)
